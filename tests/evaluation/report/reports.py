"""A report by hand: two sets, three µm/px, every kind of row, and names that a page must escape."""

from __future__ import annotations

from typing import Any

import numpy as np

from wsigen.evaluation.estimate import Estimate
from wsigen.evaluation.results import Report, Result, SetReport, Share
from wsigen.evaluation.spectrum import band_names
from wsigen.evaluation.topics import METRICS

ODD = "<b>&.tif"
SCALES = (0.5, 1.0, 4.0)


def about(value: float, half: float = 0.1) -> Estimate:
    """A value with an interval."""
    return Estimate(value, value - half, value + half, "by hand")


def row(key: str, value: float | None, floor: float | None = 0.5, mpp: float | None = 1.0, **more) -> Result:
    """A row; its half-widths are 0.1."""
    found = (None if v is None else about(v) for v in (value, floor))
    return Result(METRICS[key], mpp, *found, **more)


def rows(step: float) -> tuple[Result, ...]:
    """A row of every measure, ``step`` half-widths (of both sides) away from its floor."""
    apart = step * 0.1 * 2**0.5
    found = []
    for key, measure in METRICS.items():
        value = 0.5 - apart if measure.better == "higher" else 0.5 + apart
        if measure.section in ("seams", "scale", "privacy"):
            found.append(row(key, value, mpp=None, label="256 px tiles" if key == "seam" else ""))
        elif key == "power":
            found += [row(key, value, mpp=m, label=name) for m in SCALES for name in band_names()]
        else:
            found += [row(key, value, mpp=m) for m in SCALES]
    return tuple(found)


def slides(name: str) -> tuple[Share, ...]:
    """Two slides of one case."""
    return (
        Share(f"{name}{ODD}", "case 1", 0.25, {"0.5": 30, "1": 20}),
        Share(f"{name}2.tif", "case 1", 1.0, {"4": 7}),
    )


def report(**changes: Any) -> Report:
    """Of the sets ``good``, as real ones, and ``bad<i>``, two half-widths and more away."""
    densities = {name: np.full((2, 256), 1 / 256) for name in ("real", "good", "bad<i>")}
    values: dict[str, Any] = {
        "config": {"patch": 256, "stain": "he", "real": [f"slides/{ODD}"], "seed": 0},
        "versions": {"wsigen": "1.2.3", "numpy": "2"},
        "features": {"name": "weight-free", "dimensions": 102, "comparable": False},
        "scales": SCALES,
        "counts": {"0.5": 60, "1": 40, "4": 14},
        "sets": (
            SetReport("good", slides("g"), rows(0.5)),
            SetReport("bad<i>", slides("b"), rows(4.0), (f"{ODD}: has no µm/px",)),
        ),
        "references": (SetReport("real", slides("r")),),
        "warnings": ("only <two> cases",),
        "pictures": {},
        "curves": {
            "densities": {"od": np.linspace(0.005, 2.555, 256), **densities},
            "nearest": {"real": [0.6, 0.7], "good": [0.5, 0.8], "bad<i>": [0.1, 0.2]},
            "seam profiles": {
                "good": {"256 px tiles": np.ones(65), "256 px tiles (real)": np.ones(65)},
                "bad<i>": {"256 px tiles": np.full(65, 2.0)},
            },
        },
    }
    return Report(**(values | changes))

"""Plots of a report, as SVG without fonts."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wsigen.evaluation.results import Report, Result, SetReport
from wsigen.evaluation.spectrum import band_names
from wsigen.evaluation.topics import METRICS, of_section

PLOTTED = ("fidelity", "diversity", "realism", "quality", "nuclei")
COLOURS = ("#1d6fa5", "#c4532f", "#4c8a57", "#85569b", "#b98a1d", "#4a4a4a")
REAL, INK, RULE = "#9a9a9a", "#2b2b2b", "#dcdcdc"
STYLE: Any = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": REAL,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.hashsalt": "wsigen",
}
_PANEL, _HEIGHT, _ACROSS = 2.9, 2.45, 4


def illustrated(report: Report) -> Report:
    """Return the report with its plots among the pictures."""
    names = [s.name for s in report.sets]
    found: dict[str, bytes] = {}
    for section in PLOTTED:
        keys = [k for k in of_section(section) if has(report.sets, k)]
        if keys:
            found[f"plot {section}"] = by_scale(report, keys)
    if has(report.sets, "power"):
        found["plot spectrum"] = spectrum(report)
    profiles = report.curves.get("seam profiles")
    if profiles and any(profiles.values()):
        found["plot seams"] = seam_profiles(profiles)
    if "nearest" in report.curves:
        found["plot privacy"] = distributions(
            report.curves["nearest"],
            f"distance to the nearest real patch, {report.scales[0]:g} µm/px",
            "1 - correlation of signatures",
            top=1.2,
        )
    if "densities" in report.curves:
        other = "eosin" if report.config["stain"] == "he" else "brown"
        titles = [METRICS[f"{k}_mean"].title.partition(",")[0] for k in ("haematoxylin", other)]
        found["plot stain"] = densities(report.curves["densities"], names, titles)
    return replace(report, pictures={**report.pictures, **found})


def by_scale(report: Report, keys: Sequence[str]) -> bytes:
    """Plot measures over µm/px: a point with its interval for each set, the floor as a grey bar."""

    def draw(axes: Axes, key: str) -> None:
        scales = report.scales
        _values(axes, report.sets, [[one.find(key, mpp) for mpp in scales] for one in report.sets])
        axes.set_title(METRICS[key].title)
        axes.set_xticks(range(len(scales)), [f"{m:g}" for m in scales])
        axes.set_xlabel("µm/px")
        axes.set_ylabel(METRICS[key].unit)
        axes.set_xlim(-0.6, len(scales) - 0.4)

    return panels(draw, list(keys))


def spectrum(report: Report) -> bytes:
    """Plot the ratio of power to the real slides', band by band, for each µm/px."""
    names = band_names()

    def draw(axes: Axes, mpp: float) -> None:
        found = [[s.find("power", mpp, name) for name in names] for s in report.sets]
        _values(axes, report.sets, found, joined=True)
        axes.axhline(1, color=REAL, linewidth=0.8)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
        axes.set_xticks(range(len(names)), [n.replace(" px", "") for n in names], fontsize=7)
        axes.set_xlabel("wavelength, px")
        axes.set_title(f"{mpp:g} µm/px")

    return panels(draw, list(report.scales))


def densities(curves: dict[str, Any], names: Sequence[str], titles: Sequence[str]) -> bytes:
    """Plot the distributions of two stains over pixels, of the real slides (grey) and each set."""

    def draw(axes: Axes, stain: int) -> None:
        od = np.asarray(curves["od"])
        shown = od < 1.6
        real = np.asarray(curves["real"])[stain]
        axes.fill_between(od[shown], real[shown], color=REAL, alpha=0.45, linewidth=0, label="real")
        for i, name in enumerate(names):
            share = np.asarray(curves[name])[stain]
            axes.plot(od[shown], share[shown], color=COLOURS[i % len(COLOURS)], linewidth=1.2, label=name)
        axes.set_yscale("log")
        axes.set_ylim(1e-5, None)
        axes.set_title(titles[stain])
        axes.set_xlabel("optical density")
        axes.set_ylabel("share of pixels")

    return panels(draw, [0, 1], wide=1.5)


def distributions(
    values: dict[str, Sequence[float]], title: str, label: str, *, top: float | None = None
) -> bytes:
    """Plot histograms on common bins: the first name filled in grey, the others as lines."""

    def draw(axes: Axes, _: int) -> None:
        finite = np.concatenate([np.ones(1), *(np.asarray(v, np.float64) for v in values.values())])
        finite = finite[np.isfinite(finite)]
        # a few far values would leave the others one bin
        edges = np.linspace(min(0.0, float(finite.min())), top or float(np.quantile(finite, 0.995)), 41)
        for i, (name, given) in enumerate(values.items()):
            counts = np.histogram(np.asarray(given, np.float64), edges)[0]
            share = counts / max(1, len(given))
            if i == 0:
                axes.stairs(share, edges, fill=True, color=REAL, alpha=0.45, label=name)
            else:
                axes.stairs(share, edges, color=COLOURS[(i - 1) % len(COLOURS)], linewidth=1.3, label=name)
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.set_ylabel("share")

    return panels(draw, [0], wide=2.2)


def seam_profiles(profiles: dict[str, dict[str, np.ndarray]]) -> bytes:
    """Plot the step around the seams of each grid: flat at 1 where nothing shows."""
    grids = list(dict.fromkeys(n for found in profiles.values() for n in found if not n.endswith(" (real)")))

    def draw(axes: Axes, grid: str) -> None:
        for i, (name, found) in enumerate(profiles.items()):
            if i == 0 and f"{grid} (real)" in found:
                _profile(axes, found[f"{grid} (real)"], REAL, "real")
            if grid in found:
                _profile(axes, found[grid], COLOURS[i % len(COLOURS)], name)
        axes.axvline(0, color=RULE, linewidth=0.8)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0.7), max(high, 1.5))  # or noise would look like a seam
        axes.set_title(grid)
        axes.set_xlabel("px from the seam")
        axes.set_ylabel("step / median step")

    return panels(draw, grids, wide=1.5)


def panels(draw: Callable[[Axes, Any], None], items: Sequence[Any], *, wide: float = 1.0) -> bytes:
    """Draw one panel for each item, four to a row, with one legend; return an SVG."""
    across = max(1, min(len(items), int(_ACROSS / wide)))
    rows = -(-len(items) // across)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_PANEL * wide * across, _HEIGHT * rows + 0.3), layout="constrained")
        grid = figure.subplots(rows, across, squeeze=False)
        for axes, item in zip(grid.flat, items, strict=False):
            draw(axes, item)
        for axes in list(grid.flat)[len(items) :]:
            axes.set_axis_off()
        handles, labels = grid.flat[0].get_legend_handles_labels()
        if labels:
            figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), fontsize=8.5)
        return _svg(figure)


def _svg(figure: Figure) -> bytes:
    out = io.BytesIO()
    # the same report is the same page, byte for byte
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _values(
    axes: Axes, sets: Sequence[SetReport], found: Sequence[Sequence[Result | None]], *, joined: bool = False
) -> None:
    """Draw the results of each set side by side over their places, and their floors below."""
    for i, results in enumerate(zip(*found, strict=True)):
        # all sets have the same floor
        floor = next((r.floor for r in results if r is not None), None)
        if floor is not None:
            label = "real against real" if i == 0 else None
            height = floor.high - floor.low
            axes.bar(i, height, 0.62, floor.low, color=REAL, alpha=0.35, linewidth=0, label=label)
            axes.plot([i - 0.31, i + 0.31], [floor.value] * 2, color=REAL, linewidth=1.2)
    for k, (one, results) in enumerate(zip(sets, found, strict=True)):
        shift = (k - (len(sets) - 1) / 2) * 0.16
        known = [(i + shift, r.value) for i, r in enumerate(results) if r is not None and r.value is not None]
        if not known:
            continue
        y = np.array([e.value for _, e in known])
        error = np.array([[max(0.0, e.value - e.low), max(0.0, e.high - e.value)] for _, e in known]).T
        axes.errorbar(
            [place for place, _ in known],
            y,
            error,
            fmt="o-" if joined else "o",
            color=COLOURS[k % len(COLOURS)],
            markersize=4,
            linewidth=1,
            elinewidth=1.1,
            capsize=2,
            label=one.name,
        )


def _profile(axes: Axes, profile: np.ndarray, colour: str, name: str) -> None:
    reach = len(profile) // 2
    axes.plot(np.arange(-reach, len(profile) - reach), profile, color=colour, linewidth=1.1, label=name)


def has(sets: Sequence[SetReport], key: str) -> bool:
    """Return whether any set has a value of a measure."""
    return any(r.key == key and r.value is not None for s in sets for r in s.results)

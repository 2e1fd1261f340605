"""What an evaluation finds: values with their intervals and floors, per set of slides."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from wsigen.evaluate.catalogue import MEASURES, Measure
from wsigen.evaluate.estimate import Estimate
from wsigen.evaluate.verdict import VERDICTS, Verdict, excess, verdict

SCHEMA = "wsigen-evaluation/1"


@dataclass(frozen=True)
class Result:
    """One measure of one set at one µm/px.

    Attributes:
        key: of `MEASURES`.
        mpp: µm/px; None: of all of them together, or of whole slides.
        value: with its 95 % interval; None where it could not be computed, and a warning says why.
        floor: the same between real and real; None where there is no such thing.
        samples: what it was computed from, such as "500 patches a side".
        warnings: why it means less than it says.
        label: which of several of the kind, such as a grid of joints.
        cases: real slides or cases whose halves the floor is of; None where their number does not matter.
    """

    key: str
    mpp: float | None
    value: Estimate | None
    floor: Estimate | None = None
    samples: str = ""
    warnings: tuple[str, ...] = ()
    label: str = ""
    cases: int | None = None

    @property
    def measure(self) -> Measure:
        """What it measures."""
        return MEASURES[self.key]

    @property
    def name(self) -> str:
        """Of this row among those of a set."""
        where = [] if self.mpp is None else [f"{self.mpp:g} µm/px"]
        return ", ".join([self.measure.title, *([self.label] if self.label else []), *where])

    @property
    def excess(self) -> float | None:
        """How much worse than the floor; see `wsigen.evaluate.verdict.excess`."""
        return excess(self.measure, self.value, self.floor)

    @property
    def verdict(self) -> Verdict:
        """Whether it is as between real and real, or what keeps the floor from judging."""
        return verdict(self.measure, self.value, self.floor, self.cases)


def bounded(result: Result) -> Result:
    """The result with intervals that end where its measure does."""
    ends = result.measure.bounds
    return replace(result, value=_within(result.value, ends), floor=_within(result.floor, ends))


def _within(estimate: Estimate | None, ends: tuple[float, float]) -> Estimate | None:
    if estimate is None:
        return None
    return replace(estimate, low=max(estimate.low, ends[0]), high=min(estimate.high, ends[1]))


@dataclass(frozen=True)
class Share:
    """The slides of a set and how many patches each gave."""

    slide: str
    group: str
    mpp: float
    patches: dict[str, int]


@dataclass(frozen=True)
class Worst:
    """The result of a set that is furthest above its floor.

    Attributes:
        result: which.
        excess: its distance, see `Result.excess`.
        limit: what the furthest of so many measures exceeds by chance once in twenty times (Bonferroni).
        measures: how many results have a floor that can judge.
    """

    result: Result
    excess: float
    limit: float
    measures: int

    @property
    def beyond_chance(self) -> bool:
        """Whether it is more than the furthest of so many measures would be by chance."""
        return self.excess > self.limit

    def __str__(self) -> str:
        if self.beyond_chance:
            return f"worst is {self.result.name}, {self.excess:.1f} × chance"
        return (
            f"nothing is beyond chance; furthest from the floor is {self.result.name}, {self.excess:.1f} ×, "
            f"as one of {self.measures} measures may be"
        )

    def as_dict(self) -> dict[str, Any]:
        """As JSON-like values."""
        result = {"name": self.result.name, "measure": self.result.key, "mpp": self.result.mpp}
        return {**result, "excess": self.excess, "limit": self.limit, "beyond_chance": self.beyond_chance}


@dataclass(frozen=True)
class SetReport:
    """All that was found about one set of slides.

    Attributes:
        name: of the set.
        slides: what it consists of.
        results: the measures; empty for the real slides.
        left_out: slides that could not be used, and why.
    """

    name: str
    slides: tuple[Share, ...]
    results: tuple[Result, ...] = ()
    left_out: tuple[str, ...] = ()

    def ranked(self) -> list[Result]:
        """Results that have a floor that can judge, the furthest above theirs first."""
        known = [r for r in self.results if r.verdict.state != "none"]
        return sorted(known, key=lambda r: -(r.excess or 0.0))

    def worst(self) -> Worst | None:
        """What is furthest above its floor; None where no floor can judge."""
        ranked = self.ranked()
        if not ranked:
            return None
        limit = NormalDist().inv_cdf(1 - 0.025 / len(ranked)) / NormalDist().inv_cdf(0.975)
        return Worst(ranked[0], ranked[0].excess or 0.0, limit, len(ranked))

    def find(self, key: str, mpp: float | None = None, label: str = "") -> Result | None:
        """One result, or None where there is none."""
        found = (r for r in self.results if (r.key, r.mpp, r.label) == (key, mpp, label))
        return next(found, None)


@dataclass(frozen=True)
class Report:
    """An evaluation.

    Attributes:
        config: what was asked for.
        versions: of the programs that decide on the numbers.
        features: name of the features, their dimensions, whether FIDs compare with published ones.
        scales: µm/px at which was compared.
        counts: patches a side at each.
        sets: the sets that were judged.
        references: the real slides, and those trained on.
        warnings: of the evaluation as a whole.
        pictures: name to SVG, JPEG or PNG bytes, for the page.
        captions: what stands below pictures, by their names.
        curves: numbers behind the plots, by name.
    """

    config: dict[str, Any]
    versions: dict[str, str]
    features: dict[str, Any]
    scales: tuple[float, ...]
    counts: dict[str, int]
    sets: tuple[SetReport, ...]
    references: tuple[SetReport, ...] = ()
    warnings: tuple[str, ...] = ()
    pictures: dict[str, bytes] = field(default_factory=dict)
    captions: dict[str, list[str]] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)

    def worst(self) -> dict[str, Worst | None]:
        """Of each set what is furthest above its floor; None where no floor can judge."""
        return {one.name: one.worst() for one in self.sets}

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-like values; numbers that are not finite become None."""
        return {
            "schema": SCHEMA,
            "config": self.config,
            "versions": self.versions,
            "features": self.features,
            "mpp": list(self.scales),
            "patches_a_side": self.counts,
            "worst": {name: w and w.as_dict() for name, w in self.worst().items()},
            "warnings": list(self.warnings),
            "sets": [_set_dict(s) for s in self.sets],
            "references": [_set_dict(s) for s in self.references],
            "neighbours": self.captions,
            "curves": plain(self.curves),
        }


def warned(results: Iterable[Result]) -> dict[str, list[str]]:
    """The different warnings of results, in order, with the names of those that have them."""
    found: dict[str, list[str]] = {}
    for result in results:
        for warning in result.warnings:
            found.setdefault(warning, []).append(result.name)
    return found


def plain(value: Any) -> Any:
    """Arrays and numbers of NumPy as JSON-like values; what is not finite as None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _set_dict(one: SetReport) -> dict[str, Any]:
    return {
        "name": one.name,
        "slides": [vars(s) for s in one.slides],
        "left_out": list(one.left_out),
        "results": [_result_dict(r) for r in one.results],
    }


def _result_dict(result: Result) -> dict[str, Any]:
    return {
        "measure": result.key,
        "title": result.measure.title,
        "label": result.label,
        "mpp": result.mpp,
        "value": _estimate_dict(result.value),
        "floor": _estimate_dict(result.floor),
        "better": result.measure.better,
        "excess": plain(result.excess),
        "verdict": VERDICTS[result.verdict.state],
        "why": result.verdict.why or None,
        "cases": result.cases,
        "samples": result.samples,
        "warnings": list(result.warnings),
    }


def _estimate_dict(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    keys = ("value", "low", "high", "method")
    return {key: plain(getattr(estimate, key)) for key in keys}

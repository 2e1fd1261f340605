"""Results of an evaluation: values with intervals and floors, by set of slides, and the report of all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from wsigen.evaluation.estimate import Estimate, different
from wsigen.evaluation.verdict import VERDICTS, Metric, Verdict, excess, verdict

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "wsigen-evaluation/1"
# Floors of some values, or None where there are none; and warnings about them
Floors = tuple[Sequence[Estimate] | None, tuple[str, ...]]


@dataclass(frozen=True)
class Result:
    """One measure of one set at one µm/px: a row of the report.

    Attributes:
        metric: what was measured.
        mpp: µm/px; None: of all of them together, or of whole slides.
        value: with its 95 % interval; None where it could not be computed, and a warning says why.
        floor: the same between real and real; None where there is no such thing.
        samples: what it was computed from, such as "500 patches a side".
        warnings: why it means less than it seems to.
        label: tells rows of one metric apart, such as the name of a seam grid.
        cases: real slides or cases behind the floor; None where their number does not matter.
    """

    metric: Metric
    mpp: float | None
    value: Estimate | None
    floor: Estimate | None = None
    samples: str = ""
    warnings: tuple[str, ...] = ()
    label: str = ""
    cases: int | None = None

    @property
    def key(self) -> str:
        """Key of the metric."""
        return self.metric.key

    @property
    def name(self) -> str:
        """Title, label and µm/px."""
        where = [] if self.mpp is None else [f"{self.mpp:g} µm/px"]
        return ", ".join([self.metric.title, *([self.label] if self.label else []), *where])

    @property
    def excess(self) -> float | None:
        """How much worse than the floor; see `wsigen.evaluation.verdict.excess`."""
        return excess(self.metric, self.value, self.floor)

    @property
    def verdict(self) -> Verdict:
        """Whether the value is within the real-vs-real range, or why the floor cannot judge."""
        return verdict(self.metric, self.value, self.floor, self.cases)

    def bounded(self) -> Result:
        """Return the result with intervals that end where its metric does."""
        low, high = self.metric.bounds
        value, floor = (
            e and replace(e, low=max(e.low, low), high=min(e.high, high)) for e in (self.value, self.floor)
        )
        return replace(self, value=value, floor=floor)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-like values."""
        return plain(
            {
                "measure": self.key,
                "title": self.metric.title,
                "label": self.label,
                "mpp": self.mpp,
                "value": self.value and vars(self.value),
                "floor": self.floor and vars(self.floor),
                "better": self.metric.better,
                "excess": self.excess,
                "verdict": VERDICTS[self.verdict.state],
                "why": self.verdict.why or None,
                "cases": self.cases,
                "samples": self.samples,
                "warnings": self.warnings,
            }
        )


def make_rows(
    metrics: Sequence[Metric],
    mpp: float | None,
    values: Sequence[Estimate] | None,
    floors: Floors,
    warnings: Iterable[str] = (),
    *,
    samples: str = "",
    labels: Sequence[str] | None = None,
    cases: int | None = None,
) -> list[Result]:
    """Make one row for each metric from its value and its floor; all rows share the warnings."""
    # a floor's warnings hold for what stands beside it
    notes = different((*warnings, *floors[1]))
    return [
        Result(
            metric=metric,
            mpp=mpp,
            value=values[i] if values is not None else None,
            floor=floors[0][i] if floors[0] is not None else None,
            samples=samples,
            warnings=notes,
            label=labels[i] if labels else "",
            cases=cases,
        )
        for i, metric in enumerate(metrics)
    ]


@dataclass(frozen=True)
class Share:
    """Patches that one slide of a set gave, by µm/px."""

    slide: str
    group: str
    mpp: float
    patches: dict[str, int]


@dataclass(frozen=True)
class Worst:
    """The result of a set that is furthest outside its real-vs-real range.

    Attributes:
        result: the row.
        excess: its distance from the floor, see `Result.excess`.
        limit: what the furthest of so many measures exceeds by chance once in twenty times (Bonferroni).
        measures: number of results with a floor that can judge.
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
            return f"worst is {self.result.name}, {self.excess:.1f} × the 95 % half-width of real-vs-real"
        return (
            f"nothing is outside by more than chance; furthest is {self.result.name}, {self.excess:.1f} × "
            f"the 95 % half-width of real-vs-real, as one of {self.measures} measures may be"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-like values."""
        result = {"name": self.result.name, "measure": self.result.key, "mpp": self.result.mpp}
        return {**result, "excess": self.excess, "limit": self.limit, "beyond_chance": self.beyond_chance}


@dataclass(frozen=True)
class SetReport:
    """Results of one set of slides.

    Attributes:
        name: of the set.
        slides: its slides and their patches.
        results: rows; none for the real slides.
        left_out: slides that could not be used, and why.
    """

    name: str
    slides: tuple[Share, ...]
    results: tuple[Result, ...] = ()
    left_out: tuple[str, ...] = ()

    def ranked(self) -> list[Result]:
        """Return the results that have a verdict, the furthest from their floor first."""
        known = [r for r in self.results if r.verdict.state != "none"]
        return sorted(known, key=lambda r: -(r.excess or 0.0))

    def worst(self) -> Worst | None:
        """Return the result furthest from its floor; None where no floor can judge."""
        ranked = self.ranked()
        if not ranked:
            return None
        # Bonferroni: one of n two-sided tests at 5 % / n, in units of the 95 % half-width
        limit = NormalDist().inv_cdf(1 - 0.025 / len(ranked)) / NormalDist().inv_cdf(0.975)
        return Worst(ranked[0], ranked[0].excess or 0.0, limit, len(ranked))

    def find(self, key: str, mpp: float | None = None, label: str = "") -> Result | None:
        """Return one result, or None where there is none."""
        found = (r for r in self.results if (r.key, r.mpp, r.label) == (key, mpp, label))
        return next(found, None)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-like values."""
        return {
            "name": self.name,
            "slides": [vars(s) for s in self.slides],
            "left_out": list(self.left_out),
            "results": [r.as_dict() for r in self.results],
        }


@dataclass(frozen=True)
class Report:
    """An evaluation.

    Attributes:
        config: the options.
        versions: of the programs that decide on the numbers.
        features: name of the features, their dimensions, whether FIDs compare with published ones.
        scales: the µm/px that were compared.
        counts: patches a side at each.
        sets: the sets that were judged.
        references: the real slides, and those trained on.
        warnings: of the evaluation as a whole.
        pictures: name to SVG, JPEG or PNG bytes, for the page.
        captions: lines below pictures, by their names.
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
        """Return, of each set, the result furthest from its floor; None where no floor can judge."""
        return {one.name: one.worst() for one in self.sets}

    def rows(self) -> list[dict[str, Any]]:
        """Return all results as flat dictionaries, one per row: a table, say for ``pandas.DataFrame``.

        ``value`` and ``floor`` are numbers; ``low``, ``high``, ``floor_low`` and ``floor_high`` end their
        95 % intervals. Numbers that are missing or not finite are None.
        """
        return [_flat(one.name, result.as_dict()) for one in self.sets for result in one.results]

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a data frame: a row for each set, measure and µm/px."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def save(self, folder: str | Path = "report", *, overwrite: bool = False) -> Path:
        """Write ``index.html`` and ``report.json``, each whole or not at all.

        Args:
            folder: made where missing.
            overwrite: replace a report in it.

        Returns:
            The page.

        Raises:
            OutputError: there is a report already, or the folder cannot be written to.
        """
        from wsigen.evaluation.inputs import refuse_existing
        from wsigen.evaluation.report.page import write_report

        refuse_existing(Path(folder), overwrite=overwrite)
        return write_report(self, Path(folder))

    def _repr_html_(self) -> str:
        """Return the rows as a table, for notebooks."""
        return self.to_frame()._repr_html_()  # pyright: ignore[reportCallIssue, reportReturnType]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON-like values; numbers that are not finite become None."""
        return {
            "schema": SCHEMA,
            "config": self.config,
            "versions": self.versions,
            "features": self.features,
            "mpp": list(self.scales),
            "patches_a_side": self.counts,
            "worst": {name: w and w.as_dict() for name, w in self.worst().items()},
            "warnings": list(self.warnings),
            "sets": [s.as_dict() for s in self.sets],
            "references": [s.as_dict() for s in self.references],
            "neighbours": self.captions,
            "curves": plain(self.curves),
        }


def warned(results: Iterable[Result]) -> dict[str, list[str]]:
    """Return the different warnings of results, in order, with the names of the rows that have them."""
    found: dict[str, list[str]] = {}
    for result in results:
        for warning in result.warnings:
            found.setdefault(warning, []).append(result.name)
    return found


def plain(value: Any) -> Any:
    """Convert NumPy arrays and numbers to JSON-like values; numbers that are not finite to None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON knows neither


def _flat(name: str, row: dict[str, Any]) -> dict[str, Any]:
    value, floor = row["value"] or {}, row["floor"] or {}
    ends = {
        "value": value.get("value"),
        "low": value.get("low"),
        "high": value.get("high"),
        "floor": floor.get("value"),
        "floor_low": floor.get("low"),
        "floor_high": floor.get("high"),
    }
    return {"set": name, **row, **ends, "warnings": "; ".join(row["warnings"])}

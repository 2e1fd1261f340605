"""Slides that two sets have in common, pixel by pixel: one image, made with other tiles or elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from wsigen.data.index import SlideEntry
from wsigen.errors import InvalidValueError, SlideError
from wsigen.evaluation.estimate import Estimate, mean_over_groups
from wsigen.evaluation.results import Result, make_rows
from wsigen.evaluation.sets import SlideSet
from wsigen.evaluation.verdict import Metric
from wsigen.geometry import Region

BAND, MOST = 1024, 4

_metric = partial(
    Metric, "seams", better="lower", source="every pixel of slides of one name and size", unit="grey levels"
)
LARGEST = _metric(
    "tiling_largest",
    "Same slide in both sets, largest difference",
    good="0 to 2 where both sets should be one image, made with other tiles or on another machine; images of "
    "different models differ everywhere",
)
MEAN = _metric(
    "tiling_mean",
    "Same slide in both sets, mean difference",
    good="far below 1 where both sets should be one image",
)
SHARE = _metric(
    "tiling_share",
    "Same slide in both sets, pixels that differ",
    good="0 where both sets should be one image, bit by bit",
    unit="%",
    bounds=(0.0, 100.0),
)
METRICS = (LARGEST, MEAN, SHARE)


@dataclass(frozen=True)
class Difference:
    """Difference of two renderings of one image.

    Args:
        largest: largest difference of a value, in the images' unit (grey levels).
        at: (y, x) of it.
        mean: mean absolute difference.
        share: share of the pixels with any difference, in [0, 1].
    """

    largest: float
    at: tuple[int, int]
    mean: float
    share: float


def difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """Compare two renderings: largest and mean difference are 0 if the tiling does not show.

    Args:
        a: (height, width) or (height, width, channels), say, from one tile size.
        b: the same from another.

    Raises:
        InvalidValueError: the two differ in shape.
    """
    if a.shape != b.shape or a.ndim not in (2, 3) or not a.size:
        raise InvalidValueError(f"renderings must be of one image, got shapes {a.shape} and {b.shape}")
    # wide enough for the difference of two 8-bit values
    wide = np.float64 if a.dtype.kind == "f" else np.int32
    apart = np.abs(a.astype(wide) - b.astype(wide)).reshape(*a.shape[:2], -1)
    worst = apart.max(axis=2)
    y, x = np.unravel_index(int(worst.argmax()), worst.shape)  # where to look
    return Difference(
        float(worst[y, x]), (int(y), int(x)), float(apart.mean()), float(np.count_nonzero(worst) / worst.size)
    )


def tiling_rows(ours: SlideSet, other: SlideSet) -> list[Result]:
    """Compare the slides that two sets have in common; no rows where there are none.

    Every pixel of at most 4 slides is compared: the largest difference has no interval.

    Args:
        ours: a set.
        other: the set that it is compared with.

    Memory: 1024 rows of two slides.
    """
    pairs = common_slides(ours, other)
    compared = {one.slide: _compared(one, same) for one, same in pairs[:MOST]}
    found = {name: d for name, d in compared.items() if isinstance(d, Difference)}
    notes = [d for d in compared.values() if isinstance(d, str)]
    if not found:
        return []
    largest = max(d.largest for d in found.values())
    exact = Estimate(largest, largest, largest, "every pixel")
    means = mean_over_groups(np.array([[d.mean, 100 * d.share] for d in found.values()]), list(found))
    samples = f"every pixel of {len(found)} of {len(pairs)} slides that both have"
    labels = [f"against {other.name}"] * len(METRICS)
    return make_rows(METRICS, None, [exact, *means], (None, ()), notes, samples=samples, labels=labels)


def common_slides(ours: SlideSet, other: SlideSet) -> list[tuple[SlideEntry, SlideEntry]]:
    """Return the slides of one file name and one size in two sets, by name."""
    by_name = {e.path.name: e for e in other.entries}
    found = [(e, by_name[e.path.name]) for e in ours.entries if e.path.name in by_name]
    same = [(a, b) for a, b in found if a.size == b.size and math.isclose(a.mpp, b.mpp)]
    return sorted(same, key=lambda pair: pair[0].path.name)


def compare_slides(one: SlideEntry, other: SlideEntry) -> Difference:
    """Compare two slides of one size, over all their pixels.

    Raises:
        SlideError: one of them is damaged.
    """
    slides = [(e.open(), e) for e in (one, other)]
    parts: list[Difference] = []
    heights: list[int] = []
    for y in range(0, one.height, BAND):
        band = Region(y, 0, min(BAND, one.height - y), one.width)
        found = difference(*(slide.read_region(band, e.mpp, e.background) for slide, e in slides))
        parts.append(Difference(found.largest, (found.at[0] + y, found.at[1]), found.mean, found.share))
        heights.append(band.height)
    worst = max(parts, key=lambda d: d.largest)
    mean, share = (
        float(np.average([getattr(d, name) for d in parts], weights=heights)) for name in ("mean", "share")
    )
    return Difference(worst.largest, worst.at, mean, share)


def _compared(one: SlideEntry, other: SlideEntry) -> Difference | str:
    """Return the difference, or why there is none."""
    try:
        return compare_slides(one, other)
    except SlideError as error:
        return str(error)

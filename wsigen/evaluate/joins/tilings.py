"""Slides that two sets have in common, pixel by pixel: one image, made with other tiles or elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wsigen.data.index import SlideEntry
from wsigen.errors import SlideError
from wsigen.evaluate.estimate import Estimate
from wsigen.evaluate.results import Result
from wsigen.evaluate.seams import Difference, difference
from wsigen.evaluate.sets import SlideSet
from wsigen.evaluate.spread import mean_over_groups
from wsigen.geometry import Region

BAND, MOST = 1024, 4
KEYS = ("tiling_largest", "tiling_mean", "tiling_share")


@dataclass(frozen=True)
class Common:
    """One slide of both sets."""

    ours: SlideEntry
    theirs: SlideEntry


def common_slides(ours: SlideSet, other: SlideSet) -> list[Common]:
    """Slides of one file name and one size, by name.

    Args:
        ours: a set.
        other: another.
    """
    by_name = {e.path.name: e for e in other.entries}
    found = [Common(e, by_name[e.path.name]) for e in ours.entries if e.path.name in by_name]
    same = [c for c in found if c.ours.size == c.theirs.size and math.isclose(c.ours.mpp, c.theirs.mpp)]
    return sorted(same, key=lambda c: c.ours.path.name)


def tiling_rows(ours: SlideSet, other: SlideSet) -> list[Result]:
    """How much the slides that two sets have in common differ; nothing where they have none.

    Every pixel of at most 4 slides is compared: the largest difference has no interval.

    Args:
        ours: a set.
        other: the set that it is compared with.

    Memory: 1024 rows of two slides.
    """
    pairs = common_slides(ours, other)
    compared = [(pair.ours.slide, _compared(pair)) for pair in pairs[:MOST]]
    found = [(name, d) for name, d in compared if isinstance(d, Difference)]
    notes = tuple(d for _, d in compared if isinstance(d, str))
    if not found:
        return []
    largest = max(d.largest for _, d in found)
    exact = Estimate(largest, largest, largest, "every pixel")
    spread = mean_over_groups(np.array([[d.mean, 100 * d.share] for _, d in found]), [n for n, _ in found])
    samples = f"every pixel of {len(found)} of {len(pairs)} slides that both have"
    return [
        Result(key, None, value, None, samples, notes, f"against {other.name}")
        for key, value in zip(KEYS, (exact, *spread), strict=True)
    ]


def _compared(pair: Common) -> Difference | str:
    """The difference, or why there is none."""
    try:
        return compare_slides(pair.ours, pair.theirs)
    except SlideError as error:
        return str(error)


def compare_slides(one: SlideEntry, other: SlideEntry) -> Difference:
    """The difference of two slides of one size, over all their pixels.

    Args:
        one: a slide.
        other: another of its size.

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

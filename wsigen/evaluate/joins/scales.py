"""Whether a slide's own pyramid agrees with itself: its finest level, reduced, and the overview it stores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from wsigen.data.entry import SlideEntry
from wsigen.errors import SlideError
from wsigen.evaluate.collect import heeding
from wsigen.evaluate.results import Result
from wsigen.evaluate.scale import ScaleAgreement, scale_agreement
from wsigen.evaluate.sets import SlideSet
from wsigen.evaluate.spread import mean_over_groups
from wsigen.evaluate.windows import some_slides, windows
from wsigen.geometry import Region
from wsigen.slide.read import Level

KEYS = ("scale_psnr", "scale_correlation", "scale_detail")
FINE_MPP, SMALLEST_FACTOR, LARGEST_FACTOR, WINDOW = 1.0, 1.9, 16.0, 128
_CAP_DB = 99.0

Windows = tuple[list[np.ndarray], list[str]]


def scale_rows(ours: SlideSet, real: SlideSet, *, seed: int) -> list[Result]:
    """How well overviews agree with the detail below them, for the set and for real slides."""
    nothing: Windows = ([], [])
    mine, cautions = heeding(lambda: _of_slides(ours, seed))
    theirs, more = heeding(lambda: _of_slides(real, seed))
    mine, theirs, notes = mine or nothing, theirs or nothing, [*cautions, *more]
    if not mine[0]:
        notes.append("not measured: the slides store no overview beside their finest level")
    if not theirs[0]:
        notes.append("no floor: the real slides store no overview beside their finest level")
    values, floors = (mean_over_groups(np.stack(v), g) if v else None for v, g in (mine, theirs))
    samples = f"{len(set(mine[1]))} and {len(set(theirs[1]))} slides or cases"
    return [
        Result(
            key,
            None,
            None if values is None else values[i],
            None if floors is None else floors[i],
            samples,
            tuple(notes),
        )
        for i, key in enumerate(KEYS)
    ]


def _of_slides(slides: SlideSet, seed: int) -> Windows:
    found = [(row, e.group) for e in some_slides(slides.entries) for row in _of_slide(e, seed)]
    return [row for row, _ in found], [group for _, group in found]


def _of_slide(entry: SlideEntry, seed: int) -> list[np.ndarray]:
    """Of each of some windows of a slide, (3,); none where it stores one level only."""
    slide = entry.open()
    finer = [v for v in slide.levels if v.downsample <= slide.levels[-1].downsample / SMALLEST_FACTOR]
    if not finer:
        return []
    fine = _nearest(finer, FINE_MPP / entry.mpp)
    coarser = [v for v in slide.levels if v.downsample >= fine.downsample * SMALLEST_FACTOR]
    coarse = _nearest(coarser, fine.downsample * LARGEST_FACTOR)
    factor = coarse.downsample / fine.downsample
    found = []
    for region in windows(entry, entry.mpp * coarse.downsample, WINDOW, seed=seed, most=4):
        try:
            large = Region(*(round(v * factor) for v in (region.y, region.x, region.height, region.width)))
            image = slide.read_region(large, entry.mpp * fine.downsample, entry.background)
            overview = slide.read_region(region, entry.mpp * coarse.downsample, entry.background)
        except SlideError:
            continue
        found.append(_numbers(scale_agreement(image, overview)))
    return found


def _numbers(found: ScaleAgreement) -> np.ndarray:
    return np.array([min(found.psnr, _CAP_DB), found.correlation, found.detail])


def _nearest(levels: Sequence[Level], downsample: float) -> Level:
    """The stored level closest to a downsampling, by ratio."""
    return min(levels, key=lambda level: abs(math.log(level.downsample / downsample)))

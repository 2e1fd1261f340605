"""Whether a slide's own pyramid agrees with itself: its finest level, reduced, and the overview it stores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from wsigen.data.entry import SlideEntry
from wsigen.errors import SlideError
from wsigen.evaluate.collect import heeding
from wsigen.evaluate.estimate import Estimate
from wsigen.evaluate.results import Result
from wsigen.evaluate.scale import ScaleAgreement, scale_agreement
from wsigen.evaluate.sets import SlideSet
from wsigen.evaluate.windows import some_slides, windows
from wsigen.geometry import Region
from wsigen.slide.read import Level

KEYS = ("scale_psnr", "scale_correlation", "scale_detail")
FINE_MPP, SMALLEST_FACTOR, LARGEST_FACTOR, WINDOW = 1.0, 1.9, 16.0, 128
_TWO_SIDED = 1.96
_CAP_DB = 99.0


def scale_rows(ours: SlideSet, real: SlideSet, *, seed: int) -> list[Result]:
    """How well overviews agree with the detail below them, for the set and for real slides."""
    mine, cautions = heeding(lambda: _of_slides(ours, seed))
    theirs, more = heeding(lambda: _of_slides(real, seed))
    notes = [*cautions, *more]
    if not mine:
        notes.append("not measured: the slides store no overview beside their finest level")
    if not theirs:
        notes.append("no floor: the real slides store no overview beside their finest level")
    values, floors = _means(mine or []), _means(theirs or [])
    samples = f"{len(mine or [])} and {len(theirs or [])} slides"
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


def _of_slides(slides: SlideSet, seed: int) -> list[np.ndarray]:
    found = [_of_slide(entry, seed) for entry in some_slides(slides.entries)]
    return [one for one in found if one is not None]


def _of_slide(entry: SlideEntry, seed: int) -> np.ndarray | None:
    """Means over windows of one slide, (3,); None where it stores one level only."""
    slide = entry.open()
    finer = [v for v in slide.levels if v.downsample <= slide.levels[-1].downsample / SMALLEST_FACTOR]
    if not finer:
        return None
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
    return np.mean(found, axis=0) if found else None


def _numbers(found: ScaleAgreement) -> list[float]:
    return [min(found.psnr, _CAP_DB), found.correlation, found.detail]


def _nearest(levels: Sequence[Level], downsample: float) -> Level:
    """The stored level closest to a downsampling, by ratio."""
    return min(levels, key=lambda level: abs(math.log(level.downsample / downsample)))


def _means(slides: Sequence[np.ndarray]) -> list[Estimate] | None:
    if not slides:
        return None
    values = np.stack(slides)
    centre, spread = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1))
    half = _TWO_SIDED * spread / math.sqrt(len(values))
    return [
        Estimate(float(c), float(c - h), float(c + h), f"{len(values)} slides")
        for c, h in zip(centre, half, strict=True)
    ]

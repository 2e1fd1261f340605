"""Whether a slide agrees with overviews: with the one that it was made from, and with the one that it stores.

What a file stores of itself is reduced from its finest level, and always agrees but for rounding and
compression: that is the floor. The overview that a cascade began with (``a_HE.png`` beside the slide) is
another picture, which later stages may have left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from wsigen.data.index import SlideEntry
from wsigen.errors import SlideError
from wsigen.evaluate.collect import heeding
from wsigen.evaluate.results import Result
from wsigen.evaluate.scale import ScaleAgreement, scale_agreement
from wsigen.evaluate.sets import SlideSet
from wsigen.evaluate.spread import mean_over_groups
from wsigen.evaluate.windows import some_slides, windows
from wsigen.geometry import Region
from wsigen.slide.provenance import beside, read_provenance
from wsigen.slide.read import Level

KEYS = ("scale_psnr", "scale_correlation", "scale_detail")
FINE_MPP, SMALLEST_FACTOR, LARGEST_FACTOR, WINDOW = 1.0, 1.9, 16.0, 128
FINER = 2
"""How much finer than its overview a slide is read, before both are compared."""
MADE_FROM = "the overview it was made from"
_CAP_DB = 99.0

Windows = tuple[list[np.ndarray], list[str]]


def scale_rows(ours: SlideSet, real: SlideSet, *, seed: int) -> list[Result]:
    """How well overviews agree with the detail below them, for the set and for real slides."""
    theirs, notes = _heeded(real, _of_slide, seed)
    if not theirs[0]:
        notes = (*notes, "no floor: the real slides store no overview beside their finest level")
    made = _heeded(ours, _of_origin, seed)
    rows = _rows(MADE_FROM, made[0], theirs, (*made[1], *notes)) if made[0][0] else []
    stored, cautions = _heeded(ours, _of_slide, seed)
    if not stored[0]:
        cautions = (*cautions, "not measured: the slides store no overview beside their finest level")
    return [*rows, *_rows("", stored, theirs, (*cautions, *notes))]


def _heeded(
    slides: SlideSet, look: Callable[[SlideEntry, int], list[np.ndarray]], seed: int
) -> tuple[Windows, tuple[str, ...]]:
    found, notes = heeding(lambda: _of_slides(slides, look, seed))
    return found or ([], []), notes


def _rows(label: str, mine: Windows, theirs: Windows, notes: tuple[str, ...]) -> list[Result]:
    values, floors = (mean_over_groups(np.stack(v), g) if v else None for v, g in (mine, theirs))
    samples = f"{len(set(mine[1]))} and {len(set(theirs[1]))} slides or cases"
    return [
        Result(
            key,
            None,
            None if values is None else values[i],
            None if floors is None else floors[i],
            samples,
            notes,
            label,
        )
        for i, key in enumerate(KEYS)
    ]


def _of_slides(slides: SlideSet, look: Callable[[SlideEntry, int], list[np.ndarray]], seed: int) -> Windows:
    found = [(row, e.group) for e in some_slides(slides.entries) for row in look(e, seed)]
    return [row for row, _ in found], [group for _, group in found]


def origin(entry: SlideEntry) -> np.ndarray | None:
    """The overview that a synthetic slide was made from, uint8 (h, w, 3); None where it is not beside it."""
    path = beside(entry.path, ".png")
    if not (read_provenance(entry.path).get("synthetic") and path.is_file()):
        return None
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return None if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _of_origin(entry: SlideEntry, seed: int) -> list[np.ndarray]:
    """Of each quarter of the overview that a slide was made from, (3,); none where it is not known."""
    overview = origin(entry)
    if overview is None:
        return []
    height, width = (side // 2 for side in overview.shape[:2])
    mpp = entry.mpp * entry.height / overview.shape[0] / FINER
    slide, found = entry.open(), []
    for y in (0, height):
        for x in (0, width):
            large = Region(*(round(v * FINER) for v in (y, x, height, width)))
            fine = slide.read_region(large, mpp, entry.background, upsample=True)
            found.append(_numbers(scale_agreement(fine, overview[y : y + height, x : x + width])))
    return [row for row in found if np.isfinite(row).all()]  # without the quarters that are glass


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
    return [row for row in found if np.isfinite(row).all()]


def _numbers(found: ScaleAgreement) -> np.ndarray:
    return np.array([min(found.psnr, _CAP_DB), found.correlation, found.detail])


def _nearest(levels: Sequence[Level], downsample: float) -> Level:
    """The stored level closest to a downsampling, by ratio."""
    return min(levels, key=lambda level: abs(math.log(level.downsample / downsample)))

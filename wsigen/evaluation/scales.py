"""Whether a slide agrees with overviews: the one that it was made from, and the one that its file stores.

A cascade upsamples an overview; the slide must still be that overview when it is reduced. A slide is reduced
by averaging areas, as its pyramid is. The overview that its file stores is reduced from its finest level, and
always agrees but for rounding and compression: that is the floor. The overview that a cascade began with
(``a_HE.png`` beside the slide) is another picture, from which later stages may have departed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from wsigen.data.index import SlideEntry
from wsigen.errors import InvalidValueError
from wsigen.evaluation.estimate import caution, mean_over_groups, run_measure
from wsigen.evaluation.results import Result, make_rows
from wsigen.evaluation.sets import SlideSet
from wsigen.evaluation.spots import readable
from wsigen.evaluation.verdict import Metric
from wsigen.evaluation.windows import some_slides, windows
from wsigen.geometry import Region
from wsigen.slide.provenance import beside, read_provenance
from wsigen.slide.read import Level
from wsigen.slide.stains import correlation

FINE_MPP, WINDOW = 1.0, 128
# Between a fine image and its overview: the least that can be compared, the least and the most of levels
LEAST_FACTOR, STORED_FACTOR, LARGEST_FACTOR = 1.2, 1.9, 16.0
FINER = 2  # How much finer than its overview a slide is read, before both are compared
MADE_FROM = "the overview it was made from"
_CAP_DB = 99.0

_metric = partial(Metric, "scale")
PSNR = _metric(
    "scale_psnr",
    "Overview against reduced detail, PSNR",
    "higher",
    good="as high as in real slides: the overview shows what is there close by",
    source="the slide, reduced by area, against the overview that it was made from (stage 0 of the cascade, "
    "a_HE.png beside it); and its level at 1 µm/px or so against the overview that its file stores",
    unit="dB",
    bad=20.0,
)
CORRELATION = _metric(
    "scale_correlation",
    "Overview against reduced detail, correlation",
    "higher",
    good="1: the same picture",
    source="Pearson correlation of grey levels",
    bounds=(-1.0, 1.0),
    bad=0.5,
)
DETAIL = _metric(
    "scale_detail",
    "Overview against reduced detail, contrast of detail",
    good="1: below 1 the detail is blurrier than its overview",
    source="ratio of standard deviations after the local mean is subtracted",
    ideal=1.0,
)
METRICS = (PSNR, CORRELATION, DETAIL)

# The three numbers of each window, (3,), and the slide or case of each
Windows = tuple[list[np.ndarray], list[str]]


class ScaleAgreement(NamedTuple):
    """Agreement of a reduced image with its overview.

    Args:
        psnr: 10 log10(255² / mean squared error), dB; infinite if equal. Rounding to 8 bit alone gives 59 dB,
            JPEG about 35.
        correlation: Pearson correlation of the grey levels within channels; 1 = same picture.
        bias: mean difference reduced - overview per channel (R, G, B), grey levels.
        detail: ratio of the standard deviations after the local mean (8 px) is subtracted; below 1 = blurred.
    """

    psnr: float
    correlation: float
    bias: tuple[float, float, float]
    detail: float


def scale_rows(ours: SlideSet, real: SlideSet, *, seed: int) -> list[Result]:
    """Compare overviews with the detail below them, for the set and for real slides."""
    theirs, notes = _measured(real, _of_slide, seed)
    if not theirs[0]:
        notes = (*notes, "no floor: the real slides store no overview beside their finest level")
    made, warnings = _measured(ours, _of_origin, seed)
    rows = _rows(MADE_FROM, made, theirs, (*warnings, *notes)) if made[0] else []
    stored, warnings = _measured(ours, _of_slide, seed)
    if not stored[0]:
        warnings = (*warnings, "not measured: the slides store no overview beside their finest level")
    return [*rows, *_rows("", stored, theirs, (*warnings, *notes))]


def scale_agreement(fine: np.ndarray, coarse: np.ndarray) -> ScaleAgreement:
    """Compare a finer image of a region, reduced, with the coarser image of the same region.

    Args:
        fine: uint8 (h, w, 3), say at 1 µm/px.
        coarse: uint8 (h', w', 3), say the 4 µm/px that it came from; smaller by one factor in both
            directions.

    Raises:
        InvalidValueError: the two do not show one region: factors that differ between height and width, or
            that are below 1.2.

    Warns:
        MeasureWarning: an image without any structure, whose correlation is undefined.
    """
    factors = fine.shape[0] / coarse.shape[0], fine.shape[1] / coarse.shape[1]
    # sizes are rounded to a pixel: that much, factors may differ
    slack = 1 / min(coarse.shape[:2])
    if min(factors) < LEAST_FACTOR or abs(math.log(factors[0] / factors[1])) > 2 * slack:
        raise InvalidValueError(
            "the finer image must show the same region as the coarser, larger by one factor of at least "
            f"{LEAST_FACTOR:g}, got {fine.shape[:2]} and {coarse.shape[:2]}"
        )
    size = coarse.shape[1::-1]
    reduced = cv2.resize(fine.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    overview = coarse.astype(np.float32)
    apart = (reduced - overview).astype(np.float64)
    error, (red, green, blue) = float(np.square(apart).mean()), apart.mean(axis=(0, 1)).tolist()
    # channels without their means, which would correlate whatever the picture
    agreement = correlation(*(image - image.mean(axis=(0, 1)) for image in (reduced, overview)))
    if math.isnan(agreement):
        caution("an image without structure has no correlation with its overview")
    return ScaleAgreement(
        psnr=10 * math.log10(255**2 / error) if error > 0 else math.inf,
        correlation=agreement,
        bias=(red, green, blue),
        detail=_detail(reduced) / max(_detail(overview), 1e-9),
    )


def origin(entry: SlideEntry) -> np.ndarray | None:
    """Read the overview that a synthetic slide was made from, uint8 (h, w, 3); None where there is none."""
    path = beside(entry.path, ".png")
    if not (read_provenance(entry.path).get("synthetic") and path.is_file()):
        return None
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return None if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _measured(
    slides: SlideSet, look: Callable[[SlideEntry, int], list[np.ndarray]], seed: int
) -> tuple[Windows, tuple[str, ...]]:
    def every() -> Windows:
        found = [(row, e.group) for e in some_slides(slides.entries) for row in look(e, seed)]
        return [row for row, _ in found], [group for _, group in found]

    found, notes = run_measure(every)
    return found or ([], []), notes


def _rows(label: str, mine: Windows, theirs: Windows, notes: tuple[str, ...]) -> list[Result]:
    values, floors = (mean_over_groups(np.stack(v), g) if v else None for v, g in (mine, theirs))
    samples = f"{len(set(mine[1]))} and {len(set(theirs[1]))} slides or cases"
    return make_rows(METRICS, None, values, (floors, ()), notes, samples=samples, labels=[label] * 3)


def _of_origin(entry: SlideEntry, seed: int) -> list[np.ndarray]:
    """Measure each quarter of the overview that a slide was made from; none where it is not known."""
    overview = origin(entry)
    if overview is None:
        return []
    height, width = (side // 2 for side in overview.shape[:2])
    mpp = entry.mpp * entry.height / overview.shape[0] / FINER
    slide = entry.open()

    def look(corner: tuple[int, int]) -> np.ndarray:
        y, x = corner
        large = Region(*(round(v * FINER) for v in (y, x, height, width)))
        fine = slide.read_region(large, mpp, entry.background, upsample=True)
        return _numbers(fine, overview[y : y + height, x : x + width])

    corners = [(y, x) for y in (0, height) for x in (0, width)]
    # without the quarters that are background
    return [row for _, row in readable(look, corners, "quarters") if np.isfinite(row).all()]


def _of_slide(entry: SlideEntry, seed: int) -> list[np.ndarray]:
    """Measure some windows of a slide; none where it stores one level only."""
    slide = entry.open()
    # levels with a coarser one to compare with
    finer = [v for v in slide.levels if v.downsample <= slide.levels[-1].downsample / STORED_FACTOR]
    if not finer:
        return []
    fine = _nearest(finer, FINE_MPP / entry.mpp)
    coarser = [v for v in slide.levels if v.downsample >= fine.downsample * STORED_FACTOR]
    coarse = _nearest(coarser, fine.downsample * LARGEST_FACTOR)
    factor = coarse.downsample / fine.downsample

    def look(region: Region) -> np.ndarray:
        large = Region(*(round(v * factor) for v in (region.y, region.x, region.height, region.width)))
        image = slide.read_region(large, entry.mpp * fine.downsample, entry.background)
        return _numbers(image, slide.read_region(region, entry.mpp * coarse.downsample, entry.background))

    regions = windows(entry, entry.mpp * coarse.downsample, WINDOW, seed=seed, most=4)
    found = readable(look, regions, "windows for scales")
    return [row for _, row in found if np.isfinite(row).all()]


def _numbers(fine: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    found = scale_agreement(fine, coarse)
    return np.array([min(found.psnr, _CAP_DB), found.correlation, found.detail])


def _detail(image: np.ndarray) -> float:
    return float(np.std(image - cv2.blur(image, (8, 8))))


def _nearest(levels: Sequence[Level], downsample: float) -> Level:
    """Return the stored level closest to a downsampling, by ratio."""
    return min(levels, key=lambda level: abs(math.log(level.downsample / downsample)))

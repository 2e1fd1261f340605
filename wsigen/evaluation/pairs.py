"""H&E slides and their IHC slides: nuclei at the same places; stain and quality beside those of real IHC.

`domain_differentiation`, as KIN and DN report it: a classifier trained on real source (H&E) and real target
(IHC) patches judges generated crops; where tiles meet badly, fewer pass for the target.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from wsigen.data.index import SlideEntry
from wsigen.errors import InvalidValueError
from wsigen.evaluation.comparison import Comparison, RealSide, few_groups
from wsigen.evaluation.estimate import Estimate, caution, jackknife, run_measure
from wsigen.evaluation.patches import SAMPLES, evenly_chosen
from wsigen.evaluation.results import Result, make_rows
from wsigen.evaluation.samples import Samples, measure_samples, real_samples, sample_rows
from wsigen.evaluation.seam_classifier import CROP, Training, crops_of_slides
from wsigen.evaluation.sets import SlideSet
from wsigen.evaluation.spots import Reader, Spot, readable
from wsigen.evaluation.stains import (
    HAEMATOXYLIN_KL,
    HAEMATOXYLIN_MEAN,
    HAEMATOXYLIN_P90,
    Stains,
    hue_correlation,
    stain_distances,
    stain_divergence,
    stain_level,
    stain_levels,
)
from wsigen.evaluation.verdict import Metric
from wsigen.evaluation.windows import known_grids
from wsigen.slide.parts import slide_stem
from wsigen.slide.stains import haematoxylin_correlation, stain_densities

MOST, SHOWN, REAL_CROPS = 200, 6, 400
BLUR, IHC = 2.0, "IHC"

_metric = partial(Metric, "pairs")
CORRELATION = _metric(
    "twin_correlation",
    "Haematoxylin of H&E and IHC, correlation",
    "higher",
    good="well above that of different places, towards 1: nuclei are at the same places",
    source="Ruifrok & Johnston 2001, Pearson over pixels, after a Gaussian of 2 px",
    bounds=(-1.0, 1.0),
)
CHANCE = _metric(
    "twin_chance",
    "The same between different places",
    good="about 0: the correlation by chance, to compare the one above with",
    source="the H&E of one place, the IHC of another",
    bounds=(-1.0, 1.0),
)
SHIFT = _metric(
    "twin_shift",
    "Shift of the IHC slide",
    "lower",
    good="0: the IHC slide lies exactly on its H&E slide",
    source="phase correlation of haematoxylin, median",
    unit="µm",
)
_LEVEL = "as in real slides of this stain"
DAB_MEAN = stain_level("pairs", "dab_mean", "DAB, mean", good=_LEVEL)
DAB_P90 = stain_level("pairs", "dab_p90", "DAB, 90th percentile", good=_LEVEL)
DAB_POSITIVE = _metric(
    "dab_positive",
    "Positive area",
    good=f"{_LEVEL}, if they are of like tissue",
    source="share of pixels from 0.2 OD of DAB on",
    unit="%",
    bounds=(0.0, 100.0),
)
DAB_KL = stain_divergence("pairs", "dab_kl", "DAB, KL(real ‖ generated IHC)")
DAB_HUE = hue_correlation("pairs", "dab_hue", "Hue correlation of the IHC slides")
_KIN = "KIN (Ho et al. 2022) and DN: a classifier trained on real H&E and real IHC"
DIFFERENCE = _metric(
    "domain_difference",
    "Domain differentiation, over seams less within tiles",
    "higher",
    good="0: below 0 fewer crops pass for real IHC where tiles meet",
    source=_KIN,
    bounds=(-1.0, 1.0),
)
SHARE = _metric(
    "domain_share",
    "Crops over seams that pass for IHC",
    "higher",
    good="1: a classifier of H&E and IHC takes them for IHC",
    source=_KIN,
    bounds=(0.0, 1.0),
)
AGREEMENT = (CORRELATION, CHANCE, SHIFT)
METRICS = (*AGREEMENT, DIFFERENCE, SHARE, DAB_MEAN, DAB_P90, DAB_POSITIVE, DAB_KL, DAB_HUE)
LEVELS = (DAB_MEAN, DAB_P90, DAB_POSITIVE, HAEMATOXYLIN_MEAN, HAEMATOXYLIN_P90)
DISTANCES = (DAB_KL, DAB_HUE, HAEMATOXYLIN_KL)

Images = tuple[list[np.ndarray], list[str]]  # Pixels of patches, and the slide or case of each


@dataclass(frozen=True)
class StainPair:
    """An H&E slide and its IHC slide."""

    he: SlideEntry
    ihc: SlideEntry


@dataclass(frozen=True)
class PairsFound:
    """Results about the pairs.

    Attributes:
        rows: of the report.
        shown: some places, H&E and IHC.
        warnings: IHC slides that are missing or do not fit.
    """

    rows: list[Result]
    shown: list[tuple[np.ndarray, np.ndarray]]
    warnings: list[str]


def pair_up(he: SlideSet, ihc: SlideSet) -> tuple[list[StainPair], list[str]]:
    """Pair slides whose names differ in their ending alone: ``a_HE.ome.tif`` and ``a_IHC-SYN.ome.tif``.

    Raises:
        InvalidValueError: there is no such pair, or the two differ in extent.
    """
    by_name = {_stem(e): e for e in he.entries}
    pairs = [StainPair(by_name[_stem(e)], e) for e in ihc.entries if _stem(e) in by_name]
    if not pairs:
        raise InvalidValueError(
            f"none of the {len(ihc.entries)} slides of --pairs belongs to one of --generated: "
            "a_IHC-SYN.ome.tif belongs to a_HE.ome.tif"
        )
    for pair in pairs:
        extents = [(e.height * e.mpp, e.width * e.mpp) for e in (pair.he, pair.ihc)]
        if not np.allclose(*extents, rtol=0.01):
            raise InvalidValueError(
                f"{pair.ihc.slide} does not belong to {pair.he.slide}: they are of different extent, "
                f"{extents[1]} and {extents[0]} µm (height, width)"
            )
    alone = len(ihc.entries) - len(pairs)
    return pairs, [f"{alone} slides of --pairs have no H&E slide of their name"] if alone else []


def pair_rows(
    he: SlideSet,
    ihc: SlideSet,
    real: SlideSet | None,
    *,
    mpp: float,
    patch: int,
    reader: Reader,
    seed: int,
    threads: int,
) -> PairsFound:
    """Compare IHC slides with their H&E slides, and with real IHC slides.

    Args:
        he: the H&E slides.
        ihc: their IHC slides.
        real: real slides of the same stain; None: stains have no floor, quality is not measured.
        mpp: µm/px to compare at.
        patch: side of the patches, px.
        reader: reads them.
        seed: of draws.
        threads: that read.
    """
    pairs, warnings = pair_up(he, ihc)
    pictures, groups = _read_pairs(he, pairs, mpp, patch, reader, seed, threads)
    rows = _agreement(pictures, groups, mpp, seed)
    ours: Images = [ihc for _, ihc in pictures], groups
    theirs: Images = [], []
    if real is not None:
        drawn = real.spots(patch, mpp, 2 * len(pictures))
        found = list(readable(reader, drawn))
        theirs = [image for _, image in found], [spot.entry.group for spot, _ in found]
        if not drawn:
            warnings.append(f"no slide of --real-pairs serves {patch} px patches at {mpp:g} µm/px")
        elif few := few_groups(theirs[1]):
            warnings.append(f"real IHC: {few}")
    rows += _stain_rows(ours, theirs, mpp, seed)
    if theirs[0]:
        mine, others = (
            _sampled(images, most, mpp, threads) for images, most in ((ours, SAMPLES), (theirs, 2 * SAMPLES))
        )
        rows += sample_rows(Comparison(mine, real_samples(others, mpp, seed), mpp))
    # rows of other sections are those of the IHC slides
    rows = [r if r.metric.section == "pairs" else replace(r, label=IHC) for r in rows]
    shown = [pictures[i] for i in evenly_chosen(len(pictures), SHOWN)]
    return PairsFound(rows, shown, warnings)


def displacement(he: np.ndarray, ihc: np.ndarray) -> float:
    """Return by how many px the haematoxylin of the IHC image is shifted, by phase correlation."""
    maps = [
        cv2.GaussianBlur(np.ascontiguousarray(stain_densities(image, stains=stains)[..., 0]), (0, 0), BLUR)
        for image, stains in ((he, "h-e"), (ihc, "h-dab"))
    ]
    # or the borders would be what correlates best
    window = cv2.createHanningWindow(maps[0].shape[::-1], cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(maps[0], maps[1], window)
    return float(np.hypot(y, x))


def domain_rows(
    pairs: Sequence[StainPair], he: SlideSet, ihc: SlideSet, reader: Reader, training: Training
) -> list[Result]:
    """Measure whether a classifier of H&E and IHC takes generated IHC for IHC, over seams as within tiles.

    Args:
        pairs: of which the IHC is judged, at its own µm/px.
        he: real H&E slides.
        ihc: real IHC slides.
        reader: reads the real crops.
        training: of the network.
    """
    first = pairs[0].ihc
    grid = [g for g in known_grids(first) if g.rows is not None][-1]
    over, inside, _ = crops_of_slides([p.ihc for p in pairs], grid, None, training.seed)
    drawn = [s.spots(CROP, first.mpp, REAL_CROPS) for s in (he, ihc)]
    crops = [[image for _, image in readable(reader, spots, "crops")] for spots in drawn]
    if not all(crops):
        raise InvalidValueError("no crop of the real H&E, or none of the real IHC, can be read")
    source, target = (np.stack(found) for found in crops)
    values, notes = run_measure(lambda: domain_differentiation(source, target, over, inside, training))
    samples = f"{len(over)} crops over seams, {len(inside)} within"
    labels = [grid.name] * 2
    return make_rows([DIFFERENCE, SHARE], None, values, (None, ()), notes, samples=samples, labels=labels)


def domain_differentiation(
    source: np.ndarray, target: np.ndarray, over: np.ndarray, inside: np.ndarray, training: Training
) -> list[Estimate]:
    """Train a classifier of domains on real crops; let it judge generated ones over seams and within tiles.

    Args:
        source: real crops of the source domain (H&E), uint8 (n, s, s, 3); the last fifth tests the
            classifier, so order them by slide.
        target: real crops of the target domain (IHC), the same.
        over: generated crops over seams, uint8 (k, s, s, 3).
        inside: generated crops within tiles.
        training: of the network.

    Returns:
        The share of crops over seams taken for the target less that of inner ones (below 0 = seams are seen);
        and the share of crops over seams.

    Warns:
        MeasureWarning: the classifier errs on more than a tenth of real crops, so that its verdict means
            little.
    """
    # crops are in order of slides: the last fifth is of other slides than the rest
    kept = [max(1, len(real) * 4 // 5) for real in (source, target)]
    net = training.fit(target[: kept[1]], source[: kept[0]])
    right = np.concatenate([net.classify(target[kept[1] :]) > 0, net.classify(source[kept[0] :]) <= 0])
    if right.mean() < 0.9:
        caution(
            f"the classifier of domains is right on only {right.mean():.0%} of real crops; "
            "train it for longer or on more"
        )
    passed, within = (net.classify(crops) > 0 for crops in (over, inside))

    def shares(i: np.ndarray, j: np.ndarray) -> list[float]:
        return [passed[i].mean() - within[j].mean(), passed[i].mean()]

    return jackknife(shares, [len(passed), len(within)], seed=training.seed, bounds=(-1, 1))


def _read_pairs(
    he: SlideSet,
    pairs: Sequence[StainPair],
    mpp: float,
    patch: int,
    reader: Reader,
    seed: int,
    threads: int,
) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[str]]:
    """Read H&E and IHC at the same places; return the pictures and their slides or cases."""
    ihc_of: dict[str, list[SlideEntry]] = {}
    for pair in pairs:
        ihc_of.setdefault(pair.he.slide, []).append(pair.ihc)
    paired = {pair.he.slide: pair.he for pair in pairs}  # once, however many IHC slides it has
    drawn = replace(he, entries=tuple(paired.values())).spots(patch, mpp, MOST)
    jobs = [(spot, other) for spot in drawn for other in ihc_of[spot.entry.slide]]

    def read(job: tuple[Spot, SlideEntry]) -> tuple[np.ndarray, np.ndarray]:
        spot, other = job
        return reader(spot), reader.at(other, spot.centre(seed), mpp, patch)

    found = list(readable(read, jobs, "patches of pairs", threads=threads))
    if not found:
        raise InvalidValueError(f"no patch of the pairs can be read at {mpp:g} µm/px")
    return [pictures for _, pictures in found], [spot.entry.group for (spot, _), _ in found]


def _stem(entry: SlideEntry) -> str:
    return re.sub(r"_(HE|IHC-.*|[A-Za-z0-9-]+)$", "", slide_stem(entry.path))


def _agreement(
    pictures: Sequence[tuple[np.ndarray, np.ndarray]], groups: Sequence[str], mpp: float, seed: int
) -> list[Result]:
    matched = np.array([haematoxylin_correlation(he, ihc) for he, ihc in pictures])
    # half way round the list: another place, mostly another slide
    elsewhere = [pictures[(i + len(pictures) // 2) % len(pictures)][1] for i in range(len(pictures))]
    chance = np.array(
        [haematoxylin_correlation(he, ihc) for (he, _), ihc in zip(pictures, elsewhere, strict=True)]
    )
    shifts = np.array([displacement(he, ihc) for he, ihc in pictures]) * mpp

    def numbers(i: np.ndarray) -> list[float]:
        return [float(np.nanmean(matched[i])), float(np.nanmean(chance[i])), float(np.median(shifts[i]))]

    values, notes = run_measure(lambda: jackknife(numbers, [groups], seed=seed))
    return make_rows(AGREEMENT, mpp, values, (None, ()), notes, samples=f"{len(pictures)} places")


def _stain_rows(ours: Images, theirs: Images, mpp: float, seed: int) -> list[Result]:
    """Compare the stain with that of real IHC slides; without them, levels only, and no floors."""
    mine, samples = Stains.of(*ours, "h-dab"), f"{len(ours[1])} patches"
    if not theirs[0]:
        values, notes = run_measure(lambda: jackknife(lambda i: _levels(mine, i), [ours[1]], seed=seed))
        return make_rows(LEVELS, mpp, values, (None, ()), notes, samples=samples)
    count = len(theirs[0])
    real = RealSide(Stains.of(*theirs, "h-dab"), [mpp] * count, {mpp: max(2, count // 2)}, seed)
    c = Comparison(mine, real, mpp)
    rows = [replace(r, samples=samples) for r in c.level_rows(LEVELS, "levels", _levels)]
    return rows + c.distance_rows(DISTANCES, "distances", _distances)


def _sampled(images: Images, most: int, mpp: float, threads: int) -> Samples:
    chosen = evenly_chosen(len(images[0]), most)
    pictures, groups = [images[0][i] for i in chosen], [images[1][i] for i in chosen]
    return measure_samples(pictures, groups, mpp, stains="h-dab", threads=threads)


def _levels(seen: Stains, indices: np.ndarray) -> list[float]:
    mean, p90, dab_mean, dab_p90 = stain_levels(seen, indices)
    return [dab_mean, dab_p90, 100 * float(seen.positive[indices, 1].mean()), mean, p90]


def _distances(a: Stains, i: np.ndarray, b: Stains, j: np.ndarray) -> list[float]:
    haematoxylin, dab, hues = stain_distances(a, i, b, j)
    return [dab, hues, haematoxylin]

"""H&E slides and their IHC slides: nuclei at the same places; stain and quality beside those of real IHC."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from wsigen.data.index import SlideEntry
from wsigen.errors import InvalidValueError
from wsigen.evaluation.comparison import RealSide, few_groups
from wsigen.evaluation.estimate import Estimate, jackknife, run_measure
from wsigen.evaluation.nuclei import nuclei_rows
from wsigen.evaluation.patches import SAMPLES, evenly_chosen
from wsigen.evaluation.quality import quality_rows
from wsigen.evaluation.results import Floors, Result, make_rows
from wsigen.evaluation.samples import RealSamples, Samples, measure_samples
from wsigen.evaluation.sets import SlideSet, allot
from wsigen.evaluation.skipped import Skipped, readable
from wsigen.evaluation.spots import Reader, Spot, ahead, spots
from wsigen.evaluation.stains import (
    HAEMATOXYLIN_KL,
    HAEMATOXYLIN_MEAN,
    HAEMATOXYLIN_P90,
    hue_correlation,
    percentile,
    stain_divergence,
    stain_level,
)
from wsigen.evaluation.verdict import Metric
from wsigen.slide.parts import slide_stem
from wsigen.slide.stains import (
    correlation,
    density_summary,
    haematoxylin_correlation,
    hue_histogram,
    kl_divergence,
    stain_densities,
)

MOST, SHOWN = 200, 6
BLUR, IHC = 2.0, "IHC"
HAEMATOXYLIN, DAB = 0, 1

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
METRICS = (CORRELATION, CHANCE, SHIFT)
STAIN_METRICS = (DAB_MEAN, DAB_P90, DAB_POSITIVE, DAB_KL, DAB_HUE)
LEVELS = (DAB_MEAN, DAB_P90, DAB_POSITIVE, HAEMATOXYLIN_MEAN, HAEMATOXYLIN_P90)
DISTANCES = (DAB_KL, DAB_HUE, HAEMATOXYLIN_KL)

Images = tuple[list[np.ndarray], list[str]]  # Pixels of patches, and the slide or case of each


@dataclass(frozen=True)
class StainPair:
    """An H&E slide and its IHC slide."""

    he: SlideEntry
    ihc: SlideEntry


@dataclass(frozen=True)
class StainNumbers:
    """Stains of IHC patches; row i is of patch i. Amounts are of haematoxylin and of DAB, in this order."""

    groups: Sequence[str]
    counts: np.ndarray
    means: np.ndarray
    positive: np.ndarray
    hues: np.ndarray


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
        drawn = places(real, list(real.entries), mpp, patch, 2 * len(pictures))
        found = list(readable(reader, drawn, "patches"))
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
        beside_real = RealSamples(others, mpp, seed)
        more = [*quality_rows(mine, beside_real), *nuclei_rows(mine, beside_real)]
        rows += [replace(r, label=IHC) for r in more]
    shown = [pictures[i] for i in np.unique(np.linspace(0, len(pictures) - 1, SHOWN).astype(int))]
    return PairsFound(rows, shown, warnings)


def displacement(he: np.ndarray, ihc: np.ndarray) -> float:
    """Return by how many px the haematoxylin of the IHC image is shifted, by phase correlation."""
    maps = [
        cv2.GaussianBlur(np.ascontiguousarray(stain_densities(image, stains=stains)[..., 0]), (0, 0), BLUR)
        for image, stains in ((he, "h-e"), (ihc, "h-dab"))
    ]
    window = cv2.createHanningWindow(maps[0].shape[::-1], cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(maps[0], maps[1], window)
    return float(np.hypot(y, x))


def places(slides: SlideSet, entries: Sequence[SlideEntry], mpp: float, patch: int, count: int) -> list[Spot]:
    """Share patches out over some of the slides of a set, as for comparisons.

    Args:
        slides: the set.
        entries: those of its slides that count.
        mpp: µm/px.
        patch: side, px.
        count: largest number of patches.
    """
    names = {e.slide for e in entries}
    groups = {
        group: [e for e in of_group if e.slide in names]
        for group, of_group in slides.groups(patch, mpp).items()
    }
    usable = {group: found for group, found in groups.items() if found}
    return spots(entries, allot(usable, patch, mpp, count), mpp, patch)


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
    drawn = places(he, [p.he for p in pairs], mpp, patch, MOST)
    jobs = [(spot, other) for spot in drawn for other in ihc_of[spot.entry.slide]]

    skipped = Skipped("patches of pairs")

    def read(job: tuple[Spot, SlideEntry]) -> tuple[np.ndarray, np.ndarray] | None:
        spot, other = job
        centre = spot.centre(seed)
        with skipped.guard():
            return reader(spot), reader.at(other, centre, mpp, patch)
        return None

    found = [(p, job[0].entry.group) for p, job in zip(ahead(read, jobs, threads), jobs, strict=True) if p]
    skipped.report()
    if not found:
        raise InvalidValueError(f"no patch of the pairs can be read at {mpp:g} µm/px")
    return [p for p, _ in found], [group for _, group in found]


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
    return make_rows(METRICS, mpp, values, (None, ()), notes, samples=f"{len(pictures)} places")


def _stain_rows(patches: Images, others: Images, mpp: float, seed: int) -> list[Result]:
    """Compare the stain with that of real IHC slides; without them, levels only, and no floors."""
    ours = _stain_numbers(*patches)
    values, notes = run_measure(lambda: jackknife(lambda i: _levels(ours, i), [ours.groups], seed=seed))
    samples = f"{len(ours.groups)} patches"
    if not others[0]:
        return _rows(LEVELS, mpp, values, (None, ()), notes, samples=samples)
    theirs, count = _stain_numbers(*others), len(others[0])
    real = RealSide(theirs.groups, [mpp] * count, {mpp: max(2, count // 2)}, seed)
    floors = real.level("levels", lambda i: _levels(theirs, i))
    rows = _rows(LEVELS, mpp, values, floors, notes, samples=samples, cases=real.cases)
    distances, notes = run_measure(
        lambda: jackknife(
            lambda i, j: _distances(ours, i, theirs, j), [ours.groups, theirs.groups], seed=seed, draws=20
        )
    )
    floors = real.floor("distances", lambda i, j: _distances(theirs, i, theirs, j))
    samples = f"{len(ours.groups)} and {count} patches"
    return rows + _rows(DISTANCES, mpp, distances, floors, notes, samples=samples, cases=real.cases)


def _rows(
    metrics: Sequence[Metric],
    mpp: float,
    values: Sequence[Estimate] | None,
    floors: Floors,
    notes: Sequence[str],
    *,
    samples: str,
    cases: int | None = None,
) -> list[Result]:
    """Make rows of the pairs' section; rows of other sections are labelled as those of the IHC slides."""
    labels = ["" if metric.section == "pairs" else IHC for metric in metrics]
    return make_rows(metrics, mpp, values, floors, notes, samples=samples, labels=labels, cases=cases)


def _sampled(images: Images, most: int, mpp: float, threads: int) -> Samples:
    chosen = evenly_chosen(len(images[0]), most)
    pictures, groups = [images[0][i] for i in chosen], [images[1][i] for i in chosen]
    return measure_samples(pictures, groups, mpp, stains="h-dab", threads=threads)


def _stain_numbers(images: Sequence[np.ndarray], groups: Sequence[str]) -> StainNumbers:
    found = []
    for image in images:
        amounts = stain_densities(image, stains="h-dab")
        found.append([density_summary(amounts[..., channel]) for channel in (0, 2)])
    return StainNumbers(
        groups,
        np.array([[f.counts for f in both] for both in found]),
        np.array([[f.mean for f in both] for both in found]),
        np.array([both[DAB].positive_ratio for both in found]),
        np.stack([hue_histogram(image) for image in images]),
    )


def _levels(seen: StainNumbers, indices: np.ndarray) -> list[float]:
    counts = seen.counts[indices].sum(axis=0, dtype=np.float64)
    means = seen.means[indices].mean(axis=0)
    return [
        float(means[DAB]),
        percentile(counts[DAB]),
        100 * float(seen.positive[indices].mean()),
        float(means[HAEMATOXYLIN]),
        percentile(counts[HAEMATOXYLIN]),
    ]


def _distances(a: StainNumbers, i: np.ndarray, b: StainNumbers, j: np.ndarray) -> list[float]:
    ours, theirs = (d.counts[k].sum(axis=0, dtype=np.float64) for d, k in ((a, i), (b, j)))
    hues = correlation(a.hues[i].mean(axis=0), b.hues[j].mean(axis=0))
    return [
        kl_divergence(theirs[DAB], ours[DAB]),
        hues,
        kl_divergence(theirs[HAEMATOXYLIN], ours[HAEMATOXYLIN]),
    ]

"""H&E slides and their IHC twins: nuclei at the same places; stains and quality beside those of real IHC."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from wsigen.data.index import SlideEntry
from wsigen.errors import InvalidValueError, SlideError
from wsigen.evaluate.catalogue import MEASURES
from wsigen.evaluate.closely import look_at
from wsigen.evaluate.collect import heeding
from wsigen.evaluate.draw import Reader, Spot, ahead, spots
from wsigen.evaluate.estimate import jackknife
from wsigen.evaluate.joins.colour import centred, percentile
from wsigen.evaluate.joins.samples import RealSamples, sample_rows
from wsigen.evaluate.joins.sides import Floors
from wsigen.evaluate.observe import SAMPLES
from wsigen.evaluate.results import Result
from wsigen.evaluate.sets import SlideSet, allot
from wsigen.evaluate.splits import Split, floor, group_splits, shared_groups
from wsigen.slide.provenance import beside
from wsigen.slide.stains import (
    correlation,
    density_summary,
    haematoxylin_correlation,
    hue_histogram,
    kl_divergence,
    stain_densities,
)

MOST, SHOWN = 200, 6
LEVELS = ("dab_mean", "dab_p90", "dab_positive", "haematoxylin_mean", "haematoxylin_p90")
DISTANCES = ("dab_kl", "dab_hue", "haematoxylin_kl")
BLUR, TWINS = 2.0, "twins"
HAEMATOXYLIN, DAB = 0, 1

Patch = tuple[np.ndarray, str]
"""Pixels, and the slide or case that they are of."""


@dataclass(frozen=True)
class Twin:
    """One slide in two stains."""

    he: SlideEntry
    ihc: SlideEntry


@dataclass(frozen=True)
class Stained:
    """Stains of IHC patches; row i is of patch i. Amounts are of haematoxylin and of DAB, in this order."""

    groups: tuple[str, ...]
    counts: np.ndarray
    means: np.ndarray
    positive: np.ndarray
    hues: np.ndarray

    def __len__(self) -> int:
        return len(self.groups)


@dataclass(frozen=True)
class Twins:
    """What was found of the twins.

    Attributes:
        rows: of the report.
        shown: some places, H&E and IHC.
        warnings: twins that are missing or do not fit.
    """

    rows: list[Result]
    shown: list[tuple[np.ndarray, np.ndarray]]
    warnings: list[str]


def pair_up(he: SlideSet, ihc: SlideSet) -> tuple[list[Twin], list[str]]:
    """Slides of two sets that differ in their ending alone: ``a_HE.ome.tif`` and ``a_IHC-SYN.ome.tif``.

    Raises:
        InvalidValueError: there is no such pair, or twins differ in extent.
    """
    by_name = {_stem(e): e for e in he.entries}
    twins = [Twin(by_name[_stem(e)], e) for e in ihc.entries if _stem(e) in by_name]
    if not twins:
        raise InvalidValueError(
            f"none of the {len(ihc.entries)} slides of --pairs is a twin of one of --generated: "
            "a_IHC-SYN.ome.tif belongs to a_HE.ome.tif"
        )
    for twin in twins:
        extents = [(e.height * e.mpp, e.width * e.mpp) for e in (twin.he, twin.ihc)]
        if not np.allclose(*extents, rtol=0.01):
            raise InvalidValueError(
                f"{twin.ihc.slide} is no twin of {twin.he.slide}: they are of different extent, "
                f"{extents[1]} and {extents[0]} µm (height, width)"
            )
    alone = len(ihc.entries) - len(twins)
    return twins, [f"{alone} slides of --pairs have no H&E slide of their name"] if alone else []


def twin_rows(
    he: SlideSet,
    ihc: SlideSet,
    real: SlideSet | None,
    *,
    mpp: float,
    patch: int,
    reader: Reader,
    seed: int,
    threads: int,
) -> Twins:
    """Compare twins with their H&E, and with real IHC slides.

    Args:
        he: the H&E slides.
        ihc: their twins.
        real: IHC slides of the same stain; None: stains are stated without a floor, quality is not.
        mpp: µm/px to compare at.
        patch: side of the patches, px.
        reader: reads them.
        seed: of draws.
        threads: that read.
    """
    twins, warnings = pair_up(he, ihc)
    spots_ = places(he, [t.he for t in twins], mpp, patch, MOST)
    by_slide: dict[str, list[SlideEntry]] = {}
    for twin in twins:
        by_slide.setdefault(twin.he.slide, []).append(twin.ihc)
    jobs = [(spot, other) for spot in spots_ for other in by_slide[spot.entry.slide]]

    def read(job: tuple[Spot, SlideEntry]) -> tuple[np.ndarray, np.ndarray] | None:
        spot, other = job
        centre = spot.centre(seed)
        try:
            return reader(spot), reader.at(other, centre, mpp, patch)
        except SlideError:
            return None

    images = [(p, j[0].entry.group) for p, j in zip(ahead(read, jobs, threads), jobs, strict=True) if p]
    if not images:
        raise InvalidValueError(f"no patch of the twins can be read at {mpp:g} µm/px")
    pictures, groups = [p for p, _ in images], [g for _, g in images]
    rows = _agreement(pictures, groups, mpp, seed)
    theirs: list[tuple[np.ndarray, str]] = []
    if real is not None:
        drawn = places(real, list(real.entries), mpp, patch, 2 * len(pictures))
        theirs = [(reader(spot), spot.entry.group) for spot in drawn]
        if few := shared_groups([g for _, g in theirs]) if theirs else None:
            warnings.append(f"real twins: {few}")
        if not theirs:
            warnings.append(f"no slide of --real-pairs serves {patch} px patches at {mpp:g} µm/px")
    ours = [(ihc, group) for (_, ihc), group in images]
    rows += _stain_rows(ours, theirs, mpp, seed)
    rows += _close_rows(ours, theirs, mpp, seed, threads)
    shown = [pictures[int(i)] for i in np.unique(np.linspace(0, len(pictures) - 1, SHOWN).astype(int))]
    return Twins(rows, shown, warnings)


def displacement(he: np.ndarray, ihc: np.ndarray) -> float:
    """By how many px the haematoxylin of the twin is shifted, by phase correlation."""
    maps = [
        cv2.GaussianBlur(np.ascontiguousarray(stain_densities(image, stains=stains)[..., 0]), (0, 0), BLUR)
        for image, stains in ((he, "h-e"), (ihc, "h-dab"))
    ]
    window = cv2.createHanningWindow(maps[0].shape[::-1], cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(maps[0], maps[1], window)
    return float(np.hypot(y, x))


def _stem(entry: SlideEntry) -> str:
    name = beside(entry.path, "").name
    name = name if name != entry.path.name else entry.path.stem
    return re.sub(r"_(HE|IHC-.*|[A-Za-z0-9-]+)$", "", name)


def places(slides: SlideSet, entries: Sequence[SlideEntry], mpp: float, patch: int, count: int) -> list[Spot]:
    """Patches of some of the slides of a set, shared out as everywhere.

    Args:
        slides: the set.
        entries: those of its slides that count.
        mpp: µm/px.
        patch: side, px.
        count: how many at most.
    """
    names = {e.slide for e in entries}
    groups = {
        group: [e for e in of_group if e.slide in names]
        for group, of_group in slides.groups(patch, mpp).items()
    }
    usable = {group: found for group, found in groups.items() if found}
    return spots(entries, allot(usable, patch, mpp, count), mpp, patch)


def _agreement(
    pictures: Sequence[tuple[np.ndarray, np.ndarray]], groups: Sequence[str], mpp: float, seed: int
) -> list[Result]:
    matched = np.array([haematoxylin_correlation(he, ihc) for he, ihc in pictures])
    elsewhere = [pictures[(i + len(pictures) // 2) % len(pictures)][1] for i in range(len(pictures))]
    chance = np.array(
        [haematoxylin_correlation(he, ihc) for (he, _), ihc in zip(pictures, elsewhere, strict=True)]
    )
    shifts = np.array([displacement(he, ihc) for he, ihc in pictures]) * mpp

    def numbers(i: np.ndarray) -> list[float]:
        return [float(np.nanmean(matched[i])), float(np.nanmean(chance[i])), float(np.median(shifts[i]))]

    values, cautions = heeding(lambda: jackknife(numbers, [groups], seed=seed))
    keys = ("twin_correlation", "twin_chance", "twin_shift")
    samples = f"{len(pictures)} places"
    return [
        Result(key, mpp, None if values is None else values[i], None, samples, cautions)
        for i, key in enumerate(keys)
    ]


def _stained(patches: Sequence[Patch]) -> Stained:
    found = []
    for image, _ in patches:
        amounts = stain_densities(image, stains="h-dab")
        found.append([density_summary(amounts[..., channel]) for channel in (0, 2)])
    return Stained(
        tuple(group for _, group in patches),
        np.array([[f.counts for f in both] for both in found]),
        np.array([[f.mean for f in both] for both in found]),
        np.array([both[DAB].positive_ratio for both in found]),
        np.stack([hue_histogram(image) for image, _ in patches]),
    )


def _stain_rows(patches: Sequence[Patch], others: Sequence[Patch], mpp: float, seed: int) -> list[Result]:
    ours, cases = _stained(patches), len({group for _, group in others}) or None
    values, cautions = heeding(lambda: jackknife(lambda i: _levels(ours, i), [ours.groups], seed=seed))
    floors: Floors = (None, ())
    rows: list[Result] = []
    if others:
        theirs = _stained(others)
        count = max(2, len(theirs) // 2)
        splits = group_splits(theirs.groups, [mpp] * len(theirs), {mpp: count}, seed=seed)
        floors = _level_floors(theirs, splits, seed)
        apart, notes = heeding(
            lambda: jackknife(
                lambda i, j: _distances(ours, i, theirs, j), [ours.groups, theirs.groups], seed=seed, draws=20
            )
        )
        between = heeding(
            lambda: floor(lambda i, j: _distances(theirs, i, theirs, j), splits, theirs.groups, seed=seed)
        )
        rows = _rows(DISTANCES, apart, between, notes, mpp, f"{len(ours)} and {len(theirs)} patches", cases)
    return [*_rows(LEVELS, values, floors, cautions, mpp, f"{len(ours)} patches", cases), *rows]


def _close_rows(
    ours: Sequence[Patch], theirs: Sequence[Patch], mpp: float, seed: int, threads: int
) -> list[Result]:
    """Quality and nuclei of the twins, beside those of real IHC slides."""
    if not theirs:
        return []
    seen = [
        look_at([p for p, _ in some], [g for _, g in some], mpp, stains="h-dab", threads=threads)
        for some in (_evenly(ours, SAMPLES), _evenly(theirs, 2 * SAMPLES))
    ]
    return [replace(r, label=TWINS) for r in sample_rows(seen[0], RealSamples(seen[1], mpp, seed))]


def _evenly(patches: Sequence[Patch], most: int) -> list[Patch]:
    chosen = np.unique(np.linspace(0, len(patches) - 1, min(most, len(patches))).astype(int))
    return [patches[int(i)] for i in chosen]


def _level_floors(theirs: Stained, splits: Sequence[Split], seed: int) -> Floors:
    def both(i: np.ndarray, j: np.ndarray) -> list[float]:
        return _levels(theirs, np.concatenate([i, j]))

    whole = heeding(lambda: floor(both, splits, theirs.groups, seed=seed))
    halves = heeding(lambda: floor(lambda i, _: _levels(theirs, i), splits, theirs.groups, seed=seed))
    return centred(whole[0], halves[0])[0], whole[1]


def _rows(
    keys: Sequence[str],
    values: Sequence | None,
    floors: Floors,
    notes: tuple,
    mpp: float,
    samples: str,
    cases: int | None,
) -> list[Result]:
    """Rows of the twins' section; what other sections tell of the H&E slides is labelled."""
    every = tuple(dict.fromkeys((*notes, *floors[1])))
    return [
        Result(
            key,
            mpp,
            values[i] if values else None,
            floors[0][i] if floors[0] else None,
            samples,
            every,
            "" if MEASURES[key].section == "pairs" else TWINS,
            cases,
        )
        for i, key in enumerate(keys)
    ]


def _levels(seen: Stained, indices: np.ndarray) -> list[float]:
    counts = seen.counts[indices].sum(axis=0, dtype=np.float64)
    means = seen.means[indices].mean(axis=0)
    return [
        float(means[DAB]),
        percentile(counts[DAB]),
        100 * float(seen.positive[indices].mean()),
        float(means[HAEMATOXYLIN]),
        percentile(counts[HAEMATOXYLIN]),
    ]


def _distances(a: Stained, i: np.ndarray, b: Stained, j: np.ndarray) -> list[float]:
    ours, theirs = (d.counts[k].sum(axis=0, dtype=np.float64) for d, k in ((a, i), (b, j)))
    hues = correlation(a.hues[i].mean(axis=0), b.hues[j].mean(axis=0))
    return [
        kl_divergence(theirs[DAB], ours[DAB]),
        hues,
        kl_divergence(theirs[HAEMATOXYLIN], ours[HAEMATOXYLIN]),
    ]

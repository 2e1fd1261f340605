"""Copies of real places among the patches of a set, and of real slides among its overviews."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from wsigen.data.index import SlideEntry
from wsigen.errors import InvalidValueError
from wsigen.evaluation.comparison import Comparison
from wsigen.evaluation.estimate import caution, mean_over_groups, percentage, run_measure
from wsigen.evaluation.features import Extractor, batches
from wsigen.evaluation.gallery import Gallery, feature_distances
from wsigen.evaluation.patches import BATCH, Patches
from wsigen.evaluation.results import Result
from wsigen.evaluation.search import Matches
from wsigen.evaluation.sets import SlideSet
from wsigen.evaluation.signatures import SIDE, nearest_signatures, signature
from wsigen.evaluation.spots import Spot, readable
from wsigen.evaluation.verdict import Metric
from wsigen.geometry import Region

COPY_SHARE, COPY_DISTANCE, SUSPICIOUS_NULL = 0.6, 0.3, 0.25
OVERVIEW_PX, DESCRIBED_PX = 256, 512
MOST_OVERVIEWS, SHOWN = 500, 6

_metric = partial(Metric, "privacy", better="lower", unit="%", bounds=(0.0, 100.0))
COPIES = _metric(
    "copies",
    "Copies of real places",
    good="0: no patch is a copy of a real place, not even turned, flipped, recoloured or blurred",
    source="searched for at every place of the slides; a copy is nearer than 0.3, and than 0.6 times the "
    "1 % quantile of unrelated real patches",
)
OVERVIEW_COPIES = _metric(
    "overview_copies",
    "Copies of whole overviews",
    good="0: no slide as a whole is a copy of a real one",
    source="signatures of overviews, threshold as for copies",
)
NEAR_SLIDES = Metric(
    "privacy",
    "near_slides",
    "Distance to the nearest real slide, features",
    "higher",
    good="no less than between real slides of different cases",
    source="mean Euclidean distance of standardised features of whole slides, each in a square of 512 px",
)
METRICS = (COPIES, OVERVIEW_COPIES, NEAR_SLIDES)


@dataclass(frozen=True)
class Neighbour:
    """A patch of a set, and the real place that it is most like.

    Attributes:
        spot: of the set.
        slide: index of the real slide in `Gallery.area`.
        centre: (y, x) of the real place, µm.
        orientation: how the patch is turned to match, as of `Nearest`.
        distance: 1 - correlation of signatures; copies are below about 0.1, unrelated patches above 0.5.
    """

    spot: Spot
    slide: int
    centre: tuple[float, float]
    orientation: int
    distance: float


@dataclass(frozen=True)
class SimilarSlides:
    """A slide of a set, and the real slide that it is most like as a whole.

    Attributes:
        ours: of the set.
        theirs: the real one.
        orientation: how ours is turned to match, as of `Nearest`.
        distance: 1 - correlation of signatures, or distance of features.
    """

    ours: SlideEntry
    theirs: SlideEntry
    orientation: int
    distance: float


def copy_rows(c: Comparison, gallery: Gallery, distances: np.ndarray) -> tuple[list[Result], list[Neighbour]]:
    """Search the gallery's slides for the patches of a set.

    Args:
        c: the set.
        gallery: real slides, of which two groups at least.
        distances: of each patch to the nearest of the gallery, by signatures.

    Returns:
        A row of the report; and the patches nearest to real places, nearest first.
    """
    order, found = gallery.search(c.ours, distances)
    ours, null = (d[np.isfinite(d)] for d in (found.distance, gallery.null))
    copies, warnings = run_measure(lambda: find_copies(ours, null))
    notes, slides = list(warnings), len(gallery.area.entries)
    if gallery.all_slides > slides:
        notes.append(f"{slides} of {gallery.all_slides} slides were searched")
    if len(order) < len(c.ours):
        notes.append(f"{len(order)} of {len(c.ours)} patches were searched for, those most like a real one")
    if not len(ours):
        notes.append("not measured: there is too little tissue on the patches to recognise them")
    value = percentage(len(copies[1]), len(ours)) if copies is not None and len(ours) else None
    floor = percentage(0, len(null)) if len(null) else None
    samples = f"{len(ours)} patches on {slides} slides, {len(null)} real ones beside"
    row = Result(COPIES, c.mpp, value, floor, samples, tuple(notes))
    return [row], _different_places(_neighbours(c.ours, found, order))


def find_copies(
    generated: np.ndarray, unrelated: np.ndarray, *, largest: float = COPY_DISTANCE
) -> tuple[float, np.ndarray]:
    """Find copies among generated patches, by the distance to their nearest training patch.

    A copy is nearer than 0.6 times the distance that 1 % of unrelated real patches fall below, and nearer
    than ``largest``.

    Args:
        generated: distance of each generated patch to the nearest training patch, (n,), as from
            `nearest_signatures` or `search_slides`.
        unrelated: the same of real patches of other slides, (m,): the null distribution.
        largest: no distance above this is that of a copy.

    Returns:
        The distance below which a patch is a copy; and the indices of the copies, nearest first.

    Raises:
        InvalidValueError: fewer than 10 unrelated patches.

    Warns:
        MeasureWarning: the unrelated patches hold near-copies of the training set (one slide on both sides,
            or overlapping patches): then copies are hard to tell.
    """
    if len(unrelated) < 10:
        raise InvalidValueError(f"the null distribution needs at least 10 real patches, got {len(unrelated)}")
    lowest = float(np.quantile(unrelated, 0.01))
    if lowest < SUSPICIOUS_NULL * float(np.median(unrelated)):
        caution(
            f"real patches that should be unrelated to the training set come as near as {lowest:.3g} (median "
            f"{np.median(unrelated):.3g}): are there patches of one slide on both sides?"
        )
    # unrelated tissue sets the scale: repetitive tissue comes near by chance
    threshold = min(largest, COPY_SHARE * lowest)
    order = np.argsort(generated, kind="stable")
    return threshold, order[generated[order] < threshold]


def overview_rows(
    ours: SlideSet, real: SlideSet, train: SlideSet | None
) -> tuple[list[Result], list[SimilarSlides]]:
    """Find copies among the overviews of a set; unrelated are real slides of different groups.

    Args:
        ours: the set.
        real: held-out slides.
        train: slides the model learnt from; None: copies of ``real`` are looked for.

    Returns:
        A row of the report; and the slides that are most like a real one, nearest first.
    """
    gallery = real if train is None else train
    (mine, seen), (theirs, known), (others, held) = (_overviews(s.entries) for s in (ours, gallery, real))
    if not len(mine) or not len(theirs):
        note = "not measured: slides are smaller than 32 px as a whole, or cannot be read"
        return [Result(OVERVIEW_COPIES, None, None, None, "", (note,))], []
    near = nearest_signatures(mine, theirs)
    groups, labels = (np.array([e.group for e in entries]) for entries in (held, known))
    # without --train both sides are the real slides: none is compared with its own case
    apart = {"query_slides": groups, "gallery_slides": labels} if train is None else {}
    null = nearest_signatures(others, theirs, **apart).distance
    null = null[np.isfinite(null)]
    found, notes = run_measure(lambda: find_copies(near.distance, null))
    value = None if found is None else percentage(len(found[1]), len(mine))
    floor = None if found is None else percentage(0, len(null))
    similar = [
        SimilarSlides(seen[i], known[int(near.index[i])], int(near.orientation[i]), float(near.distance[i]))
        for i in np.argsort(near.distance, kind="stable")[:SHOWN]
    ]
    samples = f"{len(mine)} slides, {len(theirs)} real ones"
    return [Result(OVERVIEW_COPIES, None, value, floor, samples, notes)], similar


def nearest_slide_rows(
    ours: SlideSet, real: SlideSet, train: SlideSet | None, extractor: Extractor
) -> tuple[list[Result], list[SimilarSlides]]:
    """Find the nearest real slide to each slide of a set, by the features of whole slides.

    Args:
        ours: the set.
        real: held-out slides.
        train: slides the model learnt from; None: the nearest of ``real`` are looked for.
        extractor: of features.

    Returns:
        A row of the report, whose floor is the distance of real slides to the nearest of another case; and
        the slides that are nearest to a real one, nearest first, upright.
    """
    mine, seen = _described(ours.entries, extractor)
    theirs, known = _described((real if train is None else train).entries, extractor)
    others, held = (theirs, known) if train is None else _described(real.entries, extractor)
    if not seen or not held or len(known) < 2:
        note = "not measured: fewer than two real slides, or none of the set, can be read"
        return [Result(NEAR_SLIDES, None, None, None, "", (note,))], []
    scale = theirs.std(axis=0, dtype=np.float64)
    distances = feature_distances(np.concatenate([mine, others]), theirs, scale)
    # one product for the set and the real slides
    near, apart = np.split(distances, [len(mine)])
    if train is None:
        labels = np.array([entry.group for entry in known])
        # slides of one case are alike and count for no distance
        apart[labels[:, None] == labels[None]] = np.inf
    null = apart.min(axis=1)
    usable = np.flatnonzero(np.isfinite(null))
    index, nearest = near.argmin(axis=1), near.min(axis=1)
    value = mean_over_groups(nearest, [entry.group for entry in seen])[0]
    cases = [held[i].group for i in usable]
    floor = mean_over_groups(null[usable], cases)[0] if cases else None
    similar = [
        SimilarSlides(seen[i], known[int(index[i])], 0, float(nearest[i]))
        for i in np.argsort(nearest, kind="stable")[:SHOWN]
    ]
    samples = f"{len(seen)} slides, {len(known)} real ones"
    return [Result(NEAR_SLIDES, None, value, floor, samples, cases=len(set(cases)))], similar


def whole_slide(entry: SlideEntry, side: int = DESCRIBED_PX) -> np.ndarray:
    """Read the whole slide into the middle of a square of its background, uint8 (side, side, 3)."""
    picture = overview(entry, side)
    y, x = ((side - n) // 2 for n in picture.shape[:2])
    out = np.full((side, side, 3), entry.background, np.uint8)
    out[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return out


def overview(entry: SlideEntry, longest: int = OVERVIEW_PX) -> np.ndarray:
    """Read the whole slide, its longer side at most ``longest`` px; never enlarged."""
    mpp = max(entry.mpp, entry.mpp * max(entry.height, entry.width) / longest)
    height, width = (max(1, int(side * entry.mpp / mpp)) for side in (entry.height, entry.width))
    return entry.open().read_region(Region(0, 0, height, width), mpp, entry.background)


def _overviews(entries: Sequence[SlideEntry]) -> tuple[np.ndarray, list[SlideEntry]]:
    """Return signatures of whole slides, and the slides that are readable and large enough."""
    signatures, seen = [], []
    for entry, picture in readable(overview, entries[:MOST_OVERVIEWS], "overviews"):
        if min(picture.shape[:2]) >= SIDE:
            signatures.append(signature(picture))
            seen.append(entry)
    return np.stack(signatures) if signatures else np.empty((0, SIDE, SIDE), np.float32), seen


def _described(entries: Sequence[SlideEntry], extractor: Extractor) -> tuple[np.ndarray, list[SlideEntry]]:
    """Return features of whole slides, (n, dimensions), and the slides that can be read."""
    features, seen = [np.empty((0, extractor.dimensions), np.float32)], []
    for batch in batches(readable(whole_slide, entries[:MOST_OVERVIEWS], "overviews"), BATCH):
        features.append(extractor(np.stack([picture for _, picture in batch])))
        seen += [entry for entry, _ in batch]
    return np.concatenate(features), seen


def _neighbours(ours: Patches, found: Matches, order: np.ndarray) -> list[Neighbour]:
    """Return all that were found, nearest first."""
    return [
        Neighbour(
            ours.spots[int(order[i])],
            int(found.slide[i]),
            (float(found.centre[i, 0]), float(found.centre[i, 1])),
            int(found.orientation[i]),
            float(found.distance[i]),
        )
        for i in np.argsort(found.distance, kind="stable")
        if math.isfinite(found.distance[i])
    ]


def _different_places(neighbours: Sequence[Neighbour]) -> list[Neighbour]:
    """Return the first few that are of different places."""
    kept: list[Neighbour] = []
    for one in neighbours:
        half = one.spot.size * one.spot.mpp / 2
        if not any(n.slide == one.slide and math.dist(n.centre, one.centre) < half for n in kept):
            kept.append(one)
    return kept[:SHOWN]

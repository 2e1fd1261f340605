"""Privacy: copies of real patches, how near patches come to real ones, and what gives training slides away.

Neighbours are sought among the slides that the model learnt from, where they are given, else among the real
ones; patches of one slide (or case) are never compared with one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsigen.errors import InvalidValueError
from wsigen.evaluate.collect import heeding
from wsigen.evaluate.draw import Spot
from wsigen.evaluate.estimate import Estimate, jackknife
from wsigen.evaluate.fingerprint import nearest_fingerprints
from wsigen.evaluate.hunt import BUDGET, FEWEST_QUERIES, MOST_UNRELATED, Field, Found, hunt, telling
from wsigen.evaluate.joins.sides import Comparison
from wsigen.evaluate.observe import Patches
from wsigen.evaluate.privacy import (
    authenticity,
    copying_test,
    feature_distances,
    find_copies,
    is_authentic,
    membership,
)
from wsigen.evaluate.results import Result
from wsigen.evaluate.sets import SlideSet
from wsigen.evaluate.splits import Split, group_splits

PAIRS = 6
_TWO_SIDED = 1.96


@dataclass(frozen=True)
class Neighbour:
    """A patch of the set, and the real place that it is most like.

    Attributes:
        spot: of the set.
        slide: index of the real slide in `Privacy.field`.
        centre: (y, x) of the real place, µm.
        orientation: how the patch is turned to match, as of `Nearest`.
        distance: 1 - correlation of fingerprints; copies are below about 0.1, unrelated patches above 0.5.
    """

    spot: Spot
    slide: int
    centre: tuple[float, float]
    orientation: int
    distance: float


@dataclass(frozen=True)
class Findings:
    """What the privacy measures found at one µm/px.

    Attributes:
        rows: of the report.
        neighbours: the patches nearest to real places, nearest first.
        curves: distances to the nearest real patch, of the set and of real patches.
    """

    rows: list[Result]
    neighbours: list[Neighbour]
    curves: dict[str, np.ndarray]


class Privacy:
    """The gallery of one µm/px, and how near unrelated real patches come to it.

    Args:
        real: all real patches that were drawn.
        train: patches of the slides that the model learnt from; None if nobody knows them.
        slides: the slides that the gallery is of.
        mpp: µm/px.
        patch: side, px.
        seed: of draws.
        threads: that search.
    """

    def __init__(
        self,
        real: Patches,
        train: Patches | None,
        slides: SlideSet,
        *,
        mpp: float,
        patch: int,
        seed: int,
        threads: int,
    ) -> None:
        self.real, self.train, self.mpp, self.seed, self.threads = real, train, mpp, seed, threads
        self.gallery = real if train is None else train
        self.gallery_groups = np.array(self.gallery.groups)
        self.scale = self.gallery.features.std(axis=0, dtype=np.float64)
        self.within = feature_distances(self.gallery.features, self.gallery.features, self.scale)
        self.within[self.gallery_groups[:, None] == self.gallery_groups[None]] = np.inf
        self.cases = len(set(real.groups))
        self.alone = len(set(self.gallery.groups)) < 2
        self.real_prints = self._print_distances(real, apart=True)
        self.real_features = self._feature_distances(real, apart=True)
        field = Field.of(slides.entries, patch, mpp)
        self.whole = len(field.entries)
        self.field = field.within(BUDGET / FEWEST_QUERIES, seed) if field.entries else field
        room = max(FEWEST_QUERIES, int(BUDGET / max(1, self.field.cells())))
        unrelated = min(MOST_UNRELATED, room // 2)
        self.queries = room - unrelated
        self.null = self._null(unrelated)

    def compare(self, c: Comparison) -> Findings:
        """One set against the gallery."""
        if self.alone:
            note = "not measured: it takes at least two real slides (or cases) to know how near they come"
            keys = ("copies", "near_pixels", "near_features", "authenticity")
            return Findings([Result(key, c.mpp, None, None, "", (note,)) for key in keys], [], {})
        prints, features = self._print_distances(c.ours), self._feature_distances(c.ours)
        recognisable = np.flatnonzero(telling(c.ours.prints))
        order = recognisable[np.argsort(prints[recognisable], kind="stable")][: self.queries]
        found = self._hunt(c.ours, order, apart=False)
        rows = [self._copies(c, found, order), *self._nearness(c, prints, features)]
        rows += [self._authenticity(c), *self._against_held_out(c)]
        curves = {"real": self.real_prints, "set": prints}
        return Findings(rows, _different(_neighbours(c.ours, found, order)), curves)

    def _copies(self, c: Comparison, found: Found, order: np.ndarray) -> Result:
        ours, null = found.distance[np.isfinite(found.distance)], self.null[np.isfinite(self.null)]
        copies, cautions = heeding(lambda: find_copies(ours, null))
        notes = list(cautions)
        if self.whole > len(self.field.entries):
            notes.append(f"{len(self.field.entries)} of {self.whole} slides were searched")
        if len(order) < len(c.ours):
            notes.append(
                f"{len(order)} of {len(c.ours)} patches were searched for, those most like a real one"
            )
        if not len(ours):
            notes.append("not measured: there is too little tissue on the patches to recognise them")
        value = share(len(copies.flagged), len(ours)) if copies is not None and len(ours) else None
        samples = f"{len(ours)} patches on {len(self.field.entries)} slides, {len(null)} real ones beside"
        floor = share(0, len(null)) if len(null) else None
        return Result("copies", c.mpp, value, floor, samples, tuple(notes))

    def _nearness(self, c: Comparison, prints: np.ndarray, features: np.ndarray) -> list[Result]:
        """Median distance to the nearest, of the set and of real patches."""
        rows = []
        for key, ours, null in (
            ("near_pixels", prints, self.real_prints),
            ("near_features", features, self.real_features),
        ):
            usable = np.flatnonzero(np.isfinite(null))
            groups = [self.real.groups[i] for i in usable]
            value, cautions = heeding(lambda d=ours: _median(d, c.ours.groups, self.seed))
            floor, notes = heeding(lambda d=null[usable], g=groups: _median(d, g, self.seed))
            rows.append(Result(key, c.mpp, value, floor, c.samples, (*cautions, *notes), cases=self.cases))
        return rows

    def _authenticity(self, c: Comparison) -> Result:
        between = feature_distances(c.ours.features, self.gallery.features, self.scale)
        value, cautions = heeding(
            lambda: authenticity(between, self.within, generated_slides=c.ours.groups, seed=self.seed)
        )
        floor, notes = heeding(self._authenticity_floor)
        return Result("authenticity", c.mpp, value, floor, c.samples, (*cautions, *notes), cases=self.cases)

    def _authenticity_floor(self) -> Estimate:
        """That of real patches, each slide (or case) against a gallery without itself.

        Not only do its own patches not count as neighbours: they must not be what the others' nearest is
        measured by either, or no patch could be nearer to one than its own nearest, and all were authentic.
        """
        held, labels = np.full(len(self.real), np.nan), np.array(self.real.groups)
        for group in np.unique(labels):
            ours, others = np.flatnonzero(labels == group), self.gallery_groups != group
            if len(set(self.gallery_groups[others])) > 1:
                between = feature_distances(
                    self.real.features[ours], self.gallery.features[others], self.scale
                )
                held[ours] = 100.0 * is_authentic(between, self.within[np.ix_(others, others)])
        if np.isnan(held).any():
            raise InvalidValueError("authenticity has a floor from three real slides (or cases) on")
        return jackknife(lambda i: [held[i].mean()], [self.real.groups], seed=self.seed, bounds=(0, 100))[0]

    def _against_held_out(self, c: Comparison) -> list[Result]:
        if self.train is None:
            return []
        ours, train, real = c.ours, self.train, self.real
        splits = group_splits(real.groups, [self.mpp] * len(real), {self.mpp: len(real)}, seed=self.seed)
        found, cautions = heeding(
            lambda: copying_test(ours.features, train.features, real.features, seed=self.seed)
        )
        value = found and _standard(found.statistic)
        # either half may be the one that was trained on: one direction alone says half of what chance does
        splits = [turned for s in splits for turned in (s, Split(s.other, s.one))]
        floors, notes = heeding(lambda: self._copying_floor(splits))
        rows = [Result("copying", c.mpp, value, floors, c.samples, (*cautions, *notes), cases=self.cases)]
        near = [feature_distances(p.features, ours.features, self.scale).min(axis=1) for p in (train, real)]
        guessed, cautions = heeding(
            lambda: membership(
                *near, training_slides=train.groups, held_out_slides=real.groups, seed=self.seed
            )
        )
        chance = [membership(near[1][s.one], near[1][s.other], draws=2).value for s in splits]
        floor = _range(chance) if chance else None
        return [*rows, Result("membership", c.mpp, guessed, floor, c.samples, cautions, cases=self.cases)]

    def _copying_floor(self, splits: Sequence[Split]) -> Estimate | None:
        assert self.train is not None
        real, train = self.real.features, self.train.features
        return _range(
            [copying_test(real[s.one], train, real[s.other], seed=self.seed).statistic for s in splits]
        )

    def _null(self, most: int) -> np.ndarray:
        """How near unrelated real patches come, wherever they are looked for."""
        rng = np.random.default_rng([self.seed, 0x40])
        recognisable = np.flatnonzero(telling(self.real.prints))
        chosen = np.sort(rng.permutation(recognisable)[:most])
        return self._hunt(self.real, chosen, apart=self.train is None).distance

    def _hunt(self, patches: Patches, chosen: np.ndarray, *, apart: bool) -> Found:
        groups = [patches.groups[i] for i in chosen] if apart else None
        return hunt(patches.prints[chosen], self.field, groups=groups, threads=self.threads)

    def _print_distances(self, patches: Patches, *, apart: bool = False) -> np.ndarray:
        labels: dict[str, np.ndarray] = {}
        if apart:
            labels = {"query_slides": np.array(patches.groups), "gallery_slides": self.gallery_groups}
        return nearest_fingerprints(patches.prints, self.gallery.prints, **labels).distance

    def _feature_distances(self, patches: Patches, *, apart: bool = False) -> np.ndarray:
        distances = feature_distances(patches.features, self.gallery.features, self.scale)
        if apart:
            distances[np.array(patches.groups)[:, None] == self.gallery_groups[None]] = np.inf
        return distances.min(axis=1)


def unknown_training() -> list[Result]:
    """The rows that cannot be had without the slides that the model learnt from."""
    note = "not measured: give the slides that the model learnt from as --train"
    return [Result(key, None, None, None, "", (note,)) for key in ("copying", "membership")]


def _neighbours(ours: Patches, found: Found, order: np.ndarray) -> list[Neighbour]:
    """All that were found, nearest first."""
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


def _different(neighbours: Sequence[Neighbour]) -> list[Neighbour]:
    """The first few that are of different places."""
    kept: list[Neighbour] = []
    for one in neighbours:
        half = one.spot.size * one.spot.mpp / 2
        if not any(n.slide == one.slide and math.dist(n.centre, one.centre) < half for n in kept):
            kept.append(one)
    return kept[:PAIRS]


def share(hits: int, of: int) -> Estimate:
    """A percentage of at least one with Wilson's interval (1927)."""
    p, z = hits / of, _TWO_SIDED
    centre, scale = (p + z * z / (2 * of)) / (1 + z * z / of), 1 + z * z / of
    half = z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of)) / scale
    low, high = max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
    return Estimate(100 * p, 100 * low, 100 * high, "Wilson's interval")


def _median(distances: np.ndarray, groups: Sequence[str], seed: int) -> Estimate:
    return jackknife(lambda i: [float(np.median(distances[i]))], [groups], seed=seed, bounds=(0, np.inf))[0]


def _standard(z: float) -> Estimate:
    return Estimate(z, z - _TWO_SIDED, z + _TWO_SIDED, "standard normal")


def _range(values: Sequence[float]) -> Estimate | None:
    if not values:
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    method = f"{len(values)} splits of the real slides"
    return Estimate(float(np.mean(values)), float(low), float(high), method)

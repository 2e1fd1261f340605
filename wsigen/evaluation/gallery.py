"""The real patches that sets are searched for copies of, and how near unrelated real patches come to them."""

from __future__ import annotations

import numpy as np

from wsigen.evaluation.fidelity import as_features, pairwise_distances
from wsigen.evaluation.patches import Patches
from wsigen.evaluation.search import (
    BUDGET,
    FEWEST_QUERIES,
    MOST_UNRELATED,
    Matches,
    SearchArea,
    search_slides,
)
from wsigen.evaluation.sets import SlideSet
from wsigen.evaluation.signatures import distinct, nearest_signatures


class Gallery:
    """The gallery of one µm/px: patches of the training slides where they are given, else of the real ones.

    Patches of one slide (or case) are never compared with one another.

    Args:
        real: all real patches that were read.
        train: patches of the slides that the model learnt from; None if they are not known.
        slides: the slides of the gallery.
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
        self.real, self.train, self.mpp, self.seed, self._threads = real, train, mpp, seed, threads
        self.patches = real if train is None else train
        self.groups = np.array(self.patches.groups)
        self.scale = self.patches.features.std(axis=0, dtype=np.float64)
        self.within = feature_distances(self.patches.features, self.patches.features, self.scale)
        # neighbours on the same slide are not memorised
        self.within[self.groups[:, None] == self.groups[None]] = np.inf
        self.cases = len(set(real.groups))
        # nothing to compare a case with: how near cases come is not known
        self.alone = len(set(self.patches.groups)) < 2
        self.real_pixels = self.pixel_distances(real, apart=True)
        self.real_features = self.feature_distances(real, apart=True)
        area = SearchArea.of(slides.entries, patch, mpp)
        self.all_slides = len(area.entries)
        self.area = area.within(BUDGET / FEWEST_QUERIES, seed) if area.entries else area
        # half of the budget, at most, is for unrelated real patches
        room = max(FEWEST_QUERIES, int(BUDGET / max(1, self.area.cells())))
        unrelated = min(MOST_UNRELATED, room // 2)
        self._most = room - unrelated
        self.null = self._unrelated(unrelated)

    def search(self, ours: Patches, distances: np.ndarray) -> tuple[np.ndarray, Matches]:
        """Search the slides for the patches of a set, those nearest to the gallery first.

        Args:
            ours: patches of the set.
            distances: their `pixel_distances`.

        Returns:
            Indices of the patches searched for, and where each was found.
        """
        known = np.flatnonzero(distinct(ours.signatures))
        order = known[np.argsort(distances[known], kind="stable")][: self._most]
        return order, search_slides(ours.signatures[order], self.area, threads=self._threads)

    def pixel_distances(self, patches: Patches, *, apart: bool = False) -> np.ndarray:
        """Return the distance of each patch's signature to the nearest of the gallery, (n,).

        Args:
            patches: to compare.
            apart: leave out patches of the same slide or case.
        """
        labels: dict[str, np.ndarray] = {}
        if apart:
            labels = {"query_slides": np.array(patches.groups), "gallery_slides": self.groups}
        return nearest_signatures(patches.signatures, self.patches.signatures, **labels).distance

    def feature_distances(self, patches: Patches, *, apart: bool = False) -> np.ndarray:
        """Return the distance of each patch's features to the nearest of the gallery, (n,)."""
        distances = feature_distances(patches.features, self.patches.features, self.scale)
        if apart:
            distances[np.array(patches.groups)[:, None] == self.groups[None]] = np.inf
        return distances.min(axis=1)

    def _unrelated(self, most: int) -> np.ndarray:
        """Return how near unrelated real patches come, searched for like those of a set."""
        rng = np.random.default_rng([self.seed, 0x40])
        chosen = np.sort(rng.permutation(np.flatnonzero(distinct(self.real.signatures)))[:most])
        groups = [self.real.groups[i] for i in chosen] if self.train is None else None
        signatures = self.real.signatures[chosen]
        return search_slides(signatures, self.area, groups=groups, threads=self._threads).distance


def feature_distances(queries: np.ndarray, gallery: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return Euclidean distances of features, each over its scale, over the root of their number.

    Args:
        queries: features (n, d).
        gallery: features (m, d).
        scale: (d,), say the standard deviations of the training features; those that do not vary are left
            out.

    Returns:
        float32 (n, m); 1.4 between independent normal samples.
    """
    queries, gallery = as_features(queries, gallery)
    varying = scale > 1e-9
    queries, gallery = (x[:, varying] / scale[varying] for x in (queries, gallery))
    return pairwise_distances(queries, gallery) / np.float32(np.sqrt(max(1, int(varying.sum()))))

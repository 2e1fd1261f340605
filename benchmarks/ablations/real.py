"""Real patches at one µm/px, and how far generated ones are from them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from benchmarks.ablations.options import real_paths
from benchmarks.ablations.page import Row
from wsigen.data.index import SlideIndex
from wsigen.data.survey import load_or_build_index
from wsigen.errors import InvalidValueError
from wsigen.evaluation.comparison import evenly_over_groups
from wsigen.evaluation.estimate import Estimate, Labels, half, run_measure, sample_labels
from wsigen.evaluation.features import Extractor, batches, load_extractor
from wsigen.evaluation.fidelity import fid, frechet_distance, kid, overlap
from wsigen.evaluation.sets import FEWEST, SlideSet, allot
from wsigen.evaluation.spectrum import band_powers
from wsigen.evaluation.spots import TISSUE_SHARE, Reader, Spot, spots
from wsigen.geometry import Size
from wsigen.slide.tissue import mask_resolution, tissue_mask

SEED = 0
HALVES = 3
"""Times as many real patches as generated ones, so that either half of the slides has enough for a floor."""


@dataclass(frozen=True)
class RealSlides:
    """Real slides to compare with.

    Args:
        index: of the slides.
        extractor: of features.
    """

    index: SlideIndex
    extractor: Extractor

    @classmethod
    def of(cls, args: argparse.Namespace, device: str = "cpu") -> RealSlides | None:
        """What the options ask for; None to go without."""
        paths = real_paths(args)
        if paths is None:
            return None
        return cls(load_or_build_index(paths[0], table=paths[1]), load_extractor(args.features, device))

    def spots(self, *, mpp: float, patch: int, count: int, split: str | None = None) -> list[Spot]:
        """Places on tissue, as evenly over the cases as can be; fewer where the slides have no more.

        Args:
            mpp: µm/px.
            patch: side, px.
            count: how many are wanted.
            split: of the slides; None for all.
        """
        entries = tuple(e for e in self.index.entries if split is None or e.split == split)
        groups = SlideSet("real", entries).groups(patch, mpp)
        usable = [entry for group in groups.values() for entry in group]
        return spots(usable, allot(groups, patch, mpp, count), mpp, patch)

    def judge(self, *, mpp: float, patch: int, count: int, split: str | None = None) -> Judge | None:
        """Real patches to judge ``count`` generated ones by; None where the slides have hardly any."""
        places, reader = self.spots(mpp=mpp, patch=patch, count=HALVES * count, split=split), Reader(SEED)
        if len(places) < FEWEST:
            return None
        return Judge([reader(p) for p in places], [p.entry.group for p in places], self.extractor)

    def pictures(self, *, mpp: float, size: int, count: int, split: str | None = None) -> list[np.ndarray]:
        """Pieces of real slides, uint8 (size, size, 3)."""
        return list(map(Reader(SEED), self.spots(mpp=mpp, patch=size, count=count, split=split)))


class Judge:
    """Real patches, described.

    Args:
        patches: uint8 (h, w, 3) each.
        groups: case of each.
        extractor: of features.
    """

    def __init__(self, patches: Sequence[np.ndarray], groups: Sequence[str], extractor: Extractor) -> None:
        self.examples = list(patches[:: max(1, len(patches) // 8)])
        self.cautions: list[str] = []
        self._extractor, self._groups = extractor, np.array(groups)
        self._features = described(extractor, patches)
        self._power = np.mean([band_powers(p) for p in patches], axis=0)

    def distance(self, patches: Sequence[np.ndarray]) -> Row:
        """Fréchet distance of patches to as many real ones, with its interval."""
        features = described(self._extractor, patches)
        real, groups = self._as_many(len(patches))
        return self._row("distance", lambda: fid(features, real, real_slides=groups, seed=SEED))

    def precision_recall(self, patches: Sequence[np.ndarray]) -> Row:
        """Improved precision and recall of patches beside as many real ones (k = 3)."""
        features, (real, _) = described(self._extractor, patches), self._as_many(len(patches))
        found, cautions = run_measure(lambda: overlap(features, real, seed=SEED))
        self.cautions += cautions
        return {} if found is None else {"precision": found[0].value, "recall": found[2].value}

    def kernel_distance(self, patches: Sequence[np.ndarray]) -> Row:
        """Kernel distance, which the number of patches does not bias."""
        features = described(self._extractor, patches)
        return self._row("kernel", lambda: kid(features, self._features, real_slides=self._groups, seed=SEED))

    def floor(self, count: int) -> Row:
        """`distance` and `precision_recall` between halves of the real slides, as many patches a side."""
        row: Row = {}
        for key, measure in (("distance", frechet_distance), ("precision", precision), ("recall", recall)):
            row |= self._row(
                key,
                lambda m=measure: real_floor(m, self._features, slides=self._groups, size=count, seed=SEED),
            )
        return row

    def spectrum(self, patches: Sequence[np.ndarray]) -> np.ndarray:
        """Mean power of patches over that of the real ones, by octave from the finest, (7,)."""
        return np.mean([band_powers(p) for p in patches], axis=0) / self._power

    def _as_many(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Features and cases of as many real patches, evenly over the cases."""
        chosen = evenly_over_groups(list(self._groups), count, seed=SEED)
        return self._features[chosen], self._groups[chosen]

    def _row(self, key: str, measure: Callable[[], Estimate]) -> Row:
        found, cautions = run_measure(measure)
        self.cautions += cautions
        return (
            {} if found is None else {key: found.value, f"{key}_95": f"{found.low:.3g} to {found.high:.3g}"}
        )


class Comparison:
    """How slides that show the same tissue, sampled in different ways, compare with real ones.

    Args:
        real: slides; None for no comparison.
        overviews: of the slides that are compared, stages above; they say where tissue is.
        overview_mpp: of those.
        mpp: of the slides.
        patch: side of the patches that are described, px.
    """

    def __init__(
        self,
        real: RealSlides | None,
        overviews: Sequence[np.ndarray],
        *,
        overview_mpp: float,
        mpp: float,
        patch: int,
    ) -> None:
        side = patch * mpp
        self.places = [tissue_places(o, overview_mpp, patch_um=side, stride_um=side / 2) for o in overviews]
        self.count = sum(map(len, self.places))
        self.judge = real.judge(mpp=mpp, patch=patch, count=self.count) if real else None
        self._mpp, self._patch = mpp, patch

    @property
    def notes(self) -> list[str]:
        """What limits the comparison."""
        if self.judge is None:
            return [
                f"no real slides were given that serve {self._patch} px at {self._mpp:g} µm/px: no distances"
            ]
        return [f"{self.count} overlapping patches a side", *self.judge.cautions]

    def patches(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Those of the slides that lie on tissue."""
        pairs = zip(images, self.places, strict=True)
        return [patch for image, places in pairs for patch in cut(image, self._mpp, places, self._patch)]

    def figures(self, images: Sequence[np.ndarray]) -> Row:
        """Power of the octaves over that of real patches, and the distance; empty without real slides."""
        if self.judge is None:
            return {}
        patches = self.patches(images)
        power = self.judge.spectrum(patches)
        octaves = {f"octave{i}": float(p) for i, p in enumerate(power[:-1])}
        return {**octaves, **self.judge.distance(patches), **self.judge.precision_recall(patches)}

    def floor(self, key: str) -> list[Row]:
        """A row for real against real, whose name stands under ``key``; none without."""
        found = self.judge.floor(self.count) if self.judge else {}
        return [{key: "real against real", **found}] if found else []


def tissue_places(
    image: np.ndarray, mpp: float, *, patch_um: float, stride_um: float
) -> list[tuple[float, float]]:
    """Corners (y, x), µm, of squares on a grid that are at least half tissue; all of them where none is.

    Args:
        image: uint8 (h, w, 3), of the slide or a stage above.
        mpp: of the image.
        patch_um: side of the squares.
        stride_um: of the grid.
    """
    coarse = mask_resolution(mpp, Size(*image.shape[:2]))
    small = cv2.resize(image, None, fx=mpp / coarse, fy=mpp / coarse, interpolation=cv2.INTER_AREA)
    mask = tissue_mask(small, coarse)
    height, width = (n * mpp for n in image.shape[:2])
    if min(height, width) < patch_um:
        raise InvalidValueError(
            f"patches of {patch_um:g} µm are larger than the slide, {height:g} × {width:g} µm"
        )
    corners = [
        (float(y), float(x))
        for y in np.arange(0, height - patch_um + 1e-6, stride_um)
        for x in np.arange(0, width - patch_um + 1e-6, stride_um)
    ]
    share = [mask[_cells(y, patch_um, coarse), _cells(x, patch_um, coarse)].mean() for y, x in corners]
    return [c for c, s in zip(corners, share, strict=True) if s >= TISSUE_SHARE] or corners


def cut(image: np.ndarray, mpp: float, places: Sequence[tuple[float, float]], patch: int) -> list[np.ndarray]:
    """The patches of an image at places in µm: uint8 (patch, patch, 3) each."""
    corners = [(round(y / mpp), round(x / mpp)) for y, x in places]
    return [np.ascontiguousarray(image[y : y + patch, x : x + patch]) for y, x in corners]


def _cells(start: float, length: float, mpp: float) -> slice:
    first = int(start / mpp)
    return slice(first, max(first + 1, round((start + length) / mpp)))


def described(extractor: Extractor, patches: Sequence[np.ndarray]) -> np.ndarray:
    """Return the features of patches, float32 (n, dimensions)."""
    return np.concatenate([extractor(np.stack(batch)) for batch in batches(patches, 32)])


def precision(generated: np.ndarray, real: np.ndarray) -> float:
    """Improved precision (Kynkäänniemi et al. 2019, k = 3) of features (n, d) beside (m, d)."""
    return overlap(generated, real, draws=2)[0].value


def recall(generated: np.ndarray, real: np.ndarray) -> float:
    """Improved recall, likewise."""
    return overlap(generated, real, draws=2)[2].value


def real_floor(
    measure: Callable[[np.ndarray, np.ndarray], float],
    real: np.ndarray,
    *,
    slides: Labels | None = None,
    size: int | None = None,
    draws: int = 10,
    seed: int = 0,
) -> Estimate:
    """Return what a measure gives between real and real: the value a perfect generator would get.

    The mean over random splits of the real samples into two disjoint halves (halves of slides from 4 slides
    on, so that the floor includes how much slides differ), with the range that 95 % of the splits lie in. A
    biased measure depends on the number of samples: give ``size`` and use as many generated ones.

    Args:
        measure: of two arrays of features, such as `frechet_distance`.
        real: features (n, d).
        slides: one label per sample.
        size: samples per half; None: all.
        draws: number of splits.
        seed: of the splits.

    Raises:
        InvalidValueError: fewer than 4 samples, or fewer than ``size`` in a half.
    """
    rng = np.random.default_rng(seed)
    side = sample_labels(real, slides)
    values = []
    for _ in range(draws):
        first = half(side, rng)
        halves = first, np.setdiff1d(np.arange(len(real)), first)
        fewest = min(map(len, halves))
        if fewest < max(2, size or 0):
            raise InvalidValueError(
                f"a floor of {size or 2} samples a side needs twice as many real ones, "
                f"half of these are {fewest}"
            )
        chosen = [h if len(h) <= (size or len(h)) else rng.choice(h, size, replace=False) for h in halves]
        values.append(measure(*(real[h] for h in chosen)))
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(float(np.mean(values)), float(low), float(high), f"{draws} splits of the real samples")

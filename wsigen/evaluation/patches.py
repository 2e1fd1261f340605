"""Patches of a set as they are kept: features, spectrum, phase, stains, hue, signature; not their pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from wsigen.errors import SlideError
from wsigen.evaluation.features import Extractor, batches
from wsigen.evaluation.phase import phase
from wsigen.evaluation.signatures import signature
from wsigen.evaluation.spectrum import band_powers
from wsigen.evaluation.spots import Reader, Spot, readable
from wsigen.evaluation.stains import stain_arrays
from wsigen.slide.stains import saturation

SAMPLES = 48  # Patches of a set at one µm/px that are kept whole while that µm/px is worked on
BATCH = 32
# Side of the square whose phase is measured: more would cost more than everything else together
PHASE_PX = 256

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Patches:
    """The patches of a set at one µm/px; row i of everything is of patch i.

    Attributes:
        spots: where each is.
        mpp: µm/px of each.
        features: float32 (n, dimensions).
        powers: float64 (n, 7), see `band_powers`.
        densities: int32 (n, 2, 256), histograms of the amounts of two stains.
        amounts: float64 (n, 2), mean amount of the two stains, OD.
        hues: float64 (n, 10), see `hue_histogram`.
        saturations: float64 (n,), see `saturation`.
        phases: float64 (n, 12), see `Phase.as_row`; of the middle 256 px of larger patches.
        signatures: float32 (n, 32, 32), see `wsigen.evaluation.signatures`.
        samples: some of the patches whole, index to uint8 (size, size, 3).
        warnings: patches that could not be read.

    Memory: 7 KB per patch with the weight-free features, and the samples.
    """

    spots: tuple[Spot, ...]
    mpp: np.ndarray
    features: np.ndarray
    powers: np.ndarray
    densities: np.ndarray
    amounts: np.ndarray
    hues: np.ndarray
    saturations: np.ndarray
    phases: np.ndarray
    signatures: np.ndarray
    samples: dict[int, np.ndarray]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.spots)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Slide or case of each."""
        return tuple(spot.entry.group for spot in self.spots)

    @property
    def arrays(self) -> Arrays:
        """The arrays, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def take(self, indices: np.ndarray) -> Patches:
        """Return some of the patches, in the order of ``indices``; samples among them keep their pixels."""
        return Patches(
            spots=tuple(self.spots[i] for i in indices),
            **{name: array[indices] for name, array in self.arrays.items()},
            samples={new: self.samples[int(i)] for new, i in enumerate(indices) if int(i) in self.samples},
            warnings=self.warnings,
        )

    def without_samples(self) -> Patches:
        """Return the same without whole patches."""
        return replace(self, samples={})


def join(parts: Sequence[Patches]) -> Patches:
    """Join patches of several µm/px to one set; without samples."""
    return Patches(
        spots=tuple(s for p in parts for s in p.spots),
        **{name: np.concatenate([p.arrays[name] for p in parts]) for name in parts[0].arrays},
        samples={},
        warnings=tuple(w for p in parts for w in p.warnings),
    )


def read_patches(
    spots: Sequence[Spot],
    reader: Reader,
    extractor: Extractor,
    *,
    stains: str = "h-e",
    keep: int = SAMPLES,
    threads: int = 1,
    progress: Callable[[int], object] = lambda _: None,
) -> Patches:
    """Read patches and describe them, a batch at a time.

    Patches that a slide cannot give, because it is damaged there, are left out with a warning.

    Args:
        spots: where the patches are; at least one.
        reader: reads them.
        extractor: of features.
        stains: "h-e" or "h-dab": which two densities are kept.
        keep: number of whole patches kept, evenly over the spots.
        threads: that read ahead.
        progress: called with the number of patches done.

    Raises:
        SlideError: none of the patches can be read.

    Memory: a batch and what is read ahead; what `Patches` keeps.

    Determinism: depends on the spots, the reader's seed and the slides alone, not on ``threads``.
    """
    # evenly over the spots, and so over the slides
    kept = set(evenly_chosen(len(spots), keep))
    where, described, features, warnings = [], [], [], []
    samples: dict[int, np.ndarray] = {}
    done = 0

    def look(job: tuple[int, Spot]) -> tuple[np.ndarray, Arrays]:
        image = reader(job[1])
        return image, _described(job[1], image, stains)

    for batch in batches(readable(look, enumerate(spots), threads=threads, warnings=warnings), BATCH):
        features.append(extractor(np.stack([image for _, (image, _) in batch])))
        for (number, spot), (image, arrays) in batch:
            if number in kept:
                samples[len(where)] = image
            where.append(spot)
            described.append(arrays)
        # those left out in between are done as well
        before, done = done, batch[-1][0][0] + 1
        progress(done - before)
    progress(len(spots) - done)
    if not where:
        raise SlideError(spots[0].entry.path, f"none of {len(spots)} patches can be read ({warnings[0]})")
    return Patches(
        spots=tuple(where),
        features=np.concatenate(features),
        **{name: np.stack([d[name] for d in described]) for name in described[0]},
        samples=samples,
        warnings=tuple(warnings),
    )


def evenly_chosen(count: int, most: int) -> list[int]:
    """Return at most ``most`` of the indices below ``count`` ≥ 1, evenly spaced, first and last included."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int)).tolist()


def _described(spot: Spot, image: np.ndarray, stains: str) -> Arrays:
    found = stain_arrays(image, stains)
    # the middle: what phase costs does not grow with the patch
    y, x = (max(0, n - PHASE_PX) // 2 for n in image.shape[:2])
    middle = np.ascontiguousarray(image[y : y + PHASE_PX, x : x + PHASE_PX])
    return {
        "mpp": np.array(spot.mpp),
        "powers": band_powers(image),
        **{name: found[name] for name in ("densities", "amounts", "hues")},
        "saturations": np.array(saturation(image)),
        "phases": phase(middle, spot.mpp).as_row(),
        "signatures": signature(image),
    }

"""What is kept of each patch: features, spectrum, phase, stains, hue, fingerprint; not its pixels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from wsigen.errors import SlideError
from wsigen.evaluate.draw import Reader, Spot, ahead
from wsigen.evaluate.features import Extractor, batches
from wsigen.evaluate.fingerprint import fingerprint
from wsigen.evaluate.phase import phase
from wsigen.evaluate.spectrum import octave_powers
from wsigen.slide.stains import density_summary, hue_histogram, saturation, stain_densities

SAMPLES = 48
"""Patches of a set at one µm/px that are kept whole while that µm/px is worked on."""
BATCH = 32
PHASE_PX = 256
"""Side of what phase is measured on: more would cost more than everything else together."""
_ARRAYS = ("mpp", "features", "powers", "densities", "amounts", "hues", "saturations", "phases", "prints")

log = logging.getLogger(__name__)


class Seen(NamedTuple):
    """One patch, looked at."""

    spot: Spot
    image: np.ndarray
    powers: np.ndarray
    densities: np.ndarray
    amounts: np.ndarray
    hue: np.ndarray
    saturation: float
    phase: np.ndarray
    print: np.ndarray


@dataclass(frozen=True)
class Patches:
    """The patches of a set at one µm/px; row i of everything is of patch i.

    Attributes:
        spots: where each is.
        mpp: µm/px of each.
        features: float32 (n, dimensions).
        powers: float64 (n, 7), see `octave_powers`.
        densities: int32 (n, 2, 256), histograms of the amounts of two stains.
        amounts: float64 (n, 2), mean amount of the two stains, OD.
        hues: float64 (n, 10), see `hue_histogram`.
        saturations: float64 (n,), see `saturation`.
        phases: float64 (n, 12), see `Phase.as_row`; of patches larger than 256 px of their middle.
        prints: float32 (n, 32, 32), see `wsigen.evaluate.fingerprint`.
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
    prints: np.ndarray
    samples: dict[int, np.ndarray]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.spots)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Slide or case of each."""
        return tuple(spot.entry.group for spot in self.spots)

    def take(self, indices: np.ndarray) -> Patches:
        """Some of the patches, in the order of ``indices``; samples among them keep their pixels."""
        return Patches(
            spots=tuple(self.spots[i] for i in indices),
            **{name: getattr(self, name)[indices] for name in _ARRAYS},
            samples={new: self.samples[int(i)] for new, i in enumerate(indices) if int(i) in self.samples},
            warnings=self.warnings,
        )

    def without_samples(self) -> Patches:
        """The same without whole patches."""
        return replace(self, samples={})


def join(parts: Sequence[Patches]) -> Patches:
    """Patches of several µm/px as one set; without samples."""
    return Patches(
        spots=tuple(s for p in parts for s in p.spots),
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in _ARRAYS},
        samples={},
        warnings=tuple(w for p in parts for w in p.warnings),
    )


def observe(
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
        keep: how many whole patches are kept, evenly over the spots.
        threads: that read ahead.
        progress: called with the number of patches done.

    Raises:
        SlideError: none of the patches can be read.

    Memory: a batch and what is read ahead; what `Patches` keeps.

    Determinism: depends on the spots, the reader's seed and the slides alone, not on ``threads``.
    """
    kept = set(np.unique(np.linspace(0, len(spots) - 1, min(keep, len(spots))).astype(int)).tolist())
    failed: list[str] = []
    seen: list[Seen] = []
    features: list[np.ndarray] = []
    samples: dict[int, np.ndarray] = {}

    def look(numbered: tuple[int, Spot]) -> tuple[int, Seen | SlideError]:
        number, spot = numbered
        try:
            return number, _look(spot, reader(spot), stains)
        except SlideError as error:
            return number, error

    def readable() -> Iterator[tuple[int, Seen]]:
        for number, found in ahead(look, enumerate(spots), threads):
            if isinstance(found, SlideError):
                failed.append(str(found))
                progress(1)
            else:
                yield number, found

    for batch in batches(readable(), BATCH):
        features.append(extractor(np.stack([s.image for _, s in batch])))
        for number, one in batch:
            if number in kept:
                samples[len(seen)] = one.image
            seen.append(one._replace(image=np.empty(0, np.uint8)))
        progress(len(batch))
    if not seen:
        raise SlideError(spots[0].entry.path, f"none of {len(spots)} patches can be read ({failed[0]})")
    return _assemble(seen, np.concatenate(features), samples, _failures(failed))


def _look(spot: Spot, image: np.ndarray, stains: str) -> Seen:
    found = [density_summary(d) for d in _two_stains(image, stains)]
    counts = np.stack([f.counts for f in found]).astype(np.int32)
    amounts = np.array([f.mean for f in found])
    return Seen(
        spot,
        image,
        powers=octave_powers(image),
        densities=counts,
        amounts=amounts,
        hue=hue_histogram(image),
        saturation=saturation(image),
        phase=phase(_middle(image), spot.mpp).as_row(),
        print=fingerprint(image),
    )


def _middle(image: np.ndarray) -> np.ndarray:
    y, x = (max(0, n - PHASE_PX) // 2 for n in image.shape[:2])
    return np.ascontiguousarray(image[y : y + PHASE_PX, x : x + PHASE_PX])


def _two_stains(image: np.ndarray, stains: str) -> list[np.ndarray]:
    """Amounts of haematoxylin and of the other stain."""
    amounts = stain_densities(image, stains=stains)
    return [np.ascontiguousarray(amounts[..., c]) for c in (0, 1 if stains == "h-e" else 2)]


def _assemble(
    seen: list[Seen], features: np.ndarray, samples: dict[int, np.ndarray], warnings: tuple[str, ...]
) -> Patches:
    return Patches(
        spots=tuple(s.spot for s in seen),
        mpp=np.array([s.spot.mpp for s in seen]),
        features=features,
        powers=np.stack([s.powers for s in seen]),
        densities=np.stack([s.densities for s in seen]),
        amounts=np.stack([s.amounts for s in seen]),
        hues=np.stack([s.hue for s in seen]),
        saturations=np.array([s.saturation for s in seen]),
        phases=np.stack([s.phase for s in seen]),
        prints=np.stack([s.print for s in seen]),
        samples=samples,
        warnings=warnings,
    )


def _failures(failed: list[str]) -> tuple[str, ...]:
    different = list(dict.fromkeys(failed))
    for reason in different:
        log.warning("%s; its other patches are used", reason)
    if not failed:
        return ()
    return (f"{len(failed)} patches could not be read and are missing: {'; '.join(different[:3])}",)

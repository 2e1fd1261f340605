"""Searching whole slides for patches: at every place, in every orientation, a block of a slide at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wsigen.data.index import SlideEntry
from wsigen.errors import SlideError
from wsigen.evaluate.draw import ahead
from wsigen.evaluate.fingerprint import SIDE, relief
from wsigen.evaluate.search import search
from wsigen.geometry import Region

BLOCK = 768
BUDGET = 1e10
"""Queries times cells: about 40 s on one core."""
FEWEST_QUERIES, MOST_UNRELATED = 64, 400
"""Patches that are looked for at the least; and real ones at the most, to see how near unrelated ones are."""
TELLING = 0.1
"""A print with less of its cells in play is that of a speck on glass, which resembles any other."""


@dataclass(frozen=True)
class Found:
    """Where each query was found best.

    Attributes:
        distance: float32 (n,), infinite where there was nowhere to look.
        slide: index of the slide, int (n,).
        centre: (y, x) in µm on it, float64 (n, 2).
        orientation: as of `Nearest`, int (n,).
    """

    distance: np.ndarray
    slide: np.ndarray
    centre: np.ndarray
    orientation: np.ndarray


@dataclass(frozen=True)
class Field:
    """Slides to search, and how fine.

    Attributes:
        entries: the slides.
        cell_mpp: µm/px of a cell: 32 of them are a patch.
    """

    entries: tuple[SlideEntry, ...]
    cell_mpp: float

    @classmethod
    def of(cls, entries: Sequence[SlideEntry], patch: int, mpp: float) -> Field:
        """The slides that are fine enough and large enough to hold a patch."""
        cell = mpp * patch / SIDE
        fit = [e for e in entries if e.mpp <= cell and min(_cells(e, cell)) >= SIDE]
        return cls(tuple(fit), cell)

    def cells(self) -> int:
        """How many places there are."""
        return sum(int(np.prod(_cells(e, self.cell_mpp))) for e in self.entries)

    def within(self, cells: float, seed: int) -> Field:
        """Some of the slides, at random, with no more places than that; at least one slide."""
        order = np.random.default_rng([seed, 0xF1E]).permutation(len(self.entries))
        kept, total = [], 0
        for i in order:
            total += int(np.prod(_cells(self.entries[i], self.cell_mpp)))
            if kept and total > cells:
                break
            kept.append(int(i))
        return Field(tuple(self.entries[i] for i in sorted(kept)), self.cell_mpp)


def telling(prints: np.ndarray) -> np.ndarray:
    """Which fingerprints have something to recognise, bool (n,); of tissue nearly all.

    The share of cells that take part, 1 / Σ p⁴ over their number: 1/3 of normally distributed ones.
    """
    flat = prints.reshape(len(prints), -1).astype(np.float64)
    share = 1 / np.maximum((flat**4).sum(axis=1), 1e-12) / flat.shape[1]
    return (share >= TELLING) & flat.any(axis=1)


def hunt(
    queries: np.ndarray, field: Field, *, groups: Sequence[str] | None = None, threads: int = 1
) -> Found:
    """The best match of each query anywhere on the slides.

    Args:
        queries: fingerprints (n, 32, 32).
        field: where to look.
        groups: of each query: slides of its own group are not searched. None: all are.
        threads: blocks that are searched at once.

    Memory: a few blocks of 768 × 768 cells per thread.
    """
    count = len(queries)
    best = Found(
        np.full(count, np.inf, np.float32), np.zeros(count, int), np.zeros((count, 2)), np.zeros(count, int)
    )
    own = np.array(groups) if groups is not None else None

    def work(block: tuple[int, Region]) -> tuple[int, np.ndarray, Found] | None:
        number, region = block
        entry = field.entries[number]
        chosen = np.arange(count) if own is None else np.flatnonzero(own != entry.group)
        if not len(chosen):
            return None
        try:
            picture = entry.open().read_region(region, field.cell_mpp, entry.background)
        except SlideError:
            return None  # said already, when its patches were drawn
        overview = np.where(_tissue(entry, region, field.cell_mpp), relief(picture), np.float32(0))
        nearest, place = search(queries[chosen], [overview])
        corner = place + np.array([region.y, region.x])
        centre = (corner + SIDE / 2) * field.cell_mpp
        return number, chosen, Found(nearest.distance, nearest.index, centre, nearest.orientation)

    for result in ahead(work, _blocks(field), threads):
        if result is None:
            continue
        number, chosen, found = result
        nearer = found.distance < best.distance[chosen]
        where = chosen[nearer]
        best.distance[where] = found.distance[nearer]
        best.slide[where] = number
        best.centre[where] = found.centre[nearer]
        best.orientation[where] = found.orientation[nearer]
    return best


def _blocks(field: Field) -> Iterator[tuple[int, Region]]:
    """Blocks that overlap by a patch less one cell, but those without tissue."""
    for number, entry in enumerate(field.entries):
        height, width = _cells(entry, field.cell_mpp)
        for y in range(0, height - SIDE + 1, BLOCK - SIDE + 1):
            for x in range(0, width - SIDE + 1, BLOCK - SIDE + 1):
                region = Region(y, x, min(BLOCK, height - y), min(BLOCK, width - x))
                if _tissue(entry, region, field.cell_mpp).any():
                    yield number, region


def _cells(entry: SlideEntry, cell: float) -> tuple[int, int]:
    return int(entry.height * entry.mpp / cell), int(entry.width * entry.mpp / cell)


def _tissue(entry: SlideEntry, region: Region, cell: float) -> np.ndarray:
    """Which cells of a region are tissue; on glass there is nothing to find but dirt that resembles dirt."""
    factor = cell / entry.mask_mpp
    rows, cols = (
        np.minimum(((np.arange(first, last) + 0.5) * factor).astype(int), side - 1)
        for first, last, side in zip(
            (region.y, region.x), (region.y1, region.x1), entry.mask.shape, strict=True
        )
    )
    return entry.mask[np.ix_(rows, cols)]

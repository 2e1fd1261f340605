"""Search whole slides for patches: at every place, in every orientation, a block of a slide at a time.

The correlation of a signature with every place of a slide, in 8 orientations, takes nearly all the time. At a
quarter of the detail and at every second cell it takes a fifth of it, and a copy is still more alike to its
own place than to others; so only the few places that are most alike are compared exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from wsigen.data.index import SlideEntry
from wsigen.errors import InvalidValueError, SlideError
from wsigen.evaluation.signatures import BLANK, ORIENTATIONS, SIDE, Nearest, local_contrast, turned
from wsigen.evaluation.spots import ahead
from wsigen.geometry import Region

BLOCK = 768
BUDGET = 1e10  # Queries times cells: about 40 s on one core
# Least number of patches to search for; and the most real ones, to see how near unrelated patches are
FEWEST_QUERIES, MOST_UNRELATED = 64, 400
COARSE, STRIDE = 4, 2  # Cells that are one in the first pass, and the distance of places then
CANDIDATES = 4  # Places per query that are compared exactly, each in another strip of the overview
_FEWEST_STRIPS, _LARGEST = 8, 2**23


@dataclass(frozen=True)
class Matches:
    """The best match of each query.

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
class SearchArea:
    """Slides to search, and the size of their cells.

    Attributes:
        entries: the slides.
        cell_mpp: µm/px of a cell: 32 of them are a patch.
    """

    entries: tuple[SlideEntry, ...]
    cell_mpp: float

    @classmethod
    def of(cls, entries: Sequence[SlideEntry], patch: int, mpp: float) -> SearchArea:
        """Take the slides that are fine enough and large enough to hold a patch."""
        cell = mpp * patch / SIDE
        fit = [e for e in entries if e.mpp <= cell and min(_cells(e, cell)) >= SIDE]
        return cls(tuple(fit), cell)

    def cells(self) -> int:
        """Return the number of places."""
        return sum(int(np.prod(_cells(e, self.cell_mpp))) for e in self.entries)

    def within(self, cells: float, seed: int) -> SearchArea:
        """Take some of the slides, at random, with no more places than ``cells``; at least one slide."""
        order = np.random.default_rng([seed, 0xF1E]).permutation(len(self.entries))
        kept, total = [], 0
        for i in order:
            total += int(np.prod(_cells(self.entries[i], self.cell_mpp)))
            if kept and total > cells:
                break
            kept.append(int(i))
        return SearchArea(tuple(self.entries[i] for i in sorted(kept)), self.cell_mpp)


def search_slides(
    queries: np.ndarray, area: SearchArea, *, groups: Sequence[str] | None = None, threads: int = 1
) -> Matches:
    """Find the best match of each query anywhere on the slides.

    Args:
        queries: signatures (n, 32, 32).
        area: where to look.
        groups: of each query: slides of its own group are not searched. None: all are.
        threads: blocks that are searched at once.

    Memory: a few blocks of 768 × 768 cells per thread.
    """
    count = len(queries)
    best = Matches(
        np.full(count, np.inf, np.float32), np.zeros(count, int), np.zeros((count, 2)), np.zeros(count, int)
    )
    own = np.array(groups) if groups is not None else None

    def work(block: tuple[int, Region]) -> tuple[int, np.ndarray, Matches] | None:
        number, region = block
        entry = area.entries[number]
        chosen = np.arange(count) if own is None else np.flatnonzero(own != entry.group)
        if not len(chosen):
            return None
        overview = _overview(entry, region, area.cell_mpp)
        if overview is None:
            return None
        nearest, place = search_overviews(queries[chosen], [overview])
        centre = (place + np.array([region.y, region.x]) + SIDE / 2) * area.cell_mpp
        return number, chosen, Matches(nearest.distance, nearest.index, centre, nearest.orientation)

    for result in ahead(work, _blocks(area), threads):
        if result is None:
            continue
        number, chosen, found = result
        # blocks come in order, so ties go to the first whatever the threads
        nearer = found.distance < best.distance[chosen]
        where = chosen[nearer]
        best.distance[where] = found.distance[nearer]
        best.slide[where] = number
        best.centre[where] = found.centre[nearer]
        best.orientation[where] = found.orientation[nearer]
    return best


def search_overviews(queries: np.ndarray, overviews: Iterable[np.ndarray]) -> tuple[Nearest, np.ndarray]:
    """Find the nearest place on whole slides to each query, at any position and orientation.

    Normalised cross-correlation of each signature with the slides' `local_contrast`.

    Args:
        queries: signatures (n, 32, 32).
        overviews: `local_contrast` of each slide (or block of one) at 32 cells per patch, at least 32 × 32.

    Returns:
        The nearest, whose ``index`` is that of the overview; and (y, x) of its upper left cell, int (n, 2).

    Memory: 64 numbers for every fourth cell of an overview, and 32 MB.
    """
    distance = np.full(len(queries), np.inf, np.float32)
    index, orientation, place = (
        np.zeros(shape, int) for shape in (len(queries), len(queries), (len(queries), 2))
    )
    every = np.stack([turned(queries, k) for k in range(ORIENTATIONS)])
    for number, overview in enumerate(overviews):
        lengths = _lengths(overview)
        turns, corners = candidates(every, overview)
        for i in range(len(queries)):
            for turn, corner in zip(turns[i], corners[i], strict=True):
                value, at = _exactly(every[turn, i], overview, lengths, corner)
                if 1 - value < distance[i]:
                    distance[i], index[i], orientation[i], place[i] = 1 - value, number, turn, at
    return Nearest(np.clip(distance, 0, 2), index, orientation), place


def candidates(every: np.ndarray, overview: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find where queries and an overview are most alike when both are reduced.

    Args:
        every: signatures in all orientations, (8, n, 32, 32).
        overview: `local_contrast` (h, w).

    Returns:
        For each query a few orientations, int (n, k), and upper left cells (y, x), int (n, k, 2).
    """
    places, width = _places(overview)
    wanted = _unit(every.reshape(-1, SIDE // COARSE, COARSE, SIDE // COARSE, COARSE).mean((2, 4)))
    # several strips per overview give several candidates, and bound the memory
    step = max(1, min(-(-len(places) // _FEWEST_STRIPS), _LARGEST // max(1, len(wanted))))
    values, where = [], []
    for start in range(0, len(places), step):
        alike = wanted @ places[start : start + step].T
        best = alike.argmax(axis=1)
        values.append(alike[np.arange(len(alike)), best])
        where.append(start + best)
    # (strips, orientations, queries) to one row per query: columns run over orientations, then strips
    shape = (len(values), ORIENTATIONS, every.shape[1])
    value, at = (np.stack(v).reshape(shape).transpose(2, 1, 0).reshape(shape[2], -1) for v in (values, where))
    chosen = np.argsort(-value, axis=1, kind="stable")[:, :CANDIDATES]
    corners = np.take_along_axis(at, chosen, axis=1)
    return chosen // len(values), STRIDE * np.stack([corners // width, corners % width], axis=-1)


def _places(overview: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the coarse signature of every second place, float32 (places, 64), and the places per row."""
    mean = cv2.blur(overview, (COARSE, COARSE), anchor=(0, 0))[::STRIDE, ::STRIDE]
    apart, cells = COARSE // STRIDE, SIDE // COARSE
    # every 8 × 8 grid of means, 4 cells apart, that begins at a second cell
    windows = sliding_window_view(mean, (apart * (cells - 1) + 1,) * 2)[..., ::apart, ::apart]
    rows, cols = ((side - SIDE) // STRIDE + 1 for side in overview.shape)
    return _unit(windows[:rows, :cols]), cols


def _unit(maps: np.ndarray) -> np.ndarray:
    """Return maps (..., s, s) as rows of mean 0 and length 1; those without contrast as 0."""
    rows = maps.reshape(-1, maps.shape[-2] * maps.shape[-1]).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _exactly(
    query: np.ndarray, overview: np.ndarray, lengths: np.ndarray, corner: np.ndarray
) -> tuple[float, tuple[int, int]]:
    """Return the highest correlation within a few cells of a place, and where that is."""
    y, x = (max(0, int(c) - STRIDE) for c in corner)
    around = overview[y : corner[0] + SIDE + STRIDE, x : corner[1] + SIDE + STRIDE]
    match = cv2.matchTemplate(around, query, cv2.TM_CCORR)
    # a signature has mean 0 and length 1: over the window's length, the product is the correlation
    match /= lengths[y : y + match.shape[0], x : x + match.shape[1]]
    _, value, _, (across, down) = cv2.minMaxLoc(match)
    return value, (y + down, x + across)


def _lengths(overview: np.ndarray) -> np.ndarray:
    """Return the length of each 32 × 32 window less its mean; infinite where it is blank."""
    if min(overview.shape) < SIDE:
        raise InvalidValueError(f"an overview must have at least {SIDE} × {SIDE} cells, got {overview.shape}")
    # Σ x² - (Σ x)² / n of every window, from sums over rectangles
    integral, squares = cv2.integral2(overview)
    total, square = (
        i[SIDE:, SIDE:] - i[SIDE:, :-SIDE] - i[:-SIDE, SIDE:] + i[:-SIDE, :-SIDE] for i in (integral, squares)
    )
    energy = square - total**2 / SIDE**2
    return np.where(energy > BLANK**2, np.sqrt(np.maximum(energy, BLANK**2)), np.inf).astype(np.float32)


def _overview(entry: SlideEntry, region: Region, cell: float) -> np.ndarray | None:
    """Read the contrast of a block where there is tissue; None where the slide is damaged."""
    try:
        picture = entry.open().read_region(region, cell, entry.background)
    except SlideError:
        return None  # patches there cannot be read either, which is said for them
    # dirt in the background resembles dirt
    return np.where(_tissue(entry, region, cell), local_contrast(picture), np.float32(0))


def _blocks(area: SearchArea) -> Iterator[tuple[int, Region]]:
    """Yield blocks with tissue, which overlap by a patch less one cell."""
    for number, entry in enumerate(area.entries):
        height, width = _cells(entry, area.cell_mpp)
        for y in range(0, height - SIDE + 1, BLOCK - SIDE + 1):
            for x in range(0, width - SIDE + 1, BLOCK - SIDE + 1):
                region = Region(y, x, min(BLOCK, height - y), min(BLOCK, width - x))
                if _tissue(entry, region, area.cell_mpp).any():
                    yield number, region


def _cells(entry: SlideEntry, cell: float) -> tuple[int, int]:
    return int(entry.height * entry.mpp / cell), int(entry.width * entry.mpp / cell)


def _tissue(entry: SlideEntry, region: Region, cell: float) -> np.ndarray:
    """Return which cells of a region are tissue; in the background dirt would resemble dirt."""
    factor = cell / entry.mask_mpp
    rows, cols = (
        np.minimum(((np.arange(first, last) + 0.5) * factor).astype(int), side - 1)
        for first, last, side in zip(
            (region.y, region.x), (region.y1, region.x1), entry.mask.shape, strict=True
        )
    )
    return entry.mask[np.ix_(rows, cols)]

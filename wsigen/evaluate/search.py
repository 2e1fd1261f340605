"""Looking for fingerprints on whole slides: coarsely everywhere, then exactly where it looked most alike.

The correlation of a fingerprint with every place of a slide, in 8 orientations, is what takes the time. At a
quarter of the detail and at every second cell it takes a fifth of it, and a copy is still more alike to its
own place than to others; so the few places that are most alike are looked at exactly.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from wsigen.errors import InvalidValueError
from wsigen.evaluate.fingerprint import BLANK, ORIENTATIONS, SIDE, Nearest, turned

COARSE, STRIDE = 4, 2
"""Cells that are one in the first pass, and how far apart places are then."""
CANDIDATES = 4
"""Places per query that are looked at exactly, each in another strip of the overview."""
_FEWEST_STRIPS, _LARGEST = 8, 2**23


def search(queries: np.ndarray, overviews: Iterable[np.ndarray]) -> tuple[Nearest, np.ndarray]:
    """The nearest place on whole slides to each query, at any position and orientation.

    Normalised cross-correlation of each fingerprint with the slides' `relief`: no copy escapes between the
    patches of a grid.

    Args:
        queries: fingerprints (n, 32, 32).
        overviews: `relief` of each slide (or block of one) read at 32 cells per patch, at least 32 × 32.

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
    """Where queries are most alike when both are seen coarsely.

    Args:
        every: fingerprints in all orientations, (8, n, 32, 32).
        overview: `relief` (h, w).

    Returns:
        For each query a few orientations, int (n, k), and upper left cells (y, x), int (n, k, 2).
    """
    places, width = _places(overview)
    wanted = _unit(every.reshape(-1, SIDE // COARSE, COARSE, SIDE // COARSE, COARSE).mean((2, 4)))
    step = max(1, min(-(-len(places) // _FEWEST_STRIPS), _LARGEST // max(1, len(wanted))))
    values, where = [], []
    for start in range(0, len(places), step):
        alike = wanted @ places[start : start + step].T
        best = alike.argmax(axis=1)
        values.append(alike[np.arange(len(alike)), best])
        where.append(start + best)
    shape = (len(values), ORIENTATIONS, every.shape[1])
    value, at = (np.stack(v).reshape(shape).transpose(2, 1, 0).reshape(shape[2], -1) for v in (values, where))
    chosen = np.argsort(-value, axis=1, kind="stable")[:, :CANDIDATES]
    corners = np.take_along_axis(at, chosen, axis=1)
    return chosen // len(values), STRIDE * np.stack([corners // width, corners % width], axis=-1)


def _places(overview: np.ndarray) -> tuple[np.ndarray, int]:
    """The coarse fingerprint of every second place, float32 (places, 64), and how many are in a row."""
    mean = cv2.blur(overview, (COARSE, COARSE), anchor=(0, 0))[::STRIDE, ::STRIDE]
    apart, cells = COARSE // STRIDE, SIDE // COARSE
    windows = sliding_window_view(mean, (apart * (cells - 1) + 1,) * 2)[..., ::apart, ::apart]
    rows, cols = ((side - SIDE) // STRIDE + 1 for side in overview.shape)
    return _unit(windows[:rows, :cols]), cols


def _unit(maps: np.ndarray) -> np.ndarray:
    """Maps (..., s, s) as rows of mean 0 and length 1; those without contrast as 0."""
    rows = maps.reshape(-1, maps.shape[-2] * maps.shape[-1]).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _exactly(
    query: np.ndarray, overview: np.ndarray, lengths: np.ndarray, corner: np.ndarray
) -> tuple[float, tuple[int, int]]:
    """The highest correlation within a few cells of a place, and where that is."""
    y, x = (max(0, int(c) - STRIDE) for c in corner)
    around = overview[y : corner[0] + SIDE + STRIDE, x : corner[1] + SIDE + STRIDE]
    match = cv2.matchTemplate(around, query, cv2.TM_CCORR)
    match /= lengths[y : y + match.shape[0], x : x + match.shape[1]]
    _, value, _, (across, down) = cv2.minMaxLoc(match)
    return value, (y + down, x + across)


def _lengths(overview: np.ndarray) -> np.ndarray:
    """Length of each 32 × 32 window less its mean; infinite where there is nothing to match."""
    if min(overview.shape) < SIDE:
        raise InvalidValueError(f"an overview must have at least {SIDE} × {SIDE} cells, got {overview.shape}")
    integral, squares = cv2.integral2(overview)
    total, square = (
        i[SIDE:, SIDE:] - i[SIDE:, :-SIDE] - i[:-SIDE, SIDE:] + i[:-SIDE, :-SIDE] for i in (integral, squares)
    )
    energy = square - total**2 / SIDE**2
    return np.where(energy > BLANK**2, np.sqrt(np.maximum(energy, BLANK**2)), np.inf).astype(np.float32)

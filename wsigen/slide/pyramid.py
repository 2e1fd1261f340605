"""Streaming pyramids: sizes of levels, averaging 2×2 pixels, and cutting rows into rows of tiles.

Level l has ⌈size / 2^l⌉ pixels a side. Each pixel is the mean of the 2×2 below it, rounded half up; an odd
last row or column is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from wsigen.geometry import Size

SMALLEST_SIDE = 512


def ceil_div(a: int, b: int) -> int:
    """Return ⌈a / b⌉ of positive integers."""
    return -(-a // b)


def level_size(size: Size, level: int) -> Size:
    """Return height and width of a level: ⌈size / 2^level⌉.

    Args:
        size: level 0, in pixels.
        level: 0 is the finest.
    """
    return Size(ceil_div(size.height, 2**level), ceil_div(size.width, 2**level))


def pyramid_levels(size: Size) -> int:
    """Return the number of levels of a slide, halved until the shorter side is at most 512 pixels.

    Args:
        size: level 0, in pixels.
    """
    levels = 1
    while min(size.height, size.width) > SMALLEST_SIDE:
        size = level_size(size, 1)
        levels += 1
    return levels


def pad_edge(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Repeat the last row and column of (h, w, 3) until the image is (height, width, 3)."""
    down, right = height - image.shape[0], width - image.shape[1]
    if down == 0 and right == 0:
        return image
    return cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REPLICATE)


def halve(image: np.ndarray) -> np.ndarray:
    """Average 2×2 pixels: uint8 (h, w, 3) → (⌈h/2⌉, ⌈w/2⌉, 3), rounding half up.

    For even sizes `cv2.resize(INTER_AREA)` is exactly (a + b + c + d + 2) >> 2, and much faster than numpy.
    """
    height, width = ceil_div(image.shape[0], 2), ceil_div(image.shape[1], 2)
    even = pad_edge(image, 2 * height, 2 * width)
    return cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)


class TileRows:
    """Cuts a stream of rows into rows of tiles, at several levels at once.

    Args:
        size: of level 0, in pixels.
        tile: side of a tile; even.
        levels: how many levels to cut.

    Memory: one row of tiles per level, at most twice that of level 0: ``2 · 3 · tile · width`` bytes.

    Determinism: strips do not depend on the heights in which rows come.
    """

    def __init__(self, size: Size, tile: int, levels: int) -> None:
        self.size = size
        self._tile = tile
        self._sizes = [level_size(size, level) for level in range(levels)]
        self._strips = [np.empty((min(tile, s.height), s.width, 3), np.uint8) for s in self._sizes]
        self._rows = [0] * levels

    @property
    def rows(self) -> int:
        """Rows of level 0 taken so far."""
        return self._rows[0]

    def cut(self, rows: np.ndarray, level: int = 0) -> Iterator[tuple[int, int, np.ndarray]]:
        """Take the next rows; yield the rows of tiles that they complete. Must be iterated to its end.

        Args:
            rows: uint8 (any height, width, 3).
            level: for the recursion; leave it at 0.

        Yields:
            (level, row of tiles, strip): the strip is uint8 (≤ tile, width of the level, 3), and valid until
            the next iteration.
        """
        strip, height = self._strips[level], self._sizes[level].height
        taken = 0
        while taken < len(rows):
            start = self._rows[level] % self._tile
            part = rows[taken : taken + self._tile - start]
            end = start + len(part)
            strip[start:end] = part
            taken += len(part)
            self._rows[level] += len(part)
            if end == self._tile or self._rows[level] == height:
                yield level, (self._rows[level] - 1) // self._tile, strip[:end]
                if level + 1 < len(self._sizes):
                    yield from self.cut(halve(strip[:end]), level + 1)

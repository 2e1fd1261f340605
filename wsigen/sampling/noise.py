"""Gaussian noise as a function of position.

The plane is cut into blocks of 64 rows × 256 columns; each has its own Philox stream, keyed by
(seed, stage, block row, block column). Rows and columns may be negative: padding carries noise too.
"""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Executor, Future
from threading import Lock

import numpy as np

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region

BLOCK_HEIGHT, BLOCK_WIDTH = 64, 256
_UINT64 = 2**64


def check_seed(seed: int) -> int:
    """The seed, if it can be one.

    Raises:
        InvalidValueError: negative, or more than 64 bits.
    """
    if not 0 <= seed < _UINT64:
        raise InvalidValueError(f"seed must be between 0 and 2**64 - 1, got {seed}")
    return seed


class Noise:
    """Independent N(0, 1) values, some per pixel of the plane of one stage.

    Args:
        seed: of the slide, 0 to 2⁶⁴ - 1.
        stage: of the cascade.
        channels: values per pixel; a field of fewer channels is the first ones of a field of more.
        pool: threads for `prefetch`; without, prefetching does nothing.
        cached_blocks: finished blocks to keep, since patches that stick out ask for the same ones at every
            step.

    Raises:
        InvalidValueError: a seed out of range.

    Memory: 64 KiB per channel of each cached or prefetched block.

    Determinism: values depend on (seed, stage, position) alone; neither on the regions asked for and their
    order, nor on caching, prefetching or threads. NumPy's ziggurat sampler makes them.
    """

    def __init__(
        self,
        seed: int,
        stage: int,
        *,
        channels: int = 3,
        pool: Executor | None = None,
        cached_blocks: int = 64,
    ) -> None:
        self._key = np.array([check_seed(seed), stage], np.uint64)
        self.channels = channels
        self._pool = pool
        self._cached_blocks = cached_blocks
        self._cache: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._coming: dict[tuple[int, int], Future[np.ndarray]] = {}
        self._lock = Lock()

    def region(self, region: Region) -> np.ndarray:
        """Noise of a region anywhere in the plane: float32 (channels, height, width)."""
        out = np.empty((self.channels, region.height, region.width), np.float32)
        self.fill(region, out)
        return out

    def fill(self, region: Region, out: np.ndarray, *, keep: bool = True) -> None:
        """Write the noise of a region into an array.

        Args:
            region: anywhere in the plane.
            out: float32 (channels, height, width), overwritten.
            keep: whether blocks may be cached; not worth it where each is needed once.
        """
        for row, col in _blocks(region):
            spot = Region(row * BLOCK_HEIGHT, col * BLOCK_WIDTH, BLOCK_HEIGHT, BLOCK_WIDTH)
            inside = spot.intersect(region)
            source, target = inside.shift(-spot.y, -spot.x), inside.shift(-region.y, -region.x)
            values = self._block(row, col, keep)
            out[:, target.y : target.y1, target.x : target.x1] = values[
                :, source.y : source.y1, source.x : source.x1
            ]

    def prefetch(self, region: Region) -> None:
        """Start making the blocks of a region in the background; each is handed out once by `fill`."""
        if self._pool is None:
            return
        for key in _blocks(region):
            with self._lock:
                if key not in self._coming and key not in self._cache:
                    self._coming[key] = self._pool.submit(self._draw, *key)

    def _block(self, row: int, col: int, keep: bool) -> np.ndarray:
        with self._lock:
            if (row, col) in self._cache:
                self._cache.move_to_end((row, col))
                return self._cache[row, col]
            coming = self._coming.pop((row, col), None)
        values = coming.result() if coming else self._draw(row, col)
        if keep:
            with self._lock:
                self._cache[row, col] = values
                while len(self._cache) > self._cached_blocks:
                    self._cache.popitem(last=False)
        return values

    def _draw(self, row: int, col: int) -> np.ndarray:
        # A stream advances the lowest counter word: blocks never overlap, their rows and columns being
        # higher words.
        counter = np.array([0, 0, row % _UINT64, col % _UINT64], np.uint64)
        generator = np.random.Generator(np.random.Philox(key=self._key, counter=counter))
        return generator.standard_normal((self.channels, BLOCK_HEIGHT, BLOCK_WIDTH), np.float32)


def _blocks(region: Region) -> list[tuple[int, int]]:
    if not region:
        return []
    rows = range(region.y // BLOCK_HEIGHT, -(-region.y1 // BLOCK_HEIGHT))
    cols = range(region.x // BLOCK_WIDTH, -(-region.x1 // BLOCK_WIDTH))
    return [(row, col) for row in rows for col in cols]

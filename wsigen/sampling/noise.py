"""Gaussian noise as a function of position.

The plane is cut into blocks of 64 rows × 256 columns; each has its own Philox stream, keyed by
(seed, stage, block row, block column). Rows and columns may be negative: padding carries noise too.
"""

from __future__ import annotations

from concurrent.futures import Executor, Future
from threading import Lock

import numpy as np

from wsigen.arrays import ArrayCache, paste
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region

BLOCK_HEIGHT, BLOCK_WIDTH = 64, 256
_UINT64 = 2**64


def check_seed(seed: int) -> int:
    """Return the seed if it is valid.

    Raises:
        InvalidValueError: it is negative or has more than 64 bits.
    """
    if not 0 <= seed < _UINT64:
        raise InvalidValueError(f"seed must be between 0 and 2**64 - 1, got {seed}")
    return seed


class Noise:
    """Independent N(0, 1) values for the pixels of the infinite plane of one stage.

    Args:
        seed: of the slide, 0 to 2⁶⁴ - 1.
        stage: of the cascade.
        channels: values per pixel; fewer channels are the first ones of more.
        pool: threads for `prefetch`; None: prefetching does nothing.
        cached_blocks: finished blocks to keep, since patches that stick out need the same ones at every step.

    Raises:
        InvalidValueError: the seed is out of range.

    Memory: 64 KiB per channel of each cached or prefetched block.

    Determinism: values depend on (seed, stage, position) alone: not on regions and their order, on caching,
        prefetching or threads. NumPy's ziggurat sampler makes them.
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
        self._cache = ArrayCache(cached_blocks * channels * BLOCK_HEIGHT * BLOCK_WIDTH * 4)
        self._coming: dict[tuple[int, int], Future[np.ndarray]] = {}
        self._lock = Lock()

    def region(self, region: Region) -> np.ndarray:
        """Return the noise of a region anywhere in the plane: float32 (channels, height, width)."""
        out = np.empty((self.channels, region.height, region.width), np.float32)
        self.fill(region, out)
        return out

    def fill(self, region: Region, out: np.ndarray, *, keep: bool = True) -> None:
        """Write the noise of a region into an array.

        Args:
            region: anywhere in the plane.
            out: float32 (channels, height, width), overwritten.
            keep: whether to cache blocks; useless where each is needed once.
        """
        for row, col in _blocks(region):
            at = Region(row * BLOCK_HEIGHT, col * BLOCK_WIDTH, BLOCK_HEIGHT, BLOCK_WIDTH)
            values = self._block(row, col, keep)
            paste(np.moveaxis(values, 0, -1), at, np.moveaxis(out, 0, -1), region)

    def prefetch(self, region: Region) -> None:
        """Start making the blocks of a region in other threads; `fill` hands out each once."""
        if self._pool is None:
            return
        for key in _blocks(region):
            with self._lock:
                if key not in self._coming and key not in self._cache:
                    self._coming[key] = self._pool.submit(self._make, *key)

    def _block(self, row: int, col: int, keep: bool) -> np.ndarray:
        cached = self._cache.get((row, col))
        if cached is not None:
            return cached
        with self._lock:
            coming = self._coming.pop((row, col), None)
        values = coming.result() if coming else self._make(row, col)
        if keep:
            self._cache.put((row, col), values)
        return values

    def _make(self, row: int, col: int) -> np.ndarray:
        # A stream advances the lowest counter word only, so blocks, which differ in higher words, never
        # overlap.
        counter = np.array([0, 0, row % _UINT64, col % _UINT64], np.uint64)
        generator = np.random.Generator(np.random.Philox(key=self._key, counter=counter))
        return generator.standard_normal((self.channels, BLOCK_HEIGHT, BLOCK_WIDTH), np.float32)


def _blocks(region: Region) -> list[tuple[int, int]]:
    if not region:
        return []
    rows = range(region.y // BLOCK_HEIGHT, -(-region.y1 // BLOCK_HEIGHT))
    cols = range(region.x // BLOCK_WIDTH, -(-region.x1 // BLOCK_WIDTH))
    return [(row, col) for row in rows for col in cols]

"""Rows of pixels between stages: where they come from, where they go, and the few that are held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Shaped, UInt8
from torch import Tensor

from wsigen.geometry import Region, Size

# A journal stores tiles of 256 rows. Chunks aligned with them let each tile be decoded once.
CHUNK = 256


@runtime_checkable
class RowSource(Protocol):
    """A finished stage, such as the journal of the stage above."""

    def read(self, region: Region) -> np.ndarray:
        """Return the pixels of a region inside the stage: uint8 (height, width, 3)."""
        ...


@runtime_checkable
class RowSink(Protocol):
    """Receiver of finished rows, in order from the top."""

    @property
    def rows_done(self) -> int:
        """Leading rows that are stored already; the first call of `append` starts there."""
        ...

    def append(self, rows: np.ndarray) -> None:
        """Take the next rows: uint8 (any height ≥ 1, width, 3)."""
        ...


@runtime_checkable
class RowStore(RowSource, RowSink, Protocol):
    """A stage that is written first and read afterwards, such as a block journal."""


class RowBand:
    """Ring buffer of consecutive rows of a tall image: row y is stored at index y mod ``capacity``.

    Writing a row overwrites the row ``capacity`` above it; the caller keeps track of which rows are valid.

    Args:
        channels: per pixel.
        capacity: rows that are kept.
        width: of the image.
        dtype: of the stored values; others are converted on the way in and out.
        device: of the stored values.

    Memory: channels · capacity · width values, resident from when they are first written.
    """

    def __init__(
        self, channels: int, capacity: int, width: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.capacity, self.device = capacity, device
        self._values = torch.empty((channels, capacity, width), dtype=dtype, device=device)

    @property
    def nbytes(self) -> int:
        """Size of the whole ring in bytes."""
        return self._values.nbytes

    def read(self, region: Region, out: Shaped[Tensor, "c h w"]) -> None:
        """Copy a region inside the image into ``out``."""
        for start, offset, rows in self._spans(region):
            out[:, offset : offset + rows] = self._values[:, start : start + rows, region.x : region.x1]

    def write(self, region: Region, values: Shaped[Tensor, "c h w"]) -> None:
        """Copy ``values`` to a region inside the image."""
        for start, offset, rows in self._spans(region):
            self._values[:, start : start + rows, region.x : region.x1] = values[:, offset : offset + rows]

    def _spans(self, region: Region) -> Iterator[tuple[int, int, int]]:
        """One or, where the ring wraps around, two spans: index in the ring, row in the region, rows."""
        assert region.height <= self.capacity
        start = region.y % self.capacity
        head = min(region.height, self.capacity - start)
        yield start, 0, head
        if head < region.height:
            yield 0, head, region.height - head


def held_rows(needed: int, height: int, margin: int = 0) -> int:
    """Return how many rows `HeldRows` must hold to serve ``needed`` rows and a margin at the same time.

    Args:
        needed: rows that callers read at the same time.
        height: rows of the stage.
        margin: rows above and below them that are looked at.
    """
    return min(needed + 2 * margin + CHUNK, height)


class HeldRows:
    """Reads each row of a stage once, from top to bottom, and holds the last ones; a `RowSource`.

    Args:
        source: the stage.
        size: of the stage.
        capacity: rows that are read at the same time.
        first: row to begin with.
        margin: rows above ``first`` and below what is needed that are held as well.
        device: of the held rows.

    Memory: 3 · `held_rows` · width bytes.
    """

    def __init__(
        self,
        source: RowSource,
        *,
        size: Size,
        capacity: int,
        first: int = 0,
        margin: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self._source, self._size, self._margin = source, size, margin
        self._next = max(first - margin, 0)
        self._capacity = held_rows(capacity, size.height, margin)
        self._rows = RowBand(3, self._capacity, size.width, torch.uint8, device or torch.device("cpu"))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._rows.nbytes

    def need(self, row: int) -> None:
        """Read on until ``row`` - 1, and the margin below it, is held. Not thread-safe with `read`."""
        row = min(row + self._margin, self._size.height)
        while self._next < row:
            # whole chunks, so that a source in tiles decodes each of them once
            end = min((self._next // CHUNK + 1) * CHUNK, self._size.height)
            region = Region(self._next, 0, end - self._next, self._size.width)
            self._take(region, np.ascontiguousarray(self._source.read(region)))
            self._next = end

    def _take(self, region: Region, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
        self._rows.write(region, rearrange(torch.from_numpy(pixels), "h w c -> c h w"))

    def read(self, region: Region) -> np.ndarray:
        """Return the pixels of a region that is held: uint8 (height, width, 3)."""
        out = torch.empty((3, region.height, region.width), dtype=torch.uint8)
        self._rows.read(region, out)
        return rearrange(out, "c h w -> h w c").contiguous().numpy()

"""Rows of a slide that arrive in order and are kept until they are no longer needed."""

from __future__ import annotations

import numpy as np

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size


class RowBuffer:
    """Some consecutive rows of a slide, in a ring; the slide's last column and row go on where it is padded.

    Args:
        size: of the slide in pixels.
        padded: of the slide with its padding at the right and at the bottom.
        capacity: rows that are kept, at most.
        first: the row that comes first.

    Memory: 3 · capacity · padded width bytes; touched, hence resident, as rows arrive.
    """

    def __init__(self, size: Size, padded: Size, capacity: int, first: int) -> None:
        self.size, self.padded, self.capacity = size, padded, capacity
        self.first = self.end = first
        self._pixels = np.empty((capacity, padded.width, 3), np.uint8)

    def take(self, rows: np.ndarray) -> int:
        """Keep as many of the next rows as there is room for; returns how many.

        Args:
            rows: uint8 (any height, width, 3).

        Raises:
            InvalidValueError: rows of another shape or type, or more than the slide has.
        """
        if rows.dtype != np.uint8 or rows.ndim != 3 or rows.shape[1:] != (self.size.width, 3):
            raise InvalidValueError(
                f"rows must be uint8 (any, {self.size.width}, 3), got {rows.dtype} {rows.shape}"
            )
        if len(rows) > self.size.height - min(self.end, self.size.height):
            raise InvalidValueError(
                f"a slide of {self.size.height} rows got {len(rows)} more after row {self.end}"
            )
        room, padding = self.first + self.capacity - self.end, self.padded.height - self.size.height
        count = min(len(rows), room)
        if self.end + count == self.size.height and count + padding > room:
            count = max(0, count - 1)  # the last row waits until there is room for its copies too
        for part in np.split(rows[:count], [self._until_wrap()]):
            self._append(part)
        if count and self.end == self.size.height:
            for _ in range(padding):
                self._append(rows[count - 1 : count])
        return count

    def drop(self, row: int) -> None:
        """Forget the rows above this one."""
        self.first = max(self.first, min(row, self.end))

    def read(self, region: Region, out: np.ndarray) -> None:
        """Copy a region of the padded slide, whose rows are kept, into ``out``: uint8 (height, width, 3)."""
        assert self.first <= region.y <= region.y1 <= self.end, (region, self.first, self.end)
        slot = region.y % self.capacity
        head = min(region.height, self.capacity - slot)
        cols = slice(region.x, region.x1)
        out[:head] = self._pixels[slot : slot + head, cols]
        out[head:] = self._pixels[: region.height - head, cols]

    def _until_wrap(self) -> int:
        return self.capacity - self.end % self.capacity

    def _append(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        slot = self.end % self.capacity
        part = self._pixels[slot : slot + len(rows)]
        part[:, : self.size.width] = rows
        part[:, self.size.width :] = rows[:, -1:]
        self.end += len(rows)

"""The band of canvas rows that is alive, as a ring: row y lives in slot y mod capacity."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Shaped
from torch import Tensor

from wsigen.geometry import Region


class RowBand:
    """Rows of an image of unbounded height, of which at most ``capacity`` consecutive ones are kept.

    The band does not know which rows those are: a row is there from when it is written until the row
    ``capacity`` below it is.

    Args:
        channels: per pixel.
        capacity: rows that are kept.
        width: of the canvas.
        dtype: of the values; others are converted on the way in and out.
        device: that holds them.

    Memory: channels · capacity · width values; touched, hence resident, as rows are written.
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
        """Copy a region inside the canvas into ``out``."""
        for slot, offset, rows in self._spans(region):
            out[:, offset : offset + rows] = self._values[:, slot : slot + rows, region.x : region.x1]

    def write(self, region: Region, values: Shaped[Tensor, "c h w"]) -> None:
        """Copy ``values`` to a region inside the canvas."""
        for slot, offset, rows in self._spans(region):
            self._values[:, slot : slot + rows, region.x : region.x1] = values[:, offset : offset + rows]

    def _spans(self, region: Region) -> Iterator[tuple[int, int, int]]:
        assert region.height <= self.capacity
        slot = region.y % self.capacity
        head = min(region.height, self.capacity - slot)
        yield slot, 0, head
        if head < region.height:
            yield 0, head, region.height - head

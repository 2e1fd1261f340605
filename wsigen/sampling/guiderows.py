"""The guide of a stage: the finished stage above, of which only the rows beside the band are held."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from wsigen.geometry import Region
from wsigen.sampling.background import Colour, SkipRule
from wsigen.sampling.band import RowBand
from wsigen.sampling.pixels import to_unit
from wsigen.sampling.rows import RowSource

_CHUNK = 256


def held_rows(needed: int, skip: SkipRule | None, extent: int) -> int:
    """Guide rows to hold, so that ``needed`` ones, their margin and what is read with them are there.

    Args:
        needed: rows that patches may need at the same time.
        skip: which may look at a margin.
        extent: rows of the guide.
    """
    return min(needed + 2 * (skip.margin if skip else 0) + _CHUNK, extent)


class GuideRows:
    """Reads each guide row once, and keeps it as long as patches need it.

    Args:
        source: the stage above.
        extent: side of the source.
        capacity: guide rows that patches may need at the same time.
        k: factor between the stages.
        background: colour of glass.
        skip: which pixels count as glass; None if no patch is to be skipped.
        device: where patches are wanted.
        first: guide row to begin with, when a run goes on.

    Memory: ``capacity`` rows of the source in uint8, and one byte per pixel more with ``skip``.
    """

    def __init__(
        self,
        source: RowSource,
        *,
        extent: int,
        capacity: int,
        k: int,
        background: Colour,
        skip: SkipRule | None,
        device: torch.device,
        first: int = 0,
    ) -> None:
        self.k, self._source, self._extent, self._skip = k, source, extent, skip
        self._background = background
        self._margin = skip.margin if skip else 0
        self._next = max(first - self._margin, 0)
        capacity = held_rows(capacity, skip, extent)
        self._rows = RowBand(3, capacity, extent, torch.uint8, device)
        self._occupied = RowBand(1, capacity, extent, torch.bool, torch.device("cpu")) if skip else None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._rows.nbytes + (self._occupied.nbytes if self._occupied else 0)

    def need(self, row: int) -> None:
        """Read on until guide row ``row`` - 1, and the margin below it, is held."""
        row = min(row + self._margin, self._extent)
        while self._next < row:
            # Chunks as high as a journal's tiles, and aligned with them, so that each is decoded once.
            end = min((self._next // _CHUNK + 1) * _CHUNK, self._extent)
            self._take(Region(self._next, 0, end - self._next, self._extent))

    def _take(self, region: Region) -> None:
        rows = self._source.read(region)
        if self._skip and self._occupied:
            occupied = self._skip.occupied(rows, self._background)
            self._occupied.write(region, torch.from_numpy(occupied)[None])
        self._rows.write(region, rearrange(torch.from_numpy(rows), "h w c -> c h w"))
        self._next = region.y1

    def patch(self, region: Region, out: Float[Tensor, "3 gh gw"]) -> None:
        """y of a patch, in [-1, 1]. Outside the canvas it goes on with the nearest pixel of its edge: glass
        there would make the network fade tissue that the slide's edge cuts.

        Args:
            region: of the patch in guide pixels; may reach outside, not lie there.
            out: overwritten.
        """
        inside = region.intersect(Region(0, 0, self._extent, self._extent))
        spot = inside.shift(-region.y, -region.x)
        self._rows.read(inside, out[:, spot.y : spot.y1, spot.x : spot.x1])
        out[:, : spot.y] = out[:, spot.y : spot.y + 1]
        out[:, spot.y1 :] = out[:, spot.y1 - 1 : spot.y1]
        out[:, :, : spot.x] = out[:, :, spot.x : spot.x + 1]
        out[:, :, spot.x1 :] = out[:, :, spot.x1 - 1 : spot.x1]
        out.div_(127.5).sub_(1)

    def replicated(self, region: Region) -> np.ndarray:
        """A†y of a region of the canvas that need not align with guide pixels: float32 (3, height, width)."""
        k = self.k
        y, x = region.y // k, region.x // k
        cover = Region(y, x, -(-region.y1 // k) - y, -(-region.x1 // k) - x)
        values = torch.empty((3, cover.height, cover.width), dtype=torch.uint8)
        self._rows.read(cover, values)
        wide = to_unit(values).numpy().repeat(k, axis=2).repeat(k, axis=1)
        top, left = region.y - y * k, region.x - x * k
        return wide[:, top : top + region.height, left : left + region.width]

    def glass(self, regions: list[Region]) -> list[bool]:
        """Whether each of a row of patches shows nothing but glass, margin included.

        Args:
            regions: in guide pixels, of one patch row: all of the same rows.
        """
        if self._occupied is None or not regions:
            return [False] * len(regions)
        strip = regions[0].pad(self._margin).intersect(Region(0, 0, self._extent, self._extent))
        rows = torch.empty((1, strip.height, self._extent), dtype=torch.bool)
        self._occupied.read(Region(strip.y, 0, strip.height, self._extent), rows)
        before = np.concatenate([[0], np.cumsum(rows[0].numpy().any(axis=0))])
        bounds = [region.pad(self._margin) for region in regions]
        return [bool(before[min(b.x1, self._extent)] == before[max(b.x, 0)]) for b in bounds]


class HeldRows:
    """A `RowSource` of a stage that is read once from top to bottom; only the last rows are held.

    Args:
        source: the stage.
        extent: side of it.
        capacity: rows that are wanted at the same time.
        first: row to begin with.

    Memory: ``capacity`` rows and up to 255 that are read with them, uint8.
    """

    def __init__(self, source: RowSource, *, extent: int, capacity: int, first: int = 0) -> None:
        self._source, self._extent, self._next = source, extent, first
        self._rows = RowBand(3, held_rows(capacity, None, extent), extent, torch.uint8, torch.device("cpu"))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._rows.nbytes

    def need(self, row: int) -> None:
        """Read on until ``row`` - 1 is held; before any `read` of it, and none of them meanwhile."""
        while self._next < row:
            # Chunks as high as a journal's tiles, and aligned with them, so that each is decoded once.
            end = min((self._next // _CHUNK + 1) * _CHUNK, self._extent)
            region = Region(self._next, 0, end - self._next, self._extent)
            rows = torch.from_numpy(np.ascontiguousarray(self._source.read(region)))
            self._rows.write(region, rearrange(rows, "h w c -> c h w"))
            self._next = end

    def read(self, region: Region) -> np.ndarray:
        """Pixels of a region that is held: uint8 (height, width, 3)."""
        out = torch.empty((3, region.height, region.width), dtype=torch.uint8)
        self._rows.read(region, out)
        return rearrange(out, "c h w -> h w c").contiguous().numpy()

"""What one stage holds while it is denoised: a band of canvas rows, and the rows of the guide beside it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from wsigen.geometry import Colour, Region, Size
from wsigen.nn.images import to_unit, to_unit_
from wsigen.sampling.pixels import SkipRule
from wsigen.sampling.rows import HeldRows, RowBand, RowSource
from wsigen.sampling.shift import StepGrid


class Canvas:
    """State and history of the rows alive, each pixel at one noise level.

    With a halo, a patch reads pixels that the patch above or to the left may have advanced already. So each
    row of patches keeps a copy of its lowest ``halo`` rows as they were before, and each patch a copy of its
    last columns.

    Args:
        size: of the canvas.
        capacity: rows alive.
        steps: of the solver.
        history_dtype: of the solver's history; None if it has none.
        device: of the canvas.

    Memory: ``capacity · width · 3`` values of 4 bytes, and as many of the history's type; with a halo,
        ``halo · width · 3`` values of 4 bytes more per step.
    """

    def __init__(
        self,
        size: Size,
        capacity: int,
        steps: int,
        *,
        history_dtype: torch.dtype | None,
        device: torch.device,
    ) -> None:
        self.bounds = size.region
        self.state = RowBand(3, capacity, size.width, torch.float32, device)
        self.history = RowBand(3, capacity, size.width, history_dtype, device) if history_dtype else None
        # Rows below a patch row of each step, as they were before it: what the next row reads as its upper
        # halo.
        self._above: list[Tensor | None] = [None] * steps
        self._below: Tensor | None = None
        self._left: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the band."""
        return self.state.nbytes + (self.history.nbytes if self.history else 0)

    def begin_row(self, grid: StepGrid, row: int) -> None:
        """Prepare to gather the patches of a row."""
        self._left = self._below = None
        lines = grid.rows
        if lines.halo and row + 1 < lines.count:
            region = Region(lines.end(row) - lines.halo, 0, lines.halo, self.bounds.width)
            self._below = self._read(region)

    def end_row(self, step: int) -> None:
        """Finish a row, after all its patches were written."""
        self._above[step] = self._below

    def gather(self, grid: StepGrid, step: int, row: int, col: int, out: Float[Tensor, "3 h w"]) -> Region:
        """Copy the pixels of a patch as the previous step left them; call for columns from left to right.

        Args:
            grid: of the step.
            step: of the solver.
            row: of the patch.
            col: of the patch.
            out: overwritten inside the canvas, left alone outside.

        Returns:
            The part of the patch inside the canvas, in pixels of the patch.
        """
        region, halo = grid.read(row, col), grid.rows.halo
        # The band may hold newer pixels in the halo: those of the patches above and to the left, which have
        # been written. The saved copies replace them.
        inside = region.intersect(self.bounds)
        spot = inside.shift(-region.y, -region.x)
        view = out[:, spot.y : spot.y1, spot.x : spot.x1]
        self.state.read(inside, view)
        if halo:
            above = self._above[step]
            if above is not None:
                view[:, : above.shape[1]] = above[:, :, inside.x : inside.x1]
            if self._left is not None:
                out[:, :, :halo] = self._left
            # The next patch begins ``stride`` further right: these columns are its left halo.
            self._left = out[:, :, grid.cols.stride : grid.cols.stride + halo].clone()
        return spot

    def _read(self, region: Region) -> Tensor:
        inside = region.intersect(self.bounds)
        out = torch.empty((3, inside.height, inside.width), device=self.state.device)
        self.state.read(inside, out)
        return out


def outside(region: Region, inside: Region) -> Iterator[Region]:
    """Yield the up to four parts of a region that lie outside its part ``inside``, which is not empty."""
    yield from filter(
        None,
        (
            Region(region.y, region.x, inside.y - region.y, region.width),
            Region(inside.y1, region.x, region.y1 - inside.y1, region.width),
            Region(inside.y, region.x, inside.height, inside.x - region.x),
            Region(inside.y, inside.x1, inside.height, region.x1 - inside.x1),
        ),
    )


class GuideRows(HeldRows):
    """The rows of the stage above that guide patches: read once, and held as long as patches need them.

    Args:
        source: the stage above.
        size: of the source.
        capacity: guide rows that patches may need at the same time.
        k: factor between the stages.
        background: colour of the empty slide.
        skip: which patches need no network; None if all do.
        device: of the patches.
        first: guide row to begin with, when a run is resumed.

    Memory: ``capacity`` rows of the source in uint8, and one byte per pixel more with ``skip``.
    """

    def __init__(
        self,
        source: RowSource,
        *,
        size: Size,
        capacity: int,
        k: int,
        background: Colour,
        skip: SkipRule | None,
        device: torch.device,
        first: int = 0,
    ) -> None:
        margin = skip.margin if skip else 0
        super().__init__(source, size=size, capacity=capacity, first=first, margin=margin, device=device)
        self.k, self._skip, self._background = k, skip, background
        self._bounds = size.region
        cpu = torch.device("cpu")
        self._occupied = RowBand(1, self._capacity, size.width, torch.bool, cpu) if skip else None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return super().nbytes + (self._occupied.nbytes if self._occupied else 0)

    def _take(self, region: Region, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
        if self._skip and self._occupied:
            # once a row is read: patches of every step ask for it again
            occupied = self._skip.occupied(pixels, self._background)
            self._occupied.write(region, torch.from_numpy(occupied)[None])
        super()._take(region, pixels)

    def patch(self, region: Region, out: Float[Tensor, "3 gh gw"]) -> None:
        """Write y of a patch, in [-1, 1], into ``out``.

        Outside the canvas the nearest pixel of its edge is repeated: background there would make the network
        fade tissue that the slide's edge cuts.

        Args:
            region: of the patch in guide pixels; overlaps the canvas.
            out: overwritten.
        """
        inside = region.intersect(self._bounds)
        spot = inside.shift(-region.y, -region.x)
        self._rows.read(inside, out[:, spot.y : spot.y1, spot.x : spot.x1])
        # Rows first and columns second, so that corners repeat the corner pixel.
        out[:, : spot.y] = out[:, spot.y : spot.y + 1]
        out[:, spot.y1 :] = out[:, spot.y1 - 1 : spot.y1]
        out[:, :, : spot.x] = out[:, :, spot.x : spot.x + 1]
        out[:, :, spot.x1 :] = out[:, :, spot.x1 - 1 : spot.x1]
        to_unit_(out)

    def replicated(self, region: Region) -> Float[np.ndarray, "3 h w"]:
        """Return A†y of a region of the canvas, which need not align with guide pixels."""
        k = self.k
        y, x = region.y // k, region.x // k
        cover = Region(y, x, -(-region.y1 // k) - y, -(-region.x1 // k) - x)
        values = torch.empty((3, cover.height, cover.width), dtype=torch.uint8)
        self._rows.read(cover, values)
        # pixels first, then whole lines: the second pass, k times larger, copies lines
        wide = to_unit(values).numpy().repeat(k, axis=2).repeat(k, axis=1)
        top, left = region.y - y * k, region.x - x * k
        return wide[:, top : top + region.height, left : left + region.width]

    def is_background(self, regions: list[Region]) -> list[bool]:
        """Return for each patch of a row whether it shows nothing but background, margin included.

        Args:
            regions: of one patch row, in guide pixels: all of the same rows.
        """
        if self._occupied is None or not regions:
            return [False] * len(regions)
        strip = regions[0].pad(self._margin).intersect(self._bounds)
        width = self._bounds.width
        rows = torch.empty((1, strip.height, width), dtype=torch.bool)
        self._occupied.read(Region(strip.y, 0, strip.height, width), rows)
        # Columns that hold tissue, counted from the left: a patch is empty where the count does not grow.
        before = np.concatenate([[0], np.cumsum(rows[0].numpy().any(axis=0))])
        padded = [region.pad(self._margin) for region in regions]
        return [bool(before[min(p.x1, width)] == before[max(p.x, 0)]) for p in padded]

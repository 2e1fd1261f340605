"""The canvas of one stage, in place: every pixel at one noise level, one band of rows alive."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from wsigen.geometry import Region
from wsigen.sampling.band import RowBand
from wsigen.sampling.shift import StepGrid


class Canvas:
    """State and history of the rows alive, and the old pixels that halos still need.

    A patch with a halo reads pixels that the patch above or to the left may have taken a step further
    already. So each row of patches leaves a copy of its lowest ``halo`` rows as they were, and each patch
    a copy of its last columns.

    Args:
        extent: side of the canvas.
        capacity: rows alive.
        steps: of the solver.
        history_dtype: of the solver's history; None if it keeps none.
        device: that holds it all.

    Memory: ``capacity · extent · 3`` values of 4 bytes, and as many of the history's type; per step with a
        halo,
    halo · extent · 3 values of 4 bytes.
    """

    def __init__(
        self,
        extent: int,
        capacity: int,
        steps: int,
        *,
        history_dtype: torch.dtype | None,
        device: torch.device,
    ) -> None:
        self.bounds = Region(0, 0, extent, extent)
        self.state = RowBand(3, capacity, extent, torch.float32, device)
        self.history = RowBand(3, capacity, extent, history_dtype, device) if history_dtype else None
        self._above: list[Tensor | None] = [None] * steps
        self._below: Tensor | None = None
        self._left: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the band."""
        return self.state.nbytes + (self.history.nbytes if self.history else 0)

    def begin_row(self, grid: StepGrid, row: int) -> None:
        """To be called before the patches of a row are gathered."""
        self._left = self._below = None
        lines = grid.rows
        if lines.halo and row + 1 < lines.count:
            region = Region(lines.end(row) - lines.halo, 0, lines.halo, self.bounds.width)
            self._below = self._read(region)

    def end_row(self, step: int) -> None:
        """To be called after all patches of a row were written."""
        self._above[step] = self._below

    def gather(self, grid: StepGrid, step: int, row: int, col: int, out: Float[Tensor, "3 h w"]) -> Region:
        """Copy the pixels of a patch as the step before left them; columns of a row from left to right.

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
            self._left = out[:, :, grid.cols.stride : grid.cols.stride + halo].clone()
        return spot

    def _read(self, region: Region) -> Tensor:
        inside = region.intersect(self.bounds)
        out = torch.empty((3, inside.height, inside.width), device=self.state.device)
        self.state.read(inside, out)
        return out


def outside(region: Region, inside: Region) -> Iterator[Region]:
    """The up to four parts of a region that are not in ``inside``, a part of it.

    Args:
        region: any region.
        inside: within it, not empty.
    """
    yield from filter(
        None,
        (
            Region(region.y, region.x, inside.y - region.y, region.width),
            Region(inside.y1, region.x, region.y1 - inside.y1, region.width),
            Region(inside.y, region.x, inside.height, inside.x - region.x),
            Region(inside.y, inside.x1, inside.height, region.x1 - inside.x1),
        ),
    )

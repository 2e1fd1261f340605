"""One diffused stage: denoise rows of patches in an order that dependencies allow, hand on rows from the top.

`StageRun.run` is the loop. For each row of patches it gives new canvas rows their starting values, gathers
the patches into batches, advances each batch by one solver step, and writes the result back to the canvas, or
after the last step to the sink. Patches whose guide shows only background have a batch of their own, and no
network.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsigen.diffusion.guide import replicate
from wsigen.diffusion.solvers import Denoise
from wsigen.diffusion.step import DenoiserFunction, at_mpp, guided
from wsigen.geometry import Colour, Region, Size
from wsigen.nn.images import to_unit
from wsigen.runtime import usable_cpus
from wsigen.sampling.canvas import Canvas, GuideRows, outside
from wsigen.sampling.noise import BLOCK_HEIGHT, BLOCK_WIDTH, Noise
from wsigen.sampling.pixels import to_pixels
from wsigen.sampling.rows import RowSink, RowSource
from wsigen.sampling.shift import StepGrid
from wsigen.sampling.spec import Execution, Progress, StageProgress, StageSpec
from wsigen.sampling.wavefront import RowTask, first_rows, row_tasks

_STRIP_WIDTH = 8 * BLOCK_WIDTH


class StageRun:
    """Denoises one canvas.

    Args:
        spec: of the stage.
        denoiser: D(x; sigma, mpp).
        source: the stage above, whole; None for stage 0.
        sink: of the finished rows. The run begins at its ``rows_done``. Of a killed run nothing but finished
            rows is kept: what the next rows need from above is denoised again, to the same values.
        background: colour of the empty slide, for the skip rule and around the canvas of stage 0.
        execution: where and how.
        progress: called after every batch.

    Memory: the band (`band_bytes`), and a few batches of patches.

    Determinism: rows are a function of spec, denoiser, source and background. Neither order nor interruptions
        change a bit; batch size and device change no more than the denoiser's rounding.
    """

    def __init__(
        self,
        spec: StageSpec,
        denoiser: DenoiserFunction,
        source: RowSource | None,
        sink: RowSink,
        *,
        background: Colour,
        execution: Execution | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.spec, self.execution = spec, execution or Execution()
        self._network = at_mpp(denoiser, spec.mpp)
        self._sink, self._progress = sink, progress
        self._background = background
        self._first_row = self._emitted = sink.rows_done  # an interrupted run's rows are kept
        self._patches = self._evaluations = 0
        self._patches_total = spec.patches(self._first_row)
        if self._first_row < spec.size.height:
            self._allocate(source)

    @torch.inference_mode()
    def run(self) -> StageProgress:
        """Denoise every row that the sink does not have, and append it there.

        Raises:
            InvalidValueError: the denoiser returns NaN or infinity.
        """
        spec = self.spec
        if self._first_row >= spec.size.height:
            return self._report()
        threads = self.execution.threads or usable_cpus()
        with ThreadPoolExecutor(threads, "wsigen-noise") as pool:
            self._pool = pool
            self._noise = Noise(spec.seed, spec.stage, pool=pool if self.execution.prefetches else None)
            for task in row_tasks([g.rows for g in spec.grids], self.execution.order, self._first_row):
                self._run_row(task)
        return self._report()

    @property
    def band_bytes(self) -> int:
        """Bytes of canvas, history and guide that the run holds."""
        return self._canvas.nbytes + (self._guide.nbytes if self._guide else 0)

    def _allocate(self, source: RowSource | None) -> None:
        spec, device = self.spec, self.execution.device
        capacity = spec.capacity(self.execution.order, self._first_row)
        rows = [grid.rows for grid in spec.grids]
        # Canvas rows above are never needed: no patch that the wanted rows depend on reads them.
        self._begun = rows[0].read_start(first_rows(rows, self._first_row)[0])
        history = spec.history_dtype if spec.solver.needs_history else None
        self._canvas = Canvas(spec.canvas, capacity, spec.steps, history_dtype=history, device=device)
        self._guide = None
        if source is not None:
            self._guide = GuideRows(
                source,
                size=spec.canvas.over(spec.k),
                capacity=spec.guide_rows(capacity),
                k=spec.k,
                background=self._background,
                skip=spec.skip,
                device=device,
                first=self._begun // spec.k,
            )
        self._batches = [
            _Batch(self.execution.batch_size, spec.patch, spec.k, background=background, device=device)
            for background in (False, True)
        ]

    def _report(self) -> StageProgress:
        return StageProgress(
            stage=self.spec.stage,
            patches=self._patches,
            patches_total=self._patches_total,
            evaluations=self._evaluations,
            rows=self._emitted,
            height=self.spec.size.height,
        )

    def _run_row(self, task: RowTask) -> None:
        row = self._patch_row(task)
        self._begin_rows(row.grid.rows.read_end(row.index))
        self._canvas.begin_row(row.grid, row.index)
        # Left to right, since the canvas keeps the halo of the previous column only.
        for col, background in enumerate(self._background_patches(row)):
            batch = self._batches[background]
            self._gather(batch, row, col)
            if len(batch.cols) == len(batch.x):
                self._advance(batch, row)
        for batch in self._batches:
            if batch.cols:
                self._advance(batch, row)
        # Only now: all patches of the row have read the halo that the row above left.
        self._canvas.end_row(row.step)
        if row.finished is not None and len(row.finished.values):
            self._sink.append(row.finished.values)
            self._emitted += len(row.finished.values)

    def _patch_row(self, task: RowTask) -> _PatchRow:
        grid, finished = self.spec.grids[task.step], None
        if task.step == self.spec.steps - 1:
            end = min(grid.rows.end(task.row), self.spec.size.height)
            # rows above are out already: a resumed run computes some of them again
            finished = _FinishedRows(self._emitted, end, self.spec.size.width)
        return _PatchRow(grid, task.step, task.row, finished)

    def _begin_rows(self, row: int) -> None:
        """Give canvas rows up to ``row`` their starting values, in blocks of noise."""
        canvas = self.spec.canvas
        row = min(-(-row // BLOCK_HEIGHT) * BLOCK_HEIGHT, canvas.height)
        if row <= self._begun:
            return
        if self._guide:
            self._guide.need(-(-row // self.spec.k))
        strips = []
        while self._begun < row:
            end = min((self._begun // BLOCK_HEIGHT + 1) * BLOCK_HEIGHT, row)
            for x in range(0, canvas.width, _STRIP_WIDTH):
                width = min(_STRIP_WIDTH, canvas.width - x)
                strips.append(Region(self._begun, x, end - self._begun, width))
            self._begun = end
        list(self._pool.map(self._begin_strip, strips))
        # The next row of patches needs about one patch more; its noise is made while the network runs.
        ahead = min(self.spec.patch.height, canvas.height - row)
        self._noise.prefetch(Region(row, 0, ahead, canvas.width))

    def _begin_strip(self, region: Region) -> None:
        # NumPy and one thread on purpose: the same bits on every device, and strips already run side by side.
        values = np.empty((3, region.height, region.width), np.float32)
        self._noise.fill(region, values, keep=False)
        values *= np.float32(self.spec.sigmas[0])
        if self._guide and self.spec.from_guide:
            values += self._guide.replicated(region)
        with torch.inference_mode():
            self._canvas.state.write(region, torch.from_numpy(values))

    def _background_patches(self, row: _PatchRow) -> list[bool]:
        """Return for each patch of a row whether it is background and needs no network."""
        cols = range(row.grid.cols.count)
        if self._guide is None or self.spec.skip is None:
            return [False] * len(cols)
        return self._guide.is_background(
            [_coarse(row.grid.read(row.index, col), self.spec.k) for col in cols]
        )

    def _gather(self, batch: _Batch, row: _PatchRow, col: int) -> None:
        """Add a patch to a batch: its pixels, its guide where that is needed, and its history."""
        i, region = len(batch.cols), row.grid.read(row.index, col)
        batch.cols.append(col)
        spot = self._canvas.gather(row.grid, row.step, row.index, col, batch.x[i])
        sticks_out = spot.size != region.size
        if self._guide and (sticks_out or batch.background or row.step < self.spec.relax):
            self._guide.patch(_coarse(region, self.spec.k), batch.y[i])
        if sticks_out:
            self._pad(batch.x[i], batch.y[i], region, spot, self.spec.sigmas[row.step])
        if self._canvas.history and row.step:  # the first step has no step before it
            inside = spot.shift(region.y, region.x)
            self._canvas.history.read(inside, batch.history[i, :, spot.y : spot.y1, spot.x : spot.x1])

    def _pad(
        self,
        x: Float[Tensor, "3 h w"],
        y: Float[Tensor, "3 gh gw"],
        region: Region,
        spot: Region,
        sigma: float,
    ) -> None:
        """Fill a patch outside the canvas: guide plus noise, in stage 0 background plus noise."""
        if self._guide:
            flat = replicate(y[None], self.spec.k)[0]
        else:
            flat = to_unit(x.new_tensor(self._background))[:, None, None].expand_as(x)
        # The noise that the canvas would have there at this σ, had it been that large.
        for part in outside(region.shift(-region.y, -region.x), spot):
            noise = self._noise.region(part.shift(region.y, region.x)) * np.float32(sigma)
            there = (slice(None), slice(part.y, part.y1), slice(part.x, part.x1))
            x[there] = torch.from_numpy(noise).to(x.device) + flat[there]

    def _advance(self, batch: _Batch, row: _PatchRow) -> None:
        """Take the patches of a batch one solver step further, and write and empty it."""
        count, step = len(batch.cols), row.step
        before = batch.history[:count] if self._canvas.history and step else None
        denoise = self._denoise_function(batch.y[:count], step, batch.background)
        x, history = self.spec.solver.step(denoise, batch.x[:count], self.spec.sigmas, step, before)
        # Converted on the device: a quarter of the bytes to copy.
        if row.finished is not None:
            x = to_pixels(x, self.spec.stage, self.spec.mpp)
        for i, col in enumerate(batch.cols):
            self._write(x[i], None if history is None else history[i], row, col)
        self._patches += count
        batch.cols.clear()
        if self._progress:
            self._progress(self._report())

    def _denoise_function(self, y: Float[Tensor, "b 3 gh gw"], step: int, background: bool) -> Denoise:
        if background:
            flat = replicate(y, self.spec.k)
            return lambda x, sigma: flat
        if step < self.spec.relax and self._guide:
            return guided(self._evaluate, y, self.spec.k)
        return self._evaluate

    def _evaluate(self, x: Tensor, sigma: float) -> Tensor:
        self._evaluations += len(x)
        return self._network(x, sigma)

    def _write(self, x: Tensor, history: Tensor | None, row: _PatchRow, col: int) -> None:
        """Write the kept part of a patch, without its halo, to the finished rows or back to the canvas."""
        region, halo = row.grid.written(row.index, col), row.grid.rows.halo
        inside = region.intersect(self._canvas.bounds)
        spot = inside.shift(halo - region.y, halo - region.x)
        part = x[:, spot.y : spot.y1, spot.x : spot.x1]
        if row.finished is not None:
            row.finished.put(inside, part)
            return
        self._canvas.state.write(inside, part)
        if history is not None and self._canvas.history:
            self._canvas.history.write(inside, history[:, spot.y : spot.y1, spot.x : spot.x1])


class _Batch:
    """Patches to advance together: either all background, or all for the network."""

    def __init__(self, size: int, patch: Size, k: int, *, background: bool, device: torch.device) -> None:
        self.background = background
        self.cols: list[int] = []
        self.x = torch.zeros((size, 3, *patch.sides), device=device)
        self.history = torch.zeros((size, 3, *patch.sides), device=device)
        self.y = torch.zeros((size, 3, *patch.over(k).sides), device=device)


class _FinishedRows:
    """Finished rows [first, end) of pixels, filled patch by patch."""

    def __init__(self, first: int, end: int, width: int) -> None:
        self.bounds = Region(first, 0, end - first, width)
        self.values = np.empty((self.bounds.height, width, 3), np.uint8)

    def put(self, region: Region, pixels: Tensor) -> None:
        inside = region.intersect(self.bounds)
        if not inside:
            return
        spot, own = inside.shift(-self.bounds.y, 0), inside.shift(-region.y, -region.x)
        # files have channels last
        part = pixels[:, own.y : own.y1, own.x : own.x1].permute(1, 2, 0)
        torch.from_numpy(self.values)[spot.y : spot.y1, spot.x : spot.x1] = part


@dataclass(frozen=True)
class _PatchRow:
    """The row of patches in work; ``finished`` is None before the last step."""

    grid: StepGrid
    step: int
    index: int
    finished: _FinishedRows | None


def _coarse(region: Region, k: int) -> Region:
    assert region.y % k == region.x % k == region.height % k == 0, "patches align with the guide"
    return Region(region.y // k, region.x // k, region.height // k, region.width // k)

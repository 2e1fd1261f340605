"""One stage of the cascade: patches in any order that dependencies allow, rows that leave in order."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from wsigen.diffusion.guide import replicate
from wsigen.diffusion.solvers import Estimate, Solver
from wsigen.diffusion.step import DenoiserFunction, at_mpp, guided
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region
from wsigen.sampling.background import Colour, SkipRule
from wsigen.sampling.canvas import Canvas, outside
from wsigen.sampling.guiderows import GuideRows
from wsigen.sampling.noise import BLOCK_HEIGHT, BLOCK_WIDTH, NoiseField
from wsigen.sampling.pixels import to_pixels
from wsigen.sampling.rows import RowSink, RowSource
from wsigen.sampling.shift import StepGrid
from wsigen.sampling.wavefront import RowTask, first_rows, row_tasks, rows_alive

_STRIP_WIDTH = 8 * BLOCK_WIDTH


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """Everything that determines the pixels of a stage, besides the denoiser and the guide.

    Args:
        stage: of the cascade; 0 is not guided.
        extent: side of the canvas in pixels, ``patch · k^stage``.
        patch: side M of the square that the denoiser sees, a multiple of ``k`` in guided stages.
        k: factor between the stages.
        mpp: µm/px of this stage.
        seed: of the slide.
        sigmas: noise levels, N + 1, the last 0.
        from_guide: whether the canvas begins at A†y + σ₀·n (truncated start) instead of σ₀·n.
        relax: first step at which the guide is no longer enforced.
        solver: of the ODE.
        grids: the patch grid of each step.
        skip: which patches need no network; None for all do.
        history_dtype: in which the solver's history is kept.
    """

    stage: int
    extent: int
    patch: int
    k: int
    mpp: float
    seed: int
    sigmas: tuple[float, ...]
    from_guide: bool
    relax: int
    solver: Solver
    grids: tuple[StepGrid, ...]
    skip: SkipRule | None
    history_dtype: torch.dtype

    @property
    def steps(self) -> int:
        """Number of solver steps."""
        return len(self.grids)

    def patches(self, from_row: int = 0) -> int:
        """Patch-steps (one patch, one solver step) that canvas rows ≥ ``from_row`` depend on."""
        if from_row >= self.extent:
            return 0
        first = first_rows([grid.rows for grid in self.grids], from_row)
        return sum((g.rows.count - f) * g.cols.count for g, f in zip(self.grids, first, strict=True))

    def capacity(self, order: str, from_row: int = 0) -> int:
        """Canvas rows to hold: those alive, and those that come with them in a block of noise."""
        alive = rows_alive([grid.rows for grid in self.grids], order, from_row)
        return min(alive + BLOCK_HEIGHT, self.extent)

    def guide_rows(self, capacity: int) -> int:
        """Guide rows that patches may need while ``capacity`` canvas rows are held."""
        return -(-(capacity + max(grid.rows.halo for grid in self.grids)) // self.k) + 2


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """How far a stage has come; the patches of an upscaler are its tiles, in one step.

    Args:
        stage: of the cascade.
        patches: patch-steps done in this run.
        patches_total: patch-steps of this run, fewer than the stage's if it went on from an earlier run.
        evaluations: network evaluations of one patch each, in this run; skipped patches have none.
        rows: canvas rows handed on.
        extent: rows of the canvas.
    """

    stage: int
    patches: int
    patches_total: int
    evaluations: int
    rows: int
    extent: int


Progress = Callable[[StageProgress], None]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how a stage runs; none of it changes the slide, beyond the rounding of the network's kernels.

    Args:
        device: that runs the denoiser and holds the band.
        batch_size: patches per evaluation, at most.
        order: "wavefront" or "steps".
        threads: that make noise; by default one per CPU.
        prefetch: make the noise of the next row of patches meanwhile; by default where the denoiser does
            not need the CPU itself. Takes ``patch · extent · 12`` bytes.
        tile: guide pixels a side of what an upscaler evaluates at once, at most; by default what is good for
            the device.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 8
    order: str = "wavefront"
    threads: int | None = None
    prefetch: bool | None = None
    tile: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InvalidValueError(f"batch size must be at least 1, got {self.batch_size}")

    @property
    def prefetches(self) -> bool:
        """Whether CPUs are free to prepare what comes next."""
        return self.device.type != "cpu" if self.prefetch is None else self.prefetch


class StageRun:
    """Denoises one canvas.

    Args:
        spec: what to do.
        denoiser: D(x; sigma, mpp).
        source: the stage above, whole; None for stage 0.
        sink: of the finished rows. The run begins at its ``rows_done``: everything it needs from above
            there is denoised again, to the same values, so that nothing but finished rows must be kept of
            a killed run.
        background: colour of glass, for the skip rule, and for what sticks out of an unguided canvas.
        machine: where and how.
        progress: called after every batch.

    Memory: the band (`band_bytes`), and a few batches of patches.

    Determinism: rows are a function of spec, denoiser, source and background. Neither order nor interruptions
    change a bit; batch size and device do no more than they change the denoiser's rounding.
    """

    def __init__(
        self,
        spec: StageSpec,
        denoiser: DenoiserFunction,
        source: RowSource | None,
        sink: RowSink,
        *,
        background: Colour,
        machine: Machine | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.spec, self.machine = spec, machine or Machine()
        self._network = at_mpp(denoiser, spec.mpp)
        self._sink, self._progress = sink, progress
        self._background = background
        self._first_row = sink.rows_done
        self._patches = self._evaluations = 0
        self._patches_total = spec.patches(self._first_row)
        self._emitted = self._first_row
        if self._first_row < spec.extent:
            self._allocate(source)

    @torch.inference_mode()
    def run(self) -> StageProgress:
        """Denoise every row that the sink does not have, and append it there.

        Raises:
            InvalidValueError: the denoiser returns values that are not numbers.
        """
        spec = self.spec
        threads = self.machine.threads or os.cpu_count() or 1
        with ThreadPoolExecutor(threads, "wsigen-noise") as pool:
            self._pool = pool
            ahead = pool if self.machine.prefetches else None
            self._noise = NoiseField(spec.seed, spec.stage, pool=ahead)
            for task in row_tasks([g.rows for g in spec.grids], self.machine.order, self._first_row):
                self._run_task(task)
        return self._report()

    @property
    def band_bytes(self) -> int:
        """Bytes of canvas, history and guide that the run holds."""
        return self._canvas.nbytes + (self._guide.nbytes if self._guide else 0)

    def _allocate(self, source: RowSource | None) -> None:
        spec, device = self.spec, self.machine.device
        capacity = spec.capacity(self.machine.order, self._first_row)
        rows = [grid.rows for grid in spec.grids]
        self._begun = rows[0].read_start(first_rows(rows, self._first_row)[0])
        history = spec.history_dtype if spec.solver.needs_history else None
        self._canvas = Canvas(spec.extent, capacity, spec.steps, history_dtype=history, device=device)
        self._guide = None
        if source is not None:
            self._guide = GuideRows(
                source,
                extent=spec.extent // spec.k,
                capacity=spec.guide_rows(capacity),
                k=spec.k,
                background=self._background,
                skip=spec.skip,
                device=device,
                first=self._begun // spec.k,
            )
        shape = (self.machine.batch_size, 3, spec.patch, spec.patch)
        self._batches = [_Batch(shape, spec.k, glass=glass, device=device) for glass in (False, True)]

    def _report(self) -> StageProgress:
        return StageProgress(
            stage=self.spec.stage,
            patches=self._patches,
            patches_total=self._patches_total,
            evaluations=self._evaluations,
            rows=self._emitted,
            extent=self.spec.extent,
        )

    def _run_task(self, task: RowTask) -> None:
        grid = self.spec.grids[task.step]
        self._begin_rows(grid.rows.read_end(task.row))
        finished = self._finished_rows(grid, task)
        self._canvas.begin_row(grid, task.row)
        for col, glass in enumerate(self._glass(grid, task.row)):
            batch = self._batches[glass]
            self._gather(batch, grid, task, col)
            if batch.full:
                self._advance(batch, grid, task, finished)
        for batch in self._batches:
            if batch.cols:
                self._advance(batch, grid, task, finished)
        self._canvas.end_row(task.step)
        if finished is not None:
            self._emit(finished)

    def _begin_rows(self, row: int) -> None:
        """Gives canvas rows up to ``row`` their starting values, block of noise by block of noise."""
        row = min(-(-row // BLOCK_HEIGHT) * BLOCK_HEIGHT, self.spec.extent)
        if row <= self._begun:
            return
        if self._guide:
            self._guide.need(-(-row // self.spec.k))
        strips = []
        while self._begun < row:
            end = min((self._begun // BLOCK_HEIGHT + 1) * BLOCK_HEIGHT, row)
            for x in range(0, self.spec.extent, _STRIP_WIDTH):
                width = min(_STRIP_WIDTH, self.spec.extent - x)
                strips.append(Region(self._begun, x, end - self._begun, width))
            self._begun = end
        list(self._pool.map(self._begin_strip, strips))
        ahead = min(self.spec.patch, self.spec.extent - row)
        self._noise.prefetch(Region(row, 0, ahead, self.spec.extent))

    def _begin_strip(self, region: Region) -> None:
        # NumPy and one thread on purpose: the same bits on every device, and strips already run side by side.
        values = np.empty((3, region.height, region.width), np.float32)
        self._noise.fill(region, values, keep=False)
        values *= np.float32(self.spec.sigmas[0])
        if self._guide and self.spec.from_guide:
            values += self._guide.replicated(region)
        with torch.inference_mode():
            self._canvas.state.write(region, torch.from_numpy(values))

    def _glass(self, grid: StepGrid, row: int) -> list[bool]:
        cols = range(grid.cols.count)
        if self._guide is None or self.spec.skip is None:
            return [False] * len(cols)
        return self._guide.glass([_coarse(grid.read(row, col), self.spec.k) for col in cols])

    def _gather(self, batch: _Batch, grid: StepGrid, task: RowTask, col: int) -> None:
        slot, region = len(batch.cols), grid.read(task.row, col)
        batch.cols.append(col)
        x = batch.x[slot]
        spot = self._canvas.gather(grid, task.step, task.row, col, x)
        sticks_out = spot.size != region.size
        if self._guide and (sticks_out or batch.glass or task.step < self.spec.relax):
            self._guide.patch(_coarse(region, self.spec.k), batch.y[slot])
        if sticks_out:
            self._pad(x, batch.y[slot], region, spot, self.spec.sigmas[task.step])
        if self._canvas.history and task.step:
            inside = spot.shift(region.y, region.x)
            out = batch.history[slot, :, spot.y : spot.y1, spot.x : spot.x1]
            self._canvas.history.read(inside, out)

    def _pad(self, x: Tensor, y: Tensor, region: Region, spot: Region, sigma: float) -> None:
        """What a patch shows outside the canvas: its guide and noise; glass and noise in stage 0."""
        if self._guide:
            flat = replicate(y[None], self.spec.k)[0]
        else:
            flat = (x.new_tensor(self._background) / 127.5 - 1)[:, None, None].expand_as(x)
        for part in outside(region.shift(-region.y, -region.x), spot):
            noise = self._noise.region(part.shift(region.y, region.x)) * np.float32(sigma)
            there = (slice(None), slice(part.y, part.y1), slice(part.x, part.x1))
            x[there] = torch.from_numpy(noise).to(x.device) + flat[there]

    def _advance(self, batch: _Batch, grid: StepGrid, task: RowTask, finished: _Rows | None) -> None:
        count, step = len(batch.cols), task.step
        y = batch.y[:count]
        history = batch.history[:count] if self._canvas.history and step else None
        estimate = self._estimate_for(y, step, batch.glass)
        x, history = self.spec.solver.step(estimate, batch.x[:count], self.spec.sigmas, step, history)
        if finished is not None:
            x = to_pixels(x, self.spec.stage, self.spec.mpp)
        for slot, col in enumerate(batch.cols):
            self._write(x[slot], None if history is None else history[slot], grid, task, col, finished)
        self._patches += count
        batch.cols.clear()
        if self._progress:
            self._progress(self._report())

    def _estimate(self, x: Tensor, sigma: float) -> Tensor:
        self._evaluations += len(x)
        return self._network(x, sigma)

    def _estimate_for(self, y: Tensor, step: int, glass: bool) -> Estimate:
        if glass:
            flat = replicate(y, self.spec.k)
            return lambda x, sigma: flat
        if step < self.spec.relax and self._guide:
            return guided(self._estimate, y, self.spec.k)
        return self._estimate

    def _write(
        self,
        x: Tensor,
        history: Tensor | None,
        grid: StepGrid,
        task: RowTask,
        col: int,
        finished: _Rows | None,
    ) -> None:
        region = grid.written(task.row, col)
        inside = region.intersect(self._canvas.bounds)
        spot = inside.shift(grid.rows.halo - region.y, grid.rows.halo - region.x)
        part = x[:, spot.y : spot.y1, spot.x : spot.x1]
        if finished is not None:
            finished.put(inside, part)
            return
        self._canvas.state.write(inside, part)
        if history is not None and self._canvas.history:
            self._canvas.history.write(inside, history[:, spot.y : spot.y1, spot.x : spot.x1])

    def _finished_rows(self, grid: StepGrid, task: RowTask) -> _Rows | None:
        if task.step < self.spec.steps - 1:
            return None
        return _Rows(self._emitted, min(grid.rows.end(task.row), self.spec.extent), self.spec.extent)

    def _emit(self, finished: _Rows) -> None:
        rows = finished.values
        if not len(rows):
            return
        self._sink.append(rows)
        self._emitted += len(rows)


class _Batch:
    """Patches on their way through one step: either all of glass, or all for the network."""

    def __init__(self, shape: Sequence[int], k: int, *, glass: bool, device: torch.device) -> None:
        b, c, h, w = shape
        self.glass = glass
        self.cols: list[int] = []
        self.x = torch.zeros((b, c, h, w), device=device)
        self.history = torch.zeros((b, c, h, w), device=device)
        self.y = torch.zeros((b, c, math.ceil(h / k), math.ceil(w / k)), device=device)

    @property
    def full(self) -> bool:
        return len(self.cols) == len(self.x)


class _Rows:
    """Finished rows [first, end) of pixels, filled patch by patch."""

    def __init__(self, first: int, end: int, width: int) -> None:
        self.bounds = Region(first, 0, end - first, width)
        self.values = np.empty((self.bounds.height, width, 3), np.uint8)

    def put(self, region: Region, pixels: Tensor) -> None:
        inside = region.intersect(self.bounds)
        part = pixels[:, inside.y - region.y : inside.y1 - region.y].permute(1, 2, 0)
        spot = inside.shift(-self.bounds.y, 0)
        torch.from_numpy(self.values)[spot.y : spot.y1, spot.x : spot.x1] = part


def _coarse(region: Region, k: int) -> Region:
    assert region.y % k == region.x % k == region.height % k == 0, "patches align with the guide"
    return Region(region.y // k, region.x // k, region.height // k, region.width // k)

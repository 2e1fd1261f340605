"""The patch grid of every step; it moves from step to step, so that seams never stay in one place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size
from wsigen.sampling.noise import check_seed

SHIFTS = ("none", "half", "random", "drift")


@dataclass(frozen=True)
class Lines:
    """One axis of a patch grid: cell j writes [first + j·stride, + stride) and reads ``halo`` more each side.

    Args:
        extent: length of the canvas on this axis; the outer cells may stick out.
        offset: position of a grid line, in [0, stride).
        stride: what a patch writes: patch - 2·halo.
        halo: pixels read and not written.
    """

    extent: int
    offset: int
    stride: int
    halo: int = 0

    def __post_init__(self) -> None:
        assert 0 <= self.offset < self.stride
        assert self.halo >= 0

    @property
    def first(self) -> int:
        """Start of the first cell, at most 0."""
        return self.offset - self.stride if self.offset else 0

    @property
    def count(self) -> int:
        """Number of cells."""
        return -(-(self.extent - self.first) // self.stride)

    def start(self, j: int) -> int:
        """Return the first pixel that cell j writes; negative where it sticks out."""
        return self.first + j * self.stride

    def end(self, j: int) -> int:
        """Return the end (exclusive) of what cell j writes; past the extent where it sticks out."""
        return self.start(j) + self.stride

    def read_start(self, j: int) -> int:
        """Return the first pixel of the canvas that cell j reads."""
        return max(self.start(j) - self.halo, 0)

    def read_end(self, j: int) -> int:
        """Return the end (exclusive) of the canvas pixels that cell j reads."""
        return min(self.end(j) + self.halo, self.extent)

    def cell_of(self, position: int) -> int:
        """Return the cell that writes a position."""
        return (position - self.first) // self.stride


@dataclass(frozen=True)
class StepGrid:
    """The patch grid of one step."""

    rows: Lines
    cols: Lines

    def read(self, row: int, col: int) -> Region:
        """Return the region of a patch; may reach outside the canvas."""
        return self.written(row, col).pad(self.rows.halo)

    def written(self, row: int, col: int) -> Region:
        """Return the region of a patch without halo; may reach outside the canvas."""
        return Region(self.rows.start(row), self.cols.start(col), self.rows.stride, self.cols.stride)


@dataclass(frozen=True, kw_only=True)
class ShiftPlan:
    """How the patch grid moves from step to step.

    Args:
        mode: "none"; "half": every other step half a patch further; "random": rows and columns random at
            every step (Harb et al. 2024); "drift": columns random, and row lines move up by ``drift`` at
            every step, so that each step follows ``drift`` rows behind the previous one instead of half a
            patch on average.
        drift: of "drift", as a fraction of the patch's height, in [0, 1); rounded to a multiple of k, at
            least k unless 0.
        halo: pixels that are denoised but not kept on each side of a patch, a multiple of k, under half a
            patch.
        halo_steps: number of last steps that have the halo.
    """

    mode: str = "drift"
    drift: float = 0.125
    halo: int = 0
    halo_steps: int = 0

    def __post_init__(self) -> None:
        if self.mode not in SHIFTS:
            raise InvalidValueError(f"shift must be one of {', '.join(SHIFTS)}, got {self.mode!r}")
        if not 0 <= self.drift < 1:
            raise InvalidValueError(f"drift must be a fraction of the patch in [0, 1), got {self.drift}")
        if self.halo < 0 or self.halo_steps < 0:
            raise InvalidValueError(
                f"halo and halo_steps must not be negative, got {self.halo} and {self.halo_steps}"
            )

    def drift_rows(self, patch: int, k: int) -> int:
        """Return the rows by which mode "drift" moves up per step."""
        return max(round(self.drift * patch / k), 1) * k if self.drift else 0

    def halo_at(self, step: int, steps: int) -> int:
        """Return the halo of a step."""
        return self.halo if step >= steps - self.halo_steps else 0

    def grids(
        self, *, seed: int, stage: int, steps: int, canvas: Size, patch: Size, k: int
    ) -> tuple[StepGrid, ...]:
        """Return the grid of every step of a stage.

        Args:
            seed: of the slide.
            stage: of the cascade; a stage 0 that is one patch wide or high has no shift along that side.
            steps: number of steps.
            canvas: size of the canvas.
            patch: size of a patch, multiples of ``k``.
            k: factor between the stages; lines lie at its multiples, so that patches align with the guide.

        Raises:
            InvalidValueError: the halo is no multiple of k or leaves nothing of the patch.

        Determinism: a function of (seed, stage, step) and the sizes.
        """
        if stage == 0 and patch == canvas:
            rows, cols = (Lines(side, 0, side) for side in canvas.sides)
            return (StepGrid(rows, cols),) * steps
        if self.halo % k or 2 * self.halo >= min(patch.sides):
            raise InvalidValueError(
                f"halo must be a multiple of k = {k} and less than half the patch of {patch}, got {self.halo}"
            )
        return tuple(self._grid(step, seed, stage, steps, canvas, patch, k) for step in range(steps))

    def _grid(
        self, step: int, seed: int, stage: int, steps: int, canvas: Size, patch: Size, k: int
    ) -> StepGrid:
        halo = self.halo_at(step, steps)

        def lines(axis: int) -> Lines:
            extent, side = canvas.sides[axis], patch.sides[axis]
            stride = side - 2 * halo
            # Stage 0 is drawn without a guide: what one patch can cover, it covers, and decides as a whole.
            whole = stage == 0 and stride >= extent
            offset = 0 if whole else self._offset(step, seed, stage, side, stride, k, axis)
            return Lines(extent, offset, stride, halo)

        return StepGrid(lines(0), lines(1))

    def _offset(self, step: int, seed: int, stage: int, side: int, stride: int, k: int, axis: int) -> int:
        if self.mode == "none":
            return 0
        if self.mode == "half":
            return (stride // (2 * k)) * k if step % 2 else 0
        if self.mode == "drift" and axis == 0:
            # Rows move up by a fixed amount from a random start: a step follows closely behind the previous
            # one.
            first = k * uniform_integer(seed, stage, 0, 0, side // k)
            return (first - step * self.drift_rows(side, k)) % stride
        # Multiples of k, so that patches align with the pixels of the guide.
        return k * uniform_integer(seed, stage, step, axis, stride // k)


def uniform_integer(seed: int, stage: int, step: int, axis: int, below: int) -> int:
    """Return a uniform random integer in [0, below) that its arguments determine.

    Args:
        seed: of the slide.
        stage: of the cascade.
        step: of the solver.
        axis: 0 for rows, 1 for columns.
        below: one more than the largest.
    """
    # Raw words, whose stability NumPy guarantees, unlike that of distributions. The top bit of the key
    # separates these streams from those of the noise.
    key = np.array([check_seed(seed), (1 << 63) + stage], np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([0, 0, step, axis], np.uint64))
    limit = 2**64 - 2**64 % below
    # Words at or above the largest multiple of ``below`` are rejected, so that the result is exactly uniform.
    words = (int(word) for word in iter(bits.random_raw, None))
    return next(word % below for word in words if word < limit)

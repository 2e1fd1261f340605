"""What the stages of a slide have to do (specs), how they are executed, and how far they are (progress)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch

from wsigen.diffusion.solvers import Solver, solver_by_name
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size
from wsigen.sampling.noise import BLOCK_HEIGHT
from wsigen.sampling.pixels import SkipRule
from wsigen.sampling.preset import HISTORY_DTYPES, Preset
from wsigen.sampling.shift import StepGrid
from wsigen.sampling.wavefront import first_rows, rows_alive


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """Everything that determines the pixels of a diffused stage, besides the denoiser and the guide.

    Args:
        stage: of the cascade; 0 is not guided.
        canvas: what is denoised, ``size of stage 0 · k^stage``.
        size: what is kept, the upper left of the canvas.
        patch: what the denoiser sees at once; multiples of ``k`` in guided stages.
        k: factor between the stages.
        mpp: µm/px of this stage.
        seed: of the slide.
        sigmas: noise levels, N + 1, the last 0.
        from_guide: whether the canvas begins at A†y + σ₀·n (truncated start) instead of σ₀·n.
        relax: first step at which the guide is no longer enforced.
        solver: of the ODE.
        grids: the patch grid of each step.
        skip: which patches need no network; None if all do.
        history_dtype: in which the solver's history is kept.
    """

    stage: int
    canvas: Size
    size: Size
    patch: Size
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
        """Count the patch-steps (one patch, one solver step) that canvas rows ≥ ``from_row`` depend on."""
        if from_row >= self.size.height:
            return 0
        first = first_rows([grid.rows for grid in self.grids], from_row)
        return sum((g.rows.count - f) * g.cols.count for g, f in zip(self.grids, first, strict=True))

    def capacity(self, order: str, from_row: int = 0) -> int:
        """Return how many canvas rows to hold: those alive, and the rest of a block of noise."""
        # Noise is made in blocks of rows, so up to a block more than needed is on the canvas.
        alive = rows_alive([grid.rows for grid in self.grids], order, from_row)
        return min(alive + BLOCK_HEIGHT, self.canvas.height)

    def guide_rows(self, capacity: int) -> int:
        """Return how many guide rows patches may need while ``capacity`` canvas rows are held."""
        # Two more, because the first and the last canvas row need not align with guide rows.
        return -(-(capacity + max(grid.rows.halo for grid in self.grids)) // self.k) + 2


@dataclass(frozen=True, kw_only=True)
class UpscaleSpec:
    """Everything that determines the pixels of an upscaled stage, besides upscaler, guide and background.

    Args:
        stage: of the cascade, at least 1.
        size: of this stage in pixels.
        k: factor between the stages.
        mpp: µm/px of this stage.
        seed: of the slide.
        skip: which cells are background and get the bilinear guide; None if none do.
        guide: size of the stage above, which may reach beyond this one; by default it ends with it.
    """

    stage: int
    size: Size
    k: int
    mpp: float
    seed: int
    skip: SkipRule | None = None
    guide: Size | None = None

    @property
    def bounds(self) -> Region:
        """All of the stage."""
        return self.size.region

    @property
    def guide_bounds(self) -> Region:
        """All of the stage above."""
        return (self.guide or self.size.over(self.k)).region


@dataclass(frozen=True, kw_only=True)
class GivenSpec:
    """A stage 0 that is a picture (an overview) instead of being sampled.

    Args:
        size: of the picture in pixels.
        mpp: µm/px of it.
        k: factor between the stages.
        stage: 0.
    """

    size: Size
    mpp: float
    k: int
    stage: int = 0


AnySpec = StageSpec | UpscaleSpec | GivenSpec


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where and how stages run; changes nothing about the slide beyond the rounding of the network's kernels.

    Args:
        device: of the networks and of the band.
        batch_size: patches per evaluation, at most.
        order: "wavefront" or "steps".
        threads: that make noise; by default one per CPU.
        prefetch: make the noise of the next row of patches while the denoiser runs; by default unless the
            denoiser needs the CPU itself. Takes 12 bytes for each pixel of a row of patches.
        tile: guide pixels a side that an upscaler evaluates at once, at most; by default chosen by device.
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
        """Whether noise is made ahead of time."""
        return self.device.type != "cpu" if self.prefetch is None else self.prefetch


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """Progress of a stage; an upscaled stage counts tiles as patches, in one step.

    Args:
        stage: of the cascade.
        patches: patch-steps done in this run.
        patches_total: patch-steps of this run, fewer than the stage's if an earlier run was resumed.
        evaluations: network evaluations of one patch each, in this run; skipped patches have none.
        rows: that were handed on.
        height: rows of the stage.
    """

    stage: int
    patches: int
    patches_total: int
    evaluations: int
    rows: int
    height: int


Progress = Callable[[StageProgress], None]


def first_size(size: Size, stages: int, k: int = 2, *, multiple: int = 1) -> Size:
    """Return the size of stage 0: the smallest from whose last stage a slide can be cropped.

    Args:
        size: of the slide in pixels.
        stages: number L of upscalings.
        k: factor between the stages, at least 2.
        multiple: of which the sides of stage 0 must be, for the network's sake.

    Raises:
        InvalidValueError: a value is out of range.
    """
    if stages < 0 or k < 2 or min(size.sides) < 1:
        raise InvalidValueError(
            f"size must be at least 1, stages at least 0, k at least 2; got {size}, {stages} and {k}"
        )
    # With upscalings stage 0 is also a patch of guided stages, whose guide has 1/k of its pixels.
    step = math.lcm(multiple, k) if stages else multiple
    return size.over(step * k**stages).times(step)


def stage_specs(
    preset: Preset,
    *,
    size: Size,
    stages: int,
    k: int,
    mpp: float,
    seed: int,
    multiple: int = 1,
    given: bool = False,
) -> tuple[AnySpec, ...]:
    """Return the specs of all stages of a slide, from the base image to the final one.

    Args:
        preset: how it is sampled.
        size: of the final image. All stages have k^stage times the pixels of stage 0, see `first_size`; the
            last one is cropped to this size at its right and lower end.
        stages: number L of upscalings; 0 samples stage 0 alone.
        k: factor between the stages.
        mpp: µm/px of the final image; stage l has mpp·k^(L - l).
        seed: of the slide.
        multiple: of which the sides of patches and of stage 0 must be, for the denoiser's sake.
        given: whether stage 0 is a picture, and not sampled; ``size`` is then k^stages times its size.

    Raises:
        InvalidValueError: an impossible size, patch or pixel size.
    """
    if not mpp > 0:
        raise InvalidValueError(f"mpp must be a positive number of µm/px, got {mpp}")
    scales = [mpp * k ** (stages - stage) for stage in range(stages + 1)]
    upscaled = [preset.upscaler.makes(stage, scale) for stage, scale in enumerate(scales)]
    first = first_size(size, stages, k, multiple=multiple)
    if given:
        # An upscaler takes any size; the denoiser needs multiples of its stride.
        first = size.over(k**stages)  # as it is: a picture is not enlarged to fit
        _check_picture(first, 1 if all(upscaled[1:]) else math.lcm(multiple, k))
    specs: list[AnySpec] = []
    for stage, scale in enumerate(scales):
        canvas = first.times(k**stage)
        kept = size if stage == stages else canvas
        if given and stage == 0:
            specs.append(GivenSpec(size=first, mpp=scale, k=k))
        elif upscaled[stage]:
            skip, guide = preset.upscaler.skip(), canvas.over(k)
            specs.append(
                UpscaleSpec(stage=stage, size=kept, k=k, mpp=scale, seed=seed, skip=skip, guide=guide)
            )
        else:
            # denoised whole, cropped when it is written
            spec = _diffused_spec(preset, stage, first=first, k=k, mpp=scale, seed=seed, multiple=multiple)
            specs.append(replace(spec, size=kept))
    return tuple(specs)


def diffused(specs: Iterable[AnySpec]) -> tuple[StageSpec, ...]:
    """Return the stages that the denoiser makes."""
    return tuple(spec for spec in specs if isinstance(spec, StageSpec))


def _diffused_spec(
    preset: Preset, stage: int, *, first: Size, k: int, mpp: float, seed: int, multiple: int
) -> StageSpec:
    guided = preset.guided if stage else None
    config = guided or preset.base
    patch, canvas = config.patch_of(first), first.times(k**stage)
    _check_patch(patch, first, math.lcm(multiple, k), "guided" if guided else "base")
    return StageSpec(
        stage=stage,
        canvas=canvas,
        size=canvas,
        patch=patch,
        k=k,
        mpp=mpp,
        seed=seed,
        sigmas=config.sigmas(),
        from_guide=guided is not None and guided.sigma_start is not None,
        relax=guided.relax() if guided else 0,
        solver=solver_by_name(config.solver),
        grids=preset.guided.shifts().grids(
            seed=seed, stage=stage, steps=config.steps, canvas=canvas, patch=patch, k=k
        ),
        skip=guided.skip() if guided else None,
        history_dtype=HISTORY_DTYPES[guided.history_dtype] if guided else torch.float32,
    )


def _check_picture(size: Size, step: int) -> None:
    if any(side % step for side in size.sides):
        fitting = Size(*(side // step * step for side in size.sides))
        raise InvalidValueError(
            f"an overview whose stages the denoiser makes must have a multiple of {step} pixels a side, got "
            f"{size}; crop it to {fitting}, or pass --preset one-step, which takes any"
        )


def _check_patch(patch: Size, first: Size, step: int, section: str) -> None:
    for side, whole in zip(patch.sides, first.sides, strict=True):
        if side != whole and side % step:
            below = side // step * step
            near = " or ".join(str(m) for m in (below, below + step) if m)
            raise InvalidValueError(
                f"{section}.patch of the preset must be a multiple of {step}, for the denoiser and k, got "
                f"{side}; take {near}"
            )

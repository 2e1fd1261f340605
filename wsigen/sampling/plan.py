"""What a slide will take, before anything is sampled: sizes, patches, network evaluations and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from wsigen.diffusion.solvers import solver_by_name
from wsigen.errors import InvalidValueError
from wsigen.sampling.guiderows import held_rows
from wsigen.sampling.preset import HISTORY_DTYPES, Preset
from wsigen.sampling.shift import ShiftPlan
from wsigen.sampling.stage import StageSpec


def patch_size(size: int, stages: int, k: int = 2, *, multiple: int = 1, trained: Sequence[int] = ()) -> int:
    """The patch M for which size = M·k^stages.

    Args:
        size: side of the final image in pixels.
        stages: number L of upscalings.
        k: factor between the stages, at least 2.
        multiple: of which M must be, for the network's sake.
        trained: patch sizes the model was trained at; the error message suggests them.

    Raises:
        InvalidValueError: no such patch; names the nearest sizes that work.
    """
    if stages < 0 or k < 2 or size < 1:
        raise InvalidValueError(
            f"size must be at least 1, stages at least 0, k at least 2; got {size}, {stages} and {k}"
        )
    step = math.lcm(multiple, k) if stages else multiple
    scale = k**stages
    if size % (step * scale) == 0:
        return size // scale
    raise InvalidValueError(_size_message(size, stages, k, step, trained))


def _size_message(size: int, stages: int, k: int, step: int, trained: Sequence[int]) -> str:
    scale = k**stages
    below = size // (step * scale) * step
    near = sorted({m for m in (below, below + step) if m > 0})
    best = min([m for m in trained if m % step == 0] or near, key=lambda m: abs(m * scale - size))
    sizes = " or ".join(str(m * scale) for m in near)
    return (
        f"size must be patch_size * {k}**stages ({best} * {k}**{stages} = {best * scale}), with a patch size "
        f"that is a multiple of {step}, got {size}; pass --size {best * scale} (nearest: {sizes})"
    )


def stage_specs(
    preset: Preset, *, size: int, stages: int, k: int, mpp: float, seed: int, multiple: int = 1
) -> tuple[StageSpec, ...]:
    """What each stage of a slide has to do, from the base image to the final one.

    Args:
        preset: how it is sampled.
        size: side of the final image, ``patch · k^stages``.
        stages: number L of upscalings; 0 samples one patch.
        k: factor between the stages.
        mpp: µm/px of the final image; stage l has mpp·k^(L - l).
        seed: of the slide.
        multiple: of which the patch size must be, for the network's sake.

    Raises:
        InvalidValueError: a size or pixel size that cannot be.
    """
    if not mpp > 0:
        raise InvalidValueError(f"mpp must be a positive number of µm/px, got {mpp}")
    patch = patch_size(size, stages, k, multiple=multiple)
    return tuple(
        _spec(preset, stage, patch=patch, k=k, mpp=mpp * k ** (stages - stage), seed=seed)
        for stage in range(stages + 1)
    )


def _spec(preset: Preset, stage: int, *, patch: int, k: int, mpp: float, seed: int) -> StageSpec:
    guided = preset.guided if stage else None
    config = guided or preset.base
    shifts = guided.shifts() if guided else ShiftPlan(mode="none")
    extent = patch * k**stage
    return StageSpec(
        stage=stage,
        extent=extent,
        patch=patch,
        k=k,
        mpp=mpp,
        seed=seed,
        sigmas=config.sigmas(),
        from_guide=guided is not None and guided.sigma_start is not None,
        relax=guided.relax() if guided else 0,
        solver=solver_by_name(config.solver),
        grids=shifts.grids(seed=seed, stage=stage, steps=config.steps, extent=extent, patch=patch, k=k),
        skip=guided.skip() if guided else None,
        history_dtype=HISTORY_DTYPES[guided.history_dtype] if guided else torch.float32,
    )


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What one stage takes.

    Args:
        stage: of the cascade.
        extent: side of the canvas in pixels.
        mpp: µm/px.
        patch: side of a patch.
        steps: solver steps.
        patch_rows: rows of patches at the step that has most.
        patch_cols: columns of patches at the step that has most.
        patches: patch-steps in all.
        evaluations: network evaluations of one patch each, if none is skipped.
        rows_alive: canvas rows held.
        band_bytes: memory of the canvas rows, the solver's history and the guide beside them.
    """

    stage: int
    extent: int
    mpp: float
    patch: int
    steps: int
    patch_rows: int
    patch_cols: int
    patches: int
    evaluations: int
    rows_alive: int
    band_bytes: int


def plan_stage(spec: StageSpec, order: str = "wavefront") -> StagePlan:
    """What one stage takes.

    Args:
        spec: of the stage.
        order: "wavefront" or "steps".
    """
    capacity = spec.capacity(order)
    history = spec.history_dtype.itemsize if spec.solver.needs_history else 0
    canvas = 3 * capacity * spec.extent * (4 + history)
    above = spec.extent // spec.k if spec.stage else 0
    guide = (3 + bool(spec.skip)) * above * held_rows(spec.guide_rows(capacity), spec.skip, above)
    patches = [grid.rows.count * grid.cols.count for grid in spec.grids]
    # All steps but the last cost the same; what the last one costs is what a schedule of one step costs.
    last = spec.solver.evaluations(1)
    each = spec.solver.evaluations(2) - last
    return StagePlan(
        stage=spec.stage,
        extent=spec.extent,
        mpp=spec.mpp,
        patch=spec.patch,
        steps=spec.steps,
        patch_rows=max(grid.rows.count for grid in spec.grids),
        patch_cols=max(grid.cols.count for grid in spec.grids),
        patches=sum(patches),
        evaluations=each * sum(patches[:-1]) + last * patches[-1],
        rows_alive=capacity,
        band_bytes=canvas + guide,
    )

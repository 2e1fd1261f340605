"""What a slide will take, before anything is sampled: sizes, patches, network evaluations and memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from wsigen.diffusion.solvers import solver_by_name
from wsigen.errors import InvalidValueError
from wsigen.sampling.guiderows import held_rows
from wsigen.sampling.preset import HISTORY_DTYPES, Preset
from wsigen.sampling.reach import Reach, UpscaleSpec
from wsigen.sampling.stage import Machine, StageSpec
from wsigen.sampling.upscale import UpscalerFunction
from wsigen.sampling.upscalerun import tile_of, tile_rows


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


@dataclass(frozen=True, kw_only=True)
class GivenSpec:
    """A stage 0 that is not sampled, since a picture takes its place.

    Args:
        extent: side of the picture in pixels.
        mpp: µm/px of it.
        k: factor between the stages.
        stage: 0.
    """

    extent: int
    mpp: float
    k: int
    stage: int = 0


AnySpec = StageSpec | UpscaleSpec | GivenSpec


def stage_specs(
    preset: Preset,
    *,
    size: int,
    stages: int,
    k: int,
    mpp: float,
    seed: int,
    multiple: int = 1,
    given: bool = False,
) -> tuple[AnySpec, ...]:
    """What each stage of a slide has to do, from the base image to the final one.

    Args:
        preset: how it is sampled.
        size: side of the final image, ``side · k^stages`` with the side of stage 0.
        stages: number L of upscalings; 0 samples stage 0 alone.
        k: factor between the stages.
        mpp: µm/px of the final image; stage l has mpp·k^(L - l).
        seed: of the slide.
        multiple: of which patches and the side of stage 0 must be, for the denoiser's sake.
        given: whether stage 0 is a picture, and not sampled.

    Raises:
        InvalidValueError: a size, patch or pixel size that cannot be.
    """
    if not mpp > 0:
        raise InvalidValueError(f"mpp must be a positive number of µm/px, got {mpp}")
    scales = [mpp * k ** (stages - stage) for stage in range(stages + 1)]
    makes = [preset.upscaler.makes(stage, scale) for stage, scale in enumerate(scales)]
    if given:
        side = size // k**stages
        _check_picture(side, 1 if all(makes[1:]) else math.lcm(multiple, k))
    else:
        side = patch_size(size, stages, k, multiple=multiple)
    specs: list[AnySpec] = []
    for stage, scale in enumerate(scales):
        extent = side * k**stage
        if given and stage == 0:
            specs.append(GivenSpec(extent=side, mpp=scale, k=k))
        elif makes[stage]:
            skip = preset.upscaler.skip()
            specs.append(UpscaleSpec(stage=stage, extent=extent, k=k, mpp=scale, seed=seed, skip=skip))
        else:
            specs.append(_denoised(preset, stage, side=side, k=k, mpp=scale, seed=seed, multiple=multiple))
    return tuple(specs)


def diffused(specs: Iterable[AnySpec]) -> tuple[StageSpec, ...]:
    """The stages that the denoiser makes."""
    return tuple(spec for spec in specs if isinstance(spec, StageSpec))


def _denoised(
    preset: Preset, stage: int, *, side: int, k: int, mpp: float, seed: int, multiple: int
) -> StageSpec:
    guided = preset.guided if stage else None
    config = guided or preset.base
    patch, extent = config.patch_of(side), side * k**stage
    _check_patch(patch, side, math.lcm(multiple, k), "guided" if guided else "base")
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
        grids=preset.guided.shifts().grids(
            seed=seed, stage=stage, steps=config.steps, extent=extent, patch=patch, k=k
        ),
        skip=guided.skip() if guided else None,
        history_dtype=HISTORY_DTYPES[guided.history_dtype] if guided else torch.float32,
    )


def _check_picture(side: int, step: int) -> None:
    if side % step:
        raise InvalidValueError(
            f"an overview whose stages the denoiser makes must have a multiple of {step} pixels a side, got "
            f"{side}; crop it to {side // step * step}, or pass --preset one-step, which takes any"
        )


def _check_patch(patch: int, side: int, step: int, section: str) -> None:
    if patch != side and patch % step:
        below = patch // step * step
        near = " or ".join(str(m) for m in (below, below + step) if m)
        raise InvalidValueError(
            f"{section}.patch of the preset must be a multiple of {step}, for the denoiser and k, got "
            f"{patch}; take {near}"
        )


FEATURE_BYTES = 2200
"""Memory of the default upscaler's features for each guide pixel that it is given at once, in float32."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What one stage takes.

    Args:
        stage: of the cascade.
        extent: side of the canvas in pixels.
        mpp: µm/px.
        network: what makes it: "denoiser", "upscaler", or "" where a picture takes its place.
        patch: side of a patch, or of an upscaler's tile, in pixels of the stage.
        steps: solver steps.
        patch_rows: rows of patches at the step that has most.
        patch_cols: columns of patches at the step that has most.
        patches: patch-steps in all.
        evaluations: network evaluations of one patch each, if none is skipped.
        seen: pixels of the stage that the network sees in one evaluation of a patch, halo included.
        rows_alive: canvas rows held.
        band_bytes: memory of the canvas rows, the solver's history and the guide beside them.
        feature_bytes: memory of an upscaler's features, roughly.
    """

    stage: int
    extent: int
    mpp: float
    network: str
    patch: int
    steps: int
    patch_rows: int
    patch_cols: int
    patches: int
    evaluations: int
    seen: int
    rows_alive: int
    band_bytes: int
    feature_bytes: int = 0

    @property
    def work(self) -> int:
        """Pixels that networks see, if nothing is skipped; one costs about the same in either network."""
        return self.evaluations * self.seen


def plan_given(spec: GivenSpec) -> StagePlan:
    """What a picture in place of stage 0 takes: nothing."""
    nothing = dict.fromkeys(
        ("steps", "patch_rows", "patch_cols", "patches", "evaluations", "seen", "rows_alive", "band_bytes"), 0
    )
    return StagePlan(stage=0, extent=spec.extent, mpp=spec.mpp, network="", patch=spec.extent, **nothing)


def plan_upscale(spec: UpscaleSpec, upscaler: UpscalerFunction, machine: Machine) -> StagePlan:
    """What one stage by the upscaler takes.

    Args:
        spec: of the stage.
        upscaler: for how far it looks.
        machine: for the size of its tiles.
    """
    tile, side = tile_of(spec, machine), spec.guide_bounds.width
    reach, bands = Reach.of(spec, upscaler, tile), tile_rows(spec, tile)
    tiles = [reach.cores(band) for band in bands]
    given = [reach.given(core, core).size.area for row in tiles for core in row]
    rows = held_rows(max(reach.guide_region(band).height for band in bands), None, side)
    return StagePlan(
        stage=spec.stage,
        extent=spec.extent,
        mpp=spec.mpp,
        network="upscaler",
        patch=tile * spec.k,
        steps=1,
        patch_rows=len(tiles),
        patch_cols=len(tiles[0]),
        patches=len(given),
        evaluations=len(given),
        seen=spec.k**2 * sum(given) // len(given),
        rows_alive=min(tile * spec.k, spec.extent),
        band_bytes=3 * (rows * side + max(band.height for band in bands) * spec.extent),
        feature_bytes=FEATURE_BYTES * max(given),
    )


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
        network="denoiser",
        patch=spec.patch,
        steps=spec.steps,
        patch_rows=max(grid.rows.count for grid in spec.grids),
        patch_cols=max(grid.cols.count for grid in spec.grids),
        patches=sum(patches),
        evaluations=each * sum(patches[:-1]) + last * patches[-1],
        seen=spec.patch**2,
        rows_alive=capacity,
        band_bytes=canvas + guide,
    )


def plan_any(spec: AnySpec, machine: Machine, upscaler: UpscalerFunction | None = None) -> StagePlan:
    """What one stage takes, whatever makes it.

    Args:
        spec: of the stage.
        machine: for the schedule, and the size of the upscaler's tiles.
        upscaler: for stages that it makes.
    """
    if isinstance(spec, StageSpec):
        return plan_stage(spec, machine.order)
    if isinstance(spec, GivenSpec):
        return plan_given(spec)
    assert upscaler is not None, "stages by the upscaler come with one"
    return plan_upscale(spec, upscaler, machine)

"""Plan the stages of a slide before anything is sampled: patches, network evaluations and memory."""

from __future__ import annotations

from dataclasses import dataclass

from wsigen.geometry import Size
from wsigen.sampling.rows import held_rows
from wsigen.sampling.spec import AnySpec, Execution, GivenSpec, StageSpec, UpscaleSpec
from wsigen.sampling.tiles import Tiling, tile_of, tile_rows
from wsigen.sampling.upscale import UpscalerFunction

FEATURE_BYTES = 2200
"""Memory of the default upscaler's features for each guide pixel that it is given at once, in float32."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """Size, work and memory of one stage.

    Args:
        stage: of the cascade.
        size: in pixels.
        mpp: µm/px.
        network: that makes it: "denoiser", "upscaler", or "" for a picture.
        patch: size of a patch, or of an upscaler's tile at most, in pixels of the stage.
        steps: solver steps.
        patch_rows: rows of patches, at most in any step.
        patch_cols: columns of patches, at most in any step.
        patches: patch-steps in all.
        evaluations: network evaluations of one patch each, if none is skipped.
        seen: pixels of the stage that the network sees in one evaluation of a patch, halo included.
        rows_alive: canvas rows held.
        band_bytes: memory of the canvas rows, the solver's history and the guide beside them.
        feature_bytes: memory of an upscaler's features, roughly.
    """

    stage: int
    size: Size
    mpp: float
    network: str
    patch: Size
    steps: int = 0
    patch_rows: int = 0
    patch_cols: int = 0
    patches: int = 0
    evaluations: int = 0
    seen: int = 0
    rows_alive: int = 0
    band_bytes: int = 0
    feature_bytes: int = 0

    @property
    def work(self) -> int:
        """Pixels that networks see, if nothing is skipped; one costs about the same in either network."""
        return self.evaluations * self.seen


def plan_given(spec: GivenSpec) -> StagePlan:
    """Plan a picture in place of stage 0: nothing to do."""
    return StagePlan(stage=0, size=spec.size, mpp=spec.mpp, network="", patch=spec.size)


def plan_upscale(spec: UpscaleSpec, upscaler: UpscalerFunction, execution: Execution) -> StagePlan:
    """Plan an upscaled stage.

    Args:
        spec: of the stage.
        upscaler: for its reach.
        execution: for the size of its tiles.
    """
    tile, guide = tile_of(spec, execution), spec.guide_bounds
    tiling, bands = Tiling.of(spec, upscaler, tile), tile_rows(spec, tile)
    tiles = [tiling.cores(band) for band in bands]
    given = [tiling.network_input(core, core).size.area for row in tiles for core in row]
    rows = held_rows(max(tiling.guide_region(band).height for band in bands), guide.height)
    return StagePlan(
        stage=spec.stage,
        size=spec.size,
        mpp=spec.mpp,
        network="upscaler",
        patch=Size.square(tile * spec.k),
        steps=1,
        patch_rows=len(tiles),
        patch_cols=len(tiles[0]),
        patches=len(given),
        evaluations=len(given),
        seen=spec.k**2 * sum(given) // len(given),
        rows_alive=min(tile * spec.k, spec.size.height),
        band_bytes=3 * (rows * guide.width + max(band.height for band in bands) * spec.size.width),
        feature_bytes=FEATURE_BYTES * max(given),
    )


def plan_stage(spec: StageSpec, order: str = "wavefront") -> StagePlan:
    """Plan a diffused stage.

    Args:
        spec: of the stage.
        order: "wavefront" or "steps".
    """
    capacity = spec.capacity(order)
    history = spec.history_dtype.itemsize if spec.solver.needs_history else 0
    # Three channels: of the state in float32, of the history; the guide in uint8 and a byte for the skip
    # rule.
    canvas = 3 * capacity * spec.canvas.width * (4 + history)
    above = spec.canvas.over(spec.k) if spec.stage else Size(0, 0)
    guide = (
        (3 + bool(spec.skip))
        * above.width
        * held_rows(spec.guide_rows(capacity), above.height, spec.skip.margin if spec.skip else 0)
    )
    patches = [grid.rows.count * grid.cols.count for grid in spec.grids]
    # All steps but the last cost the same; the last costs as much as a schedule of one step.
    last = spec.solver.evaluations(1)
    each = spec.solver.evaluations(2) - last
    return StagePlan(
        stage=spec.stage,
        size=spec.size,
        mpp=spec.mpp,
        network="denoiser",
        patch=spec.patch,
        steps=spec.steps,
        patch_rows=max(grid.rows.count for grid in spec.grids),
        patch_cols=max(grid.cols.count for grid in spec.grids),
        patches=sum(patches),
        evaluations=each * sum(patches[:-1]) + last * patches[-1],
        seen=spec.patch.area,
        rows_alive=capacity,
        band_bytes=canvas + guide,
    )


def plan_any(spec: AnySpec, execution: Execution, upscaler: UpscalerFunction | None = None) -> StagePlan:
    """Plan any stage.

    Args:
        spec: of the stage.
        execution: for the order of patches, and the size of the upscaler's tiles.
        upscaler: for upscaled stages.
    """
    if isinstance(spec, StageSpec):
        return plan_stage(spec, execution.order)
    if isinstance(spec, GivenSpec):
        return plan_given(spec)
    assert upscaler is not None, "upscaled stages come with an upscaler"
    return plan_upscale(spec, upscaler, execution)

"""All stages of a slide, each guided by the one before (Harb et al. 2024, Algorithm 2), by either network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wsigen.diffusion.step import DenoiserFunction
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region
from wsigen.sampling.background import Colour, glass_colour
from wsigen.sampling.plan import AnySpec
from wsigen.sampling.reach import UpscaleSpec
from wsigen.sampling.rows import RowStore
from wsigen.sampling.stage import Machine, Progress, StageRun, StageSpec
from wsigen.sampling.upscale import UpscalerFunction
from wsigen.sampling.upscalerun import UpscaleRun


def run_cascade(
    denoiser: DenoiserFunction,
    specs: Sequence[AnySpec],
    store: Callable[[int], RowStore],
    *,
    background: Colour,
    upscaler: UpscalerFunction | None = None,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> RowStore:
    """Samples a slide, or goes on with one.

    Stages whose store is complete are not run again, and one that is partly done goes on at its
    ``rows_done``. Stores of all stages but the last must give back the very pixels that they were given.

    Args:
        denoiser: D(x; sigma, mpp).
        specs: of the stages, from `wsigen.sampling.plan.stage_specs`.
        store: opens the store of a stage; called once per stage, when its turn comes. That of a picture in
            place of stage 0 is complete.
        background: colour of glass in the model's training slides, for base images that show none.
        upscaler: G(y, z; µm/px), if there are stages that it makes.
        machine: where and how to run.
        progress: called after every batch.

    Returns:
        The store of the final stage, complete.

    Raises:
        InvalidValueError: a network returns values that are not numbers, or the upscaler is missing or has
            another k.

    Determinism: the pixels of every stage are a function of the networks, specs and background.
    """
    if upscaler is None and any(isinstance(spec, UpscaleSpec) for spec in specs):
        raise InvalidValueError("there are stages that an upscaler makes, and no upscaler")
    above: RowStore | None = None
    for spec in specs:
        current = store(spec.stage)
        if isinstance(spec, StageSpec):
            StageRun(
                spec, denoiser, above, current, background=background, machine=machine, progress=progress
            ).run()
        elif isinstance(spec, UpscaleSpec):
            assert above is not None, "stage 0 is not an upscaler's"
            assert upscaler is not None, "checked above"
            UpscaleRun(
                spec, upscaler, above, current, background=background, machine=machine, progress=progress
            ).run()
        assert current.rows_done == spec.extent or spec.stage, "a picture is complete"
        if spec.stage == 0 and len(specs) > 1:
            background = glass_colour(current.read(Region(0, 0, spec.extent, spec.extent)), background)
        above = current
    assert above is not None, "there is at least stage 0"
    return above

"""All stages of a slide, each guided by the one before (Harb et al. 2024, Algorithm 2), by either network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wsigen.diffusion.step import DenoiserFunction
from wsigen.errors import InvalidValueError
from wsigen.geometry import Colour
from wsigen.sampling.pixels import background_of
from wsigen.sampling.rows import RowStore
from wsigen.sampling.spec import AnySpec, Execution, Progress, StageSpec, UpscaleSpec
from wsigen.sampling.stage import StageRun
from wsigen.sampling.upscale import UpscalerFunction, UpscaleRun


def run_cascade(
    denoiser: DenoiserFunction,
    specs: Sequence[AnySpec],
    store: Callable[[int], RowStore],
    *,
    background: Colour,
    upscaler: UpscalerFunction | None = None,
    execution: Execution | None = None,
    progress: Progress | None = None,
) -> RowStore:
    """Sample a slide, or resume one.

    Stages whose store is complete are not run again; a stage that is partly done is resumed at its store's
    ``rows_done``. Stores of all stages but the last must be lossless.

    Args:
        denoiser: D(x; sigma, mpp).
        specs: of the stages, from `wsigen.sampling.spec.stage_specs`.
        store: opens the store of a stage; called once per stage, before it is run. The store of a picture in
            place of stage 0 is complete.
        background: background colour of the model's training slides, for base images that show none.
        upscaler: G(y, z; µm/px), if there are stages that it makes.
        execution: where and how to run.
        progress: called after every batch.

    Returns:
        The store of the final stage, complete.

    Raises:
        InvalidValueError: a network returns NaN or infinity, or the upscaler is missing or has another k.

    Determinism: the pixels of every stage are a function of the networks, specs and background.
    """
    if upscaler is None and any(isinstance(spec, UpscaleSpec) for spec in specs):
        raise InvalidValueError("the preset upscales stages, but there is no upscaler; choose another preset")
    above: RowStore | None = None
    for spec in specs:
        current = store(spec.stage)
        if isinstance(spec, StageSpec):
            StageRun(
                spec, denoiser, above, current, background=background, execution=execution, progress=progress
            ).run()
        elif isinstance(spec, UpscaleSpec):
            assert above is not None, "stage 0 is not upscaled"
            assert upscaler is not None, "checked above"
            UpscaleRun(
                spec, upscaler, above, current, background=background, execution=execution, progress=progress
            ).run()
        assert current.rows_done == spec.size.height or spec.stage, "a picture is complete"
        # Later stages skip background by the colour that the base image shows.
        if spec.stage == 0 and len(specs) > 1:
            background = background_of(current.read(spec.size.region), background)
        above = current
    assert above is not None, "there is at least stage 0"
    return above

"""All stages of a slide, each guided by the one before (Harb et al. 2024, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wsigen.diffusion.step import DenoiserFunction
from wsigen.geometry import Region
from wsigen.sampling.background import Colour, glass_colour
from wsigen.sampling.rows import RowStore
from wsigen.sampling.stage import Machine, Progress, StageRun, StageSpec


def run_cascade(
    denoiser: DenoiserFunction,
    specs: Sequence[StageSpec],
    store: Callable[[int], RowStore],
    *,
    background: Colour,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> RowStore:
    """Samples a slide, or goes on with one.

    Stages whose store is complete are not run again, and one that is partly done goes on at its
    ``rows_done``. Stores of all stages but the last must give back the very pixels that they were given.

    Args:
        denoiser: D(x; sigma, mpp).
        specs: of the stages, from `wsigen.sampling.plan.stage_specs`.
        store: opens the store of a stage; called once per stage, when its turn comes.
        background: colour of glass in the model's training slides, for base images that show none.
        machine: where and how to run.
        progress: called after every batch.

    Returns:
        The store of the final stage, complete.

    Raises:
        InvalidValueError: the denoiser returns values that are not numbers.

    Determinism: the pixels of every stage are a function of denoiser, specs and background.
    """
    above: RowStore | None = None
    for spec in specs:
        current = store(spec.stage)
        run = StageRun(
            spec, denoiser, above, current, background=background, machine=machine, progress=progress
        )
        run.run()
        if spec.stage == 0 and len(specs) > 1:
            background = glass_colour(current.read(Region(0, 0, spec.extent, spec.extent)), background)
        above = current
    assert above is not None, "there is at least stage 0"
    return above

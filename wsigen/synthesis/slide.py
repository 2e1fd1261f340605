"""From a job to the files of a slide, and of its stains."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2

from wsigen.errors import OutputError
from wsigen.files import only_process, write_bytes
from wsigen.geometry import Size
from wsigen.nn.denoiser import Denoiser
from wsigen.sampling.cascade import run_cascade
from wsigen.sampling.rows import RowStore
from wsigen.sampling.spec import AnySpec, Execution, Progress, StageSpec, UpscaleSpec
from wsigen.sampling.tiles import CELL
from wsigen.sampling.upscale import UpscalerFunction
from wsigen.slide.codec import ZSTD
from wsigen.slide.journal import BlockJournal
from wsigen.slide.provenance import beside
from wsigen.slide.write import SlideFiles, check_output, final_journal, layout_codec, write_slide
from wsigen.synthesis.behind import Behind
from wsigen.synthesis.job import SlideJob
from wsigen.synthesis.pair import open_pair
from wsigen.synthesis.runtime import InPrecision
from wsigen.synthesis.stainers import Stainers
from wsigen.synthesis.state import TAKEN, drop_other_state, is_written


def synthesise(
    job: SlideJob,
    net: Denoiser,
    runner: InPrecision,
    machine: Execution,
    *,
    upscaler: UpscalerFunction | None = None,
    stainers: Stainers | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    block: int = 2048,
) -> tuple[SlideFiles, ...]:
    """Make a slide and its stains, or go on with those that were interrupted.

    Stages are kept as block journals in ``job.work`` while the slide is made, rows of a stain in its own
    ``work``; these folders go when all slides have got their names. Killed at any moment, the same call goes
    on and ends with the same bytes.

    Args:
        job: the slide.
        net: the denoiser, for what its config says.
        runner: the denoiser in the precision that it runs in.
        machine: where and how to run.
        upscaler: G(y, z; µm/px) in the precision that it runs in, if the preset has stages that it makes.
        stainers: those of ``job.stains``, if there are any.
        progress: called after every batch of patches.
        overwrite: replace existing slides, and drop the unfinished state of another job.
        block: side of a journal's block; finished rows are kept in multiples of it.

    Returns:
        The files of the H&E, then those of its stains that were not there yet.

    Raises:
        OutputError: a slide exists, a folder holds another job's state, or the disk refuses.
        InvalidValueError: the size does not fit, a network returns NaN, or the upscaler is missing or has
            another k.

    Memory:
        The band of the largest stage (see ``plan_job``), a few rows of tiles for each slide, and the rows
        that the translator holds.

    Determinism:
        The slides follow from ``job.facts()`` and ``job.stains``, up to the rounding of the networks'
        kernels.
    """
    check_outputs(job, overwrite)
    specs, fingerprint = job.specs(net), job.fingerprint()
    which = [i for i, twin in enumerate(job.twins) if overwrite or not twin.is_finished()]
    twins = [job.twins[i] for i in which]
    red, green, blue = net.config["background"]
    journals: list[BlockJournal] = []
    with ExitStack() as locks:
        for work in (job.work, *(twin.work for twin in twins)):
            locks.enter_context(only_process(work, TAKEN))
        if overwrite:
            codecs = (ZSTD.name, layout_codec(job.layout).name)
            drop_other_state(sorted(job.work.glob("stage-*")), fingerprint, codecs)
        behind = locks.enter_context(Behind())
        stained = [twin.open_journal(overwrite=overwrite, block=block) for twin in twins]

        def store(stage: int) -> RowStore:
            journals.append(_open_stage(job, specs[stage], last=stage == len(specs) - 1, block=block))
            if stage < len(specs) - 1 or not stained:
                return journals[-1]
            assert stainers is not None, "a job with stains comes with stainers"
            return open_pair(journals, specs[-1], (red, green, blue), stained, stainers.only(which), behind)

        run_cascade(
            runner,
            specs,
            store,
            background=(red, green, blue),
            upscaler=upscaler,
            execution=machine,
            progress=progress,
        )
        if len(journals) > 1:
            write_bytes(beside(job.slide, ".png"), _overview_png(journals[0]))
        # The H&E last: where it is, its stains are.
        files = [twin.write(rows, overwrite=overwrite) for twin, rows in zip(twins, stained, strict=True)]
        files.insert(0, _write(job, specs[-1], journals[-1], overwrite))
        for journal in (*journals, *stained):
            journal.delete()
    remove_work(job)
    return tuple(files)


def _open_stage(job: SlideJob, spec: AnySpec, *, last: bool, block: int) -> BlockJournal:
    folder, size = job.work / f"stage-{spec.stage:02d}", Size(spec.extent, spec.extent)
    fingerprint = job.fingerprint()
    if last:
        return final_journal(folder, size, job.layout, fingerprint, block=block)
    journal = BlockJournal(folder, size, codec=ZSTD, levels=1, fingerprint=fingerprint, block=block)
    if spec.stage == 0 and job.overview and journal.rows_done < spec.extent:
        journal.append(job.overview.pixels[journal.rows_done :])
    return journal


def _overview_png(journal: BlockJournal) -> bytes:
    """Stage 0 as it was sampled, so that anyone can look how well the slide agrees with it."""
    image = journal.read(journal.size.region)
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def joints(spec: AnySpec) -> list[dict[str, Any]]:
    """Where patches met in the last two steps of a stage, for whoever looks for seams.

    Tiles of an upscaler cannot be seen; what might be is where its background ends.

    Args:
        spec: the last stage.

    Returns:
        For each of the two grids, the last step's first, a name, the distance of its lines (``pitch``) and
        the first of them (``rows``, ``cols``), in px of the canvas; one where both are the same.
    """
    if isinstance(spec, UpscaleSpec):
        cells = {"name": "cells of background", "pitch": CELL * spec.k, "rows": [0], "cols": [0]}
        return [cells] if spec.skip else []
    assert isinstance(spec, StageSpec), "the last stage is no picture"
    found: dict[tuple[int, int, int], str] = {}
    for grid, name in zip(
        spec.grids[:-3:-1], ("patches, last step", "patches, step before it"), strict=False
    ):
        found.setdefault((grid.rows.stride, grid.rows.offset, grid.cols.offset), name)
    return [{"name": name, "pitch": pitch, "rows": [y], "cols": [x]} for (pitch, y, x), name in found.items()]


def _write(job: SlideJob, spec: AnySpec, journal: BlockJournal, overwrite: bool) -> SlideFiles:
    made = {"layout": job.layout, "fingerprint": job.fingerprint(), "joints": joints(spec)}
    facts = {**job.facts(), **made, **job.pair()}
    return write_slide(
        journal, job.slide, mpp=job.mpp, layout=job.layout, provenance=facts, overwrite=overwrite
    )


def check_outputs(job: SlideJob, overwrite: bool) -> None:
    """Refuse early what could not get its name in the end.

    Raises:
        OutputError: a slide exists and must not be replaced.
    """
    if overwrite:
        return
    missing = [twin for twin in job.twins if not twin.is_finished()]
    if missing and _is_written(job):
        stains = ",".join(twin.stain.stainer for twin in missing)
        raise OutputError(
            job.slide,
            f"exists already, without {missing[0].slide.name}; translate it with `wsigen translate "
            f"{job.slide} --stainer {stains} --out {job.out}`, or pass --overwrite to sample both",
        )
    check_output(job.slide, overwrite)
    for twin in missing:
        check_output(twin.slide, overwrite)


def is_finished(job: SlideJob) -> bool:
    """Whether this very slide is there already, and so are its stains."""
    return _is_written(job) and all(twin.is_finished() for twin in job.twins)


def _is_written(job: SlideJob) -> bool:
    return is_written(job.slide, job.fingerprint(), job.layout)


def has_work(job: SlideJob) -> bool:
    """Whether an earlier run left state behind."""
    return any(folder.exists() for folder in _work(job))


def remove_work(job: SlideJob) -> None:
    """Remove what is left of the run that made a slide."""
    for folder in _work(job):
        shutil.rmtree(folder, ignore_errors=True)


def _work(job: SlideJob) -> list[Path]:
    return [job.work, *(twin.work for twin in job.twins)]

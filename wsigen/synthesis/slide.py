"""From a job to the files of a slide."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from wsigen.errors import OutputError
from wsigen.files import disk_errors, make_folder
from wsigen.geometry import Size
from wsigen.nn.denoiser import Denoiser
from wsigen.sampling.cascade import run_cascade
from wsigen.sampling.stage import Machine, Progress
from wsigen.slide.codec import ZSTD
from wsigen.slide.journal import BlockJournal
from wsigen.slide.provenance import beside
from wsigen.slide.write import SlideFiles, check_output, final_journal, layout_codec, write_slide
from wsigen.synthesis.job import SlideJob
from wsigen.synthesis.runtime import InPrecision


def synthesise(
    job: SlideJob,
    net: Denoiser,
    runner: InPrecision,
    machine: Machine,
    *,
    progress: Progress | None = None,
    overwrite: bool = False,
    block: int = 2048,
) -> SlideFiles:
    """Make a slide, or go on with one that was interrupted.

    Stages are kept as block journals in ``job.work`` while the slide is made; that folder goes when the slide
    has got its name. Killed at any moment, the same call goes on and ends with the same bytes.

    Args:
        job: the slide.
        net: the denoiser, for what its config says.
        runner: the denoiser in the precision that it runs in.
        machine: where and how to run.
        progress: called after every batch of patches.
        overwrite: replace an existing slide, and drop the unfinished state of another job.
        block: side of a journal's block; finished rows are kept in multiples of it.

    Raises:
        OutputError: the slide exists, the folder holds another job's state, or the disk refuses.
        InvalidValueError: the size does not fit, or the network returns NaN.

    Memory:
        The band of the largest stage (see ``plan_job``) and a few rows of tiles.

    Determinism:
        The slide follows from ``job.facts()``, up to the rounding of the network's kernels.
    """
    check_output(job.slide, overwrite)
    specs, fingerprint = job.specs(net), job.fingerprint()
    journals: list[BlockJournal] = []

    def store(stage: int) -> BlockJournal:
        extent = specs[stage].extent
        folder, size = job.work / f"stage-{stage:02d}", Size(extent, extent)
        if stage == len(specs) - 1:
            journals.append(final_journal(folder, size, job.layout, fingerprint, block=block))
        else:
            journals.append(
                BlockJournal(folder, size, codec=ZSTD, levels=1, fingerprint=fingerprint, block=block)
            )
        return journals[-1]

    red, green, blue = net.config["background"]
    with _only_process(job):
        if overwrite:
            _drop_other_state(job)
        run_cascade(runner, specs, store, background=(red, green, blue), machine=machine, progress=progress)
        files = write_slide(
            journals[-1],
            job.slide,
            mpp=job.mpp,
            layout=job.layout,
            provenance={**job.facts(), "layout": job.layout, "fingerprint": fingerprint},
            overwrite=overwrite,
        )
        for journal in journals:
            journal.delete()
    shutil.rmtree(job.work, ignore_errors=True)
    return files


@contextmanager
def _only_process(job: SlideJob) -> Iterator[None]:
    """Keep other processes from making the same slide; the system lets go of the lock when this one dies."""
    make_folder(job.work)
    lock = FileLock(job.work / "lock", timeout=0)
    with disk_errors(job.work):
        try:
            lock.acquire()
        except Timeout as error:
            raise OutputError(
                job.work, "another process is making this slide; wait for it, or choose another --name"
            ) from error
    try:
        yield
    finally:
        lock.release()


def _drop_other_state(job: SlideJob) -> None:
    """Remove the unfinished state of another job, so that this one may use the folder.

    Raises:
        OutputError: if it cannot be removed.
    """
    mine = {"fingerprint": job.fingerprint()}
    codecs = {ZSTD.name, layout_codec(job.layout).name}
    for manifest in sorted(job.work.glob("stage-*/journal.json")):
        try:
            found = json.loads(manifest.read_bytes())
        except ValueError:
            found = {}
        if found != found | mine or found.get("codec") not in codecs:
            with disk_errors(job.work):
                shutil.rmtree(manifest.parent)


def is_finished(job: SlideJob) -> bool:
    """Whether this very slide is there already, by the fingerprint and the layout in its JSON."""
    try:
        facts = json.loads(beside(job.slide, ".json").read_bytes())
    except (OSError, ValueError):
        return False
    same = facts.get("fingerprint") == job.fingerprint() and facts.get("layout") == job.layout
    return job.slide.is_file() and same

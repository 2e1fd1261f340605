"""From a job to the files of a slide."""

from __future__ import annotations

import json
import shutil

from wsigen.files import disk_errors, only_process
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
    with only_process(
        job.work, "another process is making this slide; wait for it, or choose another --name"
    ):
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


def _drop_other_state(job: SlideJob) -> None:
    """Remove the unfinished state of another job, so that this one may use the folder.

    Raises:
        OutputError: if it cannot be removed.
    """
    codecs = (ZSTD.name, layout_codec(job.layout).name)
    for manifest in sorted(job.work.glob("stage-*/journal.json")):
        try:
            found = json.loads(manifest.read_bytes())
            mine = found["fingerprint"] == job.fingerprint() and found["codec"] in codecs
        except (ValueError, KeyError, TypeError):
            mine = False
        if not mine:
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

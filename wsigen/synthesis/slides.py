"""What ``sample`` does once its options are known: one model, one or more slides."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch

from wsigen.config import SampleConfig, parse_bytes
from wsigen.errors import InvalidValueError
from wsigen.geometry import Size
from wsigen.nn.denoiser import Denoiser, load_denoiser
from wsigen.nn.snapshot import weights_hash
from wsigen.sampling.stage import Machine, StageSpec
from wsigen.slide.write import SlideFiles
from wsigen.stain.stream import Norm
from wsigen.synthesis.estimate import describe_plan
from wsigen.synthesis.job import JobPlan, SlideJob, plan_job
from wsigen.synthesis.outlay import gib_text, plan_stains
from wsigen.synthesis.presets import load_preset
from wsigen.synthesis.progress import Reporter
from wsigen.synthesis.runtime import InPrecision, choose_batch_size, choose_device, choose_dtype
from wsigen.synthesis.slide import check_outputs, has_work, is_finished, remove_work, synthesise
from wsigen.synthesis.stainers import Rendering, Stainers, open_stainers
from wsigen.synthesis.state import warn_of_disk

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """A model on a device, and the slides that it is to make.

    Args:
        config: what was asked for.
        net: the denoiser.
        runner: the denoiser in the precision that it runs in.
        machine: device, batch size and schedule.
        stainers: what makes IHC of the slides, if that is asked for.
        jobs: the slides; they differ in seed and name alone.
        specs: stages of the first slide.
        plan: what the first slide takes.
    """

    config: SampleConfig
    net: Denoiser
    runner: InPrecision
    machine: Machine
    stainers: Stainers | None
    jobs: tuple[SlideJob, ...]
    specs: tuple[StageSpec, ...]
    plan: JobPlan


def open_session(config: SampleConfig) -> Session:
    """Load the model and work out what has to be done; nothing is written.

    Raises:
        SnapshotError: the model or a stainer cannot be loaded.
        InvalidValueError: the machine has no such device, or the size does not fit.
    """
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    net = load_denoiser(config.model, device)
    stainers = _stainers(config, device, dtype)
    jobs = _jobs(config, str(dtype).removeprefix("torch."), stainers)
    specs = jobs[0].specs(net)
    patch = specs[0].patch
    _warn_of_unusual(config, patch, specs[0].mpp, net)
    machine = Machine(
        device=device, batch_size=choose_batch_size(config.batch_size, patch, device), order=config.schedule
    )
    plan = plan_job(jobs[0], specs, config.schedule)
    if stainers:
        canvas = plan.canvas_bytes if device.type == "cpu" else 0
        size = Size(config.size, config.size)
        outlay = plan_stains(stainers, size, allowed=parse_bytes(config.memory) - canvas)
        stainers, plan = stainers.with_tile(outlay.plan.tile), replace(plan, stains=outlay)
    return Session(config, net, InPrecision(net, dtype), machine, stainers, jobs, specs, plan)


def describe_slides(config: SampleConfig) -> str:
    """What the slides would take, as a table; a few evaluations are measured for it."""
    s = open_session(config)
    return describe_plan(s.plan, s.specs, s.runner, s.machine, slides=len(s.jobs), stainers=s.stainers)


def make_slides(config: SampleConfig) -> list[SlideFiles]:
    """Make the slides that a call of ``sample`` asks for, or go on with them.

    Of several slides, those that are there already are left as they are.

    Returns:
        The files that were written.

    Raises:
        OutputError: a slide exists, or the disk refuses.
        InvalidValueError: an option that cannot be.
    """
    session = open_session(config)
    _check_memory(session)
    missing = [
        job for job in session.jobs if config.overwrite or not _is_there(job, several=config.count > 1)
    ]
    for job in missing:  # all of them now, rather than one by one after hours
        check_outputs(job, config.overwrite)
    if missing:
        warn_of_disk(config.out, session.plan.disk_bytes)
    written = []
    for job in missing:
        files = _make_slide(job, session)
        written += files
        log.info("%s", "\n".join(str(file.slide) for file in files))
    return written


def _is_there(job: SlideJob, *, several: bool) -> bool:
    """Whether a slide needs no making: one of several, or one that was killed while it was tidying up."""
    there = is_finished(job) and (several or has_work(job))
    if there:
        remove_work(job)
        log.info("%s is there already", job.slide)
    return there


def _make_slide(job: SlideJob, session: Session) -> tuple[SlideFiles, ...]:
    overwrite = session.config.overwrite
    with Reporter(session.plan) as reporter:
        try:
            return synthesise(
                job,
                session.net,
                session.runner,
                session.machine,
                stainers=session.stainers,
                progress=reporter.update,
                overwrite=overwrite,
            )
        except KeyboardInterrupt:
            reporter.close()
            log.warning("interrupted; the same command goes on from here (state in %s)", job.work)
            raise
        except torch.cuda.OutOfMemoryError as error:
            batch = session.machine.batch_size
            raise InvalidValueError(
                f"{session.machine.device} has too little memory for batches of {batch} patches; run the "
                f"same command with --batch-size {max(1, batch // 2)}"
            ) from error


def _stainers(config: SampleConfig, device: torch.device, dtype: torch.dtype) -> Stainers | None:
    if config.stain is None:
        return None
    stainers = open_stainers(config.stain, None, Rendering(norm=Norm("dn"), device=device, dtype=dtype))
    stainers.warn_of_scale(config.mpp)
    return stainers


def _jobs(config: SampleConfig, dtype: str, stainers: Stainers | None) -> tuple[SlideJob, ...]:
    job = SlideJob(
        size=config.size,
        stages=config.stages,
        k=config.k,
        mpp=config.mpp,
        seed=config.seed,
        model=config.model,
        model_hash=weights_hash(config.model),
        preset=load_preset(config.preset),
        preset_name=config.preset,
        dtype=dtype,
        out=config.out,
        name=config.name or f"synthetic-{config.seed}",
        layout=config.layout,
        stains=stainers.stains if stainers else (),
    )
    if config.count == 1:
        return (job,)
    seeds = range(config.seed, config.seed + config.count)
    return tuple(replace(job, seed=seed, name=f"{config.name or 'synthetic'}-{seed}") for seed in seeds)


def _warn_of_unusual(config: SampleConfig, patch: int, base_mpp: float, net: Denoiser) -> None:
    trained = net.config["patch_sizes"]
    if patch not in trained:
        log.warning(
            "%d px in %d stages means patches of %d px; the model was trained on %s px, expect less of it",
            config.size,
            config.stages,
            patch,
            ", ".join(map(str, trained)),
        )
    low, high = net.config["mpp_range"]
    if config.mpp < low * 0.99 or base_mpp > high * 1.01:
        log.warning(
            "stages run from %g to %g µm/px; the model was trained on %g to %g, expect less of it outside",
            base_mpp,
            config.mpp,
            low,
            high,
        )


def _check_memory(session: Session) -> None:
    config, plan = session.config, session.plan
    stains = plan.stains.host_bytes if plan.stains else 0
    together = session.machine.device.type == "cpu"
    needed = plan.canvas_bytes + stains if together else max(plan.canvas_bytes, stains)
    if needed > parse_bytes(config.memory):
        takes = gib_text(needed).replace("GiB", " GiB")
        raise InvalidValueError(
            f"the canvas of --size {config.size} with --schedule {config.schedule} "
            + (f"and its stains take {takes}, " if plan.stains else f"takes {takes}, ")
            + f"--memory allows {config.memory}; pass --memory {gib_text(needed)}"
            + ("" if config.schedule == "wavefront" else " or --schedule wavefront")
        )

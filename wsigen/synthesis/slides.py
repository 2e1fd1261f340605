"""What ``sample`` does once its options are known: one model, one or more slides."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from wsigen.config import SampleConfig
from wsigen.errors import InvalidValueError
from wsigen.geometry import Size
from wsigen.nn.denoiser import Denoiser
from wsigen.nn.model import Model, has_upscaler, load_model
from wsigen.runtime import choose_batch_size, choose_device, choose_dtype, memory_flag, parse_bytes
from wsigen.sampling.spec import AnySpec, Execution, diffused
from wsigen.sampling.tiles import default_tile
from wsigen.slide.write import SlideFiles
from wsigen.stain.engine.stream import Norm
from wsigen.synthesis.estimate import describe_plan
from wsigen.synthesis.job import JobPlan, SlideJob, plan_job
from wsigen.synthesis.outlay import plan_stains
from wsigen.synthesis.overview import Overview, open_overview, size_and_stages
from wsigen.synthesis.presets import load_preset
from wsigen.synthesis.progress import Reporter
from wsigen.synthesis.runtime import InPrecision, UpscalerInPrecision
from wsigen.synthesis.slide import check_outputs, has_work, is_finished, remove_work, synthesise
from wsigen.synthesis.stainers import Rendering, Stainers, open_stainers
from wsigen.synthesis.state import warn_of_disk
from wsigen.synthesis.unusual import warn_of_unusual

SMALLEST_TILE = 128
"""Guide pixels a side; of smaller tiles, most of what the upscaler sees is halo."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """A model on a device, and the slides that it is to make.

    Args:
        config: what was asked for.
        net: the denoiser.
        runner: the denoiser in the precision that it runs in.
        upscaler: likewise; None if no stage needs it.
        machine: device, batch size and schedule.
        stainers: what makes IHC of the slides, if that is asked for.
        jobs: the slides; they differ in seed and name alone.
        specs: stages of the first slide.
        plan: what the first slide takes.
    """

    config: SampleConfig
    net: Denoiser
    runner: InPrecision
    upscaler: UpscalerInPrecision | None
    machine: Execution
    stainers: Stainers | None
    jobs: tuple[SlideJob, ...]
    specs: tuple[AnySpec, ...]
    plan: JobPlan


def open_session(config: SampleConfig) -> Session:
    """Load the model and work out what has to be done; nothing is written.

    Raises:
        SnapshotError: the model or a stainer cannot be loaded.
        SlideError: the overview cannot be read.
        InvalidValueError: the machine has no such device, the size does not fit, or the preset needs an
            upscaler that is not there or has another k.
    """
    if config.preset == "auto":
        upscales = config.upscaler is not None or has_upscaler(config.model)
        config = replace(config, preset="one-step" if upscales else "fast")
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    preset, overview = load_preset(config.preset), _overview(config)
    size, stages = size_and_stages(
        overview, size=config.size, stages=config.stages, k=config.k, mpp=config.mpp
    )
    upscaled = [
        s for s in range(stages + 1) if preset.upscaler.makes(s, config.mpp * config.k ** (stages - s))
    ]
    model = _model(config, upscaled, device)
    stainers = _stainers(config, device, dtype)
    job = SlideJob(
        size=size,
        stages=stages,
        k=config.k,
        mpp=config.mpp,
        seed=config.seed,
        model=config.model,
        model_hash=model.denoiser_hash,
        preset=preset,
        preset_name=config.preset,
        dtype=str(dtype).removeprefix("torch."),
        out=config.out,
        name=config.name or f"synthetic-{config.seed}",
        layout=config.layout,
        stains=stainers.stains if stainers else (),
        upscaler=(config.upscaler or config.model) if upscaled else "",
        upscaler_hash=model.upscaler_hash if upscaled else "",
        overview=overview,
    )
    specs = job.specs(model.denoiser)
    warn_of_unusual(job, specs, model)
    upscaler = UpscalerInPrecision(model.upscaler, dtype) if model.upscaler and upscaled else None
    patch = max([spec.patch for spec in diffused(specs)], default=specs[0].extent)
    machine = Execution(
        device=device, batch_size=choose_batch_size(config.batch_size, patch, device), order=config.schedule
    )
    machine, plan = _fitting(job, specs, machine, upscaler, parse_bytes(config.memory))
    if stainers:
        canvas = plan.canvas_bytes if device.type == "cpu" else 0
        outlay = plan_stains(stainers, Size(size, size), allowed=parse_bytes(config.memory) - canvas)
        stainers, plan = stainers.with_tile(outlay.plan.tile), replace(plan, stains=outlay)
    runner = InPrecision(model.denoiser, dtype)
    return Session(
        config, model.denoiser, runner, upscaler, machine, stainers, _jobs(config, job), specs, plan
    )


def describe_slides(config: SampleConfig) -> str:
    """What the slides would take, as a table; a few evaluations are measured for it."""
    s = open_session(config)
    return describe_plan(
        s.plan,
        s.specs,
        s.runner,
        s.machine,
        upscaler=s.upscaler,
        overview=s.jobs[0].overview,
        slides=len(s.jobs),
        stainers=s.stainers,
    )


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
                upscaler=session.upscaler,
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


def _overview(config: SampleConfig) -> Overview | None:
    return open_overview(config.overview, config.overview_mpp) if config.overview else None


def _model(config: SampleConfig, upscaled: Sequence[int], device: torch.device) -> Model:
    """The networks that the slides need.

    Raises:
        InvalidValueError: there are stages for an upscaler, and none, or one of another k.
    """
    if not upscaled:
        if config.upscaler is not None:
            log.warning(
                "--upscaler is not used: --preset %s leaves all stages to the denoiser; one-step uses it",
                config.preset,
            )
        return load_model(config.model, device=device, upscaled=False)
    model, given = load_model(config.model, config.upscaler, device), config.upscaler or config.model
    if model.upscaler is None:
        raise InvalidValueError(
            f"--preset {config.preset} makes stages {upscaled[0]} to {upscaled[-1]} with an upscaler, and "
            f"--model {config.model} has none; pass --upscaler FOLDER, or --preset fast"
        )
    if model.upscaler.k != config.k:
        raise InvalidValueError(
            f"the upscaler of {given} enlarges {model.upscaler.k} times, --k is {config.k}; pass --k "
            f"{model.upscaler.k}, or --preset fast"
        )
    return model


def _fitting(
    job: SlideJob,
    specs: tuple[AnySpec, ...],
    machine: Execution,
    upscaler: UpscalerInPrecision | None,
    allowed: int,
) -> tuple[Execution, JobPlan]:
    """The machine with the largest tiles for the upscaler that the memory allows, or else the smallest."""
    plan = plan_job(job, specs, machine, upscaler)
    tile = default_tile(machine.device)
    while upscaler and plan.canvas_bytes > allowed and tile > SMALLEST_TILE:
        tile //= 2
        machine = replace(machine, tile=tile)
        plan = plan_job(job, specs, machine, upscaler)
    return machine, plan


def _jobs(config: SampleConfig, job: SlideJob) -> tuple[SlideJob, ...]:
    if config.count == 1:
        return (job,)
    seeds = range(config.seed, config.seed + config.count)
    return tuple(replace(job, seed=seed, name=f"{config.name or 'synthetic'}-{seed}") for seed in seeds)


def _check_memory(session: Session) -> None:
    config, plan = session.config, session.plan
    stains = plan.stains.host_bytes if plan.stains else 0
    together = session.machine.device.type == "cpu"
    needed = plan.canvas_bytes + stains if together else max(plan.canvas_bytes, stains)
    if needed > parse_bytes(config.memory):
        takes = memory_flag(needed).replace("GiB", " GiB")
        raise InvalidValueError(
            f"the canvas of --size {session.jobs[0].size} with --schedule {config.schedule} "
            + (f"and its stains take {takes}, " if plan.stains else f"takes {takes}, ")
            + f"--memory allows {config.memory}; pass --memory {memory_flag(needed)}"
            + ("" if config.schedule == "wavefront" else " or --schedule wavefront")
        )

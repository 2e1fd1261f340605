"""``sample`` and ``wsigen sample``: synthesise slides."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from wsigen.cli.parse import parse
from wsigen.config import SampleConfig, parse_bytes
from wsigen.errors import InvalidValueError

DESCRIPTION = (
    "Synthesise H&E slides. Writes OUT/NAME_HE.ome.tif with its provenance (.json) and a thumbnail (.jpg). "
    "Interrupted, the same command goes on where it stopped."
)

log = logging.getLogger(__name__)


def run(argv: Sequence[str], prog: str = "sample") -> None:
    """Parse ``argv`` and make the slides, or say what they would take."""
    config, _ = parse(SampleConfig, argv, prog=prog, description=DESCRIPTION)
    from wsigen.nn.snapshot import load_denoiser
    from wsigen.sampling.stage import Machine
    from wsigen.slide.write import check_output
    from wsigen.synthesis.job import plan_job
    from wsigen.synthesis.progress import Reporter
    from wsigen.synthesis.runtime import InPrecision, choose_batch_size, choose_device, choose_dtype
    from wsigen.synthesis.slide import is_finished, synthesise

    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    net = load_denoiser(config.model, device)
    jobs = list(_jobs(config, str(dtype).removeprefix("torch.")))
    specs = jobs[0].specs(net)
    _warn_of_unusual(config, specs[0].patch, specs[0].mpp, net.config)
    machine = Machine(
        device=device,
        batch_size=choose_batch_size(config.batch_size, specs[0].patch, device),
        order=config.schedule,
    )
    plan = plan_job(jobs[0], specs, config.schedule)
    runner = InPrecision(net, dtype)
    if config.dry_run:
        from wsigen.synthesis.estimate import describe_plan

        sys.stdout.write(describe_plan(plan, specs, runner, machine, slides=len(jobs)) + "\n")
        return
    _check_memory(config, plan.canvas_bytes)
    for job in jobs:
        if config.count > 1 and not config.overwrite and is_finished(job):
            log.info("%s is there already", job.slide)
            continue
        check_output(job.slide, config.overwrite)
        with Reporter(plan) as reporter:
            try:
                files = synthesise(
                    job, net, runner, machine, progress=reporter.update, overwrite=config.overwrite
                )
            except KeyboardInterrupt:
                reporter.close()
                log.warning("interrupted; the same command goes on from here (state in %s)", job.work)
                raise
        log.info("%s", files.slide)


def _jobs(config: SampleConfig, dtype: str) -> Iterator:  # pyright: ignore[reportMissingTypeArgument]
    from wsigen.nn.snapshot import weights_hash
    from wsigen.synthesis.job import SlideJob
    from wsigen.synthesis.presets import load_preset

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
    )
    if config.count == 1:
        yield job
        return
    for seed in range(config.seed, config.seed + config.count):
        yield replace(job, seed=seed, name=f"{config.name or 'synthetic'}-{seed}")


def _warn_of_unusual(config: SampleConfig, patch: int, base_mpp: float, trained: dict) -> None:
    if patch not in trained["patch_sizes"]:
        sizes = ", ".join(map(str, trained["patch_sizes"]))
        log.warning(
            "%d px in %d stages means patches of %d px; the model was trained on %s px, expect less of it",
            config.size,
            config.stages,
            patch,
            sizes,
        )
    low, high = trained["mpp_range"]
    if config.mpp < low * 0.99 or base_mpp > high * 1.01:
        log.warning(
            "stages run from %g to %g µm/px; the model was trained on %g to %g, expect less of it outside",
            base_mpp,
            config.mpp,
            low,
            high,
        )


def _check_memory(config: SampleConfig, needed: int) -> None:
    if needed > parse_bytes(config.memory):
        gib = -(-needed // 2**28) / 4
        raise InvalidValueError(
            f"the canvas of --size {config.size} with --schedule {config.schedule} takes {gib:g} GiB, "
            f"--memory allows {config.memory}; pass --memory {gib:g}GiB"
            + ("" if config.schedule == "wavefront" else " or --schedule wavefront")
        )

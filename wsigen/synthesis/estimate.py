"""What a slide would take, as a table: the answer to ``--dry-run``."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from tqdm import tqdm

from wsigen.diffusion.step import DenoiserFunction
from wsigen.sampling.stage import Machine, StageSpec
from wsigen.synthesis.job import JobPlan


@torch.inference_mode()
def seconds_per_evaluation(
    denoiser: DenoiserFunction, patch: int, mpp: float, machine: Machine, *, calls: int = 3
) -> float:
    """Measured seconds of the network for one patch, in batches as they will be run.

    Args:
        denoiser: D(x; sigma, mpp).
        patch: side in pixels.
        mpp: µm/px to ask for.
        machine: device and batch size.
        calls: timed calls, after one that is not.
    """
    batch, device = machine.batch_size, machine.device
    x = torch.randn(batch, 3, patch, patch).to(device)
    sigma, scale = torch.full((batch,), 0.5, device=device), torch.full((batch,), mpp, device=device)
    denoiser(x, sigma, scale)
    _wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        denoiser(x, sigma, scale)
    _wait(device)
    return (time.perf_counter() - start) / (calls * batch)


def describe_plan(
    plan: JobPlan,
    specs: Sequence[StageSpec],
    denoiser: DenoiserFunction,
    machine: Machine,
    *,
    slides: int = 1,
) -> str:
    """The plan as a table, with a time estimate from a few measured evaluations.

    Args:
        plan: of one slide.
        specs: of its stages.
        denoiser: D(x; sigma, mpp).
        machine: device, batch size and schedule.
        slides: how many such slides.
    """
    each = seconds_per_evaluation(denoiser, specs[-1].patch, specs[-1].mpp, machine)
    seconds = each * plan.evaluations
    titles = ("stage", "pixels", "µm/px", "patches", "evaluations", "rows", "canvas")
    lines = [" ".join(t.rjust(w) for t, w in zip(titles, (5, 7, 8, 9, 12, 6, 9), strict=True))]
    lines += [
        f"{s.stage:>5} {s.extent:>7} {s.mpp:>8g} {s.patch_rows * s.patch_cols:>9,} {s.evaluations:>12,} "
        f"{s.rows_alive:>6} {_bytes(s.band_bytes):>9}"
        for s in plan.stages
    ]
    skip = specs[-1].skip is not None
    lines += [
        "",
        f"network     {plan.evaluations:,} evaluations of {specs[-1].patch} px, {1000 * each:.1f} ms each on "
        f"{machine.device} in batches of {machine.batch_size}",
        f"time        {_interval(seconds)}" + (" at most: glass is skipped" if skip else ""),
        f"memory      {_bytes(plan.canvas_bytes)} of canvas, {machine.order} schedule",
        f"disk        {_bytes(plan.disk_bytes)} at most while it is made",
    ]
    if slides > 1:
        lines.append(f"all         {slides} slides, {_interval(slides * seconds)}")
    return "\n".join(lines)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _interval(seconds: float) -> str:
    return tqdm.format_interval(max(1, round(seconds)))


def _bytes(n: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n / 2**10:.0f} KiB"

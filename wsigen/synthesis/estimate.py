"""What a slide would take, as a table: the answer to ``--dry-run``."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from tqdm import tqdm

from wsigen.diffusion.step import DenoiserFunction
from wsigen.sampling.stage import Machine, StageSpec
from wsigen.slide.read import WholeSlide
from wsigen.synthesis.glass import slide_glass
from wsigen.synthesis.job import JobPlan
from wsigen.synthesis.outlay import Outlay, seconds_per_pixel, tissue_share
from wsigen.synthesis.stainers import Stainers


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
    stainers: Stainers | None = None,
) -> str:
    """The plan as a table, with a time estimate from a few measured evaluations.

    Args:
        plan: of one slide.
        specs: of its stages.
        denoiser: D(x; sigma, mpp).
        machine: device, batch size and schedule.
        slides: how many such slides.
        stainers: of the plan's stains, if it has any.
    """
    each = seconds_per_evaluation(denoiser, specs[-1].patch, specs[-1].mpp, machine)
    stained = seconds_per_pixel(stainers) if stainers else 0.0
    pixels = plan.stains.plan.network_pixels if plan.stains else 0
    seconds = each * plan.evaluations + stained * pixels
    titles = ("stage", "pixels", "µm/px", "patches", "evaluations", "rows", "canvas")
    lines = [" ".join(t.rjust(w) for t, w in zip(titles, (5, 7, 8, 9, 12, 6, 9), strict=True))]
    lines += [
        f"{s.stage:>5} {s.extent:>7} {s.mpp:>8g} {s.patch_rows * s.patch_cols:>9,} {s.evaluations:>12,} "
        f"{s.rows_alive:>6} {size_text(s.band_bytes):>9}"
        for s in plan.stages
    ]
    skip = specs[-1].skip is not None
    lines += [
        "",
        f"network     {plan.evaluations:,} evaluations of {specs[-1].patch} px, {1000 * each:.1f} ms each on "
        f"{machine.device} in batches of {machine.batch_size}",
        f"time        {time_text(seconds)}" + (" at most: glass is skipped" if skip else ""),
        f"memory      {size_text(plan.canvas_bytes)} of canvas, {machine.order} schedule",
        f"disk        {size_text(plan.disk_bytes)} at most while it is made",
    ]
    if stainers and plan.stains:
        lines.insert(-3, stains_text(stainers, plan.stains, stained))
        lines[-2] += f"; {size_text(plan.stains.host_bytes)} for stains"
    if slides > 1:
        lines.append(f"all         {slides} slides, {time_text(slides * seconds)}")
    return "\n".join(lines)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe_stains(slide: WholeSlide, stainers: Stainers, outlay: Outlay, *, disk_bytes: int) -> str:
    """What translating a slide takes, with a time estimate from a few measured tiles.

    Args:
        slide: the H&E.
        stainers: the generators.
        outlay: what they take.
        disk_bytes: at most, while the stains are made.
    """
    tile, size = outlay.plan.tile, slide.size
    share = tissue_share(slide_glass(slide).map, size, tile)
    each = seconds_per_pixel(stainers)
    return "\n".join(
        (
            f"slide       {size.width} × {size.height} px, {slide.mpp:g} µm/px; "
            f"{100 * share:.0f} % of the tiles show tissue",
            stains_text(stainers, outlay, each),
            f"time        {time_text(each * outlay.plan.network_pixels * share)}",
            f"memory      {size_text(outlay.host_bytes)}, {outlay.plan.rows_alive} rows at a time",
            f"disk        {size_text(disk_bytes)} at most while they are made",
        )
    )


def stains_text(stainers: Stainers, outlay: Outlay, seconds: float) -> str:
    """A line about the networks that make the stains.

    Args:
        stainers: the generators.
        outlay: what they take.
        seconds: measured, for a pixel that networks see.
    """
    plan, how = outlay.plan, stainers.rendering
    return (
        f"stains      {', '.join(s.marker for s in stainers.stains)}: {plan.tiles:,} tiles of {plan.tile} px "
        f"and {plan.patches:,} patches of statistics, {1e6 * seconds:.2f} s a megapixel on {how.device}"
    )


def time_text(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return tqdm.format_interval(max(1, round(seconds)))


def size_text(n: int) -> str:
    """An amount of memory in the largest unit of which it has one."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n / 2**10:.0f} KiB"

"""What a slide would take, as a table: the answer to ``--dry-run``."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from wsigen.diffusion.step import DenoiserFunction
from wsigen.geometry import Region
from wsigen.runtime import format_bytes
from wsigen.sampling.pixels import background_of
from wsigen.sampling.spec import AnySpec, Execution, GivenSpec, StageSpec, UpscaleSpec
from wsigen.sampling.tiles import CELL, Tiling, default_tile, tile_of
from wsigen.sampling.upscale import UpscalerFunction
from wsigen.slide.read import BACKGROUND, WholeSlide
from wsigen.synthesis.glass import slide_glass
from wsigen.synthesis.job import JobPlan
from wsigen.synthesis.outlay import Outlay, seconds_per_pixel, tissue_share
from wsigen.synthesis.overview import Overview
from wsigen.synthesis.stainers import Stainers

_SIDE = 256  # guide pixels


@torch.inference_mode()
def seconds_per_evaluation(
    denoiser: DenoiserFunction, patch: int, mpp: float, machine: Execution, *, calls: int = 3
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


@torch.inference_mode()
def seconds_per_pixel_seen(upscaler: UpscalerFunction, k: int, mpp: float, machine: Execution) -> float:
    """Measured seconds of the upscaler for a pixel of its result, halo included.

    Args:
        upscaler: G(y, z; µm/px).
        k: factor between guide and result.
        mpp: µm/px to ask for.
        machine: device.
    """
    device = machine.device
    side = (machine.tile or default_tile(device)) if device.type == "cuda" else _SIDE
    side = -(-side // upscaler.stride) * upscaler.stride
    y, z = torch.randn(1, 3, side, side), torch.randn(1, upscaler.noise_channels, side, side)
    y, z = (v.to(device).contiguous(memory_format=torch.channels_last) for v in (y, z))
    seconds = math.inf
    for _ in range(2):  # the first call chooses its kernels
        start = time.perf_counter()
        upscaler(y, z, torch.tensor([mpp], device=device))
        _wait(device)
        seconds = min(seconds, time.perf_counter() - start)
    return seconds / (k * side) ** 2


def describe_plan(
    plan: JobPlan,
    specs: Sequence[AnySpec],
    denoiser: DenoiserFunction,
    machine: Execution,
    *,
    upscaler: UpscalerFunction | None = None,
    overview: Overview | None = None,
    slides: int = 1,
    stainers: Stainers | None = None,
) -> str:
    """The plan as a table, with a time estimate from a few measured evaluations.

    Args:
        plan: of one slide.
        specs: of its stages.
        denoiser: D(x; sigma, mpp).
        machine: device, batch size and schedule.
        upscaler: G(y, z; µm/px), if there are stages that it makes.
        overview: that takes the place of stage 0; shows how much is background.
        slides: how many such slides.
        stainers: of the plan's stains, if it has any.
    """
    titles = ("stage", "pixels", "µm/px", "patches", "evaluations", "rows", "canvas")
    lines = [" ".join(t.rjust(w) for t, w in zip(titles, (5, 7, 8, 9, 12, 6, 9), strict=True))]
    lines += [
        f"{s.stage:>5} {s.extent:>7} {s.mpp:>8g} {s.patch_rows * s.patch_cols:>9,} {s.evaluations:>12,} "
        f"{s.rows_alive:>6} {format_bytes(s.band_bytes + s.feature_bytes):>9}"
        for s in plan.stages
    ]
    seconds, lines = 0.0, [*lines, ""]
    for patch, evaluations, mpp in _denoised(specs, plan):
        each = seconds_per_evaluation(denoiser, patch, mpp, machine)
        seconds += each * evaluations
        lines.append(
            f"network     {evaluations:,} evaluations of {patch} px, {1000 * each:.1f} ms each on "
            f"{machine.device} in batches of {machine.batch_size}"
        )
    upscaled = [spec for spec in specs if isinstance(spec, UpscaleSpec)]
    if upscaler and upscaled:
        each = seconds_per_pixel_seen(upscaler, upscaled[-1].k, upscaled[-1].mpp, machine)
        tiles, pixels = _seen(upscaled, upscaler, machine, overview)
        seconds += each * pixels
        lines.append(
            f"upscaler    {tiles:,} of {plan.tiles:,} tiles, {1e6 * each:.2f} s a megapixel seen on "
            f"{machine.device}"
        )
    skips = [spec for spec in specs if not isinstance(spec, GivenSpec) and spec.skip is not None]
    known = overview is not None and all(isinstance(spec, UpscaleSpec) for spec in skips)
    if stainers and plan.stains:
        stained = seconds_per_pixel(stainers)
        seconds += stained * plan.stains.plan.network_pixels
        lines.append(stains_text(stainers, plan.stains, stained))
    in_all = " for as much background as the overview has" if known else " at most: background is skipped"
    lines += [
        f"time        {time_text(seconds)}" + (in_all if skips else ""),
        f"memory      {format_bytes(plan.canvas_bytes)} of canvas, {machine.order} schedule",
        f"disk        {format_bytes(plan.disk_bytes)} at most while it is made",
    ]
    if plan.stains:
        lines[-2] += f"; {format_bytes(plan.stains.host_bytes)} for stains"
    if slides > 1:
        lines.append(f"all         {slides} slides, {time_text(slides * seconds)}")
    return "\n".join(lines)


def _denoised(specs: Sequence[AnySpec], plan: JobPlan) -> list[tuple[int, int, float]]:
    """Patch sizes of the stages by the denoiser, and for each its evaluations and the finest µm/px."""
    found: dict[int, tuple[int, float]] = {}
    for spec, stage in zip(specs, plan.stages, strict=True):
        if isinstance(spec, StageSpec):
            evaluations = found.get(spec.patch, (0, 0.0))[0] + stage.evaluations
            found[spec.patch] = evaluations, spec.mpp
    return [(patch, evaluations, mpp) for patch, (evaluations, mpp) in found.items()]


def _seen(
    specs: Sequence[UpscaleSpec],
    upscaler: UpscalerFunction,
    machine: Execution,
    overview: Overview | None,
) -> tuple[int, int]:
    """Tiles that are evaluated, and pixels that the upscaler sees: all, or what the overview shows."""
    tiles = pixels = 0
    for spec in specs:
        tiling = Tiling.of(spec, upscaler, tile_of(spec, machine))
        boxes = [(core, core) for core in tiling.cores(spec.bounds)]
        if overview and spec.skip:
            colour = background_of(overview.pixels, BACKGROUND)
            shown = spec.skip.occupied(overview.pixels, colour)
            boxes = [(box, core) for _, core in boxes if (box := _shown(shown, core, spec))]
        tiles += len(boxes)
        pixels += spec.k**2 * sum(tiling.network_input(box, core).size.area for box, core in boxes)
    return tiles, pixels


def _shown(shown: np.ndarray, core: Region, spec: UpscaleSpec) -> Region:
    """The part of a tile that is not background, as far as the overview shows it; in guide pixels."""
    scale = spec.guide_bounds.width / len(shown)
    y, x = int(core.y / scale), int(core.x / scale)
    part = shown[y : math.ceil(core.y1 / scale), x : math.ceil(core.x1 / scale)]
    rows, cols = (np.flatnonzero(part.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return Region(0, 0, 0, 0)
    margin = spec.skip.margin + CELL // 2 if spec.skip else 0
    top, left = int((y + rows[0]) * scale), int((x + cols[0]) * scale)
    height, width = (int((span[-1] - span[0] + 1) * scale) for span in (rows, cols))
    return Region(top, left, height, width).pad(margin).intersect(core)


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
            f"memory      {format_bytes(outlay.host_bytes)}, {outlay.plan.rows_alive} rows at a time",
            f"disk        {format_bytes(disk_bytes)} at most while they are made",
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

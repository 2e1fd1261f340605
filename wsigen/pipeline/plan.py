"""Plan a slide before it is made: memory, disk and network evaluations, and seconds from measured calls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from wsigen.diffusion.step import DenoiserFunction
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size
from wsigen.pipeline.background import CELL
from wsigen.pipeline.outputs import HEOutput
from wsigen.pipeline.rows import READERS, STRIP
from wsigen.pipeline.source import Overview
from wsigen.pipeline.stainers import Stainers
from wsigen.runtime import choose_batch_size, format_bytes, memory_flag, parse_bytes
from wsigen.sampling.pixels import background_of
from wsigen.sampling.plan import StagePlan, plan_any
from wsigen.sampling.spec import Execution, StageSpec, UpscaleSpec, diffused
from wsigen.sampling.tiles import CELL as SKIP_CELL
from wsigen.sampling.tiles import Tiling, default_tile, tile_of
from wsigen.sampling.upscale import UpscalerFunction
from wsigen.slide.codec import ZSTD
from wsigen.slide.handles import CACHE_BYTES
from wsigen.slide.read import BACKGROUND
from wsigen.slide.write import estimate_bytes
from wsigen.stain.engine.background import BackgroundMap
from wsigen.stain.engine.plan import TranslationPlan, plan_translation

_SAMPLE = 512  # px a side of the picture that stainers are timed with
_SIDE = 256  # guide pixels a side that the upscaler is timed with on the CPU
_LEAST_TILE = 128  # guide pixels; of smaller tiles, most of what the upscaler sees is halo


@dataclass(frozen=True)
class StainPlan:
    """Plan of the IHC slides of one H&E slide.

    Args:
        translation: with the tile that is used.
        host_bytes: memory of the process for the stainers, the journals and the reader.
    """

    translation: TranslationPlan
    host_bytes: int


@dataclass(frozen=True)
class SlidePlan:
    """Plan of a sampled slide.

    Args:
        he: the slide.
        stages: of the slide.
        disk_bytes: at most, while the slide and its IHC slides are made.
        stains: plan of its IHC slides, if there are any.
    """

    he: HEOutput
    stages: tuple[StagePlan, ...]
    disk_bytes: int
    stains: StainPlan | None = None

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser, one patch each, if no patch is skipped."""
        return sum(s.evaluations for s in self.stages if s.network == "denoiser")

    @property
    def tiles(self) -> int:
        """Tiles of the stages that the upscaler makes."""
        return sum(s.patches for s in self.stages if s.network == "upscaler")

    @property
    def patches(self) -> int:
        """Patch-steps of all stages."""
        return sum(s.patches for s in self.stages)

    @property
    def canvas_bytes(self) -> int:
        """Host or device memory of the largest stage: its canvas, or its rows and the upscaler's features."""
        return max(s.band_bytes + s.feature_bytes for s in self.stages)


def plan_slide(he: HEOutput, execution: Execution, upscaler: UpscalerFunction | None = None) -> SlidePlan:
    """Plan a sampled slide, without its IHC slides' memory.

    Args:
        he: the slide.
        execution: for the schedule, and the size of the upscaler's tiles.
        upscaler: G(y, z; µm/px), if it makes stages.
    """
    stages = tuple(plan_any(spec, execution, upscaler) for spec in he.specs)
    # A region is computed from tiles in memory: it leaves no journals of the stages above.
    above = [] if he.region else [estimate_bytes(s.size, ZSTD) for s in stages[:-1]]
    return SlidePlan(he, stages, he.disk_bytes + sum(above) + sum(ihc.disk_bytes for ihc in he.ihc))


def plan_largest(
    slides: Sequence[HEOutput],
    upscaler: UpscalerFunction | None,
    stainers: Stainers | None,
    device: torch.device,
    *,
    batch_size: int | Literal["auto"],
    order: Literal["wavefront", "steps"],
    memory: str,
) -> tuple[Execution, SlidePlan]:
    """Choose batch size and tile; plan the slide that takes most memory, and its IHC slides.

    Args:
        slides: those that a plan can tell apart.
        upscaler: G(y, z; µm/px), if it makes stages.
        stainers: of the IHC slides, if there are any.
        device: that the networks run on.
        batch_size: patches per call of a network, or "auto".
        order: of the patches of a stage.
        memory: limit for the canvas, and for the stainers on the host, such as "8GiB".
    """
    batch = choose_batch_size(batch_size, max(map(_largest_patch, slides)), device)
    execution = Execution(device=device, batch_size=batch, order=order)
    allowed = parse_bytes(memory)

    def largest(execution: Execution) -> SlidePlan:
        plans = [plan_slide(he, execution, upscaler) for he in slides]
        return max(plans, key=lambda plan: plan.canvas_bytes)

    if upscaler:
        execution = fit_tile(execution, largest, allowed)
    plan = largest(execution)
    if stainers:
        # On a GPU the canvas takes none of the host's memory.
        canvas = plan.canvas_bytes if device.type == "cpu" else 0
        plan = replace(plan, stains=plan_stains(stainers, slides[0].whole, allowed=allowed - canvas))
    return execution, plan


def _largest_patch(he: HEOutput) -> int:
    """Return the side of a square of as many pixels as the denoiser's largest patch."""
    return math.isqrt(max([spec.patch.area for spec in diffused(he.specs)], default=he.specs[0].size.area))


def fit_tile(execution: Execution, plan: Callable[[Execution], SlidePlan], allowed: int) -> Execution:
    """Return the execution with the largest upscaler tile that the memory allows, or else the smallest.

    Args:
        execution: with the default tile.
        plan: makes the plan for an execution.
        allowed: bytes of memory for the canvas.
    """
    tile = default_tile(execution.device)
    while plan(execution).canvas_bytes > allowed and tile > _LEAST_TILE:
        tile //= 2
        execution = replace(execution, tile=tile)
    return execution


def journal_bytes(width: int) -> int:
    """Return the memory of writing a journal: a row of tiles per level, and the encoded ones of one.

    Args:
        width: of the slide in pixels.
    """
    return 3 * 3 * 256 * width


def reading_bytes(width: int) -> int:
    """Return the memory of reading a slide by strips: those read ahead, and the reader's cache.

    Args:
        width: of the slide in pixels.
    """
    return 3 * (READERS + 1) * STRIP * width + CACHE_BYTES


def plan_stains(stainers: Stainers, size: Size, *, allowed: int, beside: int = 0) -> StainPlan:
    """Plan the IHC slides of a slide; see `plan_translation`.

    Args:
        stainers: that make them.
        size: of the slide in pixels.
        allowed: bytes of memory.
        beside: bytes that they need elsewhere, such as for reading the slide.

    Raises:
        InvalidValueError: no network can take the tile or pitch.
    """
    beside += journal_bytes(size.width) * len(stainers.nets)
    translation = _plan_translation(stainers, size, allowed - beside)
    return StainPlan(translation, translation.host_bytes + beside)


def _plan_translation(stainers: Stainers, size: Size, memory: int = 0) -> TranslationPlan:
    how = stainers.rendering
    return plan_translation(
        size,
        stainers.nets,
        norm=how.norm,
        pitch=how.pitch,
        tile=how.tile,
        batch=how.batch,
        dtype=how.dtype,
        device=how.device,
        background_cell=CELL,
        memory=memory,
    )


def check_memory(needed: int, memory: str, what: str, *, other: str = "") -> None:
    """Refuse a plan that needs more than ``--memory``.

    Args:
        needed: bytes.
        memory: as given to ``--memory``.
        what: needs them, with its verb, such as "one stain takes".
        other: remedy besides more memory.

    Raises:
        InvalidValueError: it does not fit; names what would.
    """
    if needed > parse_bytes(memory):
        enough = memory_flag(needed)
        raise InvalidValueError(
            f"{what} {enough.replace('GiB', ' GiB')}, --memory allows {memory}; pass --memory {enough}{other}"
        )


def tissue_share(background: BackgroundMap, region: Region, tile: int) -> float:
    """Return the share of the tiles that are rendered, since they show more than background.

    Args:
        background: of the slide.
        region: of the slide that is made.
        tile: side of the tiles, px.
    """
    tops, lefts = range(region.y, region.y1, tile), range(region.x, region.x1, tile)
    tiles = [Region(y, x, tile, tile).intersect(region) for y in tops for x in lefts]
    return sum(background.range(tile)[1] > 0 for tile in tiles) / len(tiles)


def seconds_per_pixel(stainers: Stainers) -> float:
    """Measure the seconds for a pixel that stainers see, as a mean of statistics and rendering."""
    size = Size(_SAMPLE, _SAMPLE)
    # noise: statistics of flat pixels would not be measured
    rows = np.random.default_rng(0).integers(0, 256, (_SAMPLE, _SAMPLE, 3)).astype(np.uint8)
    stainers = stainers.with_tile(_SAMPLE)

    def translate() -> None:
        read = lambda r: rows[r.y : r.y1, r.x : r.x1]  # noqa: E731
        for _ in stainers.begin(size, None, read=read).push(rows):
            pass

    pixels = _plan_translation(stainers, size).network_pixels
    return _seconds(translate, stainers.rendering.device) / pixels


@torch.inference_mode()
def seconds_per_evaluation(
    denoiser: DenoiserFunction, patch: Size, mpp: float, execution: Execution
) -> float:
    """Measure the seconds of the denoiser for one patch, in batches as they will be run.

    Args:
        denoiser: D(x; sigma, mpp).
        patch: size in pixels.
        mpp: µm/px to ask for.
        execution: device and batch size.
    """
    batch, device = execution.batch_size, execution.device
    x = torch.randn(batch, 3, *patch.sides).to(device)
    sigma, scale = torch.full((batch,), 0.5, device=device), torch.full((batch,), mpp, device=device)
    return _seconds(lambda: denoiser(x, sigma, scale), device, calls=4) / batch


@torch.inference_mode()
def seconds_per_upscaled_pixel(upscaler: UpscalerFunction, k: int, mpp: float, execution: Execution) -> float:
    """Measure the seconds of the upscaler for a pixel of its result, halo included.

    Args:
        upscaler: G(y, z; µm/px).
        k: factor between guide and result.
        mpp: µm/px to ask for.
        execution: device, and side of the tiles.
    """
    device = execution.device
    side = (execution.tile or default_tile(device)) if device.type == "cuda" else _SIDE
    side = -(-side // upscaler.stride) * upscaler.stride
    y, z = torch.randn(1, 3, side, side), torch.randn(1, upscaler.noise_channels, side, side)
    y, z = (v.to(device).contiguous(memory_format=torch.channels_last) for v in (y, z))
    scale = torch.tensor([mpp], device=device)
    return _seconds(lambda: upscaler(y, z, scale), device) / (k * side) ** 2


def _seconds(call: Callable[[], object], device: torch.device, *, calls: int = 2) -> float:
    """Return the seconds of the fastest of several calls; the first compiles, or chooses its kernels."""
    seconds = math.inf
    for _ in range(calls):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # a call returns before the GPU has done it
        seconds = min(seconds, time.perf_counter() - start)
    return seconds


def describe_stages(plan: SlidePlan) -> list[str]:
    """Return the stages of a plan as lines of a table."""
    titles = ("stage", "pixels", "µm/px", "patches", "evaluations", "rows", "canvas")
    pixels = max(7, *(len(str(s.size)) for s in plan.stages))
    lines = [" ".join(t.rjust(w) for t, w in zip(titles, (5, pixels, 8, 9, 12, 6, 9), strict=True))]
    return lines + [
        f"{s.stage:>5} {s.size!s:>{pixels}} {s.mpp:>8g} {s.patch_rows * s.patch_cols:>9,} "
        f"{s.evaluations:>12,} {s.rows_alive:>6} {format_bytes(s.band_bytes + s.feature_bytes):>9}"
        for s in plan.stages
    ]


def describe_denoiser(
    plan: SlidePlan, denoiser: DenoiserFunction, execution: Execution
) -> tuple[list[str], float]:
    """Time the denoiser; return a line for each of its patch sizes, and the seconds of all evaluations."""
    found: dict[Size, tuple[int, float]] = {}
    for spec, stage in zip(plan.he.specs, plan.stages, strict=True):
        if isinstance(spec, StageSpec):
            evaluations = found.get(spec.patch, (0, 0.0))[0] + stage.evaluations
            found[spec.patch] = evaluations, spec.mpp  # one measurement for all stages of this size
    lines, seconds = [], 0.0
    twice = "" if plan.he.guidance == 1 else " with and without class"
    for patch, (evaluations, mpp) in found.items():
        each = seconds_per_evaluation(denoiser, patch, mpp, execution)
        seconds += each * evaluations
        lines.append(
            f"network     {evaluations:,} evaluations of {patch} px, {1000 * each:.1f} ms each{twice} on "
            f"{execution.device} in batches of {execution.batch_size}"
        )
    return lines, seconds


def describe_upscaler(
    plan: SlidePlan, upscaler: UpscalerFunction | None, execution: Execution
) -> tuple[list[str], float]:
    """Time the upscaler; return a line about it and the seconds of all its tiles; nothing if it is unused."""
    upscaled = [spec for spec in plan.he.specs if isinstance(spec, UpscaleSpec)]
    if upscaler is None or not upscaled:
        return [], 0.0
    each = seconds_per_upscaled_pixel(upscaler, upscaled[-1].k, upscaled[-1].mpp, execution)
    tiles, pixels = _upscaled(upscaled, upscaler, execution, plan.he.overview)
    text = f"{tiles:,} of {plan.tiles:,} tiles, {1e6 * each:.2f} s a megapixel seen on {execution.device}"
    return [f"upscaler    {text}"], each * pixels


def _upscaled(
    specs: Sequence[UpscaleSpec], upscaler: UpscalerFunction, execution: Execution, overview: Overview | None
) -> tuple[int, int]:
    """Count the tiles and pixels that the upscaler sees: all, or those that are tissue in the overview."""
    tiles = pixels = 0
    for spec in specs:
        tiling = Tiling.of(spec, upscaler, tile_of(spec, execution))
        boxes = [(core, core) for core in tiling.cores(spec.bounds)]
        if overview and spec.skip:
            occupied = spec.skip.occupied(overview.pixels, background_of(overview.pixels, BACKGROUND))
            boxes = [(box, core) for _, core in boxes if (box := _tissue(occupied, core, spec))]
        tiles += len(boxes)
        pixels += spec.k**2 * sum(tiling.network_input(box, core).size.area for box, core in boxes)
    return tiles, pixels


def _tissue(occupied: np.ndarray, core: Region, spec: UpscaleSpec) -> Region:
    """Return the part of a tile that is not background in the overview; in guide pixels."""
    scale = spec.guide_bounds.width / occupied.shape[1]  # guide pixels for each pixel of the overview
    y, x = int(core.y / scale), int(core.x / scale)
    part = occupied[y : math.ceil(core.y1 / scale), x : math.ceil(core.x1 / scale)]
    rows, cols = (np.flatnonzero(part.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return Region(0, 0, 0, 0)
    # cells are evaluated whole: half a cell more, on average
    margin = spec.skip.margin + SKIP_CELL // 2 if spec.skip else 0
    top, left = int((y + rows[0]) * scale), int((x + cols[0]) * scale)
    height, width = (int((span[-1] - span[0] + 1) * scale) for span in (rows, cols))
    return Region(top, left, height, width).pad(margin).intersect(core)


def describe_stains(stainers: Stainers, plan: StainPlan) -> tuple[str, float]:
    """Time the stainers; return a line about them, and the seconds of all pixels that they see."""
    t, each = plan.translation, seconds_per_pixel(stainers)
    line = (
        f"stains      {', '.join(s.marker for s in stainers.stains)}: {t.tiles:,} tiles of {t.tile} px "
        f"and {t.patches:,} patches of statistics, {1e6 * each:.2f} s a megapixel on "
        f"{stainers.rendering.device}"
    )
    return line, each * t.network_pixels


def time_text(seconds: float) -> str:
    """Return hours, minutes and seconds."""
    return tqdm.format_interval(max(1, round(seconds)))

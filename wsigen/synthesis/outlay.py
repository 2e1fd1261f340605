"""What stains take: memory, refused before anything begins if it is too much; tiles, disk and time."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from wsigen.geometry import Region, Size
from wsigen.slide.handles import CACHE_BYTES
from wsigen.stain.engine.background import BackgroundMap
from wsigen.stain.engine.plan import TranslationPlan, plan_translation
from wsigen.synthesis.glass import CELL
from wsigen.synthesis.source import READERS, STRIP
from wsigen.synthesis.stainers import Stainers

# px. The larger, the less of what networks see is halo; the smaller, the less memory.
_TILES, _CUDA_TILES = (1024, 768, 512, 256), (2048, 1024, 512, 256)
_SAMPLE = 512


@dataclass(frozen=True)
class Outlay:
    """What the stains of a slide take.

    Args:
        plan: of the translation, with the tile that it will have.
        host_bytes: memory of the process for the stains and what comes beside them.
    """

    plan: TranslationPlan
    host_bytes: int


def journal_bytes(width: int) -> int:
    """Memory of a journal that is being written: a row of tiles for each level, and the encoded ones of one.

    Args:
        width: of the slide in pixels.
    """
    return 3 * 3 * 256 * width


def reading_bytes(width: int) -> int:
    """Memory of reading a slide by strips: those on their way, and decoded tiles.

    Args:
        width: of the slide in pixels.
    """
    return 3 * (READERS + 1) * STRIP * width + CACHE_BYTES


def plan_stains(stainers: Stainers, size: Size, *, allowed: int, beside: int = 0) -> Outlay:
    """What the stains of a slide take, with the largest tile that the memory allows, or else the smallest.

    Args:
        stainers: the generators.
        size: of the slide in pixels.
        allowed: bytes of memory.
        beside: bytes that something else needs for their sake, such as reading the slide.

    Raises:
        InvalidValueError: a tile or pitch that no network can take.
    """
    beside += journal_bytes(size.width) * len(stainers.nets)
    tile = stainers.rendering.tile
    choices = _CUDA_TILES if stainers.rendering.device.type == "cuda" else _TILES
    sides = [tile] if isinstance(tile, int) else choices
    outlays = (_outlay(stainers, size, side, beside) for side in sides)
    outlay = next(outlays)
    for smaller in outlays:
        if outlay.host_bytes <= allowed:
            break
        outlay = smaller
    return outlay


def _outlay(stainers: Stainers, size: Size, tile: int, beside: int) -> Outlay:
    plan = _plan(stainers, size, tile)
    writing = 3 * size.width * min(tile, size.height)  # a row of tiles, while the next is rendered
    return Outlay(plan, plan.host_bytes + writing + beside)


def _plan(stainers: Stainers, size: Size, tile: int) -> TranslationPlan:
    how = stainers.rendering
    return plan_translation(
        size,
        stainers.nets,
        norm=how.norm,
        pitch=how.pitch,
        tile=tile,
        batch=how.batch,
        dtype=how.dtype,
        device=how.device,
        background_cell=CELL,
    )


def tissue_share(glass: BackgroundMap, size: Size, tile: int) -> float:
    """Share of a slide's tiles that have to be rendered, since they are not all glass.

    Args:
        glass: of the slide.
        size: of the slide in pixels.
        tile: side of the tiles, px.
    """
    tops, lefts = range(0, size.height, tile), range(0, size.width, tile)
    seen = [glass.range(Region(y, x, tile, tile).intersect(size.region))[1] > 0 for y in tops for x in lefts]
    return sum(seen) / len(seen)


def seconds_per_pixel(stainers: Stainers) -> float:
    """Measured seconds for a pixel that networks see, as a mean of statistics and rendering.

    Args:
        stainers: the generators.
    """
    size = Size(_SAMPLE, _SAMPLE)
    rows = np.random.default_rng(0).integers(0, 256, (_SAMPLE, _SAMPLE, 3)).astype(np.uint8)
    pixels = _plan(stainers, size, _SAMPLE).network_pixels
    seconds = math.inf
    for _ in range(2):  # the first call compiles, or chooses its kernels
        translator = stainers.with_tile(_SAMPLE).begin(
            size, None, read=lambda r: rows[r.y : r.y1, r.x : r.x1]
        )
        start = time.perf_counter()
        for _ in translator.push(rows):
            pass
        if stainers.rendering.device.type == "cuda":
            torch.cuda.synchronize(stainers.rendering.device)
        seconds = min(seconds, time.perf_counter() - start)
    return seconds / pixels

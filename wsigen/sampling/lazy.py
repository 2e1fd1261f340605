"""A slide as a function: any region of any stage, computed where it is read, without the slide.

Noise is a function of position and an upscaler is a convolution, so a region of a stage follows from a
slightly larger one of half the size in the stage above, and so on up to stage 0: about as much work on every
level, however large the slide. What the denoiser makes, stage 0 above all, is small, drawn once and kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import numpy as np

from wsigen.diffusion.step import DenoiserFunction
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region
from wsigen.sampling.background import Colour, glass_colour
from wsigen.sampling.cascade import run_cascade
from wsigen.sampling.plan import AnySpec
from wsigen.sampling.reach import UpscaleSpec
from wsigen.sampling.rows import RowSource
from wsigen.sampling.stage import Machine
from wsigen.sampling.upscale import Pieces, UpscaledStage, UpscalerFunction

TILE = 128
"""Side of the tiles that are kept. What is missing is computed together, so that small ones cost no more."""

LARGEST = 4096
"""Side of the largest stage that the denoiser may make; it is kept whole."""

_AT_ONCE = 256


class TileCache:
    """Tiles of several stages, those that were used last, within a limit.

    Args:
        limit: bytes of pixels, at most.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.nbytes = limit, 0
        self._tiles: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()

    def get(self, stage: int, row: int, col: int) -> np.ndarray | None:
        """A tile, if it is there."""
        key = (stage, row, col)
        if key in self._tiles:
            self._tiles.move_to_end(key)
        return self._tiles.get(key)

    def put(self, stage: int, row: int, col: int, tile: np.ndarray) -> None:
        """Keep a tile; the cache takes it over."""
        old = self._tiles.pop((stage, row, col), None)
        self._tiles[stage, row, col] = tile
        self.nbytes += tile.nbytes - (0 if old is None else old.nbytes)
        while self.nbytes > self.limit:
            self.nbytes -= self._tiles.popitem(last=False)[1].nbytes


class CachedStage:
    """A `RowSource` that computes the tiles of a stage that are not in the cache.

    Args:
        stage: that computes pixels.
        cache: of its tiles.
    """

    def __init__(self, stage: UpscaledStage, cache: TileCache) -> None:
        self._stage, self._cache = stage, cache

    def read(self, region: Region) -> np.ndarray:
        """Pixels of a region inside the stage: uint8 (height, width, 3)."""
        number, bounds = self._stage.spec.stage, self._stage.spec.bounds
        tiles = {at: self._cache.get(number, *at) for at in _tiles(region)}
        missing = [at for at, tile in tiles.items() if tile is None]
        if missing:
            box = _box(missing).intersect(bounds)
            pixels = self._stage.read(box)
            for at in _tiles(box):
                spot = _spot(at).intersect(bounds)
                tiles[at] = tile = _part(pixels, box, spot).copy()
                self._cache.put(number, *at, tile)
        out = np.empty((region.height, region.width, 3), np.uint8)
        for at, tile in tiles.items():
            spot = _spot(at).intersect(bounds)
            inside = spot.intersect(region)
            if inside:
                assert tile is not None, "all have been computed"
                _part(out, region, inside)[:] = _part(tile, spot, inside)
        return out


class DrawnStage:
    """Rows in memory: the store of a stage that is made once and kept whole.

    Args:
        extent: side of the stage in pixels.
    """

    def __init__(self, extent: int) -> None:
        self._pixels = np.empty((extent, extent, 3), np.uint8)
        self.rows_done = 0

    def append(self, rows: np.ndarray) -> None:
        """Take the next rows: uint8 (any height ≥ 1, width, 3)."""
        self._pixels[self.rows_done : self.rows_done + len(rows)] = rows
        self.rows_done += len(rows)

    def read(self, region: Region) -> np.ndarray:
        """Pixels of a region inside the stage: uint8 (height, width, 3)."""
        return self._pixels[region.y : region.y1, region.x : region.x1].copy()


class LazyCascade:
    """The stages of a slide, each computed where it is read.

    Args:
        specs: of all stages, from `wsigen.sampling.plan.stage_specs`.
        denoiser: D(x; sigma, mpp), of the first stages.
        upscaler: G(y, z; µm/px), of the others.
        background: colour of glass in the model's training slides, for base images that show none.
        base: picture in place of stage 0, uint8 (side, side, 3), if that is not sampled.
        machine: where and how to run.
        cache: bytes of tiles that are kept, of all stages that the upscaler makes.

    Memory: the cache, the stages that the denoiser makes, 37 MiB of noise for each other stage, and the
        features of a tile of 256 guide pixels with what lies around it; and a region that is read.

    Determinism: pixels are those of `wsigen.sampling.cascade.run_cascade`: in float32 on the CPU bit for bit,
        elsewhere but for rounding. Neither the order of reads nor the cache can be seen. Threads may read at
        the same time, and wait for one another.

    Raises:
        InvalidValueError: the last stage, or one larger than 4096 px, is the denoiser's; or there is no
            upscaler, or one with another k.
    """

    def __init__(
        self,
        specs: Sequence[AnySpec],
        denoiser: DenoiserFunction,
        upscaler: UpscalerFunction | None,
        *,
        background: Colour,
        base: np.ndarray | None = None,
        machine: Machine | None = None,
        cache: int = 512 << 20,
    ) -> None:
        self.specs, self._drawn = tuple(specs), _check(specs)
        self._denoiser, self._base, self._machine = denoiser, base, machine or Machine()
        self._upscaler, self._background = _needed(upscaler, specs), background
        self._cache, self._lock = TileCache(cache), Lock()
        self._stages: list[DrawnStage | UpscaledStage] = []
        self._sources: list[RowSource] = []

    @property
    def background(self) -> Colour:
        """Colour of the slide's empty parts, as its stages see it; draws stage 0 if that is not done yet."""
        with self._lock:
            self._begin()
            return self._background

    @property
    def cached_bytes(self) -> int:
        """Bytes of tiles that are kept at present."""
        return self._cache.nbytes

    def read(self, region: Region, stage: int, *, keep: bool = False) -> np.ndarray:
        """Pixels of a region of a stage: uint8 (height, width, 3).

        Args:
            region: inside the stage, not empty.
            stage: 0 is the coarsest.
            keep: whether what is computed of the last stage is kept in the cache, as what is computed of the
                others always is.

        Raises:
            InvalidValueError: a network returns values that are not numbers.
        """
        with self._lock:
            self._begin()
            whole = keep or stage < len(self.specs) - 1
            return (self._sources if whole else self._stages)[stage].read(region)

    def source(self, stage: int) -> StageReader:
        """A stage as others read it, with what they read kept."""
        return StageReader(self, stage)

    def _begin(self) -> None:
        """Draws what the denoiser makes, and sets up the rest; the first time only."""
        if self._sources:
            return
        stages: list[DrawnStage | UpscaledStage] = []

        def store(stage: int) -> DrawnStage:
            stages.append(drawn := DrawnStage(self.specs[stage].extent))
            if stage == 0 and self._base is not None:
                drawn.append(self._base)
            return drawn

        first = self.specs[: self._drawn]
        run_cascade(self._denoiser, first, store, background=self._background, machine=self._machine)
        base = stages[0].read(Region(0, 0, first[0].extent, first[0].extent))
        if len(self.specs) > 1:
            self._background = glass_colour(base, self._background)
        sources: list[RowSource] = list(stages)
        for spec in self.specs[self._drawn :]:
            assert isinstance(spec, UpscaleSpec)
            assert self._upscaler is not None
            stage = UpscaledStage(
                spec,
                self._upscaler,
                sources[-1],
                background=self._background,
                device=self._machine.device,
                pieces=Pieces(tile=self._machine.tile or _AT_ONCE),
            )
            stages.append(stage)
            sources.append(CachedStage(stage, self._cache))
        self._stages, self._sources = stages, sources


class StageReader:
    """A `RowSource` over a stage of a cascade."""

    def __init__(self, cascade: LazyCascade, stage: int) -> None:
        self._cascade, self._stage = cascade, stage

    def read(self, region: Region) -> np.ndarray:
        """Pixels of a region inside the stage: uint8 (height, width, 3)."""
        return self._cascade.read(region, self._stage, keep=True)


def _check(specs: Sequence[AnySpec]) -> int:
    """How many of the first stages the denoiser makes."""
    drawn = [spec for spec in specs if not isinstance(spec, UpscaleSpec)]
    last = max((spec.stage for spec in drawn), default=-1)
    if len(drawn) != last + 1:
        raise InvalidValueError("the denoiser must make stage 0 and no stage below one of the upscaler's")
    if (last and last == len(specs) - 1) or drawn[-1].extent > LARGEST:
        raise InvalidValueError(
            f"the preset diffuses stage {last} of {len(specs) - 1}, {drawn[-1].extent} px at "
            f"{drawn[-1].mpp:g} µm/px, and no part of such a stage can be had without the whole; choose "
            '--preset one-step (preset="one-step"), or sample the slide'
        )
    return len(drawn)


def _needed(upscaler: UpscalerFunction | None, specs: Sequence[AnySpec]) -> UpscalerFunction | None:
    wanted = [spec for spec in specs if isinstance(spec, UpscaleSpec)]
    if wanted and upscaler is None:
        raise InvalidValueError(
            "the model has no upscaler, which the preset needs; choose another --model (model=…), or train "
            "one and save it beside the denoiser"
        )
    if wanted and upscaler is not None and upscaler.k != wanted[0].k:
        raise InvalidValueError(
            f"the upscaler enlarges {upscaler.k} times, the stages grow {wanted[0].k} times"
        )
    return upscaler


def _tiles(region: Region) -> list[tuple[int, int]]:
    rows = range(region.y // TILE, -(-region.y1 // TILE))
    return [(row, col) for row in rows for col in range(region.x // TILE, -(-region.x1 // TILE))]


def _spot(at: tuple[int, int]) -> Region:
    return Region(at[0] * TILE, at[1] * TILE, TILE, TILE)


def _box(tiles: Sequence[tuple[int, int]]) -> Region:
    """The smallest region that holds all of some tiles."""
    rows, cols = [row for row, _ in tiles], [col for _, col in tiles]
    y, x, y1, x1 = min(rows), min(cols), max(rows) + 1, max(cols) + 1
    return Region(y * TILE, x * TILE, (y1 - y) * TILE, (x1 - x) * TILE)


def _part(pixels: np.ndarray, held: Region, region: Region) -> np.ndarray:
    """A view of a region of pixels that lie at ``held``."""
    spot = region.shift(-held.y, -held.x)
    return pixels[spot.y : spot.y1, spot.x : spot.x1]

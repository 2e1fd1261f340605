"""Any region of any stage of a slide, computed when it is read, without making the slide.

Noise is a function of position and an upscaler is a convolution, so a region of a stage follows from a
slightly larger one of half the size in the stage above, and so on up to stage 0: about as much work in every
stage, however large the slide. The stages that the denoiser makes are small, sampled once and kept whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np

from wsigen.arrays import ArrayCache, part, paste
from wsigen.diffusion.step import DenoiserFunction
from wsigen.errors import InvalidValueError
from wsigen.geometry import Colour, Region, Size
from wsigen.sampling.cascade import run_cascade
from wsigen.sampling.pixels import background_of
from wsigen.sampling.rows import RowSource
from wsigen.sampling.spec import AnySpec, Execution, UpscaleSpec
from wsigen.sampling.upscale import TileOptions, UpscaledStage, UpscalerFunction

TILE = 128
"""Side of the cached tiles. Missing ones are computed together, so that small ones cost no more."""

LARGEST = 4096
"""Longer side of the largest stage that the denoiser may make; it is kept whole."""

_AT_ONCE = 256


class CachedStage:
    """A `RowSource` that reads cached tiles of a stage and computes missing ones.

    Args:
        stage: computes pixels.
        cache: of its tiles.
    """

    def __init__(self, stage: UpscaledStage, cache: ArrayCache) -> None:
        self._stage, self._cache = stage, cache

    def read(self, region: Region) -> np.ndarray:
        """Return the pixels of a region inside the stage: uint8 (height, width, 3)."""
        number, bounds = self._stage.spec.stage, self._stage.spec.bounds
        tiles = {at: self._cache.get((number, *at)) for at in _tiles(region)}
        missing = [at for at, tile in tiles.items() if tile is None]
        if missing:
            # One read for all missing tiles, and those between them: most of the work of a small read is
            # halo.
            box = _box(missing).intersect(bounds)
            pixels = self._stage.read(box)
            for at in _tiles(box):
                spot = _spot(at).intersect(bounds)
                tiles[at] = tile = part(pixels, box, spot).copy()
                self._cache.put((number, *at), tile)
        out = np.empty((region.height, region.width, 3), np.uint8)
        for at, tile in tiles.items():
            assert tile is not None, "missing tiles were computed above"
            paste(tile, _spot(at).intersect(bounds), out, region)
        return out


class StoredStage:
    """Store of a small stage that is kept whole in memory.

    Args:
        size: of the stage in pixels.
    """

    def __init__(self, size: Size) -> None:
        self._pixels = np.empty((*size.sides, 3), np.uint8)
        self.rows_done = 0

    def append(self, rows: np.ndarray) -> None:
        """Take the next rows: uint8 (any height ≥ 1, width, 3)."""
        self._pixels[self.rows_done : self.rows_done + len(rows)] = rows
        self.rows_done += len(rows)

    def read(self, region: Region) -> np.ndarray:
        """Return the pixels of a region inside the stage: uint8 (height, width, 3)."""
        return self._pixels[region.y : region.y1, region.x : region.x1].copy()


class LazyCascade:
    """The stages of a slide, each computed when it is read.

    Args:
        specs: of all stages, from `wsigen.sampling.spec.stage_specs`.
        denoiser: D(x; sigma, mpp), of the first stages.
        upscaler: G(y, z; µm/px), of the others.
        background: background colour of the model's training slides, for base images that show none.
        base: picture in place of stage 0, uint8 (height, width, 3); None samples it.
        execution: where and how to run.
        cache: bytes of cached tiles of upscaled stages, at most.

    Memory: the cache, the diffused stages, 37 MiB of noise for each upscaled stage, the features of a tile of
        256 guide pixels with its halo, and the region that is read.

    Determinism: pixels are those of `wsigen.sampling.cascade.run_cascade`: in float32 on the CPU bit for bit,
        elsewhere up to rounding. Neither the order of reads nor the cache changes them. Threads may read at
        the same time, and wait for one another.

    Raises:
        InvalidValueError: the last stage, or one larger than 4096 px, is diffused; or the upscaler is missing
            or has another k.
    """

    def __init__(
        self,
        specs: Sequence[AnySpec],
        denoiser: DenoiserFunction,
        upscaler: UpscalerFunction | None,
        *,
        background: Colour,
        base: np.ndarray | None = None,
        execution: Execution | None = None,
        cache: int = 512 << 20,
    ) -> None:
        self.specs, self._diffused = tuple(specs), _check(specs)
        self._denoiser, self._base, self._execution = denoiser, base, execution or Execution()
        self._upscaler, self._background = _needed(upscaler, specs), background
        self._cache, self._lock = ArrayCache(cache), Lock()
        self._stages: list[StoredStage | UpscaledStage] = []
        self._sources: list[RowSource] = []

    @property
    def background(self) -> Colour:
        """Background colour of the slide, taken from stage 0, which is sampled if that is not done yet."""
        with self._lock:
            self._begin()
            return self._background

    @property
    def cached_bytes(self) -> int:
        """Bytes of cached tiles at present."""
        return self._cache.nbytes

    def read(self, region: Region, stage: int, *, keep: bool = False) -> np.ndarray:
        """Return the pixels of a region of a stage: uint8 (height, width, 3).

        Args:
            region: inside the stage, not empty.
            stage: 0 is the coarsest.
            keep: whether to cache tiles of the last stage; those of other stages always are.

        Raises:
            InvalidValueError: a network returns NaN or infinity.
        """
        with self._lock:
            self._begin()
            # `_sources` cache what is read of upscaled stages, `_stages` do not.
            whole = keep or stage < len(self.specs) - 1
            return (self._sources if whole else self._stages)[stage].read(region)

    def source(self, stage: int) -> StageReader:
        """Return a `RowSource` of a stage that caches what is read."""
        return StageReader(self, stage)

    def _begin(self) -> None:
        """Sample the diffused stages and set up the others; the first time only."""
        if self._sources:
            return
        stages: list[StoredStage | UpscaledStage] = []

        def store(stage: int) -> StoredStage:
            stages.append(stored := StoredStage(self.specs[stage].size))
            if stage == 0 and self._base is not None:
                stored.append(self._base)
            return stored

        first = self.specs[: self._diffused]
        run_cascade(self._denoiser, first, store, background=self._background, execution=self._execution)
        base = stages[0].read(first[0].size.region)
        if len(self.specs) > 1:
            self._background = background_of(base, self._background)
        sources: list[RowSource] = list(stages)
        for spec in self.specs[self._diffused :]:
            assert isinstance(spec, UpscaleSpec)
            assert self._upscaler is not None
            stage = UpscaledStage(
                spec,
                self._upscaler,
                sources[-1],
                background=self._background,
                device=self._execution.device,
                options=TileOptions(tile=self._execution.tile or _AT_ONCE),
            )
            stages.append(stage)
            sources.append(CachedStage(stage, self._cache))
        self._stages, self._sources = stages, sources  # last: `_begin` starts anew if it was interrupted


class StageReader:
    """A `RowSource` of one stage of a cascade."""

    def __init__(self, cascade: LazyCascade, stage: int) -> None:
        self._cascade, self._stage = cascade, stage

    def read(self, region: Region) -> np.ndarray:
        """Return the pixels of a region inside the stage: uint8 (height, width, 3)."""
        return self._cascade.read(region, self._stage, keep=True)


def _check(specs: Sequence[AnySpec]) -> int:
    """Count the stages that are kept whole, which must be the first ones."""
    kept = [spec for spec in specs if not isinstance(spec, UpscaleSpec)]
    last = max((spec.stage for spec in kept), default=-1)
    if len(kept) != last + 1:
        raise InvalidValueError("the denoiser must make stage 0 and no stage after an upscaled one")
    if (last and last == len(specs) - 1) or max(kept[-1].size.sides) > LARGEST:
        raise InvalidValueError(
            f"the preset diffuses stage {last} of {len(specs) - 1}, {kept[-1].size} px at "
            f"{kept[-1].mpp:g} µm/px, and a diffused stage cannot be computed in part; choose "
            '--preset one-step (preset="one-step"), or sample the slide'
        )
    return len(kept)


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
    """Return the smallest region that holds some tiles."""
    rows, cols = [row for row, _ in tiles], [col for _, col in tiles]
    y, x, y1, x1 = min(rows), min(cols), max(rows) + 1, max(cols) + 1
    return Region(y * TILE, x * TILE, (y1 - y) * TILE, (x1 - x) * TILE)

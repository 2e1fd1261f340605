"""A stage that an upscaler makes, x = G(y, z; µm/px): any region of it, or all of it from top to bottom.

The network is a convolution, its noise a function of position, and what is skipped as background a function
of the guide: so a stage is a function of the one above it, and can be computed in tiles of any size. Every
tile is evaluated with the pixels around it that it depends on. Around the canvas the guide repeats the
nearest pixel of its edge and the noise continues, so that the network's zero padding reaches no pixel that is
kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from wsigen.arrays import paste
from wsigen.errors import InvalidValueError
from wsigen.geometry import Colour, Region
from wsigen.nn.images import to_unit
from wsigen.runtime import usable_cpus
from wsigen.sampling.noise import Noise
from wsigen.sampling.pixels import bilinear, crop, to_pixels
from wsigen.sampling.rows import HeldRows, RowSink, RowSource
from wsigen.sampling.spec import Execution, Progress, StageProgress, UpscaleSpec
from wsigen.sampling.tiles import (
    CELL,
    Convolution,
    Tiling,
    box_of,
    cells_of,
    needed_cells,
    pixels_of,
    tile_of,
    tile_rows,
)

_AHEAD = 4


@runtime_checkable
class UpscalerFunction(Convolution, Protocol):
    """An upscaler in the precision that it runs in, such as `wsigen.nn.upscaler.Upscaler`."""

    @property
    def k(self) -> int:
        """Factor between guide and result."""
        ...

    @property
    def noise_channels(self) -> int:
        """Channels of z."""
        ...

    def __call__(
        self, y: Float[Tensor, "b 3 h w"], z: Float[Tensor, "b n h w"], mpp: Float[Tensor, " 1"]
    ) -> Float[Tensor, "b 3 kh kw"]:
        """Return the next stage from guides in [-1, 1], unit noise and the µm/px of the result."""
        ...


@dataclass(frozen=True, kw_only=True)
class TileOptions:
    """How regions are computed; does not change float32 results on the CPU, and others by rounding only.

    Args:
        tile: guide pixels a side of what is evaluated at once, at most; without the pixels around it.
        batch: tiles of one shape per evaluation, at most.
        pool: threads that read guides and make noise for the next tiles meanwhile; None: no prefetching.
        done: called after every tile, with 1 if it was evaluated and 0 if all of it is background.
    """

    tile: int = 512
    batch: int = 1
    pool: Executor | None = None
    done: Callable[[int], object] = field(default=lambda _: None)

    def __post_init__(self) -> None:
        if self.tile < CELL or self.batch < 1:
            raise InvalidValueError(
                f"tile must be at least {CELL} guide pixels and batch at least 1, got {self.tile} and "
                f"{self.batch}"
            )


class UpscaledStage:
    """The pixels of a stage, computed where they are read; a `RowSource` like a stage that is stored.

    Args:
        spec: of the stage.
        upscaler: G(y, z; µm/px), on ``device``.
        guide: the stage above.
        background: colour of the empty slide, for the skip rule.
        device: of the upscaler.
        options: how regions are computed.

    Raises:
        InvalidValueError: the upscaler has another k than the stages.

    Memory: a few tiles of features, 37 MiB of noise that neighbouring tiles have in common at nine channels,
        and the region that is read.

    Determinism: in float32 on one kind of CPU, a pixel has the same bits in whatever region, tile and batch
        it is computed, and by any number of threads. On other devices and in bfloat16 the kernels may round
        differently.
    """

    def __init__(
        self,
        spec: UpscaleSpec,
        upscaler: UpscalerFunction,
        guide: RowSource,
        *,
        background: Colour,
        device: torch.device | str = "cpu",
        options: TileOptions | None = None,
    ) -> None:
        if upscaler.k != spec.k:
            raise InvalidValueError(
                f"the upscaler enlarges {upscaler.k} times, the stages grow {spec.k} times; pass --k "
                f"{upscaler.k}, or choose another --upscaler or --preset"
            )
        self.spec, self.options = spec, options or TileOptions()
        self.tiling = Tiling.of(spec, upscaler, self.options.tile)
        self._upscaler, self._guide = upscaler, guide
        self._background, self._device = background, torch.device(device)
        # One µm/px for all tiles of a batch, so that its size cannot change the result.
        self._mpp = torch.tensor([spec.mpp], device=self._device)
        self._noise = Noise(spec.seed, spec.stage, channels=upscaler.noise_channels)

    def read(self, region: Region) -> np.ndarray:
        """Return the pixels of a region of the stage: uint8 (height, width, 3).

        Args:
            region: inside the stage, of any size.

        Raises:
            InvalidValueError: the region reaches outside, or the upscaler returns NaN or infinity.
        """
        if region.intersect(self.spec.bounds) != region:
            raise InvalidValueError(
                f"{region} reaches outside stage {self.spec.stage}, which is {self.spec.size} pixels"
            )
        out = np.empty((region.height, region.width, 3), np.uint8)
        waiting: dict[tuple[int, ...], list[_Tile]] = {}
        for tile in self._tiles(region):
            batch = waiting.setdefault(tile.shape, [])
            batch.append(tile)
            # Tiles without network input need no partners.
            if len(batch) == self.options.batch or not tile.given:
                self._finish(waiting.pop(tile.shape), region, out)
        for batch in waiting.values():
            self._finish(batch, region, out)
        return out

    def _tiles(self, region: Region) -> Iterator[_Tile]:
        pool, cores = self.options.pool, self.tiling.cores(region)
        if pool is None:
            yield from map(self._prepare, cores)
            return
        coming: deque[Future[_Tile]] = deque()
        for core in cores:
            coming.append(pool.submit(self._prepare, core))
            if len(coming) > _AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()

    def _prepare(self, core: Region) -> _Tile:
        """Read the guide of a tile, decide what to evaluate, and make the noise for it."""
        held, cells, skip = self.tiling.read(core), cells_of(core), self.spec.skip
        pixels = self._guide.read(held)
        needed = np.ones((cells.height, cells.width), bool)
        if skip:
            needed = needed_cells(skip.occupied(pixels, self._background), held, cells, skip.margin)
        box = box_of(needed, cells).intersect(core)
        given = self.tiling.network_input(box, core) if box else box
        # One pixel more on each side, from which `bilinear` interpolates.
        flat = None if needed.all() else bilinear(crop(pixels, held, core.pad(1)), self.spec.k)
        guide = crop(pixels, held, given) if given else None
        noise = self._noise.region(given) if given else None
        return _Tile(core, box, cells, needed, given, flat, guide, noise)

    def _finish(self, tiles: list[_Tile], region: Region, out: np.ndarray) -> None:
        """Evaluate tiles of one shape and write the part of each that lies in ``region`` into ``out``."""
        # tiles of one shape all have network input, or none has
        values = self._evaluate(tiles) if tiles[0].given else [None] * len(tiles)
        for tile, value in zip(tiles, values, strict=True):
            k, core = self.spec.k, tile.core
            whole = Region(k * core.y, k * core.x, k * core.height, k * core.width)
            paste(tile.pixels(value, k), whole, out, region)
            self.options.done(int(value is not None))

    @torch.inference_mode()
    def _evaluate(self, tiles: list[_Tile]) -> list[np.ndarray]:
        """Return the pixels of the boxes of tiles whose network inputs have one size."""
        # Stacked even if there is one: PyTorch chooses kernels by the strides of the batch as well.
        y = torch.from_numpy(np.stack([tile.guide for tile in tiles if tile.guide is not None]))
        z = torch.from_numpy(np.stack([tile.noise for tile in tiles if tile.noise is not None]))
        y = to_unit(rearrange(y.to(self._device), "b h w c -> b c h w"))
        z = z.to(self._device).contiguous(memory_format=torch.channels_last)
        mirrored = mirrored_dims(self.spec.stage)
        x = self._upscaler(y.flip(mirrored), z.flip(mirrored), self._mpp).flip(mirrored)
        return [self._kept(tile, values) for tile, values in zip(tiles, x, strict=True)]

    def _kept(self, tile: _Tile, x: Float[Tensor, "3 h w"]) -> UInt8[np.ndarray, "kh kw 3"]:
        k, box = self.spec.k, tile.box.shift(-tile.given.y, -tile.given.x)
        part = x[:, k * box.y : k * box.y1, k * box.x : k * box.x1]
        pixels = to_pixels(part, self.spec.stage, self.spec.mpp)
        return rearrange(pixels, "c h w -> h w c").cpu().numpy()


def mirrored_dims(stage: int) -> tuple[int, ...]:
    """Return the dimensions to mirror before and after the network makes a stage: both at odd stages.

    An upscaler may prefer a direction, as if tissue were lit from one side. Half a turn from stage to stage
    keeps that from adding up.
    """
    return (-2, -1) if stage % 2 else ()


@dataclass(frozen=True)
class _Tile:
    """One tile between reading and evaluation; all regions in guide pixels.

    Args:
        core: of the tile.
        box: the part of it that is evaluated; empty where all is background.
        cells: of the core, indices.
        needed: which of them are evaluated.
        given: the network's input; empty with the box.
        flat: the core's guide, bilinearly enlarged; None where all of the core is evaluated.
        guide: pixels of ``given``.
        noise: of ``given``.
    """

    core: Region
    box: Region
    cells: Region
    needed: np.ndarray
    given: Region
    flat: np.ndarray | None
    guide: np.ndarray | None
    noise: np.ndarray | None

    @property
    def shape(self) -> tuple[int, int]:
        """Size of the network's input; tiles of one shape can be evaluated together."""
        return self.given.height, self.given.width

    def pixels(self, evaluated: np.ndarray | None, k: int) -> np.ndarray:
        """Return the core's pixels: those evaluated in needed cells, the enlarged guide elsewhere."""
        if self.flat is None:
            assert evaluated is not None, "a tile without background is evaluated"
            return evaluated
        if evaluated is not None:
            box, cells = self.box, pixels_of(self.cells)
            needed = self.needed.repeat(k * CELL, axis=0).repeat(k * CELL, axis=1)
            mask = needed[k * (box.y - cells.y) : k * (box.y1 - cells.y)]
            mask = mask[:, k * (box.x - cells.x) : k * (box.x1 - cells.x)]
            spot = box.shift(-self.core.y, -self.core.x)
            part = self.flat[k * spot.y : k * spot.y1, k * spot.x : k * spot.x1]
            np.copyto(part, evaluated, where=mask[:, :, None])
        return self.flat


class UpscaleRun:
    """Makes one stage from top to bottom, a row of tiles at a time, as `StageRun` does by diffusion.

    Args:
        spec: of the stage.
        upscaler: G(y, z; µm/px), on the execution's device.
        source: the stage above, whole.
        sink: of the finished rows. The run begins at its ``rows_done``.
        background: colour of the empty slide, for the skip rule.
        execution: where and how.
        progress: called after every tile.

    Memory: a row of tiles, the guide beside it, and that of `UpscaledStage`.

    Determinism: rows are a function of spec, upscaler, source and background; see `UpscaledStage`.
    """

    def __init__(
        self,
        spec: UpscaleSpec,
        upscaler: UpscalerFunction,
        source: RowSource,
        sink: RowSink,
        *,
        background: Colour,
        execution: Execution | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.spec, self.execution = spec, execution or Execution()
        self._upscaler, self._source, self._sink = upscaler, source, sink
        self._background, self._progress = background, progress
        self._emitted = sink.rows_done
        self._tiling = Tiling.of(spec, upscaler, tile_of(spec, self.execution))
        self._bands = tile_rows(spec, self._tiling.tile, self._emitted)
        self._patches = self._evaluations = 0
        self._patches_total = sum(len(self._tiling.cores(band)) for band in self._bands)

    def run(self) -> StageProgress:
        """Compute every row that the sink does not have, and append it there.

        Raises:
            InvalidValueError: the upscaler returns NaN or infinity.
        """
        if not self._bands:
            return self._report()
        threads = self.execution.threads or usable_cpus()
        ahead = ThreadPoolExecutor(threads, "wsigen-noise") if self.execution.prefetches else nullcontext()
        # Each band of tiles reads guide rows with a halo; the guide holds as many as the largest needs.
        reads = [self._tiling.guide_region(band) for band in self._bands]
        guide = HeldRows(
            self._source,
            size=self.spec.guide_bounds.size,
            capacity=max(read.height for read in reads),
            first=reads[0].y,
        )
        with ahead as pool:
            stage = UpscaledStage(
                self.spec,
                self._upscaler,
                guide,
                background=self._background,
                device=self.execution.device,
                options=TileOptions(tile=self._tiling.tile, pool=pool, done=self._count),
            )
            for band, read in zip(self._bands, reads, strict=True):
                guide.need(read.y1)
                self._sink.append(stage.read(band))
                self._emitted = band.y1
        return self._report()

    def _count(self, evaluations: int) -> None:
        self._patches += 1
        self._evaluations += evaluations
        if self._progress:
            self._progress(self._report())

    def _report(self) -> StageProgress:
        return StageProgress(
            stage=self.spec.stage,
            patches=self._patches,
            patches_total=self._patches_total,
            evaluations=self._evaluations,
            rows=self._emitted,
            height=self.spec.size.height,
        )

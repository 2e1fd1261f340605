"""A stage that an upscaler makes: the pixels of any of its regions, x = G(y, z; µm/px) in one evaluation.

The network is a convolution, its noise a function of position, and what is left out as background a function
of the guide: so a stage is a function of the one above it, and can be computed in any pieces. Every piece is
evaluated with the pixels around it that it depends on. Around the canvas the guide goes on with the nearest
pixel of its edge and the noise as everywhere, so that the zeros with which the network pads reach no pixel
that is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region
from wsigen.sampling.background import Colour
from wsigen.sampling.cells import CELL, box_of, cells_of, needed_cells, pixels_of
from wsigen.sampling.noise import NoiseField
from wsigen.sampling.pixels import bilinear, crop, to_pixels, to_unit
from wsigen.sampling.reach import Reach, UpscaleSpec
from wsigen.sampling.rows import RowSource

_AHEAD = 4


class UpscalerFunction(Protocol):
    """An upscaler in the precision that it runs in, such as `wsigen.nn.upscaler.Upscaler`."""

    @property
    def k(self) -> int:
        """Factor between guide and result."""
        ...

    @property
    def noise_channels(self) -> int:
        """Channels of z."""
        ...

    @property
    def stride(self) -> int:
        """Guides begin at, and are as high and wide as, multiples of this."""
        ...

    @property
    def radius(self) -> int:
        """Guide pixels around its own that a pixel of the result depends on."""
        ...

    def __call__(
        self, y: Float[Tensor, "b 3 h w"], z: Float[Tensor, "b n h w"], mpp: Float[Tensor, " 1"]
    ) -> Float[Tensor, "b 3 kh kw"]:
        """The next stage from guides in [-1, 1], unit noise and the µm/px of the result."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """How regions are computed; none of it shows in float32 on the CPU, and elsewhere no more than rounding.

    Args:
        tile: guide pixels a side of what is evaluated at once, at most; without the pixels around it.
        batch: tiles of one shape per evaluation, at most.
        pool: threads that read guides and make noise for the next tiles meanwhile; None for one after the
            other.
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
        pieces: how regions are computed.

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
        pieces: Pieces | None = None,
    ) -> None:
        if upscaler.k != spec.k:
            raise InvalidValueError(
                f"the upscaler enlarges {upscaler.k} times, the stages grow {spec.k} times; pass --k "
                f"{upscaler.k}, or choose another --upscaler or --preset"
            )
        self.spec, self.pieces = spec, pieces or Pieces()
        self.reach = Reach.of(spec, upscaler, self.pieces.tile)
        self._upscaler, self._guide = upscaler, guide
        self._background, self._device = background, torch.device(device)
        self._mpp = torch.tensor([spec.mpp], device=self._device)  # one for all: so no batch is seen in it
        self._noise = NoiseField(spec.seed, spec.stage, channels=upscaler.noise_channels)

    def read(self, region: Region) -> np.ndarray:
        """Pixels of a region of the stage: uint8 (height, width, 3).

        Args:
            region: inside the stage, of any size.

        Raises:
            InvalidValueError: a region that reaches outside; or the upscaler returns values that are not
                numbers.
        """
        if region.intersect(self.spec.bounds) != region:
            raise InvalidValueError(
                f"{region} reaches outside stage {self.spec.stage}, which is {self.spec.extent} pixels a side"
            )
        out = np.empty((region.height, region.width, 3), np.uint8)
        waiting: dict[tuple[int, ...], list[_Tile]] = {}
        for tile in self._tiles(region):
            batch = waiting.setdefault(tile.shape, [])
            batch.append(tile)
            if len(batch) == self.pieces.batch or not tile.given:
                self._finish(waiting.pop(tile.shape), region, out)
        for batch in waiting.values():
            self._finish(batch, region, out)
        return out

    def _tiles(self, region: Region) -> Iterator[_Tile]:
        pool, cores = self.pieces.pool, self.reach.cores(region)
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
        """Reads the guide, and makes the noise of what has to be evaluated."""
        held, cells, skip = self.reach.read(core), cells_of(core), self.spec.skip
        pixels = self._guide.read(held)
        needed = np.ones((cells.height, cells.width), bool)
        if skip:
            needed = needed_cells(skip.occupied(pixels, self._background), held, cells, skip.margin)
        box = box_of(needed, cells).intersect(core)
        given = self.reach.given(box, core) if box else box
        flat = None if needed.all() else bilinear(crop(pixels, held, core.pad(1)), self.spec.k)
        guide = crop(pixels, held, given) if given else None
        noise = self._noise.region(given) if given else None
        return _Tile(core, box, cells, needed, given, flat, guide, noise)

    def _finish(self, tiles: list[_Tile], region: Region, out: np.ndarray) -> None:
        """Writes the part of tiles of one shape that lies in a region into its pixels."""
        values = self._evaluate(tiles) if tiles[0].given else [None] * len(tiles)
        for tile, value in zip(tiles, values, strict=True):
            k, core = self.spec.k, tile.core
            whole = Region(k * core.y, k * core.x, k * core.height, k * core.width)
            inside = whole.intersect(region)
            spot, source = inside.shift(-region.y, -region.x), inside.shift(-whole.y, -whole.x)
            pixels = tile.pixels(value, k)[source.y : source.y1, source.x : source.x1]
            out[spot.y : spot.y1, spot.x : spot.x1] = pixels
            self.pieces.done(int(value is not None))

    @torch.inference_mode()
    def _evaluate(self, tiles: list[_Tile]) -> list[np.ndarray]:
        """The pixels of the boxes of tiles, which are given regions of one size."""
        # Stacked even if there is one: PyTorch chooses kernels by the strides of the batch as well.
        y = torch.from_numpy(np.stack([tile.guide for tile in tiles if tile.guide is not None]))
        z = torch.from_numpy(np.stack([tile.noise for tile in tiles if tile.noise is not None]))
        y = to_unit(rearrange(y.to(self._device), "b h w c -> b c h w"))
        z = z.to(self._device).contiguous(memory_format=torch.channels_last)
        turn = half_turn(self.spec.stage)
        x = self._upscaler(y.flip(turn), z.flip(turn), self._mpp).flip(turn)
        return [self._kept(tile, values) for tile, values in zip(tiles, x, strict=True)]

    def _kept(self, tile: _Tile, x: Float[Tensor, "3 h w"]) -> np.ndarray:
        k, box = self.spec.k, tile.box.shift(-tile.given.y, -tile.given.x)
        part = x[:, k * box.y : k * box.y1, k * box.x : k * box.x1]
        pixels = to_pixels(part, self.spec.stage, self.spec.mpp)
        return rearrange(pixels, "c h w -> h w c").cpu().numpy()


def half_turn(stage: int) -> tuple[int, ...]:
    """Dimensions that are mirrored before and after the network draws a stage: both at every other stage.

    An upscaler may prefer a direction, as if tissue were lit from one side. Half a turn from stage to stage
    keeps that from adding up.
    """
    return (-2, -1) if stage % 2 else ()


@dataclass(frozen=True)
class _Tile:
    """A part of a stage on its way; all regions in guide pixels.

    Args:
        core: what is to be known.
        box: what is to be evaluated of it; empty where all is background.
        cells: of the core, indices.
        needed: which of them are evaluated.
        given: what the network sees; empty with the box.
        flat: the core's guide, bilinear; None where all of it is evaluated.
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
        """What tiles have in common that are evaluated together."""
        return self.given.height, self.given.width

    def pixels(self, evaluated: np.ndarray | None, k: int) -> np.ndarray:
        """The core's pixels, from those of the box."""
        if self.flat is None:
            assert evaluated is not None, "without background all is evaluated"
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

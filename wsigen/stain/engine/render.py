"""Rendering rows of tiles with one network: batches of one shape, statistics, 8-bit pixels, blending."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size
from wsigen.nn.images import to_unit
from wsigen.runtime import return_freed_memory
from wsigen.stain.engine.background import AnyBackground
from wsigen.stain.engine.nodes import NodeGrid, NodeRow, TableWindow
from wsigen.stain.engine.tiles import Schedule, Tile
from wsigen.stain.normalise import Field, NormLayers

Constant = Sequence[Field]
"""Statistics that are the same for the whole slide, one for each call of a norm layer."""

_WATCHED = 64

GPU_LOAD = 1 << 23
"""Pixels per network call that keep a GPU busy. A CPU is as busy with one tile as with several."""


@dataclass(frozen=True)
class Compute:
    """Device, precision and batch size of networks.

    Args:
        device: of weights, statistics and features.
        dtype: of weights and features.
        load: pixels per network call, at most, if that is more than one tile.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    load: int = GPU_LOAD

    def batch(self, area: int) -> int:
        """Return how many regions of ``area`` px make a network call; 1 on the CPU, to compute each alone."""
        return 1 if self.device.type == "cpu" else max(1, self.load // area)


ReadInto = Callable[[Region, np.ndarray], None]
"""Copies a region of the padded slide into uint8 (height, width, 3)."""


def gather(regions: Sequence[Region], read: ReadInto, device: torch.device) -> UInt8[Tensor, "b h w 3"]:
    """Read regions of one shape into a batch on the host, pinned where CUDA will copy it.

    Args:
        regions: of the slide.
        read: the slide.
        device: that is to fetch them.
    """
    shape = (len(regions), regions[0].height, regions[0].width, 3)
    pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for region, slot in zip(regions, pixels.numpy(), strict=True):
        read(region, slot)
    return pixels


def to_network(pixels: UInt8[Tensor, "b h w 3"], dtype: torch.dtype) -> Float[Tensor, "b 3 h w"]:
    """Return pixels in [-1, 1], in channels-last order, with which convolutions are fastest.

    Args:
        pixels: on the network's device.
        dtype: of the network.
    """
    return to_unit(rearrange(pixels, "b h w c -> b c h w")).to(dtype)


def to_pixels(
    values: Float[Tensor, "3 h w"],
    source: UInt8[Tensor, "h w 3"] | None = None,
    opacity: Float[Tensor, "h w"] | None = None,
) -> UInt8[Tensor, "h w 3"]:
    """Return pixels, (x + 1) · 127.5 rounded and clamped, blended with the source by opacity.

    Args:
        values: from the network, one tile.
        source: the pixels beneath it.
        opacity: in [0, 1]: 1 shows the network's pixel alone, 0 the source's.

    Determinism: kernels that multiply and add in one rounding are avoided, so that a pixel does not depend on
        where in a tile it lies.
    """
    pixels = rearrange(values, "c h w -> h w c").float() + 1
    pixels.mul_(127.5)
    if source is not None and opacity is not None:
        shown = opacity[:, :, None]
        # lerp would multiply and add in one rounding
        pixels.mul_(shown).add_(source.float().mul_(1 - shown))
    return pixels.round_().clamp_(0, 255).to(torch.uint8).contiguous()


def stride_of(net: nn.Module) -> int:
    """Return the number of pixels that positions and sides of this network's tiles are multiples of."""
    return int(getattr(net, "stride", 4))  # type: ignore[arg-type]


def common_stride(nets: Sequence[nn.Module]) -> int:
    """Return the least common stride of networks."""
    return math.lcm(*(stride_of(net) for net in nets))


def halo_of(net: nn.Module) -> int:
    """Return the number of pixels around a tile that its result depends on.

    Raises:
        InvalidValueError: the network does not say, or its halo is no multiple of its stride.
    """
    halo, stride = getattr(net, "halo", None), stride_of(net)
    if not isinstance(halo, int) or halo < 0 or halo % stride:
        raise InvalidValueError(
            f"{type(net).__name__} must have an attribute halo, the radius of its receptive field rounded up "
            f"to a multiple of {stride} px, got {halo!r}"
        )
    return halo


def check_channels(net: nn.Module) -> None:
    """Refuse a network whose configuration is not RGB to RGB.

    Raises:
        InvalidValueError: it takes or gives another number of channels.
    """
    config = getattr(net, "config", None) or {}
    for name in ("in_channels", "out_channels"):
        # networks without a record are taken for RGB
        channels = config.get(name, 3)  # type: ignore[union-attr]
        if channels != 3:
            raise InvalidValueError(
                f"a stainer of slides needs 3 {name}, as RGB has; this one has {channels}"
            )


def place(net: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a network to its device and precision, channels last, ready to be run; in place."""
    # past diffusers' own method, which logs that it would rather convert while loading
    nn.Module.to(net, device, dtype)
    nn.Module.to(net, memory_format=torch.channels_last)
    net.eval()


def prepare(net: nn.Module, device: torch.device, dtype: torch.dtype) -> NormLayers:
    """Prepare a network as `place` does, and return its norm layers.

    A first pass, which is traced and not compiled, happens here on a blank picture: a resumed run must
    compute like the original one.

    Args:
        net: changed in place, its instance norms too.
        device: that is to run it.
        dtype: in which it is to run.

    Raises:
        InvalidValueError: there are no norm layers.
    """
    layers = NormLayers(net)
    place(net, device, dtype)
    layers.instance(torch.zeros((1, 3, _WATCHED, _WATCHED), device=device, dtype=dtype))
    return layers


class Branch:
    """One network of a translation, its schedule and its statistics.

    Args:
        net: on its device.
        layers: its norm layers; None to render it as it is.
        schedule: of its tiles.
        grid: of nodes, where statistics are measured on the way.
        constant: statistics, where they are known before.
    """

    def __init__(
        self,
        net: nn.Module,
        layers: NormLayers | None,
        schedule: Schedule,
        *,
        grid: NodeGrid | None,
        constant: Constant | None,
    ) -> None:
        self.net, self.layers, self.schedule = net, layers, schedule
        self._fields: Constant = constant or ()
        self._table: TableWindow | None = None
        if layers is not None and grid is not None and schedule.norm is not None:
            self._table = TableWindow(grid, schedule.norm, layers.channels)

    def put(self, row: int, values: NodeRow) -> None:
        """Store the statistics of a row of nodes."""
        assert self._table is not None
        self._table.put(row, values)

    def begin_row(self, row: int) -> None:
        """Update the fields for a row of tiles; to be called before it is rendered."""
        if self._table is not None:
            self._table.drop(self.schedule.measured(row)[0])
            self._fields = self._table.fields(*self.schedule.fields(row))

    def render(self, x: Float[Tensor, "b 3 h w"], tiles: Sequence[Tile]) -> Float[Tensor, "b 3 h w"]:
        """Return a batch of tiles translated, halos included."""
        if self.layers is None or self.schedule.norm is None:
            return self.net(x)
        if self.schedule.norm.normaliser.scope == "tile":
            return self.layers.instance(x)
        return self.layers.render(x, self._fields, [(tile.read.y, tile.read.x) for tile in tiles])


@dataclass(frozen=True)
class _Pending:
    """A batch that the device may still be busy with.

    Args:
        tiles: of the batch.
        pixels: of their cores, on the host once ``done``.
        finite: whether all values were numbers, likewise.
        done: None where the host did the work.
    """

    tiles: Sequence[Tile]
    pixels: Sequence[Tensor]
    finite: Tensor
    done: torch.cuda.Event | None

    def write(self, out: np.ndarray, there: Region) -> None:
        """Wait for the pixels, and write them to ``out``, which holds the region ``there``."""
        if self.done is not None:
            self.done.synchronize()
        if not self.finite.item():
            raise InvalidValueError(
                f"the network returned NaN or infinity near {self.tiles[0].core}: weights are damaged, or "
                "bfloat16 overflowed; try --dtype float32, or another --stainer"
            )
        for tile, pixels in zip(self.tiles, self.pixels, strict=True):
            # the last tiles reach into the slide's padding, which is cut off
            core = tile.core.shift(-there.y, -there.x)
            part = out[core.y : core.y1, core.x : core.x1]
            part[:] = pixels.numpy()[: part.shape[0], : part.shape[1]]


class RowRenderer:
    """Renders the rows of tiles of one network.

    Args:
        branch: the network.
        size: of the slide, without padding.
        background: where it is background.
        machine: that runs the network. A batch never spans two rows of tiles, so that a run that begins at
            any row computes as one from the top.
    """

    def __init__(
        self, branch: Branch, size: Size, background: AnyBackground | None, machine: Compute
    ) -> None:
        self.branch, self.size, self.background, self.machine = branch, size, background, machine
        self._most = machine.batch(branch.schedule.tiles.largest_read.area)

    def render(self, row: int, read: ReadInto) -> np.ndarray:
        """Render one row of tiles: uint8 (height, width, 3).

        Args:
            row: of tiles.
            read: the slide.
        """
        tiles = self.branch.schedule.tiles.row(row)
        core = tiles[0].core
        self.branch.begin_row(row)
        height = min(core.y1, self.size.height) - core.y
        return self.paint(tiles, read, Region(core.y, 0, height, self.size.width))

    @torch.inference_mode()
    def paint(self, tiles: Sequence[Tile], read: ReadInto, region: Region) -> np.ndarray:
        """Render a region that tiles cover, with the branch's current statistics: uint8 (height, width, 3).

        Args:
            tiles: that reach no further up or left than the region.
            read: the slide.
            region: of the slide.
        """
        out = np.empty((region.height, region.width, 3), np.uint8)
        pending = None
        for batch in self._batches(tiles, read, out, region):
            if self.machine.device.type == "cpu":
                return_freed_memory()
            launched = self._launch(batch, read)
            if launched.done is None:
                # Kept until after the next batch, pixels would lie between buffers of this one, so that those
                # of the next would not fit into their place.
                launched.write(out, region)
                continue
            if pending is not None:
                pending.write(out, region)  # while the device works on the next one
            pending = launched
        if pending is not None:
            pending.write(out, region)
        return out

    def _batches(
        self, tiles: Sequence[Tile], read: ReadInto, out: np.ndarray, region: Region
    ) -> Iterator[list[Tile]]:
        """Tiles that need the network; the others are copied."""
        batch: list[Tile] = []
        for tile in tiles:
            if self.background is not None and self.background.range(tile.core)[1] == 0:
                self._copy(tile, read, out, region)
                continue
            if batch and (batch[0].read.size != tile.read.size or len(batch) == self._most):
                yield batch
                batch = []
            batch.append(tile)
        if batch:
            yield batch

    def _copy(self, tile: Tile, read: ReadInto, out: np.ndarray, region: Region) -> None:
        visible = tile.core.intersect(region)
        spot = visible.shift(-region.y, -region.x)
        read(visible, out[spot.y : spot.y1, spot.x : spot.x1])

    def _launch(self, tiles: Sequence[Tile], read: ReadInto) -> _Pending:
        device = self.machine.device
        source = gather([tile.read for tile in tiles], read, device).to(device, non_blocking=True)
        values = self.branch.render(to_network(source, self.machine.dtype), tiles)
        cores = [self._finish(tile, v, s) for tile, v, s in zip(tiles, values, source, strict=True)]
        finite = torch.isfinite(values).all()
        if device.type != "cuda":
            return _Pending(tiles, [core.cpu() for core in cores], finite, None)
        # pinned, or the copies would wait for the device
        copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in (*cores, finite)]
        for there, here in zip((*cores, finite), copies, strict=True):
            here.copy_(there, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(device))
        return _Pending(tiles, copies[:-1], copies[-1], done)

    def _finish(self, tile: Tile, values: Tensor, source: Tensor) -> Tensor:
        rows, cols = slice(tile.spot.y, tile.spot.y1), slice(tile.spot.x, tile.spot.x1)
        part = values[:, rows, cols]
        # opaque all over: nothing to blend
        if self.background is None or self.background.range(tile.core)[0] == 1:
            return to_pixels(part)
        opacity = torch.from_numpy(self.background.opacity(tile.core)).to(values.device)
        return to_pixels(part, source[rows, cols], opacity)

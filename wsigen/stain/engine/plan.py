"""Plan a translation before it begins: tile, rows and bytes held, pixels that networks see."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from wsigen.errors import InvalidValueError
from wsigen.geometry import Size
from wsigen.stain.engine.nodes import PATCH, NodeGrid
from wsigen.stain.engine.render import GPU_LOAD, common_stride, halo_of
from wsigen.stain.engine.tiles import Schedule, rows_alive
from wsigen.stain.normalise.norm import Norm
from wsigen.stain.normalise.passes import Watch

TileSize = int | Literal["auto"]

MEMORY = 4 << 30
"""Bytes of host memory that a tile is chosen for."""

SMALLEST_TILE = 64
_AUTO_CUDA, _AUTO = (2048, 1024, 512, 256), (1024, 768, 512, 256)

# What a tile may cost in pixels of halo, relative to others, if it takes less memory.
_WORTH = 1.05

# Copies of a window of the table that are alive while its background is filled and its kernel applied.
_TABLE_COPIES = 16
# Bytes for each pixel of a tile beside the network: 8-bit in and out, their float32 copies, the opacity.
_AROUND_NETWORK = 40
# The same on the host where another device does the work: 8-bit in and out, of two batches.
_IN_FLIGHT = 12
# What kernels on the CPU and the allocator keep beside features, relative to these.
_WORKSPACE = 1.3


@dataclass(frozen=True, kw_only=True)
class TranslationPlan:
    """Resources of a translation.

    Args:
        tile: side of the tiles, px.
        rows_alive: rows of the slide that are held.
        tiles: tiles to render for all networks, if nothing is background.
        patches: patches to measure for all networks, likewise.
        network_pixels: pixels that networks are given for both, halos included.
        host_bytes: memory of the process, beside that of Python and its libraries.
        device_bytes: memory of weights and features; part of ``host_bytes`` on the CPU.
    """

    tile: int
    rows_alive: int
    tiles: int
    patches: int
    network_pixels: int
    host_bytes: int
    device_bytes: int


def padded_size(size: Size, nets: Sequence[nn.Module]) -> Size:
    """Return the size to which a slide is padded, by repeating its last row and column, for the networks."""
    stride = common_stride(nets)
    least = max(2 * stride, *(int(getattr(net, "min_size", 16)) for net in nets))  # type: ignore[arg-type]
    height, width = (-(-max(n, least) // stride) * stride for n in (size.height, size.width))
    return Size(height, width)


def check_grid(size: Size, tile: int, pitch: int, stride: int) -> None:
    """Refuse a grid that no network can process.

    Raises:
        InvalidValueError: the slide is empty, or tile or pitch is too small or no multiple of the stride.
    """
    if size.height < 1 or size.width < 1:
        raise InvalidValueError(f"a slide must be at least 1 x 1 pixels, got {size}")
    for name, value in (("tile", tile), ("stats_pitch", pitch)):
        if value < SMALLEST_TILE or value % stride:
            raise InvalidValueError(
                f"{name} must be a multiple of {stride} and at least {SMALLEST_TILE} px, got {value}"
            )


def plan_translation(
    size: Size,
    nets: Sequence[nn.Module],
    *,
    norm: Norm | None,
    pitch: int = PATCH,
    tile: TileSize = "auto",
    batch: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device = torch.device("cpu"),
    background_cell: int | None = None,
    memory: int = MEMORY,
) -> TranslationPlan:
    """Plan a translation: tile, memory and pixels to process.

    Args:
        size: of the slide in pixels.
        nets: the generators.
        norm: how they are normalised; None for networks that are rendered as they are.
        pitch: of the nodes.
        tile: side of the tiles; "auto" takes the smallest common one that gives networks up to 5 % more
            pixels than any other that fits; the smallest of all where none does.
        batch: tiles per network call; None for what keeps the device busy.
        dtype: of the networks.
        device: that runs them.
        background_cell: side of the cells of the slide's map of background, px; None without one.
        memory: bytes of host memory that "auto" chooses for.

    Raises:
        InvalidValueError: a grid that no network can take.
    """
    planner = _Planner(size, nets, norm, pitch, batch, dtype, device, background_cell)
    if tile != "auto":
        return planner.plan(tile)
    plans = [planner.plan(side) for side in (_AUTO_CUDA if device.type == "cuda" else _AUTO)]
    fitting = [plan for plan in plans if plan.host_bytes <= memory] or plans[-1:]
    least = min(plan.network_pixels for plan in fitting)
    quick = [plan for plan in fitting if plan.network_pixels <= _WORTH * least]
    return min(quick, key=lambda plan: plan.host_bytes)


class _Planner:
    """Plans for one slide with tiles of any size."""

    def __init__(
        self,
        size: Size,
        nets: Sequence[nn.Module],
        norm: Norm | None,
        pitch: int,
        batch: int | None,
        dtype: torch.dtype,
        device: torch.device,
        background_cell: int | None,
    ) -> None:
        self.size, self.padded, self.nets, self.norm, self.pitch = (
            size,
            padded_size(size, nets),
            nets,
            norm,
            pitch,
        )
        self.batch, self.host_runs = batch, device.type == "cpu"
        self.stride = common_stride(nets)
        self.features = max(activation_bytes(net, dtype) for net in nets)
        self.weights = sum(weight_bytes(net, dtype) for net in nets)
        self.channels = [norm_channels(net) for net in nets]
        # three bytes a cell, and the distances that a window of rows is computed with
        across = 0 if background_cell is None else -(-size.width // background_cell)
        down = 0 if background_cell is None else -(-size.height // background_cell)
        self.background = across * (3 * down + 16 * 1024)

    def plan(self, tile: int) -> TranslationPlan:
        """Return the plan with tiles of this size."""
        check_grid(self.size, tile, self.pitch, self.stride)
        schedules = [
            Schedule.of(
                self.padded, halo_of(net), norm=self.norm, tile=tile, pitch=self.pitch, stride=self.stride
            )
            for net in self.nets
        ]
        alive = rows_alive(schedules)
        grids = [schedule.tiles for schedule in schedules]
        nodes = NodeGrid.of(self.padded, self.pitch, self.stride) if schedules[0].nodes else None
        largest = max(grid.largest_read.area for grid in grids)
        patch = nodes.rows.longest * nodes.cols.longest if nodes else 0
        pixels = max(largest, patch) if self.host_runs else max(self._load(largest), largest, patch)
        device = self.weights + round(pixels * self.features * _WORKSPACE)
        tables = self._tables(schedules)
        # a row of tiles is rendered while the one before is written
        rows = 3 * self.padded.width * alive + 3 * self.size.width * 2 * max(grid.tallest for grid in grids)
        host = rows + self.background + pixels * (_AROUND_NETWORK if self.host_runs else _IN_FLIGHT)
        patches = nodes.rows.count * nodes.cols.count * len(self.nets) if nodes else 0
        return TranslationPlan(
            tile=tile,
            rows_alive=alive,
            tiles=sum(grid.rows.count * grid.cols.count for grid in grids),
            patches=patches,
            network_pixels=sum(grid.pixels_read for grid in grids)
            + (nodes.pixels * len(self.nets) if nodes else 0),
            host_bytes=host + (device + tables if self.host_runs else 0),
            device_bytes=device + tables,
        )

    def _load(self, largest: int) -> int:
        """Pixels of a network call that has room for several tiles."""
        return GPU_LOAD if self.batch is None else self.batch * largest

    def _tables(self, schedules: Sequence[Schedule]) -> int:
        """Bytes of the rows of nodes that are held, and of the copies that filling makes."""
        nodes = schedules[0].nodes
        if nodes is None:
            return 0
        spans = [s.measured(i) for s in schedules for i in range(s.tiles.rows.count)]
        rows = max(stop - first for first, stop in spans) + 1
        row = 4 * NodeGrid.of(self.padded, self.pitch, self.stride).cols.count
        return rows * row * (2 * sum(self.channels) + _TABLE_COPIES * max(self.channels))


def norm_channels(net: nn.Module) -> int:
    """Return the channels of all norm layers together."""
    return sum(m.num_features for m in net.modules() if isinstance(m, nn.InstanceNorm2d))


_SIDE = 128


class _Alive(Watch):
    """Adds up the storages that are alive after each operation."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[StorageWeakRef, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self._sizes[StorageWeakRef(storage)] = storage.nbytes()
        self._sizes = {ref: size for ref, size in self._sizes.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self._sizes.values()))
        return out


def activation_bytes(net: nn.Module, dtype: torch.dtype) -> float:
    """Return the peak bytes of features that exist at once, per pixel of the input.

    A copy of the network, with weights of 0, is run on a small picture. Memory that kernels need beside
    inputs and outputs is not counted.

    Args:
        net: any fully convolutional network of RGB images.
        dtype: in which it will run.
    """
    # On the CPU and in float32, whatever is planned: tensors without memory (torch's meta device) would
    # import torch's compiler, 150 MB and two seconds.
    copied = nn.Module.to(copy.deepcopy(net).to_empty(device="cpu"), dtype=torch.float32)
    for value in (*copied.parameters(), *copied.buffers()):
        value.detach().zero_()
    # Its memory format is that of the picture: layers of another, as after a run, would copy their input.
    copied = copied.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    counter = _Alive()
    with torch.no_grad(), counter:
        copied(torch.zeros((1, 3, _SIDE, _SIDE)))
    return counter.peak / _SIDE**2 * dtype.itemsize / torch.float32.itemsize


def weight_bytes(net: nn.Module, dtype: torch.dtype) -> int:
    """Return the bytes of parameters and buffers."""
    tensors = [*net.parameters(), *net.buffers()]
    return sum(t.numel() for t in tensors) * dtype.itemsize

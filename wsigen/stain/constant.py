"""Statistics of a whole slide, for the normalisers that use the same ones everywhere.

"tin" takes them from a thumbnail (Chen et al. 2022, URST), "kin-inf" averages those of all patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size
from wsigen.stain.branch import Constant, common_stride, take_over
from wsigen.stain.glass import GlassMap
from wsigen.stain.machine import Machine
from wsigen.stain.measure import NodeMeter, ReadInto
from wsigen.stain.nodes import PATCH, NodeGrid
from wsigen.stain.norm import Norm
from wsigen.stain.normalise import Axis, Field, LayerStats, WhiteningStats
from wsigen.stain.pixels import to_network
from wsigen.stain.plan import padded_size

ReadRegion = Callable[[Region], np.ndarray]
"""Pixels of a region inside a slide: uint8 (height, width, 3)."""

_STRIP_PIXELS, _LEAST = 1 << 22, 16


def prepare_constant(
    nets: Sequence[nn.Module],
    read: ReadRegion,
    size: Size,
    norm: Norm,
    *,
    glass: GlassMap | None = None,
    pitch: int = PATCH,
    machine: Machine | None = None,
) -> list[Constant]:
    """What `StreamTranslator` needs to know beforehand for "tin" and "kin-inf".

    Args:
        nets: the generators; their instance norms are taken over, as there.
        read: the slide.
        size: of the slide.
        norm: one that is the same for the whole slide.
        glass: where the slide is bare glass; patches of "kin-inf" without tissue do not count.
        pitch: distance of the patches of "kin-inf", px.
        machine: that runs the networks.

    Returns:
        For each network, statistics for each call of a norm layer.

    Memory: a row of patches, or strips of the slide of 4 million pixels.

    Raises:
        InvalidValueError: another norm.
    """
    if not norm.is_constant:
        raise InvalidValueError(f"norm {norm.kind} is not the same for a whole slide; tin and kin-inf are")
    machine = machine or Machine()
    layers = [take_over(net, machine.device, machine.dtype) for net in nets]
    if norm.kind == "tin":
        pixels = torch.from_numpy(read_thumbnail(read, size, common_stride(nets)))
        x = to_network(pixels[None].to(machine.device), machine.dtype)
        return [[_everywhere(layer) for layer in own.measure(x)] for own in layers]
    padded = padded_size(size, nets)
    meter = NodeMeter(layers, NodeGrid.of(padded, pitch, common_stride(nets)), glass, machine)
    means = _mean_of_nodes(meter, _padded(read, size))
    return [
        [
            _everywhere(LayerStats(*part))
            for part in zip(*(t.split(own.channels, 1) for t in mean), strict=True)
        ]
        for mean, own in zip(means, layers, strict=True)
    ]


def read_thumbnail(read: ReadRegion, size: Size, stride: int = 4) -> np.ndarray:
    """A slide averaged over areas, its aspect kept, its longer side that of a patch (512 px) or its own.

    Args:
        read: the slide.
        size: of the slide.
        stride: both sides are multiples of this, at least 16 px.

    Returns:
        uint8 (height, width, 3).
    """
    scale = min(1.0, PATCH / max(size.height, size.width))
    height, width = (
        max(-(-_LEAST // stride), round(n * scale / stride)) * stride for n in (size.height, size.width)
    )
    total = np.zeros((height, width, 3))
    rows = max(1, _STRIP_PIXELS // size.width)
    for y in range(0, size.height, rows):
        strip = read(Region(y, 0, min(rows, size.height - y), size.width)).astype(np.float32)
        lines = cv2.resize(strip, (width, len(strip)), interpolation=cv2.INTER_AREA)
        first, weights = _area_weights(y, len(strip), size.height / height)
        part = total[first : first + len(weights)]
        part += np.tensordot(weights[: len(part)], lines, 1)
    return np.clip(np.rint(total), 0, 255).astype(np.uint8)


def _area_weights(y: int, count: int, step: float) -> tuple[int, np.ndarray]:
    """The first average over ``step`` rows that rows from y on count in, and how much: (averages, rows)."""
    first, last = int(y / step), int(np.ceil((y + count) / step))
    starts, rows = np.arange(first, last)[:, None] * step, np.arange(y, y + count)
    overlap = np.minimum(starts + step, rows + 1) - np.maximum(starts, rows)
    return first, overlap.clip(0) / step


def _padded(read: ReadRegion, size: Size) -> ReadInto:
    """The slide with its last row and column repeated."""

    def read_into(region: Region, out: np.ndarray) -> None:
        inside = region.intersect(size.region)
        missing = ((0, region.y1 - inside.y1), (0, region.x1 - inside.x1), (0, 0))
        out[:] = np.pad(read(inside), missing, mode="edge")

    return read_into


def _mean_of_nodes(meter: NodeMeter, read: ReadInto) -> list[tuple[Tensor, Tensor]]:
    """Mean and 1/σ over all nodes by their confidence, for each network: float32 (1, channels)."""
    sums: list[Tensor | float] = [0.0] * len(meter.layers)
    for row in range(meter.grid.rows.count):
        for i, nodes in enumerate(meter.measure(row, read)):
            values = torch.stack([nodes.mean, 1 / nodes.inv_std, torch.ones_like(nodes.mean)]).double()
            weights = torch.stack([nodes.confidence, torch.ones_like(nodes.confidence)]).double()
            sums[i] = sums[i] + torch.einsum("wn,vnc->wvc", weights, values)
    means = []
    for total in sums:
        assert isinstance(total, Tensor)
        by_confidence, plain = total
        mean, std, count = by_confidence if by_confidence[2].any() else plain
        means.append(((mean / count).float()[None], (count / std).float()[None]))
    return means


def _everywhere(stats: LayerStats) -> Field | WhiteningStats:
    """Statistics of one image as a field, which for whitening they are as they come."""
    if isinstance(stats, WhiteningStats):
        return stats
    alone = Axis((0.0,))
    return Field(stats.mean[None], stats.inv_std[None], alone, alone, "nearest")

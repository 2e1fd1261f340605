"""Statistics of a slide: of its nodes, measured ahead of rendering, or the same ones for the whole slide.

The latter are those of a thumbnail (Chen et al. 2022, URST), or averages over all nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size
from wsigen.stain.engine.background import AnyBackground, BackgroundMap
from wsigen.stain.engine.nodes import (
    PATCH,
    NodeGrid,
    NodeRow,
    contrast_confidence,
    side_by_side,
    tissue_confidence,
)
from wsigen.stain.engine.plan import padded_size
from wsigen.stain.engine.render import Compute, Constant, ReadInto, common_stride, prepare, to_network
from wsigen.stain.normalise import Axis, Field, LayerStats, NormLayers
from wsigen.stain.normalise.norm import Norm


class NodeMeter:
    """Measures rows of nodes for several networks, reading each patch once.

    Nodes without tissue or contrast are not measured: they get the statistics of `tissue_like`, and a
    confidence of 0, so that nodes beside them that are better take their place.

    Args:
        layers: of each network.
        grid: of the nodes.
        background: of the slide.
        machine: that runs the networks.

    Determinism: a node's statistics depend on its own patch alone. On the CPU patches go one by one.
    """

    def __init__(
        self, layers: Sequence[NormLayers], grid: NodeGrid, background: AnyBackground | None, machine: Compute
    ) -> None:
        self.layers, self.grid, self.background, self.machine = layers, grid, background, machine
        picture = to_network(torch.from_numpy(tissue_like())[None].to(machine.device), machine.dtype)
        self._usual = [side_by_side(own.measure(picture)) for own in layers]

    @torch.inference_mode()
    def measure(self, row: int, read: ReadInto, cols: range | None = None) -> list[NodeRow]:
        """Measure one row of nodes for each network.

        Args:
            row: of nodes.
            read: the slide.
            cols: of the row; all by default.
        """
        cols = range(self.grid.cols.count) if cols is None else cols
        device, count = self.machine.device, len(cols)
        # nodes that are not measured keep the usual statistics, with a confidence of 0
        tables = [[t.repeat(count, 1) for t in usual] for usual in self._usual]
        confidence = np.zeros(count, np.float32)
        for batch in self._batches(row, cols, read):
            pixels = torch.stack([patch.pixels for patch in batch])
            if device.type == "cuda":
                pixels = pixels.pin_memory()
            x = to_network(pixels.to(device, non_blocking=True), self.machine.dtype)
            spots = [patch.col - cols.start for patch in batch]
            confidence[spots] = [patch.confidence for patch in batch]
            at = torch.tensor(spots, device=device)
            for (mean, inv_std), layers in zip(tables, self.layers, strict=True):
                mean[at], inv_std[at] = side_by_side(layers.measure(x))
        weights = torch.from_numpy(confidence).to(device)
        return [NodeRow(mean, inv_std, weights) for mean, inv_std in tables]

    def _batches(self, row: int, cols: range, read: ReadInto) -> Iterator[list[_Patch]]:
        """Patches of one shape that are worth measuring."""
        batch: list[_Patch] = []
        for patch in self._patches(row, cols, read):
            # patches at the slide's edge are of other shapes: a call of their own
            full = len(batch) == self.machine.batch(patch.pixels[..., 0].numel())
            if batch and (full or batch[0].pixels.shape != patch.pixels.shape):
                yield batch
                batch = []
            batch.append(patch)
        if batch:
            yield batch

    def _patches(self, row: int, cols: range, read: ReadInto) -> Iterator[_Patch]:
        for col in cols:
            region = self.grid.patch(row, col)
            confidence = tissue_confidence(self.background, region)
            if confidence == 0:  # background is known without reading it
                continue
            pixels = np.empty((region.height, region.width, 3), np.uint8)
            read(region, pixels)
            confidence *= contrast_confidence(pixels)
            if confidence > 0:
                yield _Patch(col, confidence, torch.from_numpy(pixels))


@dataclass(frozen=True)
class _Patch:
    """A patch to measure: its column, what its statistics are worth, uint8 (height, width, 3)."""

    col: int
    confidence: float
    pixels: UInt8[Tensor, "h w 3"]


SIDE = 256

# Optical densities of haematoxylin and eosin in red, green and blue (Ruifrok and Johnston 2001).
_DENSITIES = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
_WAVES, _SHORTEST, _LONGEST = 16, 5.0, 160.0
_MEAN, _SWING, _WHITE = 0.4, 0.12, 243


def tissue_like(side: int = SIDE) -> np.ndarray:
    """Return a picture like tissue: two stains with waves of 5 to 160 px; uint8 (side, side, 3).

    A node on background or on a flat colour, far from any tissue, has no meaningful statistics: the σ of its
    features is nearly 0. Interpolated, that saturates everything up to the next node. Statistics of this
    picture are of the usual size instead, and depend on the network alone.

    Args:
        side: in pixels.

    Determinism: always the same picture.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    densities = np.full((side, side, len(_DENSITIES)), _MEAN)
    for stain in range(len(_DENSITIES)):
        for length in np.geomspace(_SHORTEST, _LONGEST, _WAVES):
            angle, phase = rng.uniform(0, 2 * np.pi, 2)
            densities[:, :, stain] += _SWING * np.sin(
                2 * np.pi / length * (x * np.cos(angle) + y * np.sin(angle)) + phase
            )
    # light that two stains leave (Beer and Lambert), of a scanner's white
    return np.rint(_WHITE * np.exp(-densities.clip(0) @ _DENSITIES)).astype(np.uint8)


ReadRegion = Callable[[Region], np.ndarray]
"""Pixels of a region inside a slide: uint8 (height, width, 3)."""

_STRIP_PIXELS, _LEAST = 1 << 22, 16


def prepare_constant(
    nets: Sequence[nn.Module],
    read: ReadRegion,
    size: Size,
    norm: Norm,
    *,
    background: BackgroundMap | None = None,
    pitch: int = PATCH,
    machine: Compute | None = None,
) -> list[Constant]:
    """Measure the statistics of the whole slide that `StreamTranslator` needs for a norm that is constant.

    Args:
        nets: the generators; their instance norms are taken over, as there.
        read: the slide.
        size: of the slide.
        norm: one that is the same for the whole slide.
        background: where the slide is background; nodes without tissue do not count.
        pitch: distance of the nodes, px.
        machine: that runs the networks.

    Returns:
        For each network, statistics for each call of a norm layer.

    Memory: a row of patches, or strips of the slide of 4 million pixels.

    Raises:
        InvalidValueError: another norm.
    """
    if not norm.is_constant:
        raise InvalidValueError(f"norm {norm.kind} is not the same for a whole slide: nothing to prepare")
    machine = machine or Compute()
    layers = [prepare(net, machine.device, machine.dtype) for net in nets]

    def thumbnail() -> list[list[LayerStats]]:
        pixels = torch.from_numpy(read_thumbnail(read, size, common_stride(nets)))
        x = to_network(pixels[None].to(machine.device), machine.dtype)
        return [own.measure(x) for own in layers]

    def nodes() -> list[list[LayerStats]]:
        grid = NodeGrid.of(padded_size(size, nets), pitch, common_stride(nets))
        means = _mean_of_nodes(NodeMeter(layers, grid, background, machine), _padded(read, size))
        parts = [[t.split(own.channels, 1) for t in mean] for mean, own in zip(means, layers, strict=True)]
        return [[LayerStats(m, s) for m, s in zip(*part, strict=True)] for part in parts]

    stats = norm.normaliser.whole_slide(thumbnail, nodes)
    return [[_everywhere(layer) for layer in own] for own in stats]


def read_thumbnail(read: ReadRegion, size: Size, stride: int = 4) -> np.ndarray:
    """Return a slide averaged over areas, its longer side that of a patch (512 px) or its own if less.

    Chen et al. 2022 (URST) resize the shorter side to 1024 px. The longer one is bounded here, so that a
    slide of any shape is measured in the memory of one patch, and no slide is enlarged.

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
        # a row of the thumbnail may average rows of two strips
        part = total[first : first + len(weights)]
        part += np.tensordot(weights[: len(part)], lines, 1)
    return np.clip(np.rint(total), 0, 255).astype(np.uint8)


def _area_weights(y: int, count: int, step: float) -> tuple[int, np.ndarray]:
    """The first average over ``step`` rows that rows from y on are part of, and weights (averages, rows)."""
    first, last = int(y / step), int(np.ceil((y + count) / step))
    starts, rows = np.arange(first, last)[:, None] * step, np.arange(y, y + count)
    # length that average [s, s + step) and row [r, r + 1) have in common
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
            # the third adds up the weights
            values = torch.stack([nodes.mean, 1 / nodes.inv_std, torch.ones_like(nodes.mean)]).double()
            weights = torch.stack([nodes.confidence, torch.ones_like(nodes.confidence)]).double()
            sums[i] = sums[i] + torch.einsum("wn,vnc->wvc", weights, values)
    means = []
    for total in sums:
        assert isinstance(total, Tensor)
        by_confidence, plain = total
        # a slide without tissue has the statistics of all its nodes
        mean, std, count = by_confidence if by_confidence[2].any() else plain
        means.append(((mean / count).float()[None], (count / std).float()[None]))
    return means


def _everywhere(stats: LayerStats) -> Field:
    """Statistics of one image as a field of one node."""
    alone = Axis((0.0,))
    return Field(stats.mean[None], stats.inv_std[None], alone, alone, "nearest")

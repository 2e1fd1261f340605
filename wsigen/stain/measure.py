"""Statistics of a slide's nodes: which patches are measured, in batches of one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from wsigen.geometry import Region
from wsigen.stain.glass import GlassMap
from wsigen.stain.machine import Machine
from wsigen.stain.nodes import NodeGrid, contrast_confidence, tissue_confidence
from wsigen.stain.normalise import NormLayers
from wsigen.stain.pixels import to_network
from wsigen.stain.tables import NodeRow, side_by_side

ReadInto = Callable[[Region, np.ndarray], None]
"""Copies a region of the padded slide into uint8 (height, width, 3)."""


class NodeMeter:
    """Measures rows of nodes for several networks, reading each patch once.

    Args:
        layers: of each network.
        grid: of the nodes.
        glass: of the slide; nodes without tissue are not measured.
        machine: that runs the networks.

    Determinism: a node's statistics depend on its own patch alone. On the CPU patches go one by one.
    """

    def __init__(
        self, layers: Sequence[NormLayers], grid: NodeGrid, glass: GlassMap | None, machine: Machine
    ) -> None:
        self.layers, self.grid, self.glass, self.machine = layers, grid, glass, machine

    @torch.inference_mode()
    def measure(self, row: int, read: ReadInto) -> list[NodeRow]:
        """One row of nodes, for each network.

        Args:
            row: of nodes.
            read: the slide.
        """
        device = self.machine.device
        patches = [self.grid.patch(row, col) for col in range(self.grid.cols.count)]
        confidence = np.array([tissue_confidence(self.glass, patch) for patch in patches], np.float32)
        tables = [_blank(len(patches), sum(layers.channels), device) for layers in self.layers]
        for cols in self._batches(patches, confidence):
            pixels = gather([patches[col] for col in cols], read, device)
            x = to_network(pixels.to(device, non_blocking=True), self.machine.dtype)
            at = torch.tensor(cols, device=device)
            for (mean, inv_std), layers in zip(tables, self.layers, strict=True):
                mean[at], inv_std[at] = side_by_side(layers.measure(x))
            confidence[cols] *= [contrast_confidence(p) for p in pixels.numpy()]  # while a GPU works
        weights = torch.from_numpy(confidence).to(device)
        return [NodeRow(mean, inv_std, weights) for mean, inv_std in tables]

    def _batches(self, patches: Sequence[Region], confidence: np.ndarray) -> Iterator[list[int]]:
        """Columns of one width that hold tissue."""
        batch: list[int] = []
        for col in np.flatnonzero(confidence).tolist():
            patch = patches[col]
            full = len(batch) == self.machine.batch(patch.size.area)
            if batch and (full or patches[batch[0]].size != patch.size):
                yield batch
                batch = []
            batch.append(col)
        if batch:
            yield batch


def _blank(nodes: int, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    shape = (nodes, channels)
    return torch.zeros(shape, device=device), torch.ones(shape, device=device)


def gather(regions: Sequence[Region], read: ReadInto, device: torch.device) -> UInt8[Tensor, "b h w 3"]:
    """Regions of one shape as a batch, on the host, from where a device can fetch it in the background.

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

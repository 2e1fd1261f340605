"""Statistics of a slide's nodes: which patches are measured, in batches of one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from wsigen.geometry import Region
from wsigen.stain.glass import Glass
from wsigen.stain.machine import Machine
from wsigen.stain.nodes import NodeGrid, contrast_confidence, tissue_confidence
from wsigen.stain.normalise import NormLayers
from wsigen.stain.pixels import to_network
from wsigen.stain.reference import tissue_like
from wsigen.stain.tables import NodeRow, side_by_side

ReadInto = Callable[[Region, np.ndarray], None]
"""Copies a region of the padded slide into uint8 (height, width, 3)."""


class NodeMeter:
    """Measures rows of nodes for several networks, reading each patch once.

    Nodes without tissue or contrast are not measured: they get the statistics of `tissue_like`, and a
    confidence of 0, so that nodes beside them that are better take their place.

    Args:
        layers: of each network.
        grid: of the nodes.
        glass: of the slide.
        machine: that runs the networks.

    Determinism: a node's statistics depend on its own patch alone. On the CPU patches go one by one.
    """

    def __init__(
        self, layers: Sequence[NormLayers], grid: NodeGrid, glass: Glass | None, machine: Machine
    ) -> None:
        self.layers, self.grid, self.glass, self.machine = layers, grid, glass, machine
        picture = to_network(torch.from_numpy(tissue_like())[None].to(machine.device), machine.dtype)
        self._usual = [side_by_side(own.measure(picture)) for own in layers]

    @torch.inference_mode()
    def measure(self, row: int, read: ReadInto, cols: range | None = None) -> list[NodeRow]:
        """One row of nodes, for each network.

        Args:
            row: of nodes.
            read: the slide.
            cols: of the row; all by default.
        """
        cols = range(self.grid.cols.count) if cols is None else cols
        device, count = self.machine.device, len(cols)
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
            confidence = tissue_confidence(self.glass, region)
            if confidence == 0:
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

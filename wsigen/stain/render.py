"""Rendering one row of tiles: which need the network, in batches of one shape, blended with the glass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size
from wsigen.stain.branch import Branch
from wsigen.stain.glass import Glass
from wsigen.stain.machine import Machine
from wsigen.stain.measure import ReadInto, gather
from wsigen.stain.pixels import to_network, to_pixels
from wsigen.stain.tiles import Tile


@dataclass(frozen=True)
class _Flight:
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

    def land(self, out: np.ndarray, there: Region) -> None:
        """Wait for the pixels, and write them to those of a region."""
        if self.done is not None:
            self.done.synchronize()
        if not self.finite.item():
            raise InvalidValueError(
                f"the stainer returned values that are not numbers, near {self.tiles[0].core}; its "
                "weights are damaged, or its number format is too narrow: choose another --stainer, or "
                "--dtype float32"
            )
        for tile, pixels in zip(self.tiles, self.pixels, strict=True):
            core = tile.core.shift(-there.y, -there.x)
            part = out[core.y : core.y1, core.x : core.x1]
            part[:] = pixels.numpy()[: part.shape[0], : part.shape[1]]


class RowRenderer:
    """Renders the rows of tiles of one network.

    Args:
        branch: the network.
        size: of the slide, without padding.
        glass: where it is bare glass.
        machine: that runs the network. A batch never spans two rows of tiles, so that a run that begins at
            any row computes as one from the top.
    """

    def __init__(self, branch: Branch, size: Size, glass: Glass | None, machine: Machine) -> None:
        self.branch, self.size, self.glass, self.machine = branch, size, glass, machine
        self._most = machine.batch(branch.schedule.tiles.largest_read.area)

    def render(self, row: int, read: ReadInto) -> np.ndarray:
        """One row of tiles: uint8 (height, width, 3).

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
        """A region that tiles cover, with the branch's present statistics: uint8 (height, width, 3).

        Args:
            tiles: that reach no further up or left than the region.
            read: the slide.
            region: of the slide.
        """
        out = np.empty((region.height, region.width, 3), np.uint8)
        flight = None
        for batch in self._batches(tiles, read, out, region):
            launched = self._launch(batch, read)
            if flight is not None:
                flight.land(out, region)  # while the device works on the next one
            flight = launched
        if flight is not None:
            flight.land(out, region)
        return out

    def _batches(
        self, tiles: Sequence[Tile], read: ReadInto, out: np.ndarray, region: Region
    ) -> Iterator[list[Tile]]:
        """Tiles that need the network; the others are copied."""
        batch: list[Tile] = []
        for tile in tiles:
            if self.glass is not None and self.glass.range(tile.core)[1] == 0:
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

    def _launch(self, tiles: Sequence[Tile], read: ReadInto) -> _Flight:
        device = self.machine.device
        source = gather([tile.read for tile in tiles], read, device).to(device, non_blocking=True)
        values = self.branch.render(to_network(source, self.machine.dtype), tiles)
        cores = [self._finish(tile, v, s) for tile, v, s in zip(tiles, values, source, strict=True)]
        finite = torch.isfinite(values).all()
        if device.type != "cuda":
            return _Flight(tiles, [core.cpu() for core in cores], finite, None)
        landed = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in (*cores, finite)]
        for there, here in zip((*cores, finite), landed, strict=True):
            here.copy_(there, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(device))
        return _Flight(tiles, landed[:-1], landed[-1], done)

    def _finish(self, tile: Tile, values: Tensor, source: Tensor) -> Tensor:
        rows, cols = slice(tile.spot.y, tile.spot.y1), slice(tile.spot.x, tile.spot.x1)
        part = values[:, rows, cols]
        if self.glass is None or self.glass.range(tile.core)[0] == 1:
            return to_pixels(part)
        opacity = torch.from_numpy(self.glass.opacity(tile.core)).to(values.device)
        return to_pixels(part, source[rows, cols], opacity)

"""A stage by the upscaler from top to bottom: what `wsigen.sampling.stage.StageRun` is for the denoiser."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import torch

from wsigen.geometry import Region
from wsigen.sampling.background import Colour
from wsigen.sampling.cells import CELL
from wsigen.sampling.guiderows import HeldRows
from wsigen.sampling.reach import Reach, UpscaleSpec
from wsigen.sampling.rows import RowSink, RowSource
from wsigen.sampling.stage import Machine, Progress, StageProgress
from wsigen.sampling.upscale import Pieces, UpscaledStage, UpscalerFunction

# Guide pixels. The larger, the less of what the network sees is halo: 27 % at 512, 15 % at 1024.
_TILE, _CUDA_TILE = 512, 1024


def default_tile(device: torch.device) -> int:
    """Guide pixels a side that keep a device busy without using much memory."""
    return _CUDA_TILE if device.type == "cuda" else _TILE


def tile_of(spec: UpscaleSpec, machine: Machine) -> int:
    """Side of the tiles of a stage, in guide pixels: about equal ones, of whole cells, no larger than wanted.

    Args:
        spec: of the stage.
        machine: with the side that is wanted.
    """
    side = spec.guide_bounds.width
    count = -(-side // (machine.tile or default_tile(machine.device)))
    return -(-side // (count * CELL)) * CELL


def tile_rows(spec: UpscaleSpec, tile: int, from_row: int = 0) -> list[Region]:
    """The canvas, from some row on, in rows of tiles."""
    height = tile * spec.k
    tops = [from_row, *range((from_row // height + 1) * height, spec.extent, height)]
    ends = [*tops[1:], spec.extent]
    return [Region(y, 0, end - y, spec.extent) for y, end in zip(tops, ends, strict=True) if end > y]


class UpscaleRun:
    """Computes one stage, a row of tiles at a time.

    Args:
        spec: what to do.
        upscaler: G(y, z; µm/px), on the machine's device.
        source: the stage above, whole.
        sink: of the finished rows. The run begins at its ``rows_done``.
        background: colour of the empty slide, for the skip rule.
        machine: where and how.
        progress: called after every tile.

    Memory: a row of tiles, with the guide beside it; and what `UpscaledStage` takes.

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
        machine: Machine | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.spec, self.machine = spec, machine or Machine()
        self._upscaler, self._source, self._sink = upscaler, source, sink
        self._background, self._progress = background, progress
        self._emitted = sink.rows_done
        self._reach = Reach.of(spec, upscaler, tile_of(spec, self.machine))
        self._bands = tile_rows(spec, self._reach.tile, self._emitted)
        self._patches = self._evaluations = 0
        self._patches_total = sum(len(self._reach.cores(band)) for band in self._bands)

    def run(self) -> StageProgress:
        """Compute every row that the sink does not have, and append it there.

        Raises:
            InvalidValueError: the upscaler returns values that are not numbers.
        """
        if not self._bands:
            return self._report()
        threads = self.machine.threads or os.cpu_count() or 1
        ahead = ThreadPoolExecutor(threads, "wsigen-noise") if self.machine.prefetches else nullcontext()
        reads = [self._reach.guide_region(band) for band in self._bands]
        guide = HeldRows(
            self._source,
            extent=self.spec.guide_bounds.width,
            capacity=max(read.height for read in reads),
            first=reads[0].y,
        )
        with ahead as pool:
            stage = UpscaledStage(
                self.spec,
                self._upscaler,
                guide,
                background=self._background,
                device=self.machine.device,
                pieces=Pieces(tile=self._reach.tile, pool=pool, done=self._count),
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
            extent=self.spec.extent,
        )

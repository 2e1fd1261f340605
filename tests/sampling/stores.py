"""Stores in memory, small cascades and denoisers that the sampling tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from tests.synthetic import he_image
from wsigen.geometry import Colour, Region, Size
from wsigen.sampling.preset import GuidedConfig, Preset, ScheduleConfig
from wsigen.sampling.spec import Execution, StageSpec, stage_specs
from wsigen.sampling.stage import StageRun

GLASS: Colour = (243, 243, 243)

SMALL = Preset(
    base=ScheduleConfig(solver="heun", steps=6),
    guided=GuidedConfig(
        solver="dpmpp_2m", steps=5, sigma_min=0.02, sigma_start=2.0, relax_sigma=0.256, shift="drift"
    ),
)


class Killed(Exception):
    """Stands for a process that ends at any moment."""


class MemoryStore:
    """Rows in memory; ``dies_at`` stops the run when that many rows are exceeded.

    Like a block journal, it keeps whole blocks of rows only when a run dies.
    """

    def __init__(self, size: Size | int, *, dies_at: int | None = None, block: int = 1) -> None:
        self.size = Size.square(size) if isinstance(size, int) else size
        self.dies_at, self.block = dies_at, block
        self.rows = np.empty((0, self.size.width, 3), np.uint8)
        self.appends: list[int] = []

    @property
    def rows_done(self) -> int:
        return len(self.rows)

    def append(self, rows: np.ndarray) -> None:
        assert rows.dtype == np.uint8
        assert rows.shape[1:] == (self.size.width, 3)
        assert len(rows) >= 1
        self.appends.append(len(rows))
        self.rows = np.concatenate([self.rows, rows])
        assert len(self.rows) <= self.size.height
        if self.dies_at is not None and len(self.rows) > self.dies_at:
            self.rows, self.dies_at = self.rows[: self.dies_at // self.block * self.block], None
            raise Killed

    def read(self, region: Region) -> np.ndarray:
        assert region.intersect(Region(0, 0, len(self.rows), self.size.width)) == region
        return self.rows[region.y : region.y1, region.x : region.x1]


class ImageSource:
    """A finished stage above."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image

    def read(self, region: Region) -> np.ndarray:
        assert region.intersect(Region(0, 0, *self.image.shape[:2])) == region
        return self.image[region.y : region.y1, region.x : region.x1]


class BlurDenoiser:
    """Looks at neighbours, so that padding, halos and joints matter; counts what it is asked."""

    def __init__(self) -> None:
        self.images, self.sigmas = 0, []

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, mpp: torch.Tensor) -> torch.Tensor:
        self.images += len(x)
        self.sigmas.append(float(sigma[0]))
        shrink = (0.25 / (0.25 + sigma**2)).view(-1, 1, 1, 1)
        around = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
        spots = [(i, j) for i in (0, 2, 4) for j in (0, 1, 4)]
        blurred = sum(around[:, :, i : i + x.shape[2], j : j + x.shape[3]] for i, j in spots)
        return (0.6 * x + 0.4 / 9 * blurred).mul_(shrink)


def guide_image(extent: int, seed: int = 0) -> ImageSource:
    return ImageSource(he_image(extent, seed=seed))


def noise_image(size: Size | int, seed: int = 0) -> ImageSource:
    """A guide without glass, in which every pixel counts."""
    sides = (size, size) if isinstance(size, int) else size.sides
    values = np.random.default_rng(seed).integers(40, 220, (*sides, 3))
    return ImageSource(values.astype(np.uint8))


def guided_spec(
    *, patch: int = 16, stages: int = 2, k: int = 2, seed: int = 1, mpp: float = 0.5, **changes: object
) -> StageSpec:
    """The last stage of a small cascade; ``changes`` are fields of its `GuidedConfig`."""
    preset = Preset(base=SMALL.base, guided=replace(SMALL.guided, **changes))  # type: ignore[arg-type]
    spec = stage_specs(preset, size=Size.square(patch * k**stages), stages=stages, k=k, mpp=mpp, seed=seed)[
        -1
    ]
    assert isinstance(spec, StageSpec)
    return spec


def run_stage(
    spec: StageSpec,
    denoiser: Callable[..., torch.Tensor],
    source: ImageSource | None,
    *,
    store: MemoryStore | None = None,
    order: str = "wavefront",
    batch_size: int = 4,
    background: Colour = GLASS,
    threads: int = 1,
) -> np.ndarray:
    """The pixels of one stage."""
    store = store or MemoryStore(spec.size)
    machine = Execution(order=order, batch_size=batch_size, threads=threads)
    StageRun(spec, denoiser, source, store, background=background, execution=machine).run()
    return store.rows


def different(images: Sequence[np.ndarray]) -> int:
    """How many of the images differ from the first."""
    return sum(not np.array_equal(images[0], image) for image in images[1:])

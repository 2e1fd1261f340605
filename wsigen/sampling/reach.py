"""How far an upscaler looks: which part of the stage above a region of a stage depends on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from wsigen.geometry import Region
from wsigen.sampling.background import SkipRule
from wsigen.sampling.cells import cells_of, pixels_of

LEAST = 128
"""Least side of what a network is given, in guide pixels.

oneDNN does not take convolutions of fewer than 20 480 values, and other kernels sum in another order. From
here on results were the same to the last bit, for every shape from 128 × 128 to 600 × 600 and any number of
tiles at once: features of at least 20 channels a quarter as fine as the guide are then large enough.
"""


@dataclass(frozen=True, kw_only=True)
class UpscaleSpec:
    """Everything that determines the pixels of a stage, besides the upscaler, the guide and the background.

    Args:
        stage: of the cascade, at least 1.
        extent: side of the canvas in pixels, a multiple of ``k``.
        k: factor between the stages.
        mpp: µm/px of this stage.
        seed: of the slide.
        skip: what is left to the bilinear guide as background; None for nothing.
    """

    stage: int
    extent: int
    k: int
    mpp: float
    seed: int
    skip: SkipRule | None = None

    @property
    def bounds(self) -> Region:
        """The canvas."""
        return Region(0, 0, self.extent, self.extent)

    @property
    def guide_bounds(self) -> Region:
        """The canvas of the stage above."""
        return Region(0, 0, self.extent // self.k, self.extent // self.k)


class _Reaching(Protocol):
    @property
    def stride(self) -> int: ...

    @property
    def radius(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How a stage is cut into tiles, and what is read for each.

    Args:
        spec: of the stage.
        tile: guide pixels a side, at most.
        stride: what the network is given begins at, and is as long as, multiples of this.
        radius: guide pixels around its own that a pixel depends on.
    """

    spec: UpscaleSpec
    tile: int
    stride: int
    radius: int

    @classmethod
    def of(cls, spec: UpscaleSpec, upscaler: _Reaching, tile: int) -> Reach:
        """That of an upscaler."""
        return cls(spec=spec, tile=tile, stride=upscaler.stride, radius=upscaler.radius)

    def cores(self, region: Region) -> list[Region]:
        """The guide pixels of a region of the stage, in parts of about one size, none larger than a tile."""
        k = self.spec.k
        rows = _parts(region.y // k, -(-region.y1 // k), self.tile)
        cols = _parts(region.x // k, -(-region.x1 // k), self.tile)
        return [Region(y, x, y1 - y, x1 - x) for y, y1 in rows for x, x1 in cols]

    def given(self, box: Region, core: Region) -> Region:
        """What the network is given for a part of the guide; may reach outside the canvas.

        Args:
            box: the part that is evaluated, in ``core``.
            core: of the tile. For all parts of it, the network sees no more than for the whole.
        """
        outer, given = self._with_halo(core), self._with_halo(box)
        return given.shift(min(0, outer.y1 - given.y1), min(0, outer.x1 - given.x1))

    def read(self, core: Region) -> Region:
        """What of the stage above is read for a tile: what the network sees, and the cells that touch it."""
        margin = self.spec.skip.margin if self.spec.skip else 0
        given, cells = self._with_halo(core), pixels_of(cells_of(core)).pad(max(margin, 1))
        return _around([given, cells]).intersect(self.spec.guide_bounds)

    def guide_region(self, region: Region) -> Region:
        """The part of the stage above that is read for a region of this one, which is not empty."""
        return _around([self.read(core) for core in self.cores(region)])

    def _with_halo(self, core: Region) -> Region:
        y, y1 = self._span(core.y, core.y1)
        x, x1 = self._span(core.x, core.x1)
        return Region(y, x, y1 - y, x1 - x)

    def _span(self, start: int, end: int) -> tuple[int, int]:
        first = (start - self.radius) // self.stride * self.stride
        last = -(-(end + self.radius) // self.stride) * self.stride
        return first, max(last, first + -(-LEAST // self.stride) * self.stride)


def _around(regions: list[Region]) -> Region:
    y, x = min(r.y for r in regions), min(r.x for r in regions)
    return Region(y, x, max(r.y1 for r in regions) - y, max(r.x1 for r in regions) - x)


def _parts(start: int, end: int, largest: int) -> list[tuple[int, int]]:
    count = -(-(end - start) // largest)
    return list(pairwise(start + (end - start) * i // count for i in range(count + 1))) if count else []

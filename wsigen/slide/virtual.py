"""A slide without a file, with OpenSlide's interface: (x, y) order and level-0 coordinates.

It can be passed wherever an ``openslide.OpenSlide`` is expected, as to
``openslide.deepzoom.DeepZoomGenerator``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from openslide import AbstractSlide
from PIL import Image

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size


class LevelSource(Protocol):
    """The pixels of a slide, level by level."""

    @property
    def levels(self) -> Sequence[Size]:
        """Size of each level, finest first."""
        ...

    def read(self, region: Region, level: int) -> np.ndarray:
        """Return a region inside a level, given in its pixels: uint8 (height, width, 3)."""
        ...


class VirtualSlide(AbstractSlide):
    """A slide whose pixels come from a function, with OpenSlide's interface.

    Args:
        source: of the pixels.
        downsamples: of each level, relative to level 0.
        mpp: µm/px of level 0.
        properties: in addition to those that OpenSlide gives every slide.

    Determinism: a pixel does not depend on the region that it is read in, if the source's do not.
    """

    def __init__(
        self,
        source: LevelSource,
        downsamples: Sequence[float],
        mpp: float,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._source: LevelSource | None = source
        self._sizes = tuple(source.levels)
        self._downsamples = tuple(float(d) for d in downsamples)
        self._properties = {**_usual(self._sizes, self._downsamples, mpp), **(properties or {})}

    @classmethod
    def detect_format(cls, filename: object) -> None:
        """Return None: there is no file."""
        return

    def close(self) -> None:
        """Release the source; the slide cannot be read any more."""
        self._source = None

    @property
    def level_count(self) -> int:
        """Number of levels."""
        return len(self._sizes)

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level."""
        return tuple((size.width, size.height) for size in self._sizes)

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Width of a pixel of each level, in pixels of level 0."""
        return self._downsamples

    @property
    def properties(self) -> Mapping[str, str]:
        """Properties under OpenSlide's names and those that were given."""
        return dict(self._properties)

    @property
    def associated_images(self) -> Mapping[str, Image.Image]:
        """Empty: there is no label."""
        return {}

    def get_best_level_for_downsample(self, downsample: float) -> int:
        """Return the coarsest level of at most this downsample."""
        fine = [level for level, own in enumerate(self._downsamples) if own <= downsample]
        return max(fine, default=0)

    def read(self, region: Region, level: int = 0) -> np.ndarray:
        """Return a region of a level: uint8 (height, width, 3).

        Args:
            region: inside the level, in its own pixels (not in those of level 0).
            level: 0 is the finest.

        Raises:
            InvalidValueError: no such level, an empty region or one that reaches outside, or a closed slide.
        """
        bounds = self._size(level).region
        if not region or region.intersect(bounds) != region:
            raise InvalidValueError(
                f"{region} must be of at least 1 x 1 px and inside level {level}, which is {bounds.width} x "
                f"{bounds.height} px"
            )
        return self._open().read(region, level)

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """Return a region as OpenSlide does: RGBA, transparent outside the slide.

        Where ``location`` lies between two pixels of the level, they are interpolated, as OpenSlide does.

        Args:
            location: (x, y) of the upper left corner, in pixels of level 0; may lie outside.
            level: 0 is the finest.
            size: (width, height), in pixels of the level.

        Raises:
            InvalidValueError: no such level, a size that is not positive, or a closed slide.
        """
        bounds, (width, height) = self._size(level), size
        if width < 1 or height < 1:
            raise InvalidValueError(f"size must be at least 1 x 1 px, got {width} x {height}")
        (x, across, left), (y, down, top) = (_place(at, self._downsamples[level]) for at in location)
        wanted = Region(y, x, height - top + (down > 0), width - left + (across > 0))
        inside = wanted.intersect(bounds.region)
        shown = np.zeros((height, width, 4), np.uint8)
        if inside:
            pixels = np.zeros((wanted.height, wanted.width, 4), np.uint8)
            spot = inside.shift(-y, -x)
            pixels[spot.y : spot.y1, spot.x : spot.x1, :3] = self._open().read(inside, level)
            pixels[spot.y : spot.y1, spot.x : spot.x1, 3] = 255
            shown[top:, left:] = _between(pixels, down, across) if down or across else pixels
        return Image.fromarray(shown)

    def _open(self) -> LevelSource:
        if self._source is None:
            raise InvalidValueError("the slide is closed; open a new one")
        return self._source

    def _size(self, level: int) -> Size:
        if not 0 <= level < self.level_count:
            raise InvalidValueError(f"level must be between 0 and {self.level_count - 1}, got {level}")
        return self._sizes[level]


def _place(at: int, downsample: float) -> tuple[int, float, int]:
    """Return first pixel of the level, fraction by which the region begins after it, and pixels before it.

    OpenSlide rounds positions before the slide towards it, and does not round positions inside it.
    """
    if at < 0:
        return 0, 0.0, int(-at / downsample)
    first = int(at / downsample)
    return first, at / downsample - first, 0


def _between(pixels: np.ndarray, down: float, across: float) -> np.ndarray:
    """Shift RGBA pixels up and left by a fraction; one row or column fewer where the fraction is not 0."""
    values = pixels.astype(np.float32)
    # Premultiplied, so that transparent pixels do not bleed their colour into the mixture.
    values[:, :, :3] *= values[:, :, 3:] / 255
    if down:
        values = values[:-1] * (1 - down) + values[1:] * down
    if across:
        values = values[:, :-1] * (1 - across) + values[:, 1:] * across
    alpha = values[:, :, 3:]
    np.divide(255 * values[:, :, :3], alpha, out=values[:, :, :3], where=alpha > 0)
    return np.rint(values).astype(np.uint8)


def _usual(sizes: Sequence[Size], downsamples: Sequence[float], mpp: float) -> dict[str, str]:
    found = {"openslide.level-count": str(len(sizes)), "openslide.vendor": "wsigen"}
    found |= {f"openslide.mpp-{axis}": f"{mpp:g}" for axis in "xy"}
    for level, (size, downsample) in enumerate(zip(sizes, downsamples, strict=True)):
        name = f"openslide.level[{level}]"
        found |= {f"{name}.downsample": f"{downsample:g}"}
        found |= {f"{name}.height": str(size.height), f"{name}.width": str(size.width)}
    return found

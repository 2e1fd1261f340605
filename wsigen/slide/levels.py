"""A slide with OpenSlide's interface, whose levels come from a file or are computed.

It can be passed wherever an ``openslide.OpenSlide`` is expected, as to
``openslide.deepzoom.DeepZoomGenerator``. OpenSlide's (x, y) order and level-0 coordinates exist here and in
`wsigen.slide.backend` only.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from openslide import AbstractSlide
from PIL import Image

from wsigen.arrays import part
from wsigen.config.check import is_positive
from wsigen.errors import InvalidValueError
from wsigen.geometry import Colour, Region, Size
from wsigen.slide.read import BACKGROUND, FINEST_REQUEST, Level, WholeSlide, padded, read_scaled


class LevelSource(Protocol):
    """The pixels of a slide, level by level."""

    @property
    def levels(self) -> Sequence[Size]:
        """Size of each level, finest first."""
        ...

    def read(self, region: Region, level: int) -> np.ndarray:
        """Return a region inside a level, given in its pixels: uint8 (height, width, 3)."""
        ...


class Slide(AbstractSlide):
    """A slide with OpenSlide's interface, and regions in µm at any µm/px.

    Levels, pixels and ``(x, y)`` are as in ``openslide.OpenSlide``. In a notebook, it shows its thumbnail.

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
        self._mpp = mpp
        self._properties = {**_usual(self._sizes, self._downsamples, mpp), **(properties or {})}

    @classmethod
    def detect_format(cls, filename: object) -> None:
        """Return None: there is no file."""
        return

    def close(self) -> None:
        """Release the source; the slide cannot be read any more."""
        self._source = None

    @property
    def mpp(self) -> float:
        """µm/px of level 0."""
        return self._mpp

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
            shown_part = part(pixels, wanted, inside)
            shown_part[..., :3], shown_part[..., 3] = self._open().read(inside, level), 255
            shown[top:, left:] = _between(pixels, down, across) if down or across else pixels
        return Image.fromarray(shown)

    def read_region_um(
        self,
        *,
        x: float,
        y: float,
        width: float,
        height: float,
        mpp: float,
        background: Colour = BACKGROUND,
    ) -> np.ndarray:
        """Read a region in µm, at any µm/px that the slide has, by averaging pixels of a finer level.

        Args:
            x: µm from the left edge of the slide to that of the region; may lie outside.
            y: µm from the upper edge of the slide to that of the region; may lie outside.
            width: of the region in µm; rounded to whole pixels, at least one.
            height: of the region in µm.
            mpp: µm/px of the result.
            background: colour outside the slide, 8-bit RGB.

        Returns:
            uint8 (height / mpp, width / mpp, 3).

        Raises:
            InvalidValueError: a size or µm/px that is not positive, µm/px finer than the slide's, or a
                closed slide.
        """
        source = self._open()
        for name, value in (("width", width), ("height", height), ("mpp", mpp)):
            if not is_positive(value):
                raise InvalidValueError(f"{name} must be positive and finite, got {value!r}")
        if mpp < self.mpp * FINEST_REQUEST:
            finest = f"{self.mpp * FINEST_REQUEST:g} for a slide of {self.mpp:g} µm/px"
            raise InvalidValueError(f"mpp must be at least {finest}, got {mpp:g}")
        top, left = round(y / mpp), round(x / mpp)
        region = Region(top, left, max(1, round(height / mpp)), max(1, round(width / mpp)))

        def read(level: int, block: Region) -> np.ndarray:
            return padded(lambda inside: source.read(inside, level), block, self._sizes[level], background)

        levels = [Level(*level) for level in zip(self._sizes, self._downsamples, strict=True)]
        return read_scaled(levels, read, region, mpp / self.mpp, background)

    def _repr_html_(self) -> str:
        """Return a thumbnail of at most 384 px with the slide's size and µm/px, for notebooks."""
        width, height = self.dimensions
        png = io.BytesIO()
        self.get_thumbnail((384, 384)).save(png, "PNG")
        data = base64.b64encode(png.getvalue()).decode()
        caption = html.escape(f"{self}: {width} x {height} px, {self.mpp:g} µm/px")
        return f'<figure><img src="data:image/png;base64,{data}"/><figcaption>{caption}</figcaption></figure>'

    def _open(self) -> LevelSource:
        if self._source is None:
            raise InvalidValueError("the slide is closed; open a new one")
        return self._source

    def _size(self, level: int) -> Size:
        if not 0 <= level < self.level_count:
            raise InvalidValueError(f"level must be between 0 and {self.level_count - 1}, got {level}")
        return self._sizes[level]


class FileSlide(Slide):
    """A slide in a file; see `wsigen.open_slide`.

    Args:
        file: the file.
        region: of level 0 that is shown alone, as a slide of one level; None for the whole slide.

    Attributes:
        path: the file.
    """

    def __init__(self, file: WholeSlide, region: Region | None = None) -> None:
        downsamples = [level.downsample for level in file.levels]
        source: LevelSource = _FileLevels(file)
        if region is not None:
            source, downsamples = RegionLevels(source, region), [1.0]
        sides = zip("yx", file.pixel_um or (), strict=False)
        known = {f"openslide.mpp-{side}": f"{length:g}" for side, length in sides}
        super().__init__(source, downsamples, file.mpp, known)
        self.path = file.path

    def __repr__(self) -> str:
        return f"FileSlide({str(self.path)!r})"


class RegionLevels:
    """A region of a slide as a slide of one level.

    Args:
        source: of the slide's pixels.
        region: in pixels of its level 0, inside it.
    """

    def __init__(self, source: LevelSource, region: Region) -> None:
        self._source, self._region = source, region
        self.levels = (region.size,)

    def read(self, region: Region, level: int) -> np.ndarray:
        """Return a part of the region: uint8 (height, width, 3)."""
        return self._source.read(region.shift(self._region.y, self._region.x), level)


class _FileLevels:
    """The stored levels of a file."""

    def __init__(self, file: WholeSlide) -> None:
        self._file = file
        self.levels = tuple(level.size for level in file.levels)

    def read(self, region: Region, level: int) -> np.ndarray:
        """Return a region inside a level: uint8 (height, width, 3)."""
        return self._file.read_level(region, level)


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

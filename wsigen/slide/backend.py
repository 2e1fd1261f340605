"""Backends read the stored levels of a slide file; here those for OpenSlide's formats and for pictures.

TIFF files have a module of their own (`wsigen.slide.tiff_backend`). OpenSlide's (x, y) order and level-0
coordinates exist here and in `wsigen.slide.levels` only.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from openslide import OpenSlide, OpenSlideCache, OpenSlideError
from PIL import Image, ImageOps

from wsigen.arrays import paste
from wsigen.errors import SlideError
from wsigen.geometry import Colour, Region, Size
from wsigen.slide.damage import DamagedError
from wsigen.slide.jpeg import ends_early

PLAUSIBLE_MPP = (0.01, 40.0)
"""µm/px of slides; 600 dpi, the finest print resolution that programs write by default, is 42.3."""


class Backend(Protocol):
    """One open slide file; used in one process and never pickled."""

    @property
    def levels(self) -> tuple[Size, ...]:
        """Sizes of the stored levels, finest first."""
        ...

    @property
    def mpp(self) -> tuple[float, float] | None:
        """µm/px of level 0 along y and x, unchecked, from the metadata; None if they do not state it."""
        ...

    @property
    def icc(self) -> bytes | None:
        """The file's ICC profile; None if it has none."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of pixels held in memory outside the shared tile cache."""
        ...

    def tiles(self, level: int, region: Region) -> Iterator[Region]:
        """Yield the pieces that a level is stored in and that a region touches, in pixels of the level."""
        ...

    def read(self, level: int, region: Region, background: Colour) -> np.ndarray:
        """Return a region inside a level, uint8 (height, width, 3); ``background`` where transparent.

        Raises:
            DamagedError: stored pixels of the region are damaged. Pixels of another region may be read with a
                backend that is opened again.
        """
        ...


def over_background(rgba: np.ndarray, background: Colour) -> np.ndarray:
    """Composite an image with (not premultiplied) alpha over a plain colour.

    Args:
        rgba: uint8 (height, width, 4).
        background: uint8 triple.

    Returns:
        uint8 (height, width, 3), contiguous.
    """
    rgb, alpha = rgba[..., :3], rgba[..., 3]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgb)
    weight = alpha[..., None].astype(np.float32) / 255
    mixed = rgb * weight + np.asarray(background, np.float32) * (1 - weight)
    return np.rint(mixed).astype(np.uint8)


def tiles_of(region: Region, tile: Size, size: Size) -> Iterator[Region]:
    """Yield the tiles that a region touches, row by row.

    Args:
        region: inside a picture.
        tile: size of tiles; the first one begins in the picture's upper left corner.
        size: of the picture, which cuts off the last tiles.
    """
    for y in range(region.y // tile.height * tile.height, region.y1, tile.height):
        for x in range(region.x // tile.width * tile.width, region.x1, tile.width):
            yield Region(y, x, tile.height, tile.width).intersect(size.region)


def assemble(tiles: Iterable[Region], read: Callable[[Region], np.ndarray], region: Region) -> np.ndarray:
    """Return a region from the tiles that it touches: uint8 (height, width, 3)."""
    out = np.empty((region.height, region.width, 3), np.uint8)
    for tile in tiles:
        paste(read(tile), tile, out, region)
    return out


class OpenSlideBackend:
    """An open OpenSlide handle.

    OpenSlide places levels by their sizes. Where a level lost odd pixels, its factor is no whole number, and
    OpenSlide interpolates between its pixels; of JPEG whose data end early, it shows what libjpeg makes up.
    `read_by` gives the stored pixels.

    Args:
        path: the file.
        cache: decoded tiles, shared by every handle of the process.

    Raises:
        SlideError: OpenSlide knows the format but cannot open the file.
    """

    nbytes = 0

    def __init__(self, path: Path, cache: OpenSlideCache) -> None:
        self._path = path
        try:
            self._slide = OpenSlide(path)
        except (OpenSlideError, OSError) as error:
            raise SlideError(path, f"OpenSlide cannot open it ({error})") from error
        self._slide.set_cache(cache)
        self.levels = tuple(Size(height, width) for width, height in self._slide.level_dimensions)
        self._stored: Backend | None = None

    @property
    def mpp(self) -> tuple[float, float] | None:
        """From OpenSlide's properties ``openslide.mpp-y`` and ``openslide.mpp-x``."""
        x = self._slide.properties.get("openslide.mpp-x")
        y = self._slide.properties.get("openslide.mpp-y", x)
        try:
            return (float(y), float(x)) if x is not None and y is not None else None
        except ValueError:
            return None

    def tiles(self, level: int, region: Region) -> Iterator[Region]:
        """Yield tiles; of a usual size where the format has none."""
        if self._stored is not None:
            return self._stored.tiles(level, region)
        sides = (f"openslide.level[{level}].tile-{side}" for side in ("height", "width"))
        tile = Size(*(int(self._slide.properties.get(side, 256)) for side in sides))
        return tiles_of(region, tile, self.levels[level])

    @property
    def icc(self) -> bytes | None:
        """The file's ICC profile, as OpenSlide finds it."""
        profile = self._slide.color_profile
        return profile.tobytes() if profile is not None else None

    @property
    def inexact(self) -> tuple[int, ...]:
        """Levels that OpenSlide interpolates: those whose factor is no whole number."""
        factors = enumerate(self._slide.level_downsamples)
        return tuple(level for level, factor in factors if factor != round(factor))

    def read_by(self, stored: Backend) -> None:
        """Read pixels by another backend of the same levels."""
        self._stored = stored

    def read(self, level: int, region: Region, background: Colour) -> np.ndarray:
        """Return a region inside a level; see `Backend`."""
        if self._stored is not None:
            return self._stored.read(level, region, background)
        # OpenSlide takes the corner in level-0 pixels, the size in those of the level.
        downsample = self._slide.level_downsamples[level]
        corner = (round(region.x * downsample), round(region.y * downsample))
        try:
            image = self._slide.read_region(corner, level, (region.width, region.height))
        except (OpenSlideError, OSError) as error:
            raise DamagedError(self._path, str(error), level, region) from error
        return over_background(np.asarray(image), background)


def vendor(path: Path) -> str | None:
    """Return OpenSlide's name for the format of a file, such as "aperio"; None if it is unknown."""
    return OpenSlide.detect_format(path)


PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


class PictureBackend:
    """A PNG or JPEG of at most twice ``PIL.Image.MAX_IMAGE_PIXELS`` (179 million) pixels.

    Args:
        path: the file.

    Raises:
        SlideError: too large, damaged, or not a picture.

    Memory:
        The whole picture, 3 bytes a pixel (4 with transparency).
    """

    mpp = None

    def __init__(self, path: Path) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(path) as picture:
                    if picture.mode[0] in "IF":  # Pillow would clip what is above 255
                        raise ValueError(f"{picture.mode} pixels of more than 8 bits; save it as 8-bit RGB")
                    if picture.mode in ("CMYK", "LAB"):  # their colours depend on a profile
                        raise ValueError(f"{picture.mode} pixels; save it as RGB")
                    transparent = "A" in picture.getbands() or "transparency" in picture.info
                    self.icc: bytes | None = picture.info.get("icc_profile")
                    plain = picture.convert("RGBA" if transparent else "RGB")
                    jpeg = picture.format == "JPEG"
                if jpeg and ends_early(path.read_bytes(), np.asarray(plain), _decoded):
                    raise ValueError("its data end early; copy the file again")
                ImageOps.exif_transpose(plain, in_place=True)
                self._pixels = np.asarray(plain)
        except Image.DecompressionBombError as error:
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
            reason = f"too large for a picture ({error}); above {limit:.0f} million pixels use a tiled TIFF"
            raise SlideError(path, reason) from error
        except (OSError, ValueError, SyntaxError) as error:
            raise SlideError(path, f"not a readable picture ({error})") from error
        self.nbytes = self._pixels.nbytes
        self.levels = (Region(0, 0, *self._pixels.shape[:2]).size,)

    def tiles(self, level: int, region: Region) -> Iterator[Region]:
        """Yield the picture."""
        yield self.levels[level].region

    def read(self, level: int, region: Region, background: Colour) -> np.ndarray:
        """Return a region of the picture; see `Backend`."""
        part = self._pixels[region.y : region.y1, region.x : region.x1]
        return over_background(part, background) if part.shape[2] == 4 else part


def _decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))

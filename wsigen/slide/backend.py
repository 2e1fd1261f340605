"""Backends read the stored levels of a slide file; here those for OpenSlide's formats and for pictures.

TIFF files have a module of their own (`wsigen.slide.tiff_backend`). OpenSlide's (x, y) order and level-0
coordinates exist here and in `wsigen.slide.levels` only.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Protocol

import numpy as np
from openslide import OpenSlide, OpenSlideCache, OpenSlideError
from PIL import Image

from wsigen.errors import SlideError
from wsigen.geometry import Colour, Region, Size
from wsigen.slide.damage import DamagedError
from wsigen.slide.jpeg import ends_early


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
    def nbytes(self) -> int:
        """Bytes of pixels held in memory outside the shared tile cache."""
        ...

    def tile(self, level: int) -> Size:
        """Return the size of the pieces that a level is stored in."""
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


class OpenSlideBackend:
    """An open OpenSlide handle.

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

    @property
    def mpp(self) -> tuple[float, float] | None:
        """From OpenSlide's properties ``openslide.mpp-y`` and ``openslide.mpp-x``."""
        x = self._slide.properties.get("openslide.mpp-x")
        y = self._slide.properties.get("openslide.mpp-y", x)
        try:
            return (float(y), float(x)) if x is not None and y is not None else None
        except ValueError:
            return None

    def tile(self, level: int) -> Size:
        """Return the size of tiles; a usual one where the format has none."""
        sides = (f"openslide.level[{level}].tile-{side}" for side in ("height", "width"))
        return Size(*(int(self._slide.properties.get(side, 256)) for side in sides))

    def read(self, level: int, region: Region, background: Colour) -> np.ndarray:
        """Return a region inside a level; see `Backend`."""
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
                    transparent = "A" in picture.getbands() or "transparency" in picture.info
                    self._pixels = np.asarray(picture.convert("RGBA" if transparent else "RGB"))
                    jpeg = picture.format == "JPEG"
                if jpeg and ends_early(path.read_bytes(), self._pixels, _decoded):
                    raise ValueError("its data end early; copy the file again")
        except Image.DecompressionBombError as error:
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
            reason = f"too large for a picture ({error}); above {limit:.0f} million pixels use a tiled TIFF"
            raise SlideError(path, reason) from error
        except (OSError, ValueError, SyntaxError) as error:
            raise SlideError(path, f"not a readable picture ({error})") from error
        self.nbytes = self._pixels.nbytes
        self.levels = (Region(0, 0, *self._pixels.shape[:2]).size,)

    def tile(self, level: int) -> Size:
        """Return the size of the picture."""
        return self.levels[level]

    def read(self, level: int, region: Region, background: Colour) -> np.ndarray:
        """Return a region of the picture; see `Backend`."""
        part = self._pixels[region.y : region.y1, region.x : region.x1]
        return over_background(part, background) if part.shape[2] == 4 else part


def _decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))

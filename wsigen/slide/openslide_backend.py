"""Files that OpenSlide reads. Its (x, y) order, and its level-0 coordinates, exist in this module only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from openslide import OpenSlide, OpenSlideCache, OpenSlideError

from wsigen.errors import SlideError
from wsigen.geometry import Region, Size
from wsigen.slide.backend import Colour, over_background


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
        """OpenSlide's own ``openslide.mpp-y`` and ``openslide.mpp-x``."""
        x = self._slide.properties.get("openslide.mpp-x")
        y = self._slide.properties.get("openslide.mpp-y", x)
        try:
            return (float(y), float(x)) if x is not None and y is not None else None
        except ValueError:
            return None

    def read(self, level: int, region: Region, background: Colour) -> np.ndarray:
        """A region inside a level, see `Backend`.

        Raises:
            SlideError: the stored data are damaged.
        """
        downsample = self._slide.level_downsamples[level]
        corner = (round(region.x * downsample), round(region.y * downsample))
        try:
            image = self._slide.read_region(corner, level, (region.width, region.height))
        except (OpenSlideError, OSError) as error:
            raise SlideError(self._path, f"damaged: {error}; replace the file or leave it out") from error
        return over_background(np.asarray(image), background)


def vendor(path: Path) -> str | None:
    """OpenSlide's name for the format of a file, such as "aperio"; None if it has none."""
    return OpenSlide.detect_format(path)

"""PNG and JPEG pictures: decoded once, held in memory, without any µm/px of their own."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from wsigen.errors import SlideError
from wsigen.geometry import Region
from wsigen.slide.backend import Colour, over_background

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
        except Image.DecompressionBombError as error:
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
            reason = f"too large for a picture ({error}); above {limit:.0f} million pixels use a tiled TIFF"
            raise SlideError(path, reason) from error
        except (OSError, ValueError, SyntaxError) as error:
            raise SlideError(path, f"not a readable picture ({error})") from error
        self.nbytes = self._pixels.nbytes
        self.levels = (Region(0, 0, *self._pixels.shape[:2]).size,)

    def read(self, level: int, region: Region, background: Colour) -> np.ndarray:
        """A region of the picture, see `Backend`."""
        part = self._pixels[region.y : region.y1, region.x : region.x1]
        return over_background(part, background) if part.shape[2] == 4 else part

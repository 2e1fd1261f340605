"""Colours of a slide by its ICC profile."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from wsigen.errors import SlideError
from wsigen.geometry import Colour, Region, Size
from wsigen.slide.backend import Backend, over_background

_BLACK: Colour = (0, 0, 0)
_WHITE: Colour = (255, 255, 255)


class SrgbBackend:
    """An open file whose pixels are converted from its ICC profile to sRGB, by the profile's own intent.

    Each region is read twice, to tell transparent pixels, which show a background that is sRGB already.

    Args:
        path: the file, for messages.
        backend: it, open.

    Raises:
        SlideError: it has no ICC profile, or one that is damaged or not of RGB.
    """

    def __init__(self, path: Path, backend: Backend) -> None:
        self._backend = backend
        self.levels: tuple[Size, ...] = backend.levels
        if not backend.icc:
            raise SlideError(path, "has no ICC profile to convert its colours by; leave out --icc")
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(backend.icc))
            intent = ImageCms.Intent(ImageCms.getDefaultIntent(profile))
            srgb = ImageCms.createProfile("sRGB")
            self._transform = ImageCms.buildTransform(profile, srgb, "RGB", "RGB", intent)
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            reason = f"its ICC profile cannot be used ({error}); expected one of RGB; leave out --icc"
            raise SlideError(path, reason) from error

    @property
    def mpp(self) -> tuple[float, float] | None:
        """As the file states it."""
        return self._backend.mpp

    @property
    def icc(self) -> bytes | None:
        """None: the pixels are sRGB."""
        return None

    @property
    def nbytes(self) -> int:
        """Those of the file."""
        return self._backend.nbytes

    def tiles(self, level: int, region: Region) -> Iterator[Region]:
        """Yield those of the file."""
        return self._backend.tiles(level, region)

    def read(self, level: int, region: Region, background: Colour) -> np.ndarray:
        """Return a region inside a level in sRGB; ``background``, which is sRGB already, where transparent.

        Raises:
            DamagedError: the stored data are damaged.
        """
        # Read over black and over white: where the two differ, the file is transparent.
        dark = self._backend.read(level, region, _BLACK)
        light = self._backend.read(level, region, _WHITE)
        seen = 255 - (light.astype(np.int16) - dark).max(axis=2)
        if seen.min(initial=255) >= 255:
            return self._convert(dark)
        alpha = np.clip(seen, 0, 255).astype(np.uint8)
        own = dark.astype(np.float32) * 255 / np.maximum(alpha, 1)[..., None]
        colours = self._convert(np.rint(np.minimum(own, 255)).astype(np.uint8))
        return over_background(np.dstack([colours, alpha]), background)

    def _convert(self, rgb: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(np.ascontiguousarray(rgb))
        converted = ImageCms.applyTransform(picture, self._transform)
        assert converted is not None, "not in place"
        return np.asarray(converted)

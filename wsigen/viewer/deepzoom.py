"""A slide as DeepZoom tiles: levels that halve down to one pixel, cut into squares from the origin.

Format: https://learn.microsoft.com/previous-versions/windows/silverlight/dotnet-windows-silverlight/cc645077.
Level 0 is the *coarsest*, unlike everywhere else in wsigen; these numbers exist in this file and in the
addresses of tiles only.
"""

from __future__ import annotations

from functools import partial
from threading import Lock
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np

from wsigen.arrays import ArrayCache
from wsigen.geometry import Region, Size
from wsigen.slide.codec import JPEG
from wsigen.slide.levels import Slide
from wsigen.slide.pyramid import ceil_div, level_size
from wsigen.slide.stored import StoredTiles

TILE = 256
OVERVIEW = 2048
"""Longest side of the picture that coarse levels are made from, where a slide stores none as coarse."""


class DeepZoom:
    """The tiles of a slide; levels without overlap, so that stored tiles can be passed on.

    Args:
        slide: any slide.
        cache: of overviews, shared by slides.
        stored: JPEG tiles in its file, which are passed on as they are.

    Attributes:
        size: of the slide in pixels.
        tile: side of the tiles in pixels.
        top: number of the finest level.
    """

    def __init__(self, slide: Slide, cache: ArrayCache, stored: StoredTiles | None = None) -> None:
        width, height = slide.dimensions
        self.size, self.tile = Size(height, width), stored.tile if stored else TILE
        self.top = (max(width, height) - 1).bit_length()
        self._slide, self._stored, self._cache, self._lock = slide, stored, cache, Lock()

    @property
    def dzi(self) -> str:
        """The descriptor, an XML file."""
        namespace = quoteattr("http://schemas.microsoft.com/deepzoom/2008")
        return (
            '<?xml version="1.0" encoding="utf-8"?>\n'
            f'<Image xmlns={namespace} Format="jpeg" Overlap="0" TileSize="{self.tile}">'
            f'<Size Width="{self.size.width}" Height="{self.size.height}"/></Image>\n'
        )

    def region(self, level: int, column: int, row: int) -> Region:
        """Return where a tile lies in its level; empty where there is none.

        Args:
            level: 0 is the coarsest.
            column: from the left.
            row: from the top.
        """
        if not 0 <= level <= self.top or column < 0 or row < 0:
            return Region(0, 0, 0, 0)
        whole = Region(row * self.tile, column * self.tile, self.tile, self.tile)
        return whole.intersect(self._level(level).region)

    def read(self, level: int, column: int, row: int) -> bytes:
        """Return a tile as a JPEG file.

        Tiles that the file holds as they are wanted are not decoded. Others are encoded as ``sample`` writes
        them, so that a computed slide shows the same bytes as its file.

        Args:
            level: 0 is the coarsest.
            column: from the left.
            row: from the top; the tile must exist, see `region`.

        Raises:
            SlideError: the pixels cannot be read.
        """
        region, factor = self.region(level, column, row), 1 << (self.top - level)
        # Those at the right and lower edge are stored whole, filled up; DeepZoom cuts them.
        if self._stored and region.size == Size(self.tile, self.tile):
            data = self._stored.read(factor, row, column)
            if data is not None:
                return data
        return JPEG.encode(self._pixels(region, level))

    def picture(self, level: int) -> np.ndarray:
        """Return a whole level: uint8 (height, width, 3); level 0 is the coarsest.

        Raises:
            SlideError: the pixels cannot be read.
        """
        return self._pixels(self._level(level).region, level)

    def _level(self, level: int) -> Size:
        return level_size(self.size, self.top - level)

    def _pixels(self, region: Region, level: int) -> np.ndarray:
        coarsest, longest = self._slide.level_downsamples[-1], max(self.size.height, self.size.width)
        small = max(0, self.top - (ceil_div(longest, OVERVIEW) - 1).bit_length())
        # A tile of a coarse level would decode a large part of a slide without a pyramid.
        if level <= small and 1 << (self.top - small) >= 4 * coarsest:
            return self._reduced(region, level, small)
        return self._read(region, level)

    def _read(self, region: Region, level: int) -> np.ndarray:
        mpp = self._slide.mpp * (1 << (self.top - level))
        return self._slide.read_region_um(
            x=region.x * mpp, y=region.y * mpp, width=region.width * mpp, height=region.height * mpp, mpp=mpp
        )

    def _reduced(self, region: Region, level: int, small: int) -> np.ndarray:
        factor, size = 1 << (small - level), self._level(small)
        with self._lock:  # so that the tiles of a first view do not each make it
            overview = self._cache.fetch(self, partial(self._read, size.region, small))
        spot = Region(*(factor * n for n in (region.y, region.x, region.height, region.width)))
        inside = spot.intersect(size.region)
        pixels = overview[inside.y : inside.y1, inside.x : inside.x1]
        return cv2.resize(pixels, (region.width, region.height), interpolation=cv2.INTER_AREA)

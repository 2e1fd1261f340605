"""A small picture of a finished slide, from the coarsest pixels the journal holds."""

from __future__ import annotations

import cv2
import numpy as np

from wsigen.geometry import Region
from wsigen.slide.codec import JPEG
from wsigen.slide.journal import BlockJournal
from wsigen.slide.pyramid import TileRows, level_size


def thumbnail(journal: BlockJournal, longest: int = 1024) -> np.ndarray:
    """The whole slide, reduced so that its longer side is at most ``longest`` pixels; never enlarged.

    Args:
        journal: complete.
        longest: in pixels.

    Returns:
        uint8 (height, width, 3).

    Memory: one row of tiles of the coarsest stored level, and four times the thumbnail.
    """
    level = _level_above(journal, longest)
    stored = min(level, journal.layout.stored_levels - 1)
    size = level_size(journal.size, stored)
    image = np.empty((*_shape(journal, level), 3), np.uint8)
    tile = journal.layout.tile

    rows = TileRows(size, tile, level - stored + 1)
    for y in range(0, size.height, tile):
        band = journal.read(Region(y, 0, min(tile, size.height - y), size.width), stored)
        for relative, row, strip in rows.cut(band):
            if relative == level - stored:
                image[row * tile : row * tile + len(strip)] = strip
    return _shrink(image, longest)


def thumbnail_jpeg(image: np.ndarray) -> bytes:
    """A baseline JPEG of quality 85 of a uint8 (height, width, 3) image."""
    return JPEG.encode(image)


def _level_above(journal: BlockJournal, longest: int) -> int:
    level = 0
    while max(_shape(journal, level + 1)) >= longest:
        level += 1
    return level


def _shape(journal: BlockJournal, level: int) -> tuple[int, int]:
    size = level_size(journal.size, level)
    return size.height, size.width


def _shrink(image: np.ndarray, longest: int) -> np.ndarray:
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, target, interpolation=cv2.INTER_AREA)

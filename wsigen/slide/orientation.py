"""Pictures that are stored turned or mirrored, as TIFF's tag Orientation says.

The tag is a number from 1 (upright) to 8. An upright picture follows from the stored one by exchanging rows
and columns (from 5 on), then mirroring it.
"""

from __future__ import annotations

import numpy as np

from wsigen.geometry import Region, Size

UPRIGHT = 1
_UPSIDE_DOWN = (3, 4, 7, 8)
_LEFT_TO_RIGHT = (2, 3, 6, 7)


def is_turned(orientation: int) -> bool:
    """Return whether the height of the upright picture is the stored width."""
    return orientation >= 5


def upright_size(stored: Size, orientation: int) -> Size:
    """Return height and width of the upright picture."""
    return Size(stored.width, stored.height) if is_turned(orientation) else stored


def stored_region(region: Region, size: Size, orientation: int) -> Region:
    """Return where a region of the upright picture is stored.

    Args:
        region: inside the upright picture.
        size: of the upright picture.
        orientation: the tag, 1 to 8.
    """
    y = size.height - region.y1 if orientation in _UPSIDE_DOWN else region.y
    x = size.width - region.x1 if orientation in _LEFT_TO_RIGHT else region.x
    if is_turned(orientation):
        return Region(x, y, region.width, region.height)
    return Region(y, x, region.height, region.width)


def upright_region(stored: Region, size: Size, orientation: int) -> Region:
    """Return where a region of the stored picture is in the upright one: the inverse of `stored_region`.

    Args:
        stored: inside the stored picture.
        size: of the upright picture.
        orientation: the tag, 1 to 8.
    """
    y, x, height, width = stored.y, stored.x, stored.height, stored.width
    if is_turned(orientation):
        y, x, height, width = x, y, width, height
    y = size.height - y - height if orientation in _UPSIDE_DOWN else y
    x = size.width - x - width if orientation in _LEFT_TO_RIGHT else x
    return Region(y, x, height, width)


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Return stored pixels (height, width, 3) the right way up; a copy unless they are already."""
    if orientation == UPRIGHT:
        return stored
    pixels = stored.transpose(1, 0, 2) if is_turned(orientation) else stored
    pixels = pixels[::-1] if orientation in _UPSIDE_DOWN else pixels
    pixels = pixels[:, ::-1] if orientation in _LEFT_TO_RIGHT else pixels
    return np.ascontiguousarray(pixels)

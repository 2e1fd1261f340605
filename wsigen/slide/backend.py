"""What a file format must offer to be read as a slide: its stored levels, on their own pixel grids."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from wsigen.geometry import Region, Size

Colour = tuple[int, int, int]


class Backend(Protocol):
    """One open file. Lives in one process and is never pickled."""

    @property
    def levels(self) -> tuple[Size, ...]:
        """Sizes of the stored levels, finest first."""
        ...

    @property
    def mpp(self) -> tuple[float, float] | None:
        """Level 0's µm/px along y and x as the metadata have it, not yet judged; None if they are silent."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of pixels that the open file holds outside the shared tile cache."""
        ...

    def read(self, level: int, region: Region, background: Colour) -> np.ndarray:
        """uint8 (height, width, 3) of a region inside a level; ``background`` where it is transparent."""
        ...


def over_background(rgba: np.ndarray, background: Colour) -> np.ndarray:
    """Lay an image with (not premultiplied) alpha over a plain colour.

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

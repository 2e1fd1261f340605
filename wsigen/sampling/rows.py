"""How rows of pixels come into a stage and leave it."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from wsigen.geometry import Region


class RowSource(Protocol):
    """A finished canvas, such as the journal of the stage above."""

    def read(self, region: Region) -> np.ndarray:
        """Pixels of a region inside the canvas: uint8 (height, width, 3)."""
        ...


class RowSink(Protocol):
    """Where finished rows go, in order from the top."""

    @property
    def rows_done(self) -> int:
        """Leading rows that are kept already; the first call of `append` starts there."""
        ...

    def append(self, rows: np.ndarray) -> None:
        """Take the next rows: uint8 (any height ≥ 1, width, 3)."""
        ...


class RowStore(RowSource, RowSink, Protocol):
    """A canvas that is written first and read afterwards, such as a block journal."""

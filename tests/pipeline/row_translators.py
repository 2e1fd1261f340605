"""Translators that need no network: what comes out is known, and how far behind the rows they are."""

from __future__ import annotations

import numpy as np

BEFORE, AFTER = 40, 24


def translated(image: np.ndarray, which: int = 0) -> np.ndarray:
    """Row y is the darkest of rows y - 40 … y + 24, inverted: it needs neighbours, as a stain does."""
    rows = [image[max(0, y - BEFORE) : y + AFTER + 1].min(axis=0) for y in range(len(image))]
    return (255 - np.stack(rows)) // np.uint8(which + 1)


class LateTranslator:
    """`translated`, in a stream; refuses rows that are not those it asks for."""

    def __init__(self, which, height: int, start: int) -> None:
        self.which, self.height, self.out = list(which), height, start
        self.first_source_row = max(0, start - BEFORE)
        self.rows = np.empty((0, 0, 3), np.uint8)

    def push(self, rows: np.ndarray):
        self.rows = np.concatenate([self.rows, rows]) if self.rows.size else rows.copy()
        first, got = self.first_source_row, self.first_source_row + len(self.rows)
        assert len(rows)
        assert got <= self.height, "more rows than the slide has"
        end = got if got == self.height else max(got - AFTER, self.out)
        for which in self.which if end > self.out else ():
            yield self.which.index(which), translated(self.rows, which)[self.out - first : end - first]
        self.out = end

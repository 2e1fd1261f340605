"""Rows of H&E in, rows of each of its stains out, each to its own sink; interrupted, the sinks go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from wsigen.sampling.rows import RowSink
from wsigen.synthesis.behind import Behind


class Translator(Protocol):
    """What `wsigen.stain.engine.stream.StreamTranslator` does, for several generators in one pass."""

    @property
    def first_source_row(self) -> int:
        """The row of the H&E that has to come first."""
        ...

    def push(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Take the next rows, uint8 (any height ≥ 1, width, 3); yield (generator, its next rows)."""
        ...


Begin = Callable[[Sequence[int], int], Translator]


class TwinRows:
    """Translates a slide from its rows, or goes on with that.

    Sinks that are complete are left alone. The others may have come differently far: the translator begins
    where the shortest ends, and each takes the rows that it lacks.

    Args:
        sinks: of the stains.
        height: rows of the slide.
        begin: makes a translator for the sinks of some indices, whose output begins at some row.
        behind: writes to the sinks; has done so when the last row was pushed.

    Memory: the translator's, and a row of tiles that is being written.

    Determinism: the sinks get the same rows whatever they had before, and however the rows are chopped.
    """

    def __init__(self, sinks: Sequence[RowSink], height: int, begin: Begin, behind: Behind) -> None:
        which = [i for i, sink in enumerate(sinks) if sink.rows_done < height]
        self._sinks = [sinks[i] for i in which]
        start = min((sink.rows_done for sink in self._sinks), default=height)
        self._surplus = [sink.rows_done - start for sink in self._sinks]
        self._translator = begin(which, start) if which else None
        self._height, self._behind = height, behind
        self._next = self.first_row = self._translator.first_source_row if self._translator else height

    def push(self, row: int, rows: np.ndarray) -> None:
        """Take rows of the H&E, in order; those before `first_row` are not looked at.

        Args:
            row: index of the first.
            rows: uint8 (any height, width, 3).

        Raises:
            OutputError: a sink's disk refuses.
        """
        rows = rows[max(0, self._next - row) :]
        if self._translator is None or not len(rows):
            return
        self._next += len(rows)
        for i, done in self._translator.push(rows):
            lacking = done[self._surplus[i] :]
            self._surplus[i] -= len(done) - len(lacking)
            if len(lacking):
                self._behind.run(partial(self._sinks[i].append, lacking))
        if self._next == self._height:
            self._behind.wait()

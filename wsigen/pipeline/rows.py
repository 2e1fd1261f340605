"""Rows of H&E on their way to the files: read ahead, translated, and written in the background.

sampler or H&E file ──> IHCRows ──> stainers ──> journal of each IHC slide
                  └───> journal of the H&E (`PairStore`, when both are sampled)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Protocol

import numpy as np

from wsigen.geometry import Colour, Region
from wsigen.pipeline.background import stage_background
from wsigen.pipeline.stainers import Stainers
from wsigen.sampling.pixels import background_of
from wsigen.sampling.rows import RowSink, RowStore
from wsigen.sampling.spec import AnySpec
from wsigen.slide.journal import usable_cpus
from wsigen.slide.mask import Mask
from wsigen.slide.read import WholeSlide
from wsigen.stain.engine.stream import StreamTranslator

STRIP = 256  # rows: as high as the tiles of most files, so that each is decoded once
READERS = max(1, min(4, usable_cpus() // 2))  # one keeps up with a CPU, several with a GPU


class BackgroundWriter:
    """Run calls one after another in a thread, while the caller goes on.

    An error of a call is raised by the next `run`, by `wait`, or at the end of the ``with`` block, which
    always waits for the last call.

    Memory: what one call holds; the next `run` waits for it.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "wsigen-write")
        self._running: Future[None] | None = None

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        if error is None:
            self.wait()

    def run(self, call: Callable[[], None]) -> None:
        """Start a call once the one before it has ended without error."""
        self.wait()
        self._running = self._pool.submit(call)

    def wait(self) -> None:
        """Wait for the last call."""
        running, self._running = self._running, None
        if running is not None:
            running.result()


class RowTranslator(Protocol):
    """The part of `wsigen.stain.engine.stream.StreamTranslator` that `IHCRows` uses."""

    @property
    def first_source_row(self) -> int:
        """The row of the H&E that has to come first."""
        ...

    def push(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Take the next rows, uint8 (any height ≥ 1, width, 3); yield (index of the stainer, its rows)."""
        ...


Begin = Callable[[Sequence[int], int], RowTranslator]
"""Makes the translator of some stainers (by index) whose output begins at some row."""


class IHCRows:
    """Translate the rows of a slide into the sinks of its IHC slides, or continue an interrupted run.

    Complete sinks are left alone. The others may hold different numbers of rows: the translator begins where
    the shortest ends, and each sink takes only the rows that it lacks.

    Args:
        sinks: one for each stain.
        height: rows of the slide.
        begin: makes the translator.
        writer: appends to the sinks; it has finished when the last row was pushed.

    Memory: that of the translator, and one row of tiles that is being written.

    Determinism: the sinks get the same rows whatever they had before, and however the rows are chopped.
    """

    def __init__(self, sinks: Sequence[RowSink], height: int, begin: Begin, writer: BackgroundWriter) -> None:
        which = [i for i, sink in enumerate(sinks) if sink.rows_done < height]
        self._sinks = [sinks[i] for i in which]
        start = min((sink.rows_done for sink in self._sinks), default=height)
        self._surplus = [sink.rows_done - start for sink in self._sinks]
        self._translator = begin(which, start) if which else None
        self._height, self._writer = height, writer
        self._next = self.first_row = self._translator.first_source_row if self._translator else height

    def push(self, row: int, rows: np.ndarray) -> None:
        """Take rows of the H&E, in order; those before `first_row` are ignored.

        Args:
            row: index of the first.
            rows: uint8 (any height, width, 3).

        Raises:
            OutputError: the disk of a sink refuses.
        """
        rows = rows[max(0, self._next - row) :]
        if self._translator is None or not len(rows):
            return
        self._next += len(rows)
        for i, done in self._translator.push(rows):
            lacking = done[self._surplus[i] :]
            self._surplus[i] -= len(done) - len(lacking)
            if len(lacking):
                self._writer.run(partial(self._sinks[i].append, lacking))
        if self._next == self._height:
            self._writer.wait()


def translated_rows(
    specs: Sequence[AnySpec],
    above: Sequence[RowStore],
    sinks: Sequence[RowSink],
    stainers: Stainers,
    default: Colour,
    writer: BackgroundWriter,
) -> IHCRows:
    """Return what translates the rows of a slide's last stage into the sinks of its IHC slides.

    Background is found in the stage above the last one, as the sampler finds it; a slide of one stage is
    translated all over.

    Args:
        specs: of all stages.
        above: complete stores of all stages but the last.
        sinks: one for each stainer.
        stainers: of the IHC slides.
        default: colour of background, for base images that show none.
        writer: appends to the sinks.
    """
    spec, background = specs[-1], None
    if above:
        colour = background_of(above[0].read(specs[0].size.region), default)
        background = stage_background(above[-1], spec.size, spec.k, mpp=spec.mpp, colour=colour)

    def begin(which: Sequence[int], start: int) -> StreamTranslator:
        return stainers.only(which).begin(spec.size, background, start)

    return IHCRows(sinks, spec.size.height, begin, writer)


class MaskedSink:
    """Sink of an IHC slide that shows background outside a mask.

    Args:
        sink: of the slide.
        mask: of the slide, at level 0.
        colour: of the background.
    """

    def __init__(self, sink: RowSink, mask: Mask, colour: Colour) -> None:
        self._sink, self._mask, self._colour = sink, mask, colour
        self.rows_done = sink.rows_done

    def append(self, rows: np.ndarray) -> None:
        """Take the next rows: uint8 (any height ≥ 1, width, 3); they are changed.

        Raises:
            OutputError: a disk refuses.
        """
        self._mask.paint(rows, Region(self.rows_done, 0, *rows.shape[:2]), self._colour)
        self._sink.append(rows)
        self.rows_done += len(rows)


class PairStore:
    """Store of a sampled slide's last stage that passes its rows to the stainers, too.

    A translated row depends on H&E rows above and below it, so the IHC rows lag behind. A resumed run begins
    at the first row that any sink needs: H&E rows that are stored already are sampled again, to the same
    values, since those in the store have been through JPEG.

    Args:
        he: store of the H&E.
        ihc: its IHC slides.

    Determinism: all rows are the same however often the run was interrupted, if the sampler's are.
    """

    def __init__(self, he: RowStore, ihc: IHCRows) -> None:
        self._he, self._ihc = he, ihc
        self._kept = he.rows_done
        self.rows_done = min(self._kept, ihc.first_row)

    def append(self, rows: np.ndarray) -> None:
        """Take the next rows: uint8 (any height ≥ 1, width, 3).

        Raises:
            OutputError: a disk refuses.
        """
        lacking = rows[max(0, self._kept - self.rows_done) :]
        if len(lacking):
            self._he.append(lacking)
        self._ihc.push(self.rows_done, rows)
        self.rows_done += len(rows)

    def read(self, region: Region) -> np.ndarray:
        """Pixels of the H&E that are stored already."""
        return self._he.read(region)


def slide_rows(slide: WholeSlide, first: int, background: Colour) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the rows of a slide's level 0 in order, reading the next strips meanwhile.

    Args:
        slide: to read.
        first: row to begin with.
        background: colour of transparent parts.

    Yields:
        Index of the first row, and uint8 (at most 256, width, 3).

    Memory: ``READERS`` + 1 strips.
    """
    height, width = slide.size.height, slide.size.width
    tops = [first, *range((first // STRIP + 1) * STRIP, height, STRIP)] if first < height else []

    def read(y: int) -> np.ndarray:
        end = min((y // STRIP + 1) * STRIP, height)
        return slide.read_region(Region(y, 0, end - y, width), slide.mpp, background)

    with ThreadPoolExecutor(READERS, "wsigen-read") as pool:
        ahead = deque(pool.submit(read, y) for y in tops[:READERS])
        try:
            for i, y in enumerate(tops):
                rows = ahead.popleft().result()
                ahead.extend(pool.submit(read, later) for later in tops[i + READERS : i + READERS + 1])
                yield y, rows
        finally:
            for strip in ahead:
                strip.cancel()

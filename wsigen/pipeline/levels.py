"""Levels of slides whose regions are computed when they are read, without making the slide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from wsigen.geometry import Colour, Region, Size
from wsigen.pipeline.background import LocalBackground, slide_background
from wsigen.sampling.lazy import LazyCascade
from wsigen.slide.journal import BlockJournal
from wsigen.slide.mask import Mask
from wsigen.slide.read import WholeSlide
from wsigen.stain.engine.background import AnyBackground
from wsigen.stain.engine.local import LocalTranslator
from wsigen.stain.engine.render import Compute

if TYPE_CHECKING:
    from wsigen.pipeline.outputs import HEOutput
    from wsigen.pipeline.run import Progress
    from wsigen.pipeline.sample import SampleRun
    from wsigen.pipeline.stainers import Stainers

Read = Callable[[Region], np.ndarray]

CACHE = 512 << 20
_STRIP = 512  # rows of a region that are computed at once
_TILE = 1024


def open_cascade(run: SampleRun, he: HEOutput, *, cache: int = CACHE) -> LazyCascade:
    """Return the stages of a slide, to be read in any order.

    Args:
        run: with the networks that the preset needs.
        he: one of the run's slides.
        cache: bytes of tiles that are kept.

    Raises:
        InvalidValueError: the preset's last stages are diffused, so that no region can be computed alone.
    """
    return LazyCascade(
        he.specs,
        run.denoiser,
        run.upscaler,
        background=run.background,
        base=he.overview.pixels if he.overview else None,
        execution=run.execution,
        cache=cache,
    )


class HELevels:
    """The stages of a cascade as the levels of a slide, finest first."""

    def __init__(self, cascade: LazyCascade) -> None:
        self.cascade = cascade
        # Stages above a last one that is cropped are larger than what it shows.
        size, k = cascade.specs[-1].size, cascade.specs[-1].k
        self.levels = tuple(size.over(k**level) for level in range(len(cascade.specs)))

    def read(self, region: Region, level: int) -> np.ndarray:
        """Return the pixels of a region of a level: uint8 (height, width, 3)."""
        return self.cascade.read(region, len(self.levels) - 1 - level)


class TranslatedLevels(ABC):
    """The levels of an H&E slide, each translated as a slide of its own.

    Args:
        stainers: that the slide's stain is one of.
        which: its index.
        tile: side of what is rendered at once, px.

    Memory: see `LocalTranslator`; for each level that was read.
    """

    levels: tuple[Size, ...]

    def __init__(self, stainers: Stainers, which: int, *, tile: int = 512) -> None:
        self._net, self._rendering, self._tile = stainers.nets[which], stainers.rendering, tile
        self._translators: dict[int, LocalTranslator] = {}
        self._lock = Lock()

    def read(self, region: Region, level: int) -> np.ndarray:
        """Return the pixels of a region of a level: uint8 (height, width, 3)."""
        with self._lock:  # the levels share a network, whose norm layers hold the statistics of one pass
            if level not in self._translators:
                self._translators[level] = self._translator(level)
            return self._translators[level].read(region)

    @abstractmethod
    def _source(self, level: int) -> tuple[Read, AnyBackground | None]:
        """Return what reads a level of the H&E, and where that shows background."""

    def _translator(self, level: int) -> LocalTranslator:
        how, (read, background) = self._rendering, self._source(level)
        return LocalTranslator(
            self._net,
            self.levels[level],
            read,
            norm=how.norm,
            background=background,
            pitch=how.pitch,
            tile=self._tile,
            machine=Compute(how.device, how.dtype),
        )


class IHCLevels(TranslatedLevels):
    """The stages of a cascade, translated, as the levels of a slide.

    Args:
        cascade: of the H&E.
        stainers: that the slide's stain is one of.
        which: its index.
        tile: side of what is rendered at once, px.
    """

    def __init__(self, cascade: LazyCascade, stainers: Stainers, which: int, *, tile: int = 512) -> None:
        super().__init__(stainers, which, tile=tile)
        self.cascade, self.levels = cascade, HELevels(cascade).levels

    def _source(self, level: int) -> tuple[Read, AnyBackground | None]:
        cascade, stage = self.cascade, len(self.levels) - 1 - level
        spec, background = cascade.specs[stage], None
        if stage:
            above, colour = cascade.source(stage - 1), cascade.background
            background = LocalBackground(above, self.levels[level], spec.k, mpp=spec.mpp, colour=colour)
        return cascade.source(stage).read, background


class FileIHCLevels(TranslatedLevels):
    """The stored levels of an H&E slide in a file, translated.

    Args:
        slide: the H&E.
        stainers: that the slide's stain is one of.
        which: its index.
        mask: outside which the slide is shown as background; None for nowhere.
        tile: side of what is rendered at once, px.
    """

    def __init__(
        self, slide: WholeSlide, stainers: Stainers, which: int, mask: Mask | None = None, *, tile: int = 512
    ) -> None:
        super().__init__(stainers, which, tile=tile)
        self.slide, self.levels = slide, tuple(level.size for level in slide.levels)
        self._mask, self._glass = mask, dict[int, Colour]()

    def read(self, region: Region, level: int) -> np.ndarray:
        """Return the pixels of a region of a level: uint8 (height, width, 3)."""
        pixels = super().read(region, level)
        if (mask := self._mask_of(level)) is not None:
            mask.paint(pixels, region, self._glass[level])
        return pixels

    def _mask_of(self, level: int) -> Mask | None:
        return self._mask and self._mask.at(self.slide.levels[level].downsample)

    def _source(self, level: int) -> tuple[Read, AnyBackground | None]:
        slide = self.slide.from_level(level)
        background = slide_background(slide, self._mask_of(level))
        self._glass[level] = background.colour
        return lambda region: slide.read_region(region, slide.mpp, background.colour), background.map


def region_readers(run: SampleRun, he: HEOutput, which: Sequence[int]) -> list[Read]:
    """Return readers of level 0 of an H&E slide and of its IHC slides of some indices."""
    cascade = open_cascade(run, he)
    if not which:
        return [lambda region: cascade.read(region, len(cascade.specs) - 1)]
    assert run.stainers is not None, "slides with stains come with stainers"
    ihc = [IHCLevels(cascade, run.stainers, i, tile=_TILE) for i in which]
    # The IHC levels read the tiles that the H&E has computed.
    return [cascade.source(he.stages).read, *((lambda region, of=of: of.read(region, 0)) for of in ihc)]


def fill_region(
    region: Region, journals: Sequence[BlockJournal], readers: Sequence[Read], progress: Progress | None
) -> None:
    """Append the rows of a region that journals lack, one strip to each of them in turn.

    Args:
        region: of level 0.
        journals: of the H&E and its IHC slides.
        readers: of their pixels.
        progress: called with the rows that are done.
    """
    done = [journal.rows_done for journal in journals]
    with tqdm(total=region.height, initial=min(done), desc="region", unit="row") as bar:
        for start in range(min(done) // _STRIP * _STRIP, region.height, _STRIP):
            end = min(start + _STRIP, region.height)
            for i, (journal, read) in enumerate(zip(journals, readers, strict=True)):
                if done[i] < end:
                    journal.append(read(Region(region.y + done[i], region.x, end - done[i], region.width)))
                    done[i] = end  # journals of one slide may differ after an interruption
            bar.update(end - bar.n)
            if progress:
                progress(end)

"""Translate an H&E slide into other stains: from a `TranslateConfig` to files.

`open_run` opens the slide, loads the stainers and plans memory; `TranslateRun.make` makes the slides
(`wsigen.pipeline.run`): strips of the H&E go through the stainers to the journals of the IHC slides.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from wsigen.config import TranslateConfig, TranslateSlidesConfig, parse_region
from wsigen.data.table import Row, SlideTable
from wsigen.geometry import Region
from wsigen.pipeline.background import SlideBackground, slide_background
from wsigen.pipeline.levels import FileIHCLevels, fill_region
from wsigen.pipeline.networks import Networks
from wsigen.pipeline.outputs import IHCOutput, Output, Source, disk_bytes, region_facts
from wsigen.pipeline.plan import (
    StainPlan,
    check_memory,
    describe_stains,
    plan_stains,
    reading_bytes,
    time_text,
    tissue_share,
)
from wsigen.pipeline.rows import BackgroundWriter, IHCRows, MaskedSink, slide_rows
from wsigen.pipeline.run import Progress, Run
from wsigen.pipeline.source import mask_facts, open_source, source_facts, source_name
from wsigen.pipeline.stainers import Rendering, Stainers, open_like, open_stainers
from wsigen.runtime import choose_device, choose_dtype, format_bytes, parse_bytes
from wsigen.sampling.rows import RowSink
from wsigen.slide.journal import BlockJournal
from wsigen.slide.mask import Mask, check_region, find_mask, open_mask
from wsigen.slide.read import WholeSlide
from wsigen.slide.view import View
from wsigen.slide.write import SlideFiles
from wsigen.stain.engine.stream import StreamTranslator
from wsigen.stain.normalise.norm import Norm

DAMAGE_FIX = "copy the file again, or pass --skip-damaged to show such tiles as background"

log = logging.getLogger(__name__)


def translate(config: TranslateConfig) -> list[SlideFiles]:
    """Make the IHC slides of a call of ``wsigen translate``, or continue with those that were interrupted.

    >>> translate(TranslateConfig(slide=Path("case1.svs"), stainer="SYN", device="cuda"))  # doctest: +SKIP

    Returns:
        The files that were written.

    Raises:
        See `open_run` and `Run.make`.
    """
    return open_run(config).make()


def open_run(config: TranslateConfig, networks: Networks | None = None) -> TranslateRun:
    """Open the slide, load the stainers and plan their memory; nothing is written.

    Args:
        config: of the call.
        networks: where loaded networks are kept; runs that share it load them once.

    Raises:
        InvalidValueError: this machine has no such device, or a marker is missing or given twice.
        SlideError: the slide cannot be read.
        SnapshotError: a stainer cannot be loaded.
    """
    rendering, networks = rendering_of(config), networks or Networks()
    if config.table is not None:
        config = as_in_table(config, SlideTable.load(config.table).find(config.slide.name))
    slide = open_source(config.slide, config.mpp, view=View(config.series, config.z, config.icc))
    slide = replace(slide, damage_fix=DAMAGE_FIX)
    if config.skip_damaged:
        slide = slide.skipping_damage()
    region, mask = region_of(config, slide), None
    if config.mask is not None:
        found = find_mask(config.mask, slide.path.name, slide.path)
        config, mask = replace(config, mask=found), open_mask(found, slide, config.mask_class)
    if config.like is None:
        assert config.stainer is not None, "checked by the config"
        stainers = open_stainers(config.stainer, config.markers, rendering, networks)
    else:
        assert config.style is not None, "checked by the config"
        stainers = open_like(
            config.like,
            slide,
            rendering,
            style=config.style,
            strength=config.strength,
            transfer=config.transfer,
            mpp=config.like_mpp,
            series=config.like_series,
            networks=networks,
            mask=mask,
        )
    stainers.warn_of_scale(slide.mpp)
    size = slide.size if region is None else region.size
    allowed, reading = parse_bytes(config.memory), reading_bytes(size.width)
    plan = plan_stains(stainers, size, allowed=allowed, beside=reading)
    return TranslateRun(
        overwrite=config.overwrite,
        several=len(stainers.nets) > 1,
        config=config,
        slide=slide,
        stainers=stainers.with_tile(plan.translation.tile),
        plan=plan,
        region=region,
        mask=mask,
    )


def as_in_table(config: TranslateConfig, row: Row) -> TranslateConfig:
    """Return the configuration with what the user's table says of the slide; options hold for the rest.

    Args:
        config: of the slide.
        row: of the slide.
    """
    stated = {name: value for name in ("mpp", "series", "z") if (value := getattr(row, name)) is not None}
    return replace(config, table=None, **stated)


def rendering_of(config: TranslateSlidesConfig) -> Rendering:
    """Return how the stainers of a call run.

    Raises:
        InvalidValueError: this machine has no such device, or the norm is none.
    """
    device = choose_device(config.device)
    return Rendering(
        norm=Norm.parse(config.norm),
        pitch=config.stats_pitch,
        device=device,
        dtype=choose_dtype(config.dtype, device),
        tile=config.tile,
        batch=None if config.batch_size == "auto" else config.batch_size,
    )


def region_of(config: TranslateConfig, slide: WholeSlide) -> Region | None:
    """Return the region of a slide that is translated; None for all of it.

    Raises:
        SlideError: it reaches outside the slide.
    """
    if config.region is None:
        return None
    region = parse_region(config.region)
    check_region(region, slide)
    return region


@dataclass(frozen=True, kw_only=True)
class TranslateRun(Run):
    """A call of ``wsigen translate`` with everything resolved.

    Args:
        config: of the call.
        slide: the H&E.
        stainers: that translate it.
        plan: of the IHC slides.
        region: of level 0 that is made alone; None for the whole slide.
        mask: outside which the IHC slides show background; None for nowhere.

    Memory: what the translator holds of the slide's width, two strips of 256 rows, and a row of tiles for
        each stain; not the slide.

    Determinism: a slide follows from the H&E's pixels and its `Stain`. Tile, batch, memory, device and
        interruptions change at most the rounding of the network's kernels.
    """

    config: TranslateConfig
    slide: WholeSlide
    stainers: Stainers
    plan: StainPlan
    region: Region | None = None
    mask: Mask | None = None

    @property
    def made(self) -> Region:
        """What is made of level 0."""
        return self.region or self.slide.size.region

    @cached_property
    def background(self) -> SlideBackground:
        """The background of the H&E.

        Raises:
            SlideError: it is grey, or cannot be read.
        """
        return slide_background(self.slide, self.mask)

    @cached_property
    def outputs(self) -> tuple[IHCOutput, ...]:
        """The slides to make, one for each stainer; the H&E's file is hashed for it."""
        config, slide = self.config, self.slide
        facts = source_facts(slide)
        if self.region is not None:
            facts |= region_facts(self.region, slide.size)
        if config.mask is not None:
            facts |= mask_facts(config.mask, config.mask_class)
        source = Source(
            size=self.made.size,
            facts=facts,
            pixel_um=slide.pixel_um,
            skip_damaged=config.skip_damaged,
        )
        name, out = config.name or source_name(slide.path), Path(config.out)
        return tuple(
            IHCOutput(stain=s, source=source, mpp=slide.mpp, out=out, name=name, layout=config.layout)
            for s in self.stainers.stains
        )

    @property
    def groups(self) -> Sequence[Sequence[Output]]:
        """All slides, since the H&E is read once."""
        return [self.outputs]

    @property
    def out_of_memory(self) -> str:
        """The message where the device runs out of memory."""
        device = self.stainers.rendering.device
        return f"{device} has too little memory; run the same command with a smaller --tile or --batch-size"

    def disk_bytes(self, group: Sequence[Output]) -> int:
        """Return the bytes on disk, at most, while slides are made."""
        return sum(output.disk_bytes for output in group)

    def check_memory(self) -> None:
        """Compare the plan with ``--memory``.

        Raises:
            InvalidValueError: it does not fit.
        """
        count, width, tile = len(self.stainers.nets), self.made.width, self.plan.translation.tile
        what = "one stainer takes" if count == 1 else f"{count} stainers take"
        what = f"with a slide {width} px wide and tiles of {tile} px, {what}"
        check_memory(self.plan.host_bytes, self.config.memory, what)

    def describe(self) -> str:
        """Measure a few tiles; return memory, disk and time as a table.

        Raises:
            SlideError: the slide cannot be read, or is grey.
        """
        slide, made, translation = self.slide, self.made, self.plan.translation
        share = tissue_share(self.background.map, made, translation.tile)
        stains, seconds = describe_stains(self.stainers, self.plan)
        disk = len(self.stainers.nets) * disk_bytes(made.size, self.config.layout)
        what = "slide     " if self.region is None else "region    "
        return "\n".join(
            (
                f"{what}  {made.width} × {made.height} px, {slide.mpp:g} µm/px; "
                f"{100 * share:.0f} % of the tiles show tissue",
                stains,
                f"time        {time_text(seconds * share)}",  # background is copied at next to no cost
                f"memory      {format_bytes(self.plan.host_bytes)}, {translation.rows_alive} rows at a time",
                f"disk        {format_bytes(disk)} at most while they are made",
            )
        )

    def fill(
        self,
        outputs: Sequence[Output],
        journals: Sequence[BlockJournal],
        writer: BackgroundWriter,
        progress: Progress | None,
    ) -> None:
        """Translate the H&E; append the rows that journals lack."""
        stainers = self.stainers.of([output for output in outputs if isinstance(output, IHCOutput)])
        if self.mask is not None and not self.background.map.occupied.any():
            log.warning("%s: no tissue inside the mask; all is shown as background", self.slide.path)
        if self.region is None:
            self._fill_slide(stainers, journals, writer, progress)
        else:
            tile, ihc = self.plan.translation.tile, range(len(stainers.nets))
            levels = [FileIHCLevels(self.slide, stainers, i, self.mask, tile=tile) for i in ihc]
            readers = [partial(one.read, level=0) for one in levels]
            fill_region(self.region, journals, readers, progress)
        if self.slide.damage:
            log.warning("%s: damaged, shown as background: %s", self.slide.path, self.slide.damage)

    def _fill_slide(
        self,
        stainers: Stainers,
        journals: Sequence[BlockJournal],
        writer: BackgroundWriter,
        progress: Progress | None,
    ) -> None:
        """Read the H&E strip by strip and translate it."""
        slide, background, mask = self.slide, self.background, self.mask
        sinks: Sequence[RowSink] = journals
        if mask is not None:
            # the network's pixels outside the mask never reach a journal
            sinks = [MaskedSink(journal, mask, background.colour) for journal in journals]

        def read(region: Region) -> np.ndarray:
            return slide.read_region(region, slide.mpp, background.colour)

        def begin(which: Sequence[int], start: int) -> StreamTranslator:
            return stainers.only(which).begin(slide.size, background.map, start, read)

        rows = IHCRows(sinks, slide.size.height, begin, writer)
        with tqdm(total=slide.size.area, unit="px", unit_scale=True, smoothing=0.1) as bar:
            for y, strip in slide_rows(slide, rows.first_row, background.colour):
                rows.push(y, strip)
                done = y + len(strip)
                if not bar.n:  # an earlier run's rows, and the first strip, say nothing about the pace
                    bar.initial = done * slide.size.width
                bar.update(done * slide.size.width - bar.n)
                if progress:
                    progress(done)

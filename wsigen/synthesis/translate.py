"""From an H&E slide to its IHC twins: what ``wsigen translate`` does once its options are known."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from wsigen.config import TranslateConfig
from wsigen.errors import InvalidValueError
from wsigen.files import only_process
from wsigen.geometry import Region
from wsigen.runtime import choose_device, choose_dtype, memory_flag, parse_bytes
from wsigen.slide.pyramid import pyramid_levels
from wsigen.slide.read import WholeSlide
from wsigen.slide.write import SlideFiles, check_output, estimate_bytes, layout_codec
from wsigen.stain.engine.stream import Norm, StreamTranslator
from wsigen.synthesis.behind import Behind
from wsigen.synthesis.estimate import describe_stains
from wsigen.synthesis.glass import slide_glass
from wsigen.synthesis.likeness import open_likeness
from wsigen.synthesis.outlay import Outlay, plan_stains, reading_bytes
from wsigen.synthesis.source import open_source, source_facts, source_name, source_rows
from wsigen.synthesis.stainers import Rendering, Stainers, open_stainers
from wsigen.synthesis.state import TAKEN, warn_of_disk
from wsigen.synthesis.twin import TwinJob
from wsigen.synthesis.twinrows import TwinRows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Translation:
    """A slide and the generators that are to translate it.

    Args:
        config: what was asked for.
        slide: the H&E.
        stainers: the generators.
        outlay: what they take.
    """

    config: TranslateConfig
    slide: WholeSlide
    stainers: Stainers
    outlay: Outlay

    def twins(self) -> tuple[TwinJob, ...]:
        """The slides to make, one for each generator; reads the whole file of the H&E."""
        config, slide = self.config, self.slide
        source, name = source_facts(slide), config.name or source_name(slide.path)
        to: dict[str, Any] = {"out": Path(config.out), "name": name, "layout": config.layout}
        return tuple(
            TwinJob(stain=stain, source=source, size=slide.size, mpp=slide.mpp, **to)
            for stain in self.stainers.stains
        )


def translate_slide(slide: str | Path, stainer: str | Path, **options: Any) -> list[SlideFiles]:
    """Give an H&E slide its IHC twin.

    >>> translate_slide("case1_HE.svs", "SYN", out="twins", device="cuda")  # doctest: +SKIP

    Args:
        slide: whatever `wsigen.slide.read` opens.
        stainer: "SYN" (bundled), a snapshot folder or a hub id; several with commas.
        **options: the other fields of `wsigen.config.TranslateConfig`: norm, out, name, mpp, …

    Returns:
        The files that were written.

    Raises:
        InvalidValueError: an option that cannot be.
        SlideError: the slide cannot be read.
        SnapshotError: the stainer cannot be loaded.
        OutputError: a slide exists, or the disk refuses.
    """
    return translate(TranslateConfig(slide=Path(slide), stainer=str(stainer), **options))


def open_translation(config: TranslateConfig) -> Translation:
    """Open the slide and load the generators; nothing is written.

    Raises:
        InvalidValueError: the machine has no such device, or a marker that cannot be.
        SlideError: the slide cannot be read.
        SnapshotError: a stainer cannot be loaded.
    """
    device = choose_device(config.device)
    rendering = Rendering(
        norm=Norm.parse(config.norm),
        pitch=config.stats_pitch,
        device=device,
        dtype=choose_dtype(config.dtype, device),
        tile=config.tile,
        batch=None if config.batch_size == "auto" else config.batch_size,
    )
    slide = open_source(config.slide, config.mpp)
    if config.like is None:
        assert config.stainer is not None, "checked by the config"
        stainers = open_stainers(config.stainer, config.markers, rendering)
    else:
        stainers = open_likeness(config, slide, rendering)
    stainers.warn_of_scale(slide.mpp)
    width, allowed = slide.size.width, parse_bytes(config.memory)
    outlay = plan_stains(stainers, slide.size, allowed=allowed, beside=reading_bytes(width))
    return Translation(config, slide, stainers.with_tile(outlay.plan.tile), outlay)


def describe_translation(config: TranslateConfig) -> str:
    """What the slides would take, as a table; a few tiles are measured for it.

    Raises:
        SlideError: the slide cannot be read, or is grey.
    """
    t = open_translation(config)
    size, codec = t.slide.size, layout_codec(config.layout)
    disk = 2 * len(t.stainers.nets) * estimate_bytes(size, codec, pyramid_levels(size))
    return describe_stains(t.slide, t.stainers, t.outlay, disk_bytes=disk)


def translate(config: TranslateConfig) -> list[SlideFiles]:
    """Make the IHC slides that a call of ``wsigen translate`` asks for, or go on with them.

    Of several, those that are there already are left as they are.

    Returns:
        The files that were written.

    Raises:
        OutputError: a slide exists, or the disk refuses.
        InvalidValueError: an option that cannot be.
        SlideError: the slide cannot be read, or is grey.

    Memory:
        What the translator holds of the slide's width, two strips of 256 rows, and a row of tiles for each
        stain; not the slide.

    Determinism:
        A slide follows from the H&E's pixels and from its `Stain`: tile, batch, memory, device and
        interruptions do not show, but for the rounding of the network's kernels.
    """
    translation = open_translation(config)
    _check_memory(translation)
    twins, several = translation.twins(), len(translation.stainers.nets) > 1
    which = [i for i, twin in enumerate(twins) if config.overwrite or not _is_there(twin, several=several)]
    for i in which:
        check_output(twins[i].slide, config.overwrite)
    if not which:
        return []
    missing = [twins[i] for i in which]
    warn_of_disk(Path(config.out), sum(twin.disk_bytes for twin in missing))
    size = translation.slide.size
    with tqdm(total=size.area, unit="px", unit_scale=True, smoothing=0.1) as bar:
        try:
            files = render_twins(
                translation.slide,
                translation.stainers.only(which),
                missing,
                overwrite=config.overwrite,
                progress=lambda rows: _show(bar, rows * size.width),
            )
        except KeyboardInterrupt:
            bar.close()
            work = ", ".join(str(twin.work) for twin in missing)
            log.warning("interrupted; the same command goes on from here (state in %s)", work)
            raise
        except torch.cuda.OutOfMemoryError as error:
            raise InvalidValueError(
                f"{translation.stainers.rendering.device} has too little memory; run the same command with "
                "a smaller --tile or --batch-size"
            ) from error
    for file in files:
        log.info("%s", file.slide)
    return files


def render_twins(
    slide: WholeSlide,
    stainers: Stainers,
    twins: Sequence[TwinJob],
    *,
    progress: Callable[[int], None] | None = None,
    overwrite: bool = False,
    block: int = 2048,
) -> list[SlideFiles]:
    """Translate a slide, or go on with that.

    Args:
        slide: the H&E.
        stainers: the generators.
        twins: the slides to make, one for each generator.
        progress: called with the rows of the H&E that are done, after every strip.
        overwrite: replace existing slides, and drop the unfinished state of other jobs.
        block: side of a journal's block; finished rows are kept in multiples of it.

    Raises:
        OutputError: a slide exists, a folder holds another job's state, or the disk refuses.
        SlideError: the slide cannot be read, or is grey.
    """
    with ExitStack() as locks:
        for twin in twins:
            locks.enter_context(only_process(twin.work, TAKEN))
        journals = [twin.open_journal(overwrite=overwrite, block=block) for twin in twins]
        glass = slide_glass(slide)

        def read(region: Region) -> np.ndarray:
            return slide.read_region(region, slide.mpp, glass.colour)

        def begin(which: Sequence[int], start: int) -> StreamTranslator:
            return stainers.only(which).begin(slide.size, glass.map, start, read)

        rows = TwinRows(journals, slide.size.height, begin, locks.enter_context(Behind()))
        for y, strip in source_rows(slide, rows.first_row, glass.colour):
            rows.push(y, strip)
            if progress:
                progress(y + len(strip))
        files = [twin.write(done, overwrite=overwrite) for twin, done in zip(twins, journals, strict=True)]
        for journal in journals:
            journal.delete()
    for twin in twins:
        shutil.rmtree(twin.work, ignore_errors=True)
    return files


def _check_memory(translation: Translation) -> None:
    config, outlay = translation.config, translation.outlay
    if outlay.host_bytes > parse_bytes(config.memory):
        needed, count = memory_flag(outlay.host_bytes), len(translation.stainers.nets)
        stains = "one stain takes" if count == 1 else f"{count} stains take"
        raise InvalidValueError(
            f"{stains} {needed.replace('GiB', ' GiB')} with {translation.slide.size.width} px of width and "
            f"tiles of {outlay.plan.tile} px, --memory allows {config.memory}; pass --memory {needed}"
        )


def _show(bar: tqdm, pixels: int) -> None:
    if not bar.n:  # what an earlier run did, and the first strip, tell nothing about the pace
        bar.initial = pixels
    bar.update(pixels - bar.n)


def _is_there(twin: TwinJob, *, several: bool) -> bool:
    """Whether a slide needs no making: one of several, or one that was killed while it was tidying up."""
    there = twin.is_finished() and (several or twin.work.exists())
    if there:
        shutil.rmtree(twin.work, ignore_errors=True)
        log.info("%s is there already", twin.slide)
    return there

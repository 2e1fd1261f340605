"""Parts of slides that are never made: ``sample --region``, as slide files of their own."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wsigen.config import SampleConfig, parse_region
from wsigen.errors import InvalidValueError
from wsigen.files import only_process
from wsigen.geometry import Region
from wsigen.slide.journal import BlockJournal
from wsigen.slide.write import SlideFiles, check_output, final_journal, layout_codec, write_slide
from wsigen.synthesis.job import SlideJob
from wsigen.synthesis.slides import Session, open_session
from wsigen.synthesis.state import TAKEN, drop_other_state, is_written
from wsigen.synthesis.synthetic import StainedStages, open_cascade
from wsigen.synthesis.twin import TwinJob

_CACHE = 512 << 20
_STRIP = 512
_TILE = 1024

Read = Callable[[Region], np.ndarray]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PartJob:
    """A part of a slide that is asked for.

    Args:
        whole: the slide, with the name that the part's files shall have.
        region: of its level 0.
    """

    whole: SlideJob
    region: Region

    @property
    def slide(self) -> Path:
        """The finished H&E part."""
        return self.whole.slide

    @property
    def work(self) -> Path:
        """Where the state of the unfinished run is kept."""
        return self.whole.work

    @property
    def twins(self) -> tuple[TwinJob, ...]:
        """The IHC parts that go with it."""
        source = {"slide": self.slide.name, "fingerprint": self.fingerprint(), "compression": "none"}
        source |= self._place()
        return tuple(replace(twin, size=self.region.size, source=source) for twin in self.whole.twins)

    def facts(self) -> dict[str, Any]:
        """What the pixels follow from, as it is written into the file."""
        return {**self.whole.facts(), **self._place()}

    def fingerprint(self) -> str:
        """Hash of what the pixels follow from: an unfinished run is continued only by the very same job."""
        text = json.dumps([self.whole.fingerprint(), self._place()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def is_finished(self) -> bool:
        """Whether this very part is there already, and so are its stains."""
        written = is_written(self.slide, self.fingerprint(), self.whole.layout)
        return written and all(twin.is_finished() for twin in self.twins)

    def _place(self) -> dict[str, Any]:
        r = self.region
        where = {"x": r.x, "y": r.y, "width": r.width, "height": r.height}
        return {"region": {**where, "of_width": self.whole.size, "of_height": self.whole.size}}


def make_parts(config: SampleConfig) -> list[SlideFiles]:
    """Make the parts of slides that a call of ``sample --region`` asks for, or go on with them.

    Of several slides, parts that are there already are left as they are.

    Returns:
        The files that were written.

    Raises:
        OutputError: a file exists, or the disk refuses.
        InvalidValueError: the region is not inside the slide, or the slide cannot be had in parts.
    """
    assert config.region is not None, "asked for"
    session, region = open_session(config), parse_region(config.region)
    jobs = [PartJob(whole=_named(job, config, region), region=region) for job in session.jobs]
    whole = jobs[0].whole.size
    if region.intersect(Region(0, 0, whole, whole)) != region:
        raise InvalidValueError(
            f"--region {config.region} must lie in the slide, which is {whole} x {whole} px; it reaches from "
            f"({region.x}, {region.y}) to ({region.x1}, {region.y1})"
        )
    missing = [job for job in jobs if config.overwrite or not (config.count > 1 and job.is_finished())]
    for job in missing:
        for path in (job.slide, *(twin.slide for twin in job.twins)):
            check_output(path, config.overwrite)
    written = []
    for job in missing:
        files = make_part(job, session)
        written += files
        log.info("%s", "\n".join(str(file.slide) for file in files))
    return written


def make_part(job: PartJob, session: Session, *, block: int = 2048) -> tuple[SlideFiles, ...]:
    """Make a part of a slide and its stains, or go on with those that were interrupted.

    Args:
        job: the part.
        session: its networks, and what was asked for.
        block: side of a journal's block; finished rows are kept in multiples of it.

    Returns:
        The files of the H&E, then those of its stains.

    Raises:
        OutputError: a folder holds another job's state, or the disk refuses.
        InvalidValueError: the slide cannot be had in parts, or a network returns NaN or infinity.

    Memory: what `wsigen.SyntheticSlide` takes, and strips of 512 rows of the part.

    Determinism: pixels are those of the whole slide.
    """
    overwrite, twins = session.config.overwrite, job.twins
    with ExitStack() as locks:
        for work in (job.work, *(twin.work for twin in twins)):
            locks.enter_context(only_process(work, TAKEN))
        stained = [twin.open_journal(overwrite=overwrite, block=block) for twin in twins]
        journal = _open_journal(job, overwrite=overwrite, block=block)
        journals = [journal, *stained]
        _fill(job.region, journals, _readers(job, session))
        # The H&E last: where it is, its stains are.
        files = [twin.write(rows, overwrite=overwrite) for twin, rows in zip(twins, stained, strict=True)]
        facts = {**job.facts(), "layout": job.whole.layout, "fingerprint": job.fingerprint()}
        slide = write_slide(
            journal,
            job.slide,
            mpp=job.whole.mpp,
            layout=job.whole.layout,
            provenance={**facts, **job.whole.pair()},
            overwrite=overwrite,
        )
        for rows in journals:
            rows.delete()
    for work in (job.work, *(twin.work for twin in twins)):
        shutil.rmtree(work, ignore_errors=True)
    return slide, *files


def _named(job: SlideJob, config: SampleConfig, region: Region) -> SlideJob:
    """The slide under the name of its part: as asked, or with the region in it."""
    if config.name is not None:
        return job
    return replace(job, name=f"{job.name}-x{region.x}-y{region.y}-{region.width}x{region.height}")


def _open_journal(job: PartJob, *, overwrite: bool, block: int) -> BlockJournal:
    folder, fingerprint, layout = job.work / "rows", job.fingerprint(), job.whole.layout
    if overwrite:
        drop_other_state([folder], fingerprint, [layout_codec(layout).name])
    return final_journal(folder, job.region.size, layout, fingerprint, block=block)


def _readers(job: PartJob, session: Session) -> list[Read]:
    """What gives the pixels of the H&E and of each stain, in pixels of the whole slide."""
    cascade = open_cascade(session, job.whole, cache=_CACHE)
    last, stainers = len(cascade.specs) - 1, session.stainers
    if stainers is None:
        return [lambda region: cascade.read(region, last)]
    stains = [StainedStages(cascade, stainers, i, tile=_TILE) for i in range(len(stainers.nets))]
    # The stains read what the H&E has read.
    return [cascade.source(last).read, *((lambda region, of=of: of.read(region, 0)) for of in stains)]


def _fill(region: Region, journals: list[BlockJournal], readers: list[Read]) -> None:
    """Append the rows that journals lack, a strip of all at a time."""
    done = [journal.rows_done for journal in journals]
    with tqdm(total=region.height, initial=min(done), desc="region", unit="row") as bar:
        for start in range(min(done) // _STRIP * _STRIP, region.height, _STRIP):
            end = min(start + _STRIP, region.height)
            for i, (journal, read) in enumerate(zip(journals, readers, strict=True)):
                if done[i] < end:
                    rows = Region(region.y + done[i], region.x, end - done[i], region.width)
                    journal.append(read(rows))
                    done[i] = end
            bar.update(end - bar.n)

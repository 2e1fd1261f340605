"""What sampling and translating have in common: make slide files, or continue where a run was interrupted."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wsigen.errors import InvalidValueError, OutputError
from wsigen.files import free_bytes, only_process
from wsigen.pipeline.outputs import HEOutput, Output
from wsigen.pipeline.rows import BackgroundWriter
from wsigen.runtime import format_bytes
from wsigen.slide.journal import BlockJournal
from wsigen.slide.write import SlideFiles, check_output

TAKEN = "another process is making this slide; wait for it, or choose another --name"

Progress = Callable[[Any], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run(ABC):
    """A command with everything resolved: networks on their device, slide files to make, and the plan.

    Args:
        overwrite: replace existing slides, and drop the unfinished state of other runs.
        several: whether existing slides are left out, since others remain to be made.
    """

    overwrite: bool = False
    several: bool = False

    @property
    @abstractmethod
    def groups(self) -> Sequence[Sequence[Output]]:
        """Slides that are made in one pass, group by group; an H&E comes before its IHC slides."""

    @abstractmethod
    def check_memory(self) -> None:
        """Raise an `InvalidValueError` if the run needs more memory than it may use."""

    @abstractmethod
    def disk_bytes(self, group: Sequence[Output]) -> int:
        """Return the bytes on disk, at most, while a group is made."""

    @abstractmethod
    def describe(self) -> str:
        """Measure a few network calls; return memory, disk and time of the run as a table."""

    @abstractmethod
    def fill(
        self,
        outputs: Sequence[Output],
        journals: Sequence[BlockJournal],
        writer: BackgroundWriter,
        progress: Progress | None,
    ) -> None:
        """Append the rows that journals lack.

        Args:
            outputs: of a group, without those that are finished.
            journals: of the outputs.
            writer: for appending while the networks go on.
            progress: called now and then.
        """

    @property
    @abstractmethod
    def out_of_memory(self) -> str:
        """The message where the device runs out of memory, with what to change in the command."""

    def make(self, *, progress: Progress | None = None, block: int = 2048) -> list[SlideFiles]:
        """Make the slides that do not exist yet.

        Unfinished rows are kept in folders beside the slides until all slides of a group are written. Killed
        at any moment, the same call continues and ends with the same bytes.

        Args:
            progress: called with what the progress bar shows, for every batch, strip or tile.
            block: side of a journal's block; finished rows are kept in multiples of it.

        Returns:
            The files that were written.

        Raises:
            OutputError: a slide exists, the unfinished state is another run's, or the disk refuses.
            InvalidValueError: the run does not fit into memory, or a network returned NaN.
            SlideError: the slide that is read is damaged, or grey.
        """
        self.check_memory()
        # All groups are checked first, rather than one by one after hours.
        pending = [outputs for group in self.groups if (outputs := self._pending(group))]
        if pending:
            warn_of_disk(pending[0][0].out, max(map(self.disk_bytes, pending)))
        written = []
        for outputs in pending:
            files = self._make_group(outputs, progress, block)
            written += files
            log.info("%s", "\n".join(str(file.slide) for file in files))
        return written

    def _pending(self, group: Sequence[Output]) -> list[Output]:
        """Return the outputs that have to be made.

        Finished ones are left out: of several slides, of an interrupted group, and where a run was killed
        between writing the slide and removing its state. Otherwise the slide is in the way, an error.
        """
        if self.overwrite:
            return list(group)
        finished = [output for output in group if output.is_finished()]
        missing = [output for output in group if output not in finished]
        if isinstance(group[0], HEOutput) and group[0] in finished and missing:
            raise _incomplete(group[0], missing)
        # a finished slide is in the way, unless its state is left: then the run was killed before removing it
        if not missing and not self.several and not any(output.work.exists() for output in group):
            missing, finished = finished, []
        for output in missing:
            check_output(output.slide, overwrite=False)
        for output in finished:
            output.remove_work()
            log.info("%s exists already", output.slide)
        return missing

    def _make_group(
        self, outputs: Sequence[Output], progress: Progress | None, block: int
    ) -> list[SlideFiles]:
        try:
            with ExitStack() as stack:
                for output in outputs:
                    # again: another process may have made it meanwhile
                    check_output(output.slide, self.overwrite)
                    stack.enter_context(only_process(output.work, TAKEN))
                writer = stack.enter_context(BackgroundWriter())
                journals = [o.open_journal(overwrite=self.overwrite, block=block) for o in outputs]
                self.fill(outputs, journals, writer, progress)
                # The first is written last: where an H&E exists, its IHC slides do.
                made = {
                    output.slide: output.write(journal, overwrite=self.overwrite)
                    for output, journal in reversed(list(zip(outputs, journals, strict=True)))
                }
                for journal in journals:
                    journal.delete()
        except KeyboardInterrupt:
            work = ", ".join(str(output.work) for output in outputs)
            log.warning("interrupted; the same command continues from here (state in %s)", work)
            raise
        except torch.cuda.OutOfMemoryError as error:
            raise InvalidValueError(self.out_of_memory) from error
        for output in outputs:  # after the locks in them are released
            output.remove_work()
        return [made[output.slide] for output in outputs]


def warn_of_disk(out: Path, needed: int) -> None:
    """Warn where the disk may fill up; no error, since the plan assumes a slide that is all tissue.

    Args:
        out: the folder that is written to.
        needed: bytes at most.
    """
    free = free_bytes(out)
    if free is not None and free < needed:
        log.warning(
            "%s: a slide can take %s while it is made, %s are free; if the disk fills up, make "
            "room and run the same command again",
            out,
            format_bytes(needed),
            format_bytes(free),
        )


def _incomplete(he: HEOutput, missing: Sequence[Output]) -> OutputError:
    ihc = [output for output in he.ihc if output in missing]
    stainers = ",".join(output.stain.stainer for output in ihc)
    return OutputError(
        he.slide,
        f"exists already, without {ihc[0].slide.name}; translate it with `wsigen translate {he.slide} "
        f"--stainer {stainers} --out {he.out}`, or pass --overwrite to sample both",
    )

"""Slides -> where there is tissue, and which patches at which µm/px they can serve."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from wsigen.data.entry import SCHEMA, SlideEntry
from wsigen.data.survey import Survey, find_slides, survey_slide
from wsigen.data.table import Row, SlideTable, group_splits
from wsigen.errors import InvalidValueError, SlideError
from wsigen.files import atomic_path
from wsigen.slide.read import GLASS
from wsigen.slide.tissue import Background

__all__ = ["Failure", "SlideEntry", "SlideIndex", "build_index", "load_or_build_index"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A slide that was left out, and why."""

    slide: str
    reason: str


@dataclass(frozen=True)
class SlideIndex:
    """Slides to learn from.

    Attributes:
        entries: one per slide, ordered by name.
    """

    entries: tuple[SlideEntry, ...]

    def split(self, name: str) -> SlideIndex:
        """The slides of one split."""
        return SlideIndex(tuple(e for e in self.entries if e.split == name))

    def usable(self, patch_size: int, mpp: float) -> list[SlideEntry]:
        """The slides that can serve such patches; see `SlideEntry.serves`."""
        return [e for e in self.entries if e.serves(patch_size, mpp)]

    def save(self, path: Path) -> None:
        """Write the index as parquet.

        Raises:
            OutputError: the folder cannot be written to.
        """
        with atomic_path(Path(path)) as temporary:
            pq.write_table(
                pa.Table.from_pylist([e.to_row() for e in self.entries], schema=SCHEMA),
                temporary,
                compression="zstd",
            )

    @classmethod
    def load(cls, path: Path, folder: Path | None = None) -> SlideIndex:
        """Read an index.

        Args:
            path: made by `save`.
            folder: where the slides are now, if they were moved.

        Raises:
            SlideError: missing, or not an index.
        """
        try:
            rows = pq.read_table(path, schema=SCHEMA).to_pylist()
        except (OSError, pa.ArrowException, KeyError) as error:
            reason = f"not a readable index ({_first_line(error)})"
            raise SlideError(path, f"{reason}; make it with `wsigen index SLIDES --out {path}`") from error
        return cls(tuple(SlideEntry.from_row(row, folder) for row in rows))


def build_index(
    slides: Path | Sequence[Path],
    table: Path | None = None,
    *,
    val_fraction: float = 0.1,
    progress: bool = True,
) -> tuple[SlideIndex, list[Failure]]:
    """Look at every slide once.

    A slide that cannot be read, whose µm/px nobody knows, or on which there is no tissue, is left out with a
    warning.

    Args:
        slides: a folder (searched through all its sub-folders), one slide, or several slides.
        table: CSV with what the files do not say; see `SlideTable.load`.
        val_fraction: share of the groups kept for validation, unless the table has a column ``split``.
        progress: show a bar.

    Returns:
        The index, and what was left out.

    Raises:
        SlideError: there is no slide, or none that can be used.
        PathError: the table is at fault.
        InvalidValueError: ``val_fraction`` is not in [0, 1).

    Memory:
        One slide at 8 µm/px, and the compressed masks.

    Determinism:
        Depends on names, pixels and table alone.
    """
    surveys, failures = survey_slides(find_slides(slides), table, folder=_folder(slides), progress=progress)
    splits = group_splits(said_splits(s.entry for s in surveys), val_fraction)
    return SlideIndex(tuple(replace(e, split=splits[e.group]) for e in entries_of(surveys))), failures


def survey_slides(
    files: dict[str, Path], table: Path | None, *, folder: Path, progress: bool = True
) -> tuple[list[Survey], list[Failure]]:
    """Look at every slide once; those that cannot be used are left out with a warning.

    Args:
        files: name to path.
        table: as for `build_index`.
        folder: where they come from, for messages.
        progress: show a bar.

    Returns:
        What the slides show, and what was left out.

    Raises:
        SlideError: none can be used.
        PathError: the table is at fault.
    """
    rows = (SlideTable.load(table) if table else SlideTable()).match(list(files))
    surveys: list[Survey] = []
    failures: list[Failure] = []
    for name, path in tqdm(files.items(), desc="slides", unit="slide", disable=not progress):
        survey = _survey(name, path, rows[name])
        if isinstance(survey, Failure):
            failures.append(survey)
            log.warning("left out %s: %s", survey.slide, survey.reason)
        else:
            surveys.append(survey)
    if not surveys:
        more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
        reason = f"none of {len(files)} slides can be used ({failures[0].slide}: {failures[0].reason}{more})"
        raise SlideError(folder, reason)
    return surveys, failures


def load_or_build_index(slides: Path, *, table: Path | None = None, val_fraction: float = 0.1) -> SlideIndex:
    """An index from its parquet file, or made now.

    Args:
        slides: an index made by ``wsigen index``, a folder of slides, or one slide.
        table: as for `build_index`; not to be given with an index.
        val_fraction: as for `build_index`.

    Raises:
        InvalidValueError: a table with an index, which already holds it.
        SlideError: as for `build_index` and `SlideIndex.load`.
    """
    if Path(slides).suffix == ".parquet":
        if table is not None:
            raise InvalidValueError(f"{slides} is an index, which holds its table already; leave out {table}")
        return SlideIndex.load(slides)
    return build_index(slides, table, val_fraction=val_fraction)[0]


def _survey(name: str, path: Path, row: Row) -> Survey | Failure:
    try:
        return survey_slide(name, path, row)
    except SlideError as error:
        return Failure(name, error.reason)


def said_splits(entries: Iterable[SlideEntry]) -> dict[str, str | None]:
    """Each group's split, or None where its slides have none yet.

    Raises:
        InvalidValueError: one group is in two splits.
    """
    said: dict[str, str | None] = {}
    for entry in entries:
        before = said.setdefault(entry.group, entry.split or None)
        if (entry.split or None) != before:
            raise InvalidValueError(
                f"group {entry.group!r} is in split {before} and {entry.split or None} ({entry.slide}); "
                "give all slides of a group the same split in the table"
            )
    return said


def entries_of(surveys: Sequence[Survey]) -> list[SlideEntry]:
    """The entries; one without glass gets the typical glass of the others."""
    typical = _typical([s.glass for s in surveys if s.glass])
    return [replace(s.entry, background=s.glass or typical) for s in surveys]


def _typical(glass: list[Background]) -> Background:
    if not glass:
        return GLASS
    red, green, blue = np.median(np.asarray(glass), axis=0)
    return round(red), round(green), round(blue)


def _folder(slides: Path | Sequence[Path]) -> Path:
    return slides if isinstance(slides, Path) else Path(slides[0]).parent


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

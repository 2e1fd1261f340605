"""Survey slides: find their tissue and their background colour, and build an index."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from wsigen.data.find import Failure, find_slides
from wsigen.data.index import SlideEntry, SlideIndex
from wsigen.data.table import Row, SlideTable, group_splits
from wsigen.errors import InvalidValueError, MissingMppError, SlideError
from wsigen.geometry import Colour, Region, Size
from wsigen.slide.dicom import case_of
from wsigen.slide.mask import WHOLE_SLIDE, Roi
from wsigen.slide.mpp import UNKNOWN
from wsigen.slide.read import BACKGROUND, WholeSlide, open_slide
from wsigen.slide.tiff_backend import check_complete
from wsigen.slide.tissue import (
    background_colour,
    border_fraction,
    is_grey,
    mask_resolution,
    tissue_mask,
)

MASK_PIXELS = 2**26

TABLE_FIX = "add a row to a table with columns slide,mpp and pass it with --table"

log = logging.getLogger(__name__)


class Survey(NamedTuple):
    """Result of surveying one slide.

    Attributes:
        entry: for the index.
        background: its background colour, None where it shows none.
    """

    entry: SlideEntry
    background: Colour | None


def build_index(
    slides: Path | Sequence[Path],
    table: Path | None = None,
    *,
    roi: Roi = WHOLE_SLIDE,
    val_fraction: float = 0.1,
    class_column: str | None = None,
    progress: bool = True,
) -> tuple[SlideIndex, list[Failure]]:
    """Survey slides and build an index of them.

    A slide that cannot be read, has no known µm/px or no tissue is left out with a warning.

    Args:
        slides: a folder (searched through all its sub-folders), one slide, or several slides.
        table: CSV with µm/px, groups, splits and classes; see `SlideTable.load`.
        roi: the part of each slide that patches may lie in.
        val_fraction: share of the groups for validation, unless the table has a column ``split``.
        class_column: column of the table with the slides' classes; None: "class", if it is there.
        progress: show a bar.

    Returns:
        The index, and the slides left out.

    Raises:
        SlideError: there is no slide, or none can be used.
        PathError: the table is invalid.
        InvalidValueError: ``val_fraction`` is not in [0, 1), or there is one mask for several slides.

    Memory:
        One slide at 8 µm/px, and the compressed masks.

    Determinism:
        Depends on names, pixels and table alone.
    """
    left_out: list[Failure] = []
    files = find_slides(slides, left_out)
    roi.require_masks(len(files))
    surveys, failures = survey_slides(
        files, table, folder=_folder(slides), roi=roi, class_column=class_column, progress=progress
    )
    said = said_splits(s.entry for s in surveys)
    splits = group_splits(said, val_fraction)
    if len(surveys) > 1 and list(said.values()) == [None] and val_fraction > 0:
        all_of = f"all {len(surveys)} slides are of one group, {next(iter(said))!r}"
        log.warning("%s: none is kept for validation; give their cases in the table's column group", all_of)
    return SlideIndex(
        tuple(replace(e, split=splits[e.group]) for e in entries_of(surveys))
    ), left_out + failures


def survey_slides(
    files: dict[str, Path],
    table: Path | None,
    *,
    folder: Path,
    roi: Roi = WHOLE_SLIDE,
    class_column: str | None = None,
    progress: bool = True,
    mpp: float | None = None,
    mpp_fix: str = TABLE_FIX,
) -> tuple[list[Survey], list[Failure]]:
    """Survey slides; those that cannot be used are left out with a warning.

    Args:
        files: name to path.
        table: as for `build_index`.
        folder: of the slides, for messages.
        roi: as for `build_index`.
        class_column: as for `build_index`.
        progress: show a bar.
        mpp: µm/px of the slides for which neither their files nor the table state it.
        mpp_fix: what to do about slides whose µm/px are not known, for messages.

    Returns:
        The surveys, and the slides left out.

    Raises:
        SlideError: none can be used.
        PathError: the table is invalid.
    """
    rows = (SlideTable.load(table, class_column) if table else SlideTable()).match(list(files))
    surveys: list[Survey] = []
    failures: list[Failure] = []
    for name, path in tqdm(files.items(), desc="slides", unit="slide", disable=not progress):
        survey = _survey(name, path, rows[name], roi, mpp, mpp_fix)
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


def load_or_build_index(
    slides: Path, *, table: Path | None = None, val_fraction: float = 0.1, class_column: str | None = None
) -> SlideIndex:
    """Load an index from its parquet file, or build one.

    Args:
        slides: an index made by ``wsigen index``, a folder of slides, or one slide.
        table: as for `build_index`; not allowed with an index.
        val_fraction: as for `build_index`.
        class_column: as for `build_index`; an index holds the classes already.

    Raises:
        InvalidValueError: both a table and an index are given.
        SlideError: as for `build_index` and `SlideIndex.load`.
    """
    if Path(slides).suffix == ".parquet":
        if table is not None:
            raise InvalidValueError(
                f"{slides} is an index, which already includes its table; leave out {table}"
            )
        return SlideIndex.load(slides)
    return build_index(slides, table, val_fraction=val_fraction, class_column=class_column)[0]


def survey_slide(name: str, path: Path, row: Row, roi: Roi = WHOLE_SLIDE) -> Survey:
    """Open a slide and find tissue and background.

    Args:
        name: the slide's name in the index.
        path: the file.
        row: of the user's table.
        roi: the part of the slide that patches may lie in.

    Returns:
        The entry, with an empty split unless the table states it, and the background colour.

    Damaged tiles count as background, with a warning.

    Raises:
        SlideError: unreadable, truncated, without µm/px or without tissue (in the region of interest), or its
            mask or region does not fit.

    Memory:
        The slide at 8 µm/px or coarser, at most 64 million pixels.
    """
    slide = open_slide(path, row.mpp, row.view).skipping_damage()
    check_complete(path)
    used = roi.of(slide, name)
    mask_mpp, overview = _overview(slide)
    mask = tissue_mask(overview, mask_mpp)
    if not mask.any():
        why = f"damaged: {slide.damage}" if slide.damage else "blank, or only pen and specks"
        if is_grey(overview):
            why = "it is grey, and tissue is found by its colour; give the slide in RGB"
        raise SlideError(path, f"no tissue found on it ({why})")
    if slide.damage:
        log.warning("%s: damaged, no patches are taken there: %s", path, slide.damage)
    background, border = background_colour(overview, mask), border_fraction(mask)
    inside = None
    if used is not None:
        inside = used.covered(Size(*mask.shape), mask_mpp / slide.mpp)
        mask &= inside
        if not mask.any():
            raise SlideError(
                path, "no tissue inside its mask or region; correct them, or leave the slide out"
            )
    fraction = float(mask.mean())
    entry = SlideEntry(
        slide=name,
        path=slide.path,
        group=row.group.partition("/")[0] if row.group else (case_of(slide.path) or name),
        split=row.split or "",
        mpp=slide.mpp,
        height=slide.size.height,
        width=slide.size.width,
        background=background or BACKGROUND,
        tissue_um2=fraction * slide.size.area * slide.mpp**2,
        tissue_fraction=fraction,
        border_tissue=border,
        mask_mpp=mask_mpp,
        mask_png=_to_png(mask),
        finest_mpp=row.finest_mpp or 0.0,
        series=row.series,
        z=row.z,
        roi_png=None if inside is None else _to_png(inside),
        class_label=row.class_label,
    )
    return Survey(entry, background)


def _survey(name: str, path: Path, row: Row, roi: Roi, mpp: float | None, mpp_fix: str) -> Survey | Failure:
    try:
        try:
            return survey_slide(name, path, row, roi)
        except MissingMppError:
            if mpp is None:
                return Failure(name, f"{UNKNOWN}; {mpp_fix}")
            return survey_slide(name, path, replace(row, mpp=mpp), roi)
    except SlideError as error:
        return Failure(name, error.reason if error.path.name == path.name else str(error))


def said_splits(entries: Iterable[SlideEntry]) -> dict[str, str | None]:
    """Return each group's split, or None if it is undecided.

    Raises:
        InvalidValueError: a group is in two splits.
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
    """Return the entries; those without a background colour get the median of the others."""
    typical = _typical([s.background for s in surveys if s.background])
    return [replace(s.entry, background=s.background or typical) for s in surveys]


def _typical(colours: list[Colour]) -> Colour:
    if not colours:
        return BACKGROUND
    red, green, blue = np.median(np.asarray(colours), axis=0)
    return round(red), round(green), round(blue)


def _folder(slides: Path | Sequence[Path]) -> Path:
    return slides if isinstance(slides, Path) else Path(slides[0]).parent


def _overview(slide: WholeSlide) -> tuple[float, np.ndarray]:
    mpp = mask_resolution(slide.mpp, slide.size)
    while slide.size.area * (slide.mpp / mpp) ** 2 > MASK_PIXELS:
        mpp *= 2
    height, width = (
        max(1, math.ceil(side * slide.mpp / mpp)) for side in (slide.size.height, slide.size.width)
    )
    return mpp, slide.read_region(Region(0, 0, height, width), mpp)


def _to_png(mask: np.ndarray) -> bytes:
    _, png = cv2.imencode(".png", mask.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
    return png.tobytes()

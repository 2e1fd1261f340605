"""DICOM whole-slide images: a slide is a series, and its levels are files of one folder.

OpenSlide reads the whole series, whichever of its files it is given. This module says which files those are,
which one stands for all of them, and whose slide it is.
"""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

_MARK_AT, _MARK = 128, b"DICM"
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "ImageType"),
    *("TotalPixelMatrixRows", "TotalPixelMatrixColumns"),
)


class Instance(NamedTuple):
    """What the header of a DICOM file states.

    Attributes:
        path: the file.
        kind: name of its SOP class.
        whole_slide: whether it belongs to a whole slide.
        uid: SOP instance UID.
        series: series instance UID.
        case: patient ID, or study instance UID where there is none.
        pixels: at full resolution, of a level of a whole slide; 0 for labels and everything else.
    """

    path: Path
    kind: str
    whole_slide: bool
    uid: str
    series: str
    case: str
    pixels: int


def is_dicom(path: Path) -> bool:
    """Return whether a file begins like DICOM; one called TIFF that can be read as either is TIFF."""
    if path.suffix.lower() in (".tif", ".tiff"):
        return False
    try:
        with path.open("rb") as file:
            file.seek(_MARK_AT)
            return file.read(len(_MARK)) == _MARK
    except OSError:
        return False


def instance(path: Path) -> Instance | None:
    """Return the header of a file; None where it is not DICOM or damaged."""
    try:
        state = path.stat()
    except OSError:
        return None
    return _instance(path, state.st_ino, state.st_size, state.st_mtime_ns)


def levels(path: Path) -> tuple[Instance, ...]:
    """Return the levels of the slide that a file belongs to, finest first; none if it is no such file.

    They are those of its folder, as OpenSlide looks nowhere else.
    """
    own = instance(path)
    return _levels_in(path.parent).get(own.series, ()) if own and own.series else ()


def folder_levels(folder: Path) -> list[tuple[Instance, ...]]:
    """Return the slides in a folder, each as its levels, finest first."""
    return list(_levels_in(folder).values())


def case_of(path: Path) -> str | None:
    """Return what the slides of one patient share: patient ID, else study instance UID; None if unknown."""
    own = instance(path)
    return own.case or None if own else None


def _levels_in(folder: Path) -> dict[str, tuple[Instance, ...]]:
    try:
        return _levels_at(folder, folder.stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(2**8)
def _levels_at(folder: Path, _changed: int) -> dict[str, tuple[Instance, ...]]:
    found: dict[str, list[Instance]] = {}
    for path in sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_file()):
        one = instance(path)
        if one is not None and one.pixels:
            found.setdefault(one.series, []).append(one)
    # By their UIDs, so that the order does not depend on what the files are called.
    ordered = (sorted(some, key=lambda i: (-i.pixels, i.uid, i.path)) for some in found.values())
    return {some[0].series: tuple(some) for some in ordered}


@lru_cache(2**14)
def _instance(path: Path, *_state: int) -> Instance | None:
    if not is_dicom(path):
        return None
    import pydicom  # here, since few slides need it

    # Damaged files can make pydicom raise any exception; and it warns of values that are not to the standard.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
            kind = header.file_meta.MediaStorageSOPClassUID
            flavour = [*header.get("ImageType", ()), "", "", ""][2]
            rows, columns = (int(header.get(f"TotalPixelMatrix{side}") or 0) for side in ("Rows", "Columns"))
            return Instance(
                path,
                kind.name,
                kind == _WHOLE_SLIDE,
                str(header.get("SOPInstanceUID", "")),
                str(header.get("SeriesInstanceUID", "")),
                str(header.get("PatientID", "")).strip() or str(header.get("StudyInstanceUID", "")),
                rows * columns if kind == _WHOLE_SLIDE and flavour == "VOLUME" else 0,
            )
    except Exception:
        return None

"""The files that a slide is stored in, where they are several, and the one that stands for them."""

from __future__ import annotations

from pathlib import Path

from wsigen.errors import SlideError
from wsigen.slide import dicom
from wsigen.slide.provenance import bare_name

_ZARR_METADATA = ("zarr.json", ".zgroup", ".zattrs")


def is_zarr(path: Path) -> bool:
    """Return whether a path is a folder of Zarr."""
    named = path.suffix.lower() == ".zarr"
    return path.is_dir() and (named or any((path / name).is_file() for name in _ZARR_METADATA[:2]))


def slide_path(path: Path) -> Path:
    """Return the path by which a slide is known, whichever of its files or folders was given.

    Of a DICOM series it is the file of the finest level, of everything else the path itself, absolute.

    Raises:
        SlideError: a folder of several DICOM series.
    """
    path = path.absolute()
    if path.is_dir() and not is_zarr(path):
        slides = dicom.folder_levels(path)
        if len(slides) > 1:
            listed = ", ".join(levels[0].path.name for levels in slides[:3])
            some = listed + (", …" if len(slides) > 3 else "")
            raise SlideError(path, f"holds {len(slides)} DICOM series; give a file of one of them: {some}")
        return slides[0][0].path if slides else path
    levels = dicom.levels(path)
    return levels[0].path if levels else path


def named_after(path: Path) -> Path:
    """Return the file or folder whose name is a slide's: the folder of a DICOM series that is alone in it."""
    alone = dicom.levels(path) and len(dicom.folder_levels(path.parent)) == 1
    return path.parent if alone else path


def slide_stem(path: Path) -> str:
    """Return a slide's name without endings: ``a_HE.ome.tif`` → ``a_HE``; see `named_after`."""
    named = named_after(path)
    if named != path:
        return named.name  # a folder, whose name may have dots
    return bare_name(path)


def pixel_files(path: Path) -> list[Path]:
    """Return every file that holds pixels of a slide, known by its `slide_path`, in a fixed order."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    folder = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and folder.is_dir():
        return [path, *sorted(file for file in folder.rglob("*") if file.is_file())]
    return [level.path for level in dicom.levels(path)] or [path]


def watched_files(path: Path) -> list[Path]:
    """Return the files and folders that tell whether a slide has changed; fewer than it is stored in."""
    if path.is_dir():
        return [path, *(path / name for name in _ZARR_METADATA)]
    if path.suffix.lower() == ".mrxs":
        folder = path.with_suffix("")
        return [path, folder, folder / "Slidedat.ini"]
    return [level.path for level in dicom.levels(path)] or [path]

"""Find the slides in a folder, and say which files look like slides but are not taken for one."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsigen.errors import SlideError
from wsigen.slide import dicom
from wsigen.slide.backend import PICTURE_SUFFIXES
from wsigen.slide.parts import is_zarr, slide_path

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf2", ".tf8", ".ptif", ".ptiff", ".qptiff")
SLIDE_SUFFIXES = (
    *TIFF_SUFFIXES,
    *(".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm", ".zarr", ".czi"),
    *PICTURE_SUFFIXES,
)
# Of slides and pictures, but no reader of wsigen opens them.
_UNREAD = (
    *(".vsi", ".isyntax", ".i2syntax", ".lif", ".nd2", ".zvi", ".lsm", ".oir", ".mds", ".kfb", ".sdpc"),
    *(".jp2", ".j2k", ".jxl", ".webp", ".bmp", ".gif", ".heic"),
)
_CONVERT = "export it as a tiled TIFF"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A slide that was left out, and the reason."""

    slide: str
    reason: str


def find_slides(slides: Path | Sequence[Path], left_out: list[Failure] | None = None) -> dict[str, Path]:
    """Return slides, name to path, ordered by name. Names are relative to the folder, with "/".

    Links to files and folders are followed; a file that is reached in two ways counts once, by the name
    without links. A DICOM series counts once, by the file of its finest level, and a Zarr folder is not
    searched. A PNG or JPEG that belongs to another file (``a_HE.jpg`` beside ``a_HE.ome.tif`` and
    ``a_HE.json``, ``index.png`` beside ``index.parquet``) is not a slide. What else looks like a slide and is
    not taken for one is said in a warning.

    Args:
        slides: a folder (sub-folders included, hidden ones apart), one slide, or several slides.
        left_out: gets what looks like a slide and is not taken for one.

    Raises:
        SlideError: there are no slides.
    """
    if not isinstance(slides, Path):
        paths = {slide_path(Path(p)) for p in slides}
        names = {p.name: p for p in sorted(paths)}
        return names if len(names) == len(paths) else {p.as_posix(): p for p in sorted(paths)}
    if slides.is_file() or is_zarr(slides):
        path = slide_path(slides)
        return {path.name: path}
    if not slides.is_dir():
        why = "a link to what is not there" if slides.is_symlink() else "no such file or folder"
        raise SlideError(slides, why)
    found, failures = _search(slides)
    for failure in failures:
        log.warning("left out %s: %s", failure.slide, failure.reason)
    if left_out is not None:
        left_out += failures
    if not found:
        looked = f"no slide in this folder; looked for {' '.join(SLIDE_SUFFIXES)}"
        some = "; ".join(f"left out {f.slide}: {f.reason}" for f in failures[:3])
        raise SlideError(slides, f"{looked}; {some}" if some else looked)
    return dict(sorted(found.items()))


def _search(top: Path) -> tuple[dict[str, Path], list[Failure]]:
    paths: list[Path] = []
    failures: list[Failure] = []
    for folder, files in _walk(top, failures):
        owners = _owners(files)
        for file in files:
            path = folder / file
            why = _why_not(path, owners)
            if why is None:
                paths.append(path)
            elif why:
                failures.append(Failure(path.relative_to(top).as_posix(), why))
    found: dict[str, Path] = {}
    seen: dict[tuple[int, int], str] = {}
    for path in sorted(paths, key=Path.is_symlink):  # links last, otherwise in order
        name, state = path.relative_to(top).as_posix(), path.stat()
        first = seen.setdefault((state.st_dev, state.st_ino), name)
        if first == name:
            found[name] = path.absolute()
        else:
            failures.append(Failure(name, f"the same file as {first}"))
    failures += _join_series(found)
    return found, sorted(failures, key=lambda failure: failure.slide)


def _join_series(found: dict[str, Path]) -> list[Failure]:
    """Leave one file of each DICOM series, its finest level; return what is no slide, and copies."""
    failures: list[Failure] = []
    series: dict[str, dict[Path, list[str]]] = {}
    for name, path in list(found.items()):
        header = dicom.instance(path)
        if header is None:  # of another format, or damaged, as opening it will say
            continue
        if header.whole_slide:
            series.setdefault(header.series, {}).setdefault(path.parent, []).append(name)
        else:
            del found[name]
            if path.suffix.lower() == ".dcm":
                failures.append(Failure(name, f"DICOM of {header.kind}, not of a whole slide"))
    for folders in series.values():
        finest: dict[str, dicom.Instance] = {}  # of each folder, as levels of a slide are in one
        for names in folders.values():
            members = {found.pop(name): name for name in names}
            levels = dicom.levels(next(iter(members)))
            if levels:
                finest[members.get(levels[0].path, names[0])] = levels[0]
        first = min(finest, key=lambda name: (-finest[name].pixels, name), default=None)
        if first is None:
            name = min(name for names in folders.values() for name in names)
            failures.append(Failure(name, "a DICOM series without an image of type VOLUME"))
            continue
        found[first] = finest[first].path
        failures += [Failure(name, f"the same DICOM series as {first}") for name in finest if name != first]
    return failures


def _walk(top: Path, failures: list[Failure]) -> Iterator[tuple[Path, list[str]]]:
    """Yield folders with the names of their files and Zarr folders; linked ones last, each folder once."""
    # Real folders before linked ones, so that a slide is called by its own place; each once, against loops.
    folders, linked, seen = [top], [], set()
    while folders or linked:
        folder = folders.pop() if folders else linked.pop(0)
        try:
            state = folder.stat()
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            name = folder.relative_to(top).as_posix()
            failures.append(Failure(name, f"cannot be read ({error.strerror or error})"))
            continue
        entries = [entry for entry in entries if not entry.name.startswith(".")]
        below = [Path(entry.path) for entry in entries if entry.is_dir()]
        zarr = {path.name for path in below if is_zarr(path)}
        below = [path for path in below if path.name not in zarr]
        folders += [path for path in reversed(below) if not path.is_symlink()]
        linked += [path for path in below if path.is_symlink()]
        yield folder, [entry.name for entry in entries if entry.name in zarr or not entry.is_dir()]


def _owners(files: Sequence[str]) -> dict[str, str]:
    """Return what pictures beside slides and indexes may be called, without suffix; and beside which file."""
    owners: dict[str, str] = {}
    for name in files:
        suffix = Path(name).suffix.lower()
        if suffix == ".parquet" or (suffix in SLIDE_SUFFIXES and suffix not in PICTURE_SUFFIXES):
            dots = [i for i, letter in enumerate(name) if letter == "."]
            owners |= {name[:i]: name for i in dots if name[:i] not in owners}
    return owners


def _why_not(path: Path, owners: dict[str, str]) -> str | None:
    """Return why a file is not taken for a slide: "" where nobody would, None where it is."""
    suffix = path.suffix.lower()
    if suffix in _UNREAD:
        return f"{suffix} is not read; {_CONVERT}"
    if is_zarr(path):
        return None
    if suffix not in SLIDE_SUFFIXES and not (_may_be_dicom(suffix) and dicom.is_dicom(path)):
        return ""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "not an ordinary file"
    except OSError as error:
        broken = path.is_symlink() and isinstance(error, FileNotFoundError)
        return "a link to what is not there" if broken else f"cannot be read ({error.strerror or error})"
    owner = owners.get(path.name[: -len(suffix)]) if suffix in PICTURE_SUFFIXES else None
    if owner is None:
        return None
    ours = owner.lower().endswith(".parquet") or path.with_suffix(".json").exists()
    return "" if ours else f"taken for a thumbnail of {owner}; rename it if it is a slide of its own"


def _may_be_dicom(suffix: str) -> bool:
    """Return whether files of an ending may be DICOM, which may lack one or be called by a UID."""
    return suffix in ("", ".dicom") or suffix[1:].isdecimal()

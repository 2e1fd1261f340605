"""The slide files that a process holds open; a forked or spawned worker opens its own."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from openslide import OpenSlideCache

from wsigen.arrays import ArrayCache
from wsigen.errors import AmbiguousSlideError, InvalidValueError, SlideError
from wsigen.geometry import Region
from wsigen.slide.backend import (
    PICTURE_SUFFIXES,
    Backend,
    OpenSlideBackend,
    PictureBackend,
    vendor,
)
from wsigen.slide.damage import DamagedError
from wsigen.slide.dicom import instance
from wsigen.slide.dicom_backend import DicomBackend
from wsigen.slide.icc import SrgbBackend
from wsigen.slide.parts import is_zarr, watched_files
from wsigen.slide.tiff_backend import TiffBackend, is_tiff
from wsigen.slide.view import WHOLE, View
from wsigen.slide.zarr_backend import ZarrBackend

CACHE_BYTES = 128 * 2**20
OPEN_FILES = 64
HELD_BYTES = 2**30
_MIDDLE = 512  # px

log = logging.getLogger(__name__)

Identity = tuple[int, ...]
"""What tells a file from one that was written later under its name, see `identity`."""


def identity(path: Path) -> Identity:
    """Return device, inode, size in bytes and time of the last change (ns) of a file.

    Of a slide in several files, those of all that `wsigen.slide.parts.watched_files` names.

    Raises:
        SlideError: there is no such file.
    """
    try:
        others = (other for other in watched_files(path) if other != path and other.exists())
        states = [path.stat(), *(other.stat() for other in others)]
    except OSError as error:
        raise SlideError(path, f"no such file ({error.strerror or error})") from error
    return tuple(n for s in states for n in (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns))


def check_identity(path: Path, expected: Identity | None) -> Identity:
    """Return the identity of a file; see `identity`.

    Raises:
        SlideError: there is no such file, or it is not the expected one: its size and µm/px may be others.
    """
    now = identity(path)
    if expected is not None and now != expected:
        raise SlideError(path, "the file was changed since it was opened; open it again")
    return now


class _Held(NamedTuple):
    """An open file, and which one it was when it was opened."""

    identity: Identity
    backend: Backend


class Handles:
    """Open files, closed least recently used first, and the tile caches they share.

    A file that was replaced or written again is opened anew: neither its old handle nor its old tiles are
    used.

    Args:
        cache_bytes: decoded tiles kept, for OpenSlide and for tifffile each.
        open_files: most files held open.
        held_bytes: most bytes of decoded pictures held; one larger picture may be held alone.
    """

    def __init__(
        self, cache_bytes: int = CACHE_BYTES, open_files: int = OPEN_FILES, held_bytes: int = HELD_BYTES
    ) -> None:
        self.cache_bytes, self.open_files, self.held_bytes = cache_bytes, open_files, held_bytes
        self._lock = threading.RLock()
        self._tiles = OpenSlideCache(cache_bytes)
        self._segments = ArrayCache(cache_bytes)
        self._open: OrderedDict[tuple[Path, View], _Held] = OrderedDict()

    def get(self, path: Path, view: View = WHOLE, expected: Identity | None = None) -> Backend:
        """Return the open file at ``path``; open it if necessary.

        Args:
            path: the file.
            view: which of its images.
            expected: the file that is meant; None for any of this name.

        Raises:
            SlideError: it cannot be opened, or is another file than ``expected``.
            InvalidValueError: the view names an image that is not there.
        """
        key = (path, view)
        # Asked for before the file is opened: what is written in between is noticed next time.
        now = check_identity(path, expected)
        with self._lock:
            held = self._open.get(key)
            if held is None or held.identity != now:
                self._open.pop(key, None)
                held = self._open[key] = _Held(now, self._open_file(path, view, now))
            self._open.move_to_end(key)
            while len(self._open) > 1 and self._over():
                self._open.popitem(last=False)
            return held.backend

    def open_apart(self, path: Path, view: View = WHOLE, expected: Identity | None = None) -> Backend:
        """Open a file that nobody else reads: a damaged tile can spoil a handle for all its readers.

        Raises:
            SlideError: as for `get`.
        """
        return self._open_file(path, view, check_identity(path, expected))

    def drop(self, path: Path, view: View = WHOLE) -> None:
        """Forget a file, so that the next `get` opens it again."""
        with self._lock:
            self._open.pop((path, view), None)

    def renew(self) -> Handles:
        """Return handles with the same limits and no open files."""
        return Handles(self.cache_bytes, self.open_files, self.held_bytes)

    def _over(self) -> bool:
        held = sum(h.backend.nbytes for h in self._open.values())
        return len(self._open) > self.open_files or held > self.held_bytes

    def _open_file(self, path: Path, view: View, found: Identity) -> Backend:
        backend = self._open_stored(path, view, found)
        return SrgbBackend(path, backend) if view.icc else backend

    def _open_stored(self, path: Path, view: View, found: Identity) -> Backend:
        why = _why_no_slide(path)
        if why:
            raise SlideError(path, why)
        if path.is_dir():
            return ZarrBackend(path, self._segments, view, identity=found)
        if path.suffix.lower() in PICTURE_SUFFIXES:
            _check_only_image(path, view)
            return PictureBackend(path)
        try:
            return self._open_slide(path, view, found, vendor(path), is_tiff(path))
        except OSError as error:
            raise SlideError(path, f"cannot be opened ({error.strerror or error})") from error

    def _open_slide(
        self, path: Path, view: View, found: Identity, known_as: str | None, tiff: bool
    ) -> Backend:
        if tiff and known_as in (None, "generic-tiff"):
            # Preferred to OpenSlide, which ignores SubIFDs, interpolates between pixels and is slower.
            try:
                return TiffBackend(path, self._segments, view, identity=found)
            except AmbiguousSlideError:  # OpenSlide would guess
                raise
            except SlideError:
                if known_as is None:
                    raise
        if known_as is None:
            header = instance(path)
            reason = "not a slide: neither OpenSlide nor tifffile reads this format"
            raise SlideError(path, f"DICOM of {header.kind}, not of a whole slide" if header else reason)
        _check_only_image(path, view)
        backend = OpenSlideBackend(path, self._tiles)
        if known_as == "generic-tiff":
            _check_range(path, OpenSlideBackend(path, self._tiles))  # apart: a damaged tile would spoil it
        self._read_stored_pixels(path, found, backend, known_as)
        return backend

    def _read_stored_pixels(
        self, path: Path, found: Identity, backend: OpenSlideBackend, known_as: str
    ) -> None:
        """Let SVS and DICOM be read tile by tile; warn of levels that OpenSlide interpolates elsewhere."""
        reason = f"a level of {known_as} has no page of its own"
        try:
            if known_as == "aperio":
                return backend.read_by(
                    TiffBackend(path, self._segments, sizes=backend.levels, identity=found)
                )
            if known_as == "dicom":
                return backend.read_by(DicomBackend(path, self._segments, backend.levels, identity=found))
        except SlideError as error:
            reason = error.reason
        if backend.inexact and (path, found) not in _interpolated:
            _interpolated.add((path, found))
            levels = ", ".join(map(str, backend.inexact))
            log.warning("%s: OpenSlide interpolates level %s by part of a pixel (%s)", path, levels, reason)
        return None


def _check_range(path: Path, backend: OpenSlideBackend) -> None:
    """Refuse a TIFF that OpenSlide shows black: samples of 12 bits that are stored as if they had 16.

    Raises:
        SlideError: its middle, at the coarsest level, uses at most 1/8 of the range.
    """
    last = len(backend.levels) - 1
    size = backend.levels[last]
    top, left = (max(0, (side - _MIDDLE) // 2) for side in (size.height, size.width))
    middle = Region(top, left, _MIDDLE, _MIDDLE).intersect(size.region)
    try:
        brightest = backend.read(last, middle, (255, 255, 255)).max(initial=0)
    except DamagedError:  # which is said where the slide is read
        return
    if brightest < 256 // 8:
        reason = f"its middle is black, with no sample above {brightest} of 255, as of 12 bits stored as 16"
        raise SlideError(path, f"{reason}; scale its samples to 8 bits")


def _check_only_image(path: Path, view: View) -> None:
    if view.series is not None or view.z is not None:
        chosen = "--series" if view.series is not None else "--z"
        raise InvalidValueError(
            f"{chosen} chooses an image of a TIFF or OME-Zarr; {path} is read as one; leave it out"
        )


def _why_no_slide(path: Path) -> str | None:
    """Return why a path cannot be a slide, before its content is looked at."""
    folder = path.with_suffix("")
    if path.is_dir():
        if is_zarr(path):
            return None
        mirax = path.with_name(path.name + ".mrxs")
        return f"a folder, not a slide; give {mirax.name if mirax.is_file() else 'a file in it'}"
    if not path.is_file():
        return "not an ordinary file" if path.exists() else "no such file"
    if path.suffix.lower() == ".mrxs" and not (folder / "Slidedat.ini").is_file():
        missing = f"{folder.name}/Slidedat.ini" if folder.is_dir() else f"folder {folder.name}"
        return f"its pixels are in a folder of the same name, and {missing} is missing; copy it too"
    return None


_interpolated: set[tuple[Path, Identity]] = set()  # files that were warned of
_handles = Handles()
_inherited: list[Handles] = []


def handles() -> Handles:
    """Return the open files of this process."""
    return _handles


def set_limits(
    *, cache_bytes: int = CACHE_BYTES, open_files: int = OPEN_FILES, held_bytes: int = HELD_BYTES
) -> None:
    """Replace the limits of this process (and of workers forked from it); open files are dropped.

    Args:
        cache_bytes: decoded tiles kept, for OpenSlide and for tifffile each.
        open_files: most files held open.
        held_bytes: most bytes of decoded pictures held; one larger picture may be held alone.
    """
    global _handles
    _handles = Handles(cache_bytes, open_files, held_bytes)


def _reset_after_fork() -> None:
    global _handles
    # Kept, not closed: closing could wait for a lock held by a thread that the fork did not copy.
    _inherited.append(_handles)
    _handles = _handles.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)

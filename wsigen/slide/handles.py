"""The slide files that a process holds open; a forked or spawned worker opens its own."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from pathlib import Path

from openslide import OpenSlideCache

from wsigen.arrays import ArrayCache
from wsigen.errors import AmbiguousSlideError, InvalidValueError, SlideError
from wsigen.slide.backend import PICTURE_SUFFIXES, Backend, OpenSlideBackend, PictureBackend, vendor
from wsigen.slide.icc import SrgbBackend
from wsigen.slide.tiff_backend import TiffBackend, is_tiff
from wsigen.slide.view import WHOLE, View

CACHE_BYTES = 128 * 2**20
OPEN_FILES = 64
HELD_BYTES = 2**30

log = logging.getLogger(__name__)


class Handles:
    """Open files, closed least recently used first, and the tile caches they share.

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
        self._open: OrderedDict[tuple[Path, View], Backend] = OrderedDict()

    def get(self, path: Path, view: View = WHOLE) -> Backend:
        """Return the open file at ``path``; open it if necessary.

        Args:
            path: the file.
            view: which of its images.

        Raises:
            SlideError: it cannot be opened.
            InvalidValueError: the view names an image that is not there.
        """
        key = (path, view)
        with self._lock:
            backend = self._open.get(key)
            if backend is None:
                backend = self._open_file(path, view)
                backend = SrgbBackend(path, backend) if view.icc else backend
                self._open[key] = backend
            self._open.move_to_end(key)
            while len(self._open) > 1 and self._over():
                self._open.popitem(last=False)
            return backend

    def drop(self, path: Path, view: View = WHOLE) -> None:
        """Forget a file, so that the next `get` opens it again."""
        with self._lock:
            self._open.pop((path, view), None)

    def renew(self) -> Handles:
        """Return handles with the same limits and no open files."""
        return Handles(self.cache_bytes, self.open_files, self.held_bytes)

    def _over(self) -> bool:
        held = sum(b.nbytes for b in self._open.values())
        return len(self._open) > self.open_files or held > self.held_bytes

    def _open_file(self, path: Path, view: View) -> Backend:
        if not path.is_file():
            raise SlideError(path, "no such file")
        if path.suffix.lower() in PICTURE_SUFFIXES:
            _check_only_image(path, view)
            return PictureBackend(path)
        try:
            return self._open_slide(path, view, vendor(path), is_tiff(path))
        except OSError as error:
            raise SlideError(path, f"cannot be opened ({error.strerror or error})") from error

    def _open_slide(self, path: Path, view: View, known_as: str | None, tiff: bool) -> Backend:
        if tiff and known_as in (None, "generic-tiff"):
            # Preferred to OpenSlide, which ignores SubIFDs, interpolates between pixels and is slower.
            try:
                return TiffBackend(path, self._segments, view)
            except AmbiguousSlideError:  # OpenSlide would guess
                raise
            except SlideError:
                if known_as is None:
                    raise
        if known_as is None:
            raise SlideError(path, "not a slide: neither OpenSlide nor tifffile reads this format")
        _check_only_image(path, view)
        backend = OpenSlideBackend(path, self._tiles)
        if backend.inexact:
            self._read_stored_levels(path, backend, known_as)
        return backend

    def _read_stored_levels(self, path: Path, backend: OpenSlideBackend, known_as: str) -> None:
        """Let levels that OpenSlide would interpolate be read from their pages; warn where they have none."""
        reason = f"a level of {known_as} has no page of its own"
        if known_as == "aperio":
            try:
                backend.read_inexact_by(TiffBackend(path, self._segments, sizes=backend.levels))
            except SlideError as error:
                reason = error.reason
            else:
                return
        if path not in _interpolated:
            _interpolated.add(path)
            levels = ", ".join(map(str, backend.inexact))
            log.warning("%s: OpenSlide interpolates level %s by part of a pixel (%s)", path, levels, reason)


def _check_only_image(path: Path, view: View) -> None:
    if view.series is not None or view.z is not None:
        chosen = "--series" if view.series is not None else "--z"
        raise InvalidValueError(
            f"{chosen} chooses an image of a TIFF or OME-TIFF; {path} is read as one; leave it out"
        )


_interpolated: set[Path] = set()  # files that were warned of
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

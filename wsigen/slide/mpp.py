"""Pixel size of a slide in µm/px: from its metadata, else from the user; never guessed."""

from __future__ import annotations

import contextlib
import logging
import math
from pathlib import Path

import tifffile

from wsigen.config.check import is_positive
from wsigen.errors import InvalidValueError, MissingMppError
from wsigen.slide.backend import Backend
from wsigen.slide.tiff_backend import is_tiff, ome_mpp

# 600 dpi, the finest print resolution that programs write by default, is 42.3 µm/px.
SMALLEST, LARGEST = 0.01, 40.0
LARGEST_GIVEN = 1000.0
UNKNOWN = "µm/px is not in its metadata"

log = logging.getLogger(__name__)


def resolve_mpp(path: Path, backend: Backend, given: float | None = None) -> float:
    """Return µm/px of level 0.

    Metadata outside 0.01–40 µm/px are print resolutions (72 dpi = 353 µm/px) or invalid: they count as
    missing.

    Args:
        path: the file, for messages and for OME-XML that its backend ignores.
        backend: the open file.
        given: the user's µm/px; used, with a warning, if it differs by more than 5 % from the metadata.

    Raises:
        InvalidValueError: ``given`` is not in (0, 1000].
        MissingMppError: neither the metadata nor the user state it.
    """
    if given is not None and not is_positive(given, LARGEST_GIVEN):
        raise InvalidValueError(
            f"mpp of {path} must be a number in (0, {LARGEST_GIVEN:g}] µm/px, got {given!r}; correct it"
        )
    known = _metadata_mpp(path, backend)
    if known is None:
        if given is None:
            raise MissingMppError(path, f"{UNKNOWN}; pass mpp")
        return given
    if given is not None and abs(given / known - 1) > 0.05:
        log.warning("%s: %g µm/px were given, the metadata state %g; using the former", path, given, known)
        return given
    return known


def _metadata_mpp(path: Path, backend: Backend) -> float | None:
    for pair in (backend.mpp, _ome_pair(path)):
        if pair is None or not all(math.isfinite(v) and SMALLEST <= v <= LARGEST for v in pair):
            continue
        y, x = pair
        if abs(y / x - 1) > 0.01:
            log.warning("%s: pixels are not square (%g × %g µm); using their mean", path, y, x)
        return (y + x) / 2 if y != x else x
    return None


def _ome_pair(path: Path) -> tuple[float, float] | None:
    with contextlib.suppress(tifffile.TiffFileError, OSError, ValueError):
        if is_tiff(path):
            with tifffile.TiffFile(path) as tiff:
                return ome_mpp(tiff)
    return None

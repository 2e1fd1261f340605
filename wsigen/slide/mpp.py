"""Pixel size of a slide in µm/px: from its metadata, else from the user; never guessed."""

from __future__ import annotations

import contextlib
import logging
import math
from pathlib import Path

import tifffile

from wsigen.config.check import is_positive
from wsigen.errors import InvalidValueError, MissingMppError, SlideError
from wsigen.slide.backend import PLAUSIBLE_MPP, Backend
from wsigen.slide.ome import first_mpp
from wsigen.slide.tiff_backend import TiffBackend, is_tiff

SMALLEST, LARGEST = PLAUSIBLE_MPP
LARGEST_GIVEN = 1000.0
SQUARE = 0.01  # up to this difference of height and width, a slide has one µm/px: their mean
UNKNOWN = "µm/px is not in its metadata"

log = logging.getLogger(__name__)


def mean_mpp(pixel_um: tuple[float, float]) -> float:
    """Return the µm/px of pixels of this height and width."""
    y, x = pixel_um
    return (y + x) / 2 if y != x else x


def resolve_pixel_um(path: Path, backend: Backend, given: float | None = None) -> tuple[float, float]:
    """Return height and width of a pixel of level 0 in µm.

    Metadata outside 0.01–40 µm/px are print resolutions (72 dpi = 353 µm/px) or invalid: they count as
    missing.

    Args:
        path: the file, for messages and for OME-XML that its backend ignores.
        backend: the open file.
        given: the user's µm/px; used, with a warning, if it differs by more than 5 % from the metadata, or if
            by them pixels are not square.

    Returns:
        Height and width, which differ by at most 1 %.

    Raises:
        InvalidValueError: ``given`` is not in (0, 1000].
        MissingMppError: neither the metadata nor the user state it.
        SlideError: by the metadata, height and width of a pixel differ by more, and the user states nothing.
    """
    if given is not None and not is_positive(given, LARGEST_GIVEN):
        raise InvalidValueError(
            f"mpp of {path} must be a number in (0, {LARGEST_GIVEN:g}] µm/px, got {given!r}; correct it"
        )
    pair = _metadata_mpp(path, backend)
    if pair is not None and abs(pair[0] / pair[1] - 1) > SQUARE:
        return _not_square(path, pair, given)
    if pair is None:
        if given is None:
            raise MissingMppError(path, f"{UNKNOWN}; pass mpp")
        return given, given
    known = mean_mpp(pair)
    if given is not None and abs(given / known - 1) > 0.05:
        log.warning("%s: %g µm/px were given, the metadata state %g; using the former", path, given, known)
        return given, given
    return pair


def _metadata_mpp(path: Path, backend: Backend) -> tuple[float, float] | None:
    # Of a TIFF, the backend knows the image that is read; the XML's first one may be another.
    others = () if isinstance(backend, TiffBackend) else (_ome_pair(path),)
    for pair in (backend.mpp, *others):
        if pair is None or not all(math.isfinite(v) and SMALLEST <= v <= LARGEST for v in pair):
            continue
        return pair
    return None


def _not_square(path: Path, pair: tuple[float, float], given: float | None) -> tuple[float, float]:
    """Return what the user states; a slide has one µm/px, with which every size would be wrong."""
    pixels = f"pixels are not square (by the metadata {pair[1]:g} µm wide and {pair[0]:g} µm high)"
    if given is None:
        fix = "pass the µm/px by --mpp, or in a table with columns slide,mpp"
        raise SlideError(path, f"{pixels}; resample it to square ones, or if the metadata are wrong, {fix}")
    log.warning("%s: %s; using the %g µm/px that were given", path, pixels, given)
    return given, given


def _ome_pair(path: Path) -> tuple[float, float] | None:
    with contextlib.suppress(tifffile.TiffFileError, OSError, ValueError):
        if is_tiff(path):
            with tifffile.TiffFile(path) as tiff:
                return first_mpp(tiff)
    return None

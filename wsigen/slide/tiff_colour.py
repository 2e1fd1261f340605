"""Decoded samples of a TIFF page to RGB or RGBA; what their tags leave open is refused, never guessed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from wsigen.errors import AmbiguousSlideError, SlideError

_GREY, _RGB, _YCBCR = tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR
_WHOLE_BITS = (8, 16, 32, 64)
_CONVERTED_BITS = (1, 2, 4, 8, 16)  # of libtiff's conversion to RGBA, which OpenSlide uses
_DEFINED = (_GREY, _RGB, tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.PALETTE)
UNSPECIFIED, ASSOCIATED, UNASSOCIATED = 0, 1, 2
# Compressions whose decoder converts to RGB itself: JPEG, old JPEG, lossy JPEG of DNG, ALT_JPEG.
_CONVERTED = (6, 7, 34892, 33007)
# Compressions that give back the samples as they were stored.
_STORED = (1, 5, 8, 32773, 32946, 34925, 50000)
# Aperio's JPEG 2000 of YCbCr, whatever the photometric interpretation says.
APERIO_YCBCR = 33003
JPEG2000 = (APERIO_YCBCR, 33004, 33005, 34712)
_COEFFICIENTS = (0.299, 0.587, 0.114)
_FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)

Convert = Callable[[np.ndarray], np.ndarray]


def check_colours(path: Path, page: Any) -> None:
    """Raise if a page is not 8-bit RGB, YCbCr or grey, with or without alpha.

    Raises:
        SlideError: other pixels, which OpenSlide may be able to convert.
        AmbiguousSlideError: its tags do not say what its samples mean.
    """
    photometric, samples = page.photometric, int(page.samplesperpixel)
    name = getattr(photometric, "name", photometric)
    bits = page.bitspersample
    if page.dtype != np.uint8 or bits != 8 or photometric not in (_GREY, _RGB, _YCBCR) or samples > 4:
        what = f"{page.dtype} {name} × {samples}" if bits in _WHOLE_BITS else f"{name} of {bits} bits"
        # Inks and CIELAB need a profile; the others OpenSlide can convert, if it reads the file.
        convertible = photometric in _DEFINED and bits in _CONVERTED_BITS
        kind = SlideError if convertible else AmbiguousSlideError
        raise kind(path, f"its pixels are {what}; expected 8-bit RGB or grey; convert the file")
    extra = samples - (1 if photometric == _GREY else 3)
    if extra not in (0, 1):
        reason = f"has {samples} samples a pixel that its tags call {name}; save it as RGB or as grey"
        raise AmbiguousSlideError(path, reason)
    if extra and _alpha(page) not in (ASSOCIATED, UNASSOCIATED):
        reason = (
            f"does not say what sample {samples} of its pixels is; set its tag ExtraSamples to 1 or 2 if it "
            "is (associated or unassociated) alpha, else save the slide without it"
        )
        raise AmbiguousSlideError(path, reason)
    if extra and photometric == _GREY and _separate(page):
        raise AmbiguousSlideError(path, "has grey and alpha in planes of their own; save it as RGB")
    if _is_ycbcr(page):
        _check_ycbcr(path, page)


def colour_converter(page: Any) -> Convert:
    """Return the function from a page's decoded samples to RGB, or RGBA where it has alpha.

    It takes and returns uint8 (height, width, samples); of planes stored apart, (height, width, 1).
    """
    if _is_ycbcr(page):
        return _ycbcr_converter(page)
    if page.photometric == _GREY:
        return _grey_to_rgb
    return _as_they_are


def has_alpha(page: Any) -> bool:
    """Return whether a page that `check_colours` passed has alpha."""
    return page.samplesperpixel in (2, 4)


def is_associated(page: Any) -> bool:
    """Return whether the colours of a page are multiplied by its alpha."""
    return has_alpha(page) and _alpha(page) == ASSOCIATED


def over_background_associated(rgba: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Composite colours that are already multiplied by alpha over a plain colour.

    Args:
        rgba: uint8 (height, width, 4).
        background: uint8 triple.

    Returns:
        uint8 (height, width, 3), contiguous.
    """
    weight = 1 - rgba[..., 3:].astype(np.float32) / 255
    mixed = rgba[..., :3] + np.asarray(background, np.float32) * weight
    return np.rint(np.minimum(mixed, 255)).astype(np.uint8)


def _is_ycbcr(page: Any) -> bool:
    if page.compression == APERIO_YCBCR:
        return page.samplesperpixel >= 3
    return page.photometric == _YCBCR and page.compression not in _CONVERTED


def _check_ycbcr(path: Path, page: Any) -> None:
    compression = getattr(page.compression, "name", page.compression)
    what = f"is YCbCr with compression {compression}"
    if page.compression not in (*_STORED, *JPEG2000):
        raise AmbiguousSlideError(path, f"{what}, whose decoder may convert it or not; save the slide as RGB")
    if _separate(page):
        raise SlideError(path, f"{what} in separate planes; save the slide as RGB")
    if page.photometric == _YCBCR and not _has_full_chroma(page):
        factors = page.subsampling or (2, 2)
        reason = f"{what} and chroma subsampled {factors[0]} × {factors[1]}; save the slide as RGB or JPEG"
        raise AmbiguousSlideError(path, reason)
    if page.compression in JPEG2000 and _transforms_colours(page):
        reason = f"{what}, and its JPEG 2000 transforms colours once more; save the slide as RGB"
        raise AmbiguousSlideError(path, reason)


def _has_full_chroma(page: Any) -> bool:
    if page.subsampling is not None:
        return tuple(page.subsampling) == (1, 1)
    return page.compression in JPEG2000


def _transforms_colours(page: Any) -> bool:
    """Return whether the first tile's codestream transforms colours itself, or lies in a JP2 box."""
    handle = page.parent.filehandle
    found = next(((o, c) for o, c in zip(page.dataoffsets, page.databytecounts, strict=False) if c), None)
    if found is None:
        return False
    handle.seek(found[0])
    head = handle.read(min(found[1], 4096))
    if not head.startswith(b"\xff\x4f"):
        return True
    place = 2
    while place + 4 <= len(head):
        marker, length = head[place : place + 2], int.from_bytes(head[place + 2 : place + 4], "big")
        if marker == b"\xff\x52":  # COD: length, style, progression, layers (2), then the transform
            return head[place + 8 : place + 9] != b"\0"
        place += 2 + length
    return True


def _ycbcr_converter(page: Any) -> Convert:
    red, green, blue = _numbers(page, "YCbCrCoefficients", _COEFFICIENTS)
    reference = _numbers(page, "ReferenceBlackWhite", _FULL_RANGE)
    black, white = np.array(reference[::2], np.float32), np.array(reference[1::2], np.float32)
    # TIFF 6.0, section 20: codes to Y in 0–255 and Cb, Cr in ±127, then to RGB.
    scale = np.array([255, 127, 127], np.float32) / (white - black)
    to_red, to_blue = 2 - 2 * red, 2 - 2 * blue
    matrix = np.array(
        [[1, 0, to_red], [1, -blue * to_blue / green, -red * to_red / green], [1, to_blue, 0]], np.float32
    )

    def convert(samples: np.ndarray) -> np.ndarray:
        values = (samples[..., :3].astype(np.float32) - black) * scale
        rgb = np.rint(np.clip(values @ matrix.T, 0, 255)).astype(np.uint8)
        return rgb if samples.shape[2] == 3 else np.concatenate([rgb, samples[..., 3:]], axis=2)

    return convert


def _numbers(page: Any, tag: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """Return a tag of rationals, or the default where it is absent or not of that length."""
    value = page.tags.valueof(tag)
    if value is None or len(value) not in (len(default), 2 * len(default)):
        return default
    if len(value) == len(default):
        return tuple(float(v) for v in value)
    return tuple(n / d for n, d in zip(value[::2], value[1::2], strict=True))


def _grey_to_rgb(samples: np.ndarray) -> np.ndarray:
    grey = np.repeat(samples[..., :1], 3, axis=2)
    return grey if samples.shape[2] == 1 else np.concatenate([grey, samples[..., 1:]], axis=2)


def _as_they_are(samples: np.ndarray) -> np.ndarray:
    return samples


def _alpha(page: Any) -> int:
    extra = page.extrasamples
    return int(extra[-1]) if extra else UNSPECIFIED


def _separate(page: Any) -> bool:
    return page.planarconfig == tifffile.PLANARCONFIG.SEPARATE

"""JPEG data that end too early.

libjpeg then makes up the missing pixels, mid-grey or whatever zeros happen to mean, and only warns;
imagecodecs and Pillow do not pass the warning on.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

GREY = 128
"""All channels of blocks that libjpeg makes up."""

_END = b"\xff\xd9"
_MARKER = re.compile(rb"(?=\xff[^\x00\xff])")
# Both begin with zero, which makes data of a 0xFF before it, rather than a marker.
_FILLERS = (bytes(32), bytes(1) + b"\xa5\x3c" * 16)


def ends_early(data: bytes, decoded: np.ndarray, decode: Callable[[bytes], np.ndarray]) -> bool:
    """Return whether some pixels of a JPEG were made up, since its data end before them.

    Only where a block is mid-grey or the end mark is missing, as almost never in good files, the data are
    decoded twice more, continued by different bytes: if the decoder gets to see them, the pixels differ.

    Args:
        data: of the JPEG; tables may be elsewhere.
        decoded: its pixels, uint8 (height, width, channels).
        decode: from data to pixels.
    """
    data = data.rstrip(b"\0")
    if data.endswith(_END) and not _has_grey_block(decoded):
        return False
    one, other = (decode(_continued(data, filler)) for filler in _FILLERS)
    return not np.array_equal(one, other)


def _has_grey_block(pixels: np.ndarray) -> bool:
    # Two pixels of each block of 8 × 8: its edges are mixed with the colours of its neighbours.
    rows, cols = (n // 8 for n in pixels.shape[:2])
    one, other = (pixels[at::8, at::8][:rows, :cols] for at in (3, 4))
    return bool(((one == GREY) & (other == GREY)).all(axis=2).any())


def _continued(data: bytes, filler: bytes) -> bytes:
    """Insert bytes wherever coded data end: before markers, and at the end of all."""
    start = _coded(data)
    coded = data[start:]
    if coded.endswith(b"\xff"):  # the zero after it was stripped, which says that it is no marker
        coded += b"\0"
    return data[:start] + _MARKER.sub(filler, coded) + filler + _END


def _coded(data: bytes) -> int:
    """Return where coded data begin: after the header of the first scan."""
    at = 2
    while at + 4 <= len(data):
        scan = data[at + 1] == 0xDA
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if scan:
            return at
    return len(data)

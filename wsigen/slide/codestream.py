"""JPEG 2000, WebP and JPEG XR data that end too early.

Where the rest is zero, as after a copy with a hole, their decoders make pixels of the zeros without an error.
"""

from __future__ import annotations

_ZEROS = 64  # more than sound JPEG XR data end with (1), and than WebP of a tile of 256 × 256 px (10)
_WEBP_FLAT = 4096  # pixels per further zero: plain tiles of any size end with fewer
_START, _PART, _END = b"\xff\x4f\xff\x51", b"\xff\x90", b"\xff\xd9"
_PART_HEADER = 12
# Tags of JPEG XR's own directory: offset and length in bytes of the picture and of its alpha.
_JPEGXR_DATA = ((0xBCC0, 0xBCC1), (0xBCC2, 0xBCC3))


def jpeg2000_ends_early(data: bytes) -> bool:
    """Return whether a JPEG 2000 codestream, alone or in a JP2 file, lacks its end.

    Follows the lengths of its tile-parts (ISO/IEC 15444-1, A.4.2). The end mark may be missing, as some
    encoders leave it out, but not the data before it.
    """
    found = len(data.rstrip(b"\0"))
    at = data.find(_START) + 2
    if at < 2:
        return False  # nothing that the decoder would take
    while data[at : at + 2] != _PART:
        if at + 4 > found:
            return True
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    while data[at : at + 2] == _PART:
        length = int.from_bytes(data[at + 6 : at + 10], "big")
        if length < _PART_HEADER:  # 0: up to the end of all
            return not data[:found].endswith(_END)
        at += length
    return found + 2 < at or (len(data) > at + 2 and data[at : at + 2] != _END)


def webp_ends_early(data: bytes, pixels: int) -> bool:
    """Return whether WebP data end with more zeros than those of a sound picture.

    Args:
        data: a RIFF file; where it is shorter than it states, libwebp says so.
        pixels: of the picture. One of a single colour ends with up to 1/10000 byte of zero per pixel.
    """
    stated = 8 + int.from_bytes(data[4:8], "little")
    return len(data.rstrip(b"\0")) + _ZEROS + pixels // _WEBP_FLAT < stated


def jpegxr_ends_early(data: bytes) -> bool:
    """Return whether a JPEG XR file is shorter than its directory states, or ends with zeros."""
    start = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[start : start + 2], "little")
    entries = (data[at : at + 12] for at in range(start + 2, start + 2 + 12 * count, 12))
    # Values of two bytes are padded with zeros.
    tags = {int.from_bytes(e[:2], "little"): int.from_bytes(e[8:], "little") for e in entries}
    end = max(sum(tags.get(tag, 0) for tag in pair) for pair in _JPEGXR_DATA)
    return len(data) < end or len(data[:end].rstrip(b"\0")) + _ZEROS < end

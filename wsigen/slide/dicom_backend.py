"""The frames of DICOM whole-slide images, as they are stored."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import imagecodecs
import numpy as np

from wsigen.arrays import ArrayCache
from wsigen.errors import SlideError
from wsigen.geometry import Colour, Region, Size
from wsigen.slide import dicom
from wsigen.slide.backend import assemble, tiles_of
from wsigen.slide.codestream import jpeg2000_ends_early
from wsigen.slide.damage import DamagedError
from wsigen.slide.jpeg import ends_early

_TAGS = (
    *("Rows", "Columns", "TotalPixelMatrixRows", "TotalPixelMatrixColumns", "NumberOfFrames"),
    *("DimensionOrganizationType", "PhotometricInterpretation", "ExtendedOffsetTable"),
)
_UNCOMPRESSED = "1.2.840.10008.1.2.1"
_JPEG = "1.2.840.10008.1.2.4.50"
_JPEG2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_ITEM = 0xE000FFFE  # the tag that begins a fragment, read as one number
_HEADER = struct.Struct("<LL")


class DicomBackend:
    """The levels of a DICOM slide, read with pydicom and imagecodecs.

    For slides that OpenSlide has opened, and so checked: it interpolates levels whose factor is no whole
    number, and shows what libjpeg makes up where a frame ends early.

    Args:
        path: a file of the series.
        cache: decoded frames, shared by every file of the process.
        sizes: of the levels, as OpenSlide found them.
        identity: of the series, so that frames of one that had this name before are not taken for its own.

    Raises:
        SlideError: a level is not in one file of tiles in order (TILED_FULL).

    Memory:
        The cache, one frame, and 8 bytes for each frame of a level that is read.
    """

    nbytes = 0
    mpp: tuple[float, float] | None = None
    icc: bytes | None = None

    def __init__(
        self, path: Path, cache: ArrayCache, sizes: Sequence[Size], *, identity: tuple[int, ...] = ()
    ) -> None:
        self._path, self._cache, self._identity = path, cache, identity
        self.levels = tuple(sizes)
        try:
            files = [_File(level.path) for level in dicom.levels(path)]
        except Exception as error:  # whatever damaged headers make pydicom raise
            raise SlideError(path, f"its frames cannot be found ({error})") from error
        self._files: list[_File] = []
        for size in sizes:
            found = [file for file in files if file.size == size and file.in_order]
            if len(found) != 1 or sum(file.size == size for file in files) != 1:
                reason = f"{size.width} × {size.height} px are not in one file of tiles in order"
                raise SlideError(path, reason)
            self._files += found

    def tiles(self, level: int, region: Region) -> Iterator[Region]:
        """Yield frames."""
        return tiles_of(region, self._files[level].tile, self.levels[level])

    def read(self, level: int, region: Region, background: Colour) -> np.ndarray:
        """Return a region inside a level; see `Backend`."""
        try:
            return assemble(self.tiles(level, region), lambda tile: self._frame(level, tile), region)
        except Exception as error:  # whatever damaged data make decoders raise
            raise DamagedError(self._path, str(error), level, region) from error

    def _frame(self, level: int, tile: Region) -> np.ndarray:
        file = self._files[level]
        across = -(-file.size.width // file.tile.width)
        number = tile.y // file.tile.height * across + tile.x // file.tile.width
        key = (self._path, self._identity, level, number)
        return self._cache.fetch(key, partial(file.decode, number))[: tile.height, : tile.width]


class _Place(NamedTuple):
    """Where the frames of a file begin, and the length of each; 0 where they are encapsulated."""

    offsets: np.ndarray
    length: int


class _File:
    """One file of a series; it is open only while it is read, since a slide has many."""

    def __init__(self, path: Path) -> None:
        import pydicom

        self._path = path
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that are not to the standard
            header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(_TAGS))
            self._start = stream.tell()
            self._syntax = str(header.file_meta.TransferSyntaxUID)
            self._colours = str(header.PhotometricInterpretation)
            self._offsets = np.frombuffer(header.get("ExtendedOffsetTable") or b"", "<u8")
            self.size = Size(int(header.TotalPixelMatrixRows), int(header.TotalPixelMatrixColumns))
            self.tile = Size(int(header.Rows), int(header.Columns))
            self._count = int(header.NumberOfFrames)
            tiles = -(-self.size.height // self.tile.height) * -(-self.size.width // self.tile.width)
            organised = str(header.get("DimensionOrganizationType", ""))
        known = self._syntax in (_UNCOMPRESSED, _JPEG, *_JPEG2000)
        self.in_order = known and organised == "TILED_FULL" and self._count == tiles
        self._place: _Place | None = None

    def decode(self, number: int) -> np.ndarray:
        """Return the pixels of a frame, uint8 (tile height, tile width, 3).

        Raises:
            ValueError: its data are missing or end early.
        """
        with self._path.open("rb") as stream:
            data = self._data(stream, number)
        decoder = _decoder(self._syntax, self._colours, self.tile)
        pixels = decoder(data)
        shape = (self.tile.height, self.tile.width, 3)
        if pixels.shape != shape:
            raise ValueError(f"a frame of {pixels.shape}, expected {shape}")
        if self._syntax == _JPEG and ends_early(data, pixels, decoder):
            raise ValueError("JPEG data end early")
        if self._syntax in _JPEG2000 and jpeg2000_ends_early(data):
            raise ValueError("JPEG 2000 data end early")
        return pixels

    def _data(self, stream: BinaryIO, number: int) -> bytes:
        if self._place is None:
            self._place = self._find_frames(stream)
        offsets, length = self._place
        at = int(offsets[number])
        if length:
            return _read(stream, at, length)
        end = int(offsets[number + 1]) if number + 1 < len(offsets) else None
        fragments = []
        while end is None or at < end:
            tag, length = _HEADER.unpack(_read(stream, at, _HEADER.size))
            if tag != _ITEM:  # after the last frame
                break
            fragments.append(_read(stream, at + _HEADER.size, length))
            at += _HEADER.size + length
        return b"".join(fragments)

    def _find_frames(self, stream: BinaryIO) -> _Place:
        from pydicom.encaps import parse_basic_offsets, parse_fragments

        # PixelData: tag, type of value, two bytes of nothing, length.
        start = self._start + 12
        if self._syntax == _UNCOMPRESSED:
            size = self.tile.area * 3
            return _Place(start + size * np.arange(self._count), size)
        stream.seek(start)
        offsets = np.array(parse_basic_offsets(stream), np.int64)
        first = stream.tell()
        if len(self._offsets):
            offsets = self._offsets.astype(np.int64)
        if not len(offsets):  # neither table: from fragment to fragment
            offsets = np.array(parse_fragments(stream)[1], np.int64) - first
        if len(offsets) != self._count:
            raise ValueError(f"{len(offsets)} frames found, {self._count} expected")
        return _Place(first + offsets, 0)


def _read(stream: BinaryIO, at: int, length: int) -> bytes:
    stream.seek(at)
    data = stream.read(length)
    if len(data) < length:
        raise ValueError(f"truncated: {length} bytes expected at {at}, {len(data)} found")
    return data


def _decoder(syntax: str, colours: str, tile: Size) -> Callable[[bytes], Any]:
    """Return the function from a frame's data to RGB, uint8 (height, width, 3)."""
    if syntax == _JPEG:
        stored = "YCBCR" if colours.startswith("YBR") else "RGB"
        return lambda data: imagecodecs.jpeg8_decode(data, colorspace=stored, outcolorspace="RGB")
    if syntax in _JPEG2000:
        return imagecodecs.jpeg2k_decode
    return lambda data: np.frombuffer(data, np.uint8).reshape(tile.height, tile.width, 3)

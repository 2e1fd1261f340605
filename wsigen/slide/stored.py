"""JPEG tiles of a TIFF as they are stored, made complete files without decoding them.

A TIFF keeps the tables of its tiles once for a page (TIFF Technical Note 2), and says in its tags whether the
components are YCbCr or RGB. A file of its own needs the tables inside, and Adobe's marker for the colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import tifffile

from wsigen.errors import SlideError
from wsigen.geometry import Size
from wsigen.slide.backend import vendor
from wsigen.slide.handles import check_identity
from wsigen.slide.orientation import UPRIGHT
from wsigen.slide.read import WholeSlide
from wsigen.slide.tiff_backend import is_tiff
from wsigen.slide.tiff_pages import image_of_sizes, orientation_of, slide_image

_PLAIN = (None, "generic-tiff", "aperio")  # other formats place tiles by their own rules
_SIDES = range(128, 1025)
_START, _END, _SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive: those that browsers decode
_JFIF, _ADOBE = 0xE0, 0xEE
_YCBCR, _RGB = 1, 0


@dataclass(frozen=True)
class StoredLevel:
    """The tiles of one level.

    Attributes:
        columns: of tiles.
        places: offset and length in the file of each tile, row by row; 0, 0 for one that was not written.
        tables: Huffman and quantisation tables that the tiles share; may be empty.
        samples: a pixel: 3 or 1.
        transform: Adobe's number for the colours: 1 for YCbCr, 0 for RGB and grey.
    """

    columns: int
    places: tuple[tuple[int, int], ...]
    tables: bytes
    samples: int
    transform: int


class StoredTiles:
    """The levels of a slide whose tiles are JPEG, square, and of one size.

    Args:
        slide: the open slide.
        levels: by the factor to level 0.
        tile: side of the tiles in pixels.
    """

    def __init__(self, slide: WholeSlide, levels: dict[int, StoredLevel], tile: int) -> None:
        self._slide, self._levels, self.tile = slide, levels, tile

    def read(self, factor: int, row: int, column: int) -> bytes | None:
        """Return a whole tile as a JPEG file; None where it must be decoded and encoded again.

        Args:
            factor: of the level to level 0.
            row: of tiles.
            column: of tiles.

        Raises:
            SlideError: the file was changed since it was opened.
        """
        level = self._levels.get(factor)
        if level is None:
            return None
        offset, length = level.places[row * level.columns + column]
        if not length:
            return None
        check_identity(self._slide.path, self._slide.identity)
        # Opened for every tile, so that a folder of any number of slides needs no handle for each.
        with self._slide.path.open("rb") as file:
            file.seek(offset)
            data = file.read(length)
        return complete_jpeg(data, level.tables, self.tile, level.samples, level.transform)

    def ycbcr_bytes(self, factors: Sequence[int]) -> int | None:
        """Return the bytes of all tiles of some levels; None unless all are whole, three samples and YCbCr.

        Args:
            factors: of the levels to level 0.
        """
        levels = [self._levels.get(factor) for factor in factors]
        total = 0
        for level in levels:
            lengths = [length for _, length in level.places] if level else [0]
            if not level or level.samples != 3 or level.transform != _YCBCR or not all(lengths):
                return None
            total += sum(lengths)
        return total


def stored_tiles(slide: WholeSlide) -> StoredTiles | None:
    """Return the tiles of a slide that browsers can show as they are; None where there are none."""
    if slide.view.icc or not is_tiff(slide.path) or vendor(slide.path) not in _PLAIN:
        return None
    # Whatever tifffile makes of a damaged file, reading its pixels says what is wrong.
    try:
        with tifffile.TiffFile(slide.path) as tiff:
            pages = _pages(slide, tiff)
            if orientation_of(pages[0]) != UPRIGHT:
                return None
            tile = pages[0].tilewidth
            levels = {
                int(stored.downsample): _level(page)
                for stored, page in zip(slide.levels, pages, strict=True)
                if stored.downsample == int(stored.downsample) and _is_plain(page, tile)
            }
    except Exception:
        return None
    return StoredTiles(slide, levels, tile) if levels else None


def complete_jpeg(data: bytes, tables: bytes, side: int, samples: int, transform: int) -> bytes | None:
    """Return a tile of a TIFF as a JPEG file.

    Args:
        data: of the tile.
        tables: tag JPEGTables, or empty.
        side: of the tile in pixels.
        samples: a pixel.
        transform: Adobe's number for its colours.

    Returns:
        The file; None if the data end early, are of another size or kind, or state other colours.
    """
    data = data.rstrip(b"\0")
    if not data.startswith(_START) or not data.endswith(_END):
        return None
    jfif, adobe, frame = False, None, None
    for kind, content in _segments(data):
        jfif |= kind == _JFIF and content.startswith(b"JFIF\0")
        if kind == _ADOBE and content.startswith(b"Adobe") and len(content) >= 12:
            adobe = content[11]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # tables and extensions are no frames
            frame = kind, content
    if frame is None or not _fits(*frame, side, samples):
        return None
    if samples == 3 and (adobe not in (None, transform) or (jfif and transform == _RGB)):
        return None
    says = samples == 1 or jfif or adobe is not None
    marker = b"" if says else b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    return _START + marker + _inner(tables) + data[2:]


def _segments(data: bytes) -> list[tuple[int, bytes]]:
    """Return kind and content of the segments before the scan."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _SCAN:
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + length
    return found


def _fits(kind: int, content: bytes, side: int, samples: int) -> bool:
    if kind not in _FRAMES or len(content) < 6:
        return False
    height, width = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
    return (content[0], height, width, content[5]) == (8, side, side, samples)


def _inner(tables: bytes) -> bytes:
    """Return the tables without the marks that begin and end them."""
    return tables[2:-2] if tables.startswith(_START) and tables.endswith(_END) else b""


def _pages(slide: WholeSlide, tiff: tifffile.TiffFile) -> Sequence[Any]:
    sizes = [level.size for level in slide.levels]
    try:
        image = image_of_sizes(slide.path, tiff, sizes)
    except SlideError:
        image = slide_image(slide.path, tiff, slide.view)
    planes = (image.planes, *image.levels)
    if [Size(p[0].imagelength, p[0].imagewidth) for p in planes] != sizes or any(len(p) > 1 for p in planes):
        raise SlideError(slide.path, "its pages are not its levels")
    return [page for (page,) in planes]


def _is_plain(page: Any, tile: int) -> bool:
    kinds = {1: (tifffile.PHOTOMETRIC.MINISBLACK,), 3: (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)}
    return (
        page.is_tiled
        and page.compression == tifffile.COMPRESSION.JPEG
        and page.planarconfig == tifffile.PLANARCONFIG.CONTIG
        and page.photometric in kinds.get(page.samplesperpixel, ())
        and page.tilewidth == page.tilelength == tile
        and tile in _SIDES
    )


def _level(page: Any) -> StoredLevel:
    ycbcr = page.photometric == tifffile.PHOTOMETRIC.YCBCR
    return StoredLevel(
        columns=-(-page.imagewidth // page.tilewidth),
        places=tuple(zip(page.dataoffsets, page.databytecounts, strict=True)),
        tables=cast("bytes", page.jpegtables) or b"",
        samples=page.samplesperpixel,
        transform=_YCBCR if ycbcr else _RGB,
    )

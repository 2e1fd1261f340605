"""Write a complete journal as one TIFF that every reader opens, with provenance and thumbnail.

"Linked OME" is an OME-TIFF whose SubIFDs are also the flat chain of pages: tifffile links the SubIFDs to one
another, and `link_pages` overwrites eight bytes to link the main page to the first of them. Readers of OME
follow the SubIFDs, readers of plain pyramids follow the chain, and both find every level.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

import cv2
import numpy as np
import tifffile

from wsigen.errors import InvalidValueError, OutputError
from wsigen.files import atomic_path, write_bytes
from wsigen.geometry import Region, Size
from wsigen.slide.codec import DEFLATE, JPEG, TileCodec
from wsigen.slide.journal import BlockJournal
from wsigen.slide.provenance import (
    SOFTWARE,
    beside,
    complete_provenance,
    description,
    ome_metadata,
    provenance_json,
)
from wsigen.slide.pyramid import TileRows, level_size, pyramid_levels

Layout = Literal["linked-ome", "generic", "lossless"]

LAYOUTS: tuple[Layout, ...] = get_args(Layout)


@dataclass(frozen=True)
class SlideFiles:
    """The files that `write_slide` wrote."""

    slide: Path
    provenance: Path
    thumbnail: Path


def layout_codec(layout: Layout) -> TileCodec:
    """Return the codec for the final journal of a slide of this layout.

    Raises:
        InvalidValueError: no such layout.
    """
    if layout not in LAYOUTS:
        raise InvalidValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    return DEFLATE if layout == "lossless" else JPEG


def final_journal(
    folder: str | Path, size: Size, layout: Layout, fingerprint: str, **options: Any
) -> BlockJournal:
    """Open the journal from which a slide of this size and layout is written.

    Args:
        folder: of this journal alone.
        size: of level 0, in pixels.
        layout: of the slide.
        fingerprint: hash of everything that determines the pixels.
        **options: ``tile``, ``block`` and ``threads`` of `BlockJournal`.

    Raises:
        InvalidValueError: an argument is out of range.
        OutputError: the folder belongs to another run, or cannot be written.
    """
    codec, levels = layout_codec(layout), pyramid_levels(size)
    return BlockJournal(folder, size, codec=codec, levels=levels, fingerprint=fingerprint, **options)


def estimate_bytes(size: Size, codec: TileCodec, levels: int = 1) -> int:
    """Estimate bytes on disk of a journal or a slide full of tissue; background takes less.

    While a slide is written, its final journal and the TIFF both exist: twice this. An intermediate stage
    takes ``estimate_bytes(size, ZSTD)``.

    Args:
        size: of level 0, in pixels.
        codec: of the tiles.
        levels: of the pyramid.
    """
    pixels = sum(level_size(size, level).area for level in range(levels))
    return round(pixels * codec.bytes_per_pixel)


def check_output(path: str | Path, overwrite: bool) -> None:
    """Raise early if `write_slide` would refuse to replace a slide.

    Args:
        path: of the slide.
        overwrite: whether an existing slide may be replaced.

    Raises:
        OutputError: the slide exists and may not be replaced.
    """
    if Path(path).exists() and not overwrite:
        raise OutputError(Path(path), "exists already; pass --overwrite, or choose another --name or --out")


def write_slide(
    journal: BlockJournal,
    path: str | Path,
    *,
    mpp: float,
    layout: Layout,
    provenance: Mapping[str, Any],
    pixel_um: tuple[float, float] | None = None,
    overwrite: bool = False,
) -> SlideFiles:
    """Write the slide, its provenance (``.json``) and a thumbnail (``.jpg``).

    The slide gets its name last: where it exists, the other files do too.

    Args:
        journal: complete, with the codec of the layout.
        path: of the slide, such as ``a_HE.ome.tif``.
        mpp: µm/px of level 0.
        layout: ``linked-ome``, ``generic`` (no XML, a flat chain) or ``lossless`` (linked OME, deflate).
        provenance: JSON-like facts: model hash, seed, preset, version.
        pixel_um: height and width of a pixel of level 0 in µm, where they differ; ``mpp`` is their mean.
        overwrite: whether an existing slide may be replaced.

    Returns:
        The three paths.

    Raises:
        InvalidValueError: the journal is not complete, its codec is another layout's, or mpp is not positive.
        OutputError: the slide exists already, a block is damaged, or the disk is full or not writable.

    Memory: one row of tiles of the seeds' level and of each coarser level; tiles are copied as bytes.

    Determinism: the bytes of all three files depend on the journal and the arguments alone.
    """
    path = Path(path)
    _check(journal, mpp, layout)
    check_output(path, overwrite)
    facts = complete_provenance(provenance, mpp, journal.size.height, journal.size.width)
    facts |= {"pixel_um": list(pixel_um)} if pixel_um else {}
    files = SlideFiles(path, beside(path, ".json"), beside(path, ".jpg"))
    # The slide is renamed last, when its companions are complete.
    with atomic_path(path) as temporary:
        with _upper_levels(journal, path.parent) as upper:
            tags = _Tags(layout, mpp, pixel_um, facts, beside(path, "").name)
            _write_tiff(temporary, journal, upper, tags)
        if layout != "generic" and journal.levels > 1:
            link_pages(temporary)
        write_bytes(files.provenance, provenance_json(facts))
        write_bytes(files.thumbnail, thumbnail_jpeg(thumbnail(journal)))
    return files


def link_pages(path: Path) -> None:
    """Make the first SubIFD the next page of the main page.

    Args:
        path: a BigTIFF, little-endian, of one main page with SubIFDs that are chained to one another.
    """
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        subifds = page.subifds
        offset = page.offset
    assert subifds, "the main page must have SubIFDs"
    with path.open("rb+") as file:
        # BigTIFF: an IFD is a count of entries (8 bytes), entries of 20 bytes, and the offset of the next
        # IFD.
        file.seek(offset)
        (entries,) = struct.unpack("<Q", file.read(8))
        file.seek(offset + 8 + 20 * entries)
        (following,) = struct.unpack("<Q", file.read(8))
        assert following == 0, "the main page must be the last of the chain"
        file.seek(-8, 1)
        file.write(struct.pack("<Q", subifds[0]))


def _check(journal: BlockJournal, mpp: float, layout: Layout) -> None:
    codec = layout_codec(layout)
    if journal.codec.name != codec.name:
        raise InvalidValueError(
            f"layout {layout} needs {codec.name} tiles, got a {journal.codec.name} journal; use final_journal"
        )
    if not journal.complete:
        raise InvalidValueError(
            f"journal must be complete, has {journal.rows_done}/{journal.size.height} rows; append the rest"
        )
    if not 0 < mpp < float("inf"):
        raise InvalidValueError(f"mpp must be a positive number of µm/px, got {mpp}")


class _Spool:
    """Encoded tiles of one level, in an unnamed temporary file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lengths: list[int] = []

    def add(self, tiles: list[bytes]) -> None:
        self._file.writelines(tiles)
        self._lengths += [len(tile) for tile in tiles]

    def tiles(self) -> Iterator[bytes]:
        self._file.seek(0)
        for length in self._lengths:
            yield self._file.read(length)


@contextlib.contextmanager
def _upper_levels(journal: BlockJournal, folder: Path) -> Iterator[dict[int, _Spool]]:
    """Encode the levels from the seeds' on in one pass over the seeds; spool the tiles next to the slide."""
    base, tile = journal.grid.seed_level, journal.grid.tile
    with contextlib.ExitStack() as stack:
        spools = {
            level: _Spool(stack.enter_context(tempfile.TemporaryFile(dir=folder)))
            for level in range(base, journal.levels)
        }
        if spools:
            size = level_size(journal.size, base)
            rows = TileRows(size, tile, len(spools))
            for y in range(0, size.height, tile):
                seeds = journal.read(Region(y, 0, min(tile, size.height - y), size.width), base)
                for level, _, strip in rows.cut(seeds):
                    spools[base + level].add(journal.map_tiles(journal.codec, strip))
        yield spools


@dataclass(frozen=True)
class _Tags:
    layout: Layout
    mpp: float
    pixel_um: tuple[float, float] | None
    provenance: dict[str, Any]
    name: str

    def writer(self) -> dict[str, Any]:
        return {"bigtiff": True, "byteorder": "<", "ome": self.layout != "generic", "shaped": False}

    def page(self, journal: BlockJournal, level: int) -> dict[str, Any]:
        size, tile = level_size(journal.size, level), journal.grid.tile
        height, width = self.pixel_um or (self.mpp, self.mpp)
        tags = {
            "shape": (size.height, size.width, 3),
            "dtype": "uint8",
            "tile": (tile, tile),
            "photometric": "rgb",
            "resolution": tuple(1e4 / (side * 2**level) for side in (width, height)),
            "resolutionunit": "CENTIMETER",
            "software": SOFTWARE,
            "subfiletype": 1 if level else 0,
            "metadata": None,
            **self._compression(),
        }
        return tags | (self._main(journal.levels) if level == 0 else {})

    def _compression(self) -> dict[str, Any]:
        if self.layout == "lossless":
            return {"compression": "adobe_deflate", "predictor": 2}
        return {"compression": "jpeg", "subsampling": (2, 2)}

    def _main(self, levels: int) -> dict[str, Any]:
        if self.layout == "generic":
            return {"description": description(self.provenance)}
        metadata = ome_metadata(self.provenance, self.mpp, self.name, self.pixel_um)
        return {"metadata": metadata, "subifds": levels - 1}


def _write_tiff(path: Path, journal: BlockJournal, upper: dict[int, _Spool], tags: _Tags) -> None:
    with tifffile.TiffWriter(path, **tags.writer()) as tif:
        for level in range(journal.levels):
            tiles = upper[level].tiles() if level in upper else journal.encoded_tiles(level)
            tif.write(tiles, **tags.page(journal, level))


def thumbnail(journal: BlockJournal, longest: int = 1024) -> np.ndarray:
    """Return the slide, reduced so that its longer side is at most ``longest`` pixels; never enlarged.

    Args:
        journal: complete.
        longest: in pixels.

    Returns:
        uint8 (height, width, 3).

    Memory: one row of tiles of the coarsest stored level, and four times the thumbnail.
    """
    level = _level_above(journal, longest)
    stored = min(level, journal.grid.stored_levels - 1)
    size = level_size(journal.size, stored)
    image = np.empty((*_shape(journal, level), 3), np.uint8)
    tile = journal.grid.tile

    rows = TileRows(size, tile, level - stored + 1)
    for y in range(0, size.height, tile):
        band = journal.read(Region(y, 0, min(tile, size.height - y), size.width), stored)
        for relative, row, strip in rows.cut(band):
            if relative == level - stored:
                image[row * tile : row * tile + len(strip)] = strip
    return _shrink(image, longest)


def thumbnail_jpeg(image: np.ndarray) -> bytes:
    """Encode a uint8 (height, width, 3) image as a baseline JPEG of quality 85."""
    return JPEG.encode(image)


def _level_above(journal: BlockJournal, longest: int) -> int:
    level = 0
    while max(_shape(journal, level + 1)) >= longest:
        level += 1
    return level


def _shape(journal: BlockJournal, level: int) -> tuple[int, int]:
    size = level_size(journal.size, level)
    return size.height, size.width


def _shrink(image: np.ndarray, longest: int) -> np.ndarray:
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, target, interpolation=cv2.INTER_AREA)

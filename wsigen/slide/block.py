"""Block files: each holds the encoded tiles of a square of the slide, with checksums.

File format: the tiles' bytes in any order; an index with one entry (offset uint64, length uint32, CRC-32
uint32) per tile; a footer (magic 8 bytes, number of tiles uint32, CRC-32 of the index uint32). All
little-endian. A file without a valid footer is incomplete; a tile whose CRC differs is damaged. Either way,
the block counts as not done.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from wsigen.errors import InvalidValueError
from wsigen.files import temporary_name
from wsigen.geometry import Size
from wsigen.slide.pyramid import ceil_div, level_size

INDEX = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc", "<u4")])
FOOTER = struct.Struct("<8sII")
MAGIC = b"WSIBLK01"


@dataclass(frozen=True)
class BlockGrid:
    """Locates each tile of each level: its block, and its position in the index of the block's file.

    A block of ``block = tile · 2^n`` pixels holds whole tiles of levels 0 … n. At level n it is exactly one
    tile, the *seed*, which is lossless because the levels from n on are made from it.

    Args:
        size: of the slide at level 0, in pixels.
        tile: side of a tile in pixels; a multiple of 16, as TIFF wants.
        block: side of a block in pixels: ``tile · 2^n`` with n ≥ 1.
        levels: of the finished slide. With ``levels ≤ n`` there is no seed.

    Raises:
        InvalidValueError: an argument is out of range.
    """

    size: Size
    tile: int
    block: int
    levels: int

    def __post_init__(self) -> None:
        if self.size.height < 1 or self.size.width < 1:
            raise InvalidValueError(f"size must be at least 1x1, got {self.size}")
        if self.tile < 16 or self.tile % 16:
            raise InvalidValueError(f"tile must be a multiple of 16, got {self.tile}")
        if self.block < 2 * self.tile or self.tile << self.seed_level != self.block:
            example = f"{self.tile} * 2**3 = {self.tile * 8}"
            raise InvalidValueError(f"block must be tile * 2**n with n >= 1 ({example}), got {self.block}")
        if self.levels < 1:
            raise InvalidValueError(f"levels must be at least 1, got {self.levels}")

    @cached_property
    def seed_level(self) -> int:
        """The level at which a block is one tile."""
        return (self.block // self.tile).bit_length() - 1

    @cached_property
    def stored_levels(self) -> int:
        """Levels that the blocks hold, including the seed."""
        return min(self.levels, self.seed_level + 1)

    @cached_property
    def blocks(self) -> Size:
        """Rows and columns of blocks."""
        return Size(ceil_div(self.size.height, self.block), ceil_div(self.size.width, self.block))

    def level_tiles(self, level: int) -> Size:
        """Return rows and columns of tiles of the whole slide at ``level``."""
        size = level_size(self.size, level)
        return Size(ceil_div(size.height, self.tile), ceil_div(size.width, self.tile))

    def pixels(self, row: int, col: int) -> Size:
        """Return the size in pixels of level 0 of the block at (row, col); smaller at the far edges."""
        return Size(
            min(self.block, self.size.height - row * self.block),
            min(self.block, self.size.width - col * self.block),
        )

    def block_tiles(self, row: int, col: int, level: int) -> Size:
        """Return rows and columns of tiles at ``level`` inside the block at (row, col)."""
        pixels = self.pixels(row, col)
        side = self.tile << level
        return Size(ceil_div(pixels.height, side), ceil_div(pixels.width, side))

    def tiles_per_block(self, level: int) -> int:
        """Return the number of tiles along one side of a whole block at ``level``."""
        return 1 << (self.seed_level - level)

    def tile_count(self, row: int, col: int) -> int:
        """Return the number of tiles in the file of the block at (row, col)."""
        return self._first_position(row, col, self.stored_levels)

    def locate(self, level: int, tile_row: int, tile_col: int) -> tuple[int, int, int]:
        """Return (block row, block column, position in its file) of a tile of the slide at ``level``."""
        n = self.tiles_per_block(level)
        row, col = tile_row // n, tile_col // n
        width = self.block_tiles(row, col, level).width
        return row, col, self._first_position(row, col, level) + (tile_row % n) * width + tile_col % n

    def _first_position(self, row: int, col: int, level: int) -> int:
        return sum(self.block_tiles(row, col, finer).area for finer in range(level))


class BlockWriter:
    """Writes one block file, tile by tile, under a temporary name.

    The file is only open inside `flush` and `finish`, so that a wide slide does not use up file handles.

    Args:
        path: the final name.
        tiles: number of tiles.
    """

    def __init__(self, path: Path, tiles: int) -> None:
        self.path = path
        self._temporary = temporary_name(path)
        self._temporary.unlink(missing_ok=True)
        self._index = np.zeros(tiles, INDEX)
        self._pending: list[bytes] = []
        self._offset = 0

    def add(self, position: int, data: bytes) -> None:
        """Take the bytes of one tile; they stay in memory until `flush`."""
        self._index[position] = (self._offset, len(data), zlib.crc32(data))
        self._pending.append(data)
        self._offset += len(data)

    def flush(self) -> None:
        """Append pending tiles to the temporary file.

        Raises:
            OSError: the disk is full or not writable.
        """
        if self._pending:
            with self._temporary.open("ab") as file:
                file.writelines(self._pending)
            self._pending.clear()

    def finish(self) -> np.ndarray:
        """Write the index, sync and rename; return the index. The caller syncs the folder.

        Raises:
            OSError: the disk is full or not writable.
        """
        index = self._index.tobytes()
        self._pending += [index, FOOTER.pack(MAGIC, len(self._index), zlib.crc32(index))]
        self.flush()
        # Synced before it is renamed: the name must never stand for data that a crash can lose.
        with self._temporary.open("rb+") as file:
            os.fsync(file.fileno())
        self._temporary.replace(self.path)
        return self._index

    def discard(self) -> None:
        """Remove the temporary file, if any."""
        self._pending.clear()
        self._temporary.unlink(missing_ok=True)


def read_index(path: Path, tiles: int) -> np.ndarray | None:
    """Return the index of a block file; None where there is no such file or it is incomplete.

    Args:
        path: the block file.
        tiles: the number of tiles it must have.
    """
    tail = tiles * INDEX.itemsize + FOOTER.size
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            if end < tail:
                return None
            file.seek(end - tail)
            data = file.read(tail)
    except FileNotFoundError:
        return None
    magic, count, crc = FOOTER.unpack(data[-FOOTER.size :])
    entries = data[: -FOOTER.size]
    if magic != MAGIC or count != tiles or zlib.crc32(entries) != crc:
        return None
    return np.frombuffer(entries, INDEX)


def read_tile(path: Path, entry: np.void) -> bytes | None:
    """Return the bytes of one tile; None where they are damaged.

    Args:
        path: the block file.
        entry: the tile's row of the index.
    """
    with path.open("rb") as file:
        file.seek(int(entry["offset"]))
        data = file.read(int(entry["length"]))
    return data if zlib.crc32(data) == int(entry["crc"]) else None


def verified_index(path: Path, tiles: int) -> np.ndarray | None:
    """Return the index like `read_index`, after checking every tile of the file."""
    index = read_index(path, tiles)
    if index is None:
        return None
    data = memoryview(path.read_bytes())
    for entry in index:
        start = int(entry["offset"])
        if zlib.crc32(data[start : start + int(entry["length"])]) != int(entry["crc"]):
            return None
    return index

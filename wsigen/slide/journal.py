"""The block journal: stores the rows of a slide while it is made, so that a killed run can be resumed.

It has one file per block (`wsigen.slide.block`) and ``journal.json``. There are two uses:

* an intermediate stage: one level, `ZSTD`; the next stage reads it as its guide;
* the final stage: several levels of encoded tiles, which `wsigen.slide.write` copies into the slide.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from wsigen.arrays import ArrayCache, paste
from wsigen.errors import InvalidValueError, OutputError
from wsigen.files import TEMPORARY_SUFFIX, disk_errors, make_folder, sync_folder, write_bytes
from wsigen.geometry import Region, Size
from wsigen.runtime import usable_cpus
from wsigen.slide.block import BlockGrid, BlockWriter, read_tile, verified_index
from wsigen.slide.codec import ZSTD, TileCodec
from wsigen.slide.pyramid import TileRows, ceil_div, level_size, pad_edge

FORMAT = 1
_CACHED_TILES = 256
_RESTART = "remove that folder, or choose another output folder or name"


class BlockJournal:
    """Takes rows, stores them in block files, and gives them back as rows or as encoded tiles.

    Rows are appended in order; whenever a row of blocks is full, its files are synced and renamed, and
    `rows_done` grows. Opening the same folder again checks every byte; what is incomplete, damaged or missing
    counts as not done, and the caller appends again from `rows_done`.

    Args:
        folder: of this journal alone; created where missing.
        size: of level 0, in pixels.
        codec: of tiles of levels finer than the seed.
        levels: of the finished pyramid; 1 for an intermediate stage.
        fingerprint: hash of everything that determines the pixels; a journal of another run is refused.
        tile: side of a tile in pixels, a multiple of 16.
        block: side of a block in pixels, ``tile · 2^n``. 2048 = 256 · 2³: its seed at level 3 is one tile.
        threads: to encode and decode tiles; by default one per CPU, at most 4.

    Raises:
        InvalidValueError: an argument is out of range.
        OutputError: the folder belongs to another run, or cannot be written.

    Memory: one row of tiles per level, ``≤ 2 · 3 · tile · width`` bytes (96 MiB at width 65536), the encoded
        tiles of one of them, and up to 256 decoded tiles (48 MiB) once `read` is used.

    Determinism: the bytes of every tile depend on the pixels alone, not on how rows were appended, on
        threads, or on interruptions.
    """

    def __init__(
        self,
        folder: str | Path,
        size: Size,
        *,
        codec: TileCodec,
        levels: int,
        fingerprint: str,
        tile: int = 256,
        block: int = 2048,
        threads: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.size = size
        self.codec = codec
        self.grid = BlockGrid(size, tile, block, levels)
        self.fingerprint = fingerprint
        self._pool = ThreadPoolExecutor(threads or min(4, usable_cpus()), "wsigen-tiles")
        self._cache = ArrayCache(_CACHED_TILES * 3 * tile**2)
        self._band: _BlockRow | None = None
        self._indexes: list[list[np.ndarray]] = []
        self._open()

    @property
    def levels(self) -> int:
        """Levels of the finished pyramid."""
        return self.grid.levels

    @property
    def rows_done(self) -> int:
        """Leading rows that are safely on disk; an interrupted run is resumed there."""
        return min(len(self._indexes) * self.grid.block, self.size.height)

    @property
    def complete(self) -> bool:
        """Whether every row is on disk."""
        return self.rows_done == self.size.height

    def append(self, rows: np.ndarray) -> None:
        """Take the next rows; the first call after opening starts at `rows_done`.

        After an `OutputError` the rows since `rows_done` are lost: append them again once there is room.

        Args:
            rows: uint8 (any height ≥ 1, width, 3).

        Raises:
            InvalidValueError: wrong type, width or too many rows.
            OutputError: the disk is full or not writable.
        """
        self._check(rows)
        taken = 0
        try:
            with disk_errors(self.folder):
                while taken < len(rows):
                    band = self._band = self._band or _BlockRow(self, len(self._indexes))
                    part = rows[taken : taken + band.missing]
                    band.push(part)
                    taken += len(part)
                    if not band.missing:
                        self._indexes.append(band.finish())
                        self._band = None
        except BaseException:
            # Also after an interrupt: a half-written row of blocks cannot be continued.
            self._forget()
            raise

    def read(self, region: Region, level: int = 0) -> np.ndarray:
        """Return pixels that are already on disk.

        Args:
            region: in pixels of ``level``, inside the rows that are done.
            level: at most `grid.stored_levels` − 1.

        Returns:
            uint8 (region.height, region.width, 3); exact for lossless codecs and at the seeds' level.

        Raises:
            InvalidValueError: the region reaches outside what is on disk.
            OutputError: a block was damaged since the journal was opened.
        """
        width = level_size(self.size, level).width
        done = Region(0, 0, ceil_div(self.rows_done, 2**level), width)
        if level >= self.grid.stored_levels or region.intersect(done) != region:
            raise InvalidValueError(
                f"region must lie in the {done.height} rows x {done.width} columns done of levels "
                f"0-{self.grid.stored_levels - 1}, got {region} at level {level}"
            )
        out = np.empty((region.height, region.width, 3), np.uint8)
        tile = self.grid.tile
        if region:
            for row in range(region.y // tile, ceil_div(region.y1, tile)):
                self._read_tile_row(region, level, row, out)
        return out

    def encoded_tiles(self, level: int) -> Iterator[bytes]:
        """Yield the tiles of one level as they are stored, row by row from the top left.

        Args:
            level: finer than the seeds'.

        Raises:
            OutputError: a block was damaged since the journal was opened.
        """
        tiles = self.grid.level_tiles(level)
        for row in range(tiles.height):
            for col in range(tiles.width):
                yield self._tile(level, row, col)

    def map_tiles(self, codec: TileCodec, strip: np.ndarray) -> list[bytes]:
        """Encode a row of tiles in the thread pool.

        Args:
            codec: of these tiles.
            strip: uint8 (≤ tile, width, 3); padded by repeating its last row and column.
        """
        tile = self.grid.tile

        def encode(x: int) -> bytes:
            return codec.encode(pad_edge(strip[:, x : x + tile], tile, tile))

        return list(self._pool.map(encode, range(0, strip.shape[1], tile)))

    def delete(self) -> None:
        """Remove the journal's files, and its folder if nothing else is in it.

        Raises:
            OutputError: a file cannot be removed.
        """
        self._forget()
        self._indexes.clear()
        self._cache.clear()
        with disk_errors(self.folder):
            for file in (*self._files(".block"), *self._files(TEMPORARY_SUFFIX), self._manifest):
                file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def block_path(self, row: int, col: int) -> Path:
        """Return the file of the block at (row, col)."""
        return self.folder / f"{row:04d}_{col:04d}.block"

    @property
    def _manifest(self) -> Path:
        return self.folder / "journal.json"

    def _files(self, suffix: str) -> list[Path]:
        return sorted(self.folder.glob(f"[0-9]*_[0-9]*{suffix}"))

    def _open(self) -> None:
        make_folder(self.folder)
        with disk_errors(self.folder):
            self._claim()
            for leftover in self._files(TEMPORARY_SUFFIX):
                leftover.unlink()
            self._indexes = list(self._verified_rows())

    def _claim(self) -> None:
        wanted = {
            "format": FORMAT,
            "size": [self.size.height, self.size.width],
            "tile": self.grid.tile,
            "block": self.grid.block,
            "levels": self.levels,
            "codec": self.codec.name,
            "fingerprint": self.fingerprint,
        }
        if self._manifest.exists():
            self._compare(wanted)
        elif self._files(".block"):
            raise OutputError(self.folder, f"holds blocks but no journal.json; {_RESTART}")
        else:
            write_bytes(self._manifest, (json.dumps(wanted, indent=1) + "\n").encode())

    def _compare(self, wanted: dict[str, object]) -> None:
        try:
            found = json.loads(self._manifest.read_bytes())
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise OutputError(self._manifest, f"is not a valid journal.json; {_RESTART}")
        for key, value in wanted.items():
            if found.get(key) != value:
                raise OutputError(
                    self.folder,
                    f"holds the state of another run ({key} {found.get(key)!r}, this run has {value!r}); "
                    f"run with the settings of that run to resume it, or {_RESTART}",
                )

    def _verified_rows(self) -> Iterator[list[np.ndarray]]:
        for row in range(self.grid.blocks.height):
            indexes = []
            for col in range(self.grid.blocks.width):
                # Rows of blocks after the first incomplete one are written again, to the same bytes.
                index = verified_index(self.block_path(row, col), self.grid.tile_count(row, col))
                if index is None:
                    return
                indexes.append(index)
            yield indexes

    def _check(self, rows: np.ndarray) -> None:
        left = self.size.height - self.rows_done - (self._band.taken if self._band else 0)
        if rows.dtype != np.uint8 or rows.ndim != 3 or rows.shape[1:] != (self.size.width, 3):
            raise InvalidValueError(
                f"rows must be uint8 (height, {self.size.width}, 3), got {rows.dtype} {rows.shape}"
            )
        if not 1 <= len(rows) <= left:
            raise InvalidValueError(f"rows must be 1 to {left}, the rest of this slide, got {len(rows)}")

    def _forget(self) -> None:
        if self._band:
            self._band.discard()
        self._band = None

    def _tile(self, level: int, row: int, col: int) -> bytes:
        block_row, block_col, position = self.grid.locate(level, row, col)
        path = self.block_path(block_row, block_col)
        with disk_errors(path):
            data = read_tile(path, self._indexes[block_row][block_col][position])
        if data is None:
            raise OutputError(
                path, "was damaged since it was written; run the same command again to remake it"
            )
        return data

    def _decoded(self, key: tuple[int, int, int]) -> np.ndarray:
        codec = ZSTD if key[0] == self.grid.seed_level else self.codec
        return codec.decode(self._tile(*key))

    def _read_tile_row(self, region: Region, level: int, row: int, out: np.ndarray) -> None:
        tile = self.grid.tile
        keys = [(level, row, col) for col in range(region.x // tile, ceil_div(region.x1, tile))]
        cached = {key: self._cache.get(key) for key in keys}
        missing = [key for key, pixels in cached.items() if pixels is None]
        fresh = dict(zip(missing, self._pool.map(self._decoded, missing), strict=True))
        for key in keys:
            pixels = cached[key]
            if pixels is None:
                pixels = fresh[key]
                self._cache.put(key, pixels)
            paste(pixels, Region(row * tile, key[2] * tile, *pixels.shape[:2]), out, region)


class _BlockRow:
    """Writes one row of blocks."""

    def __init__(self, journal: BlockJournal, row: int) -> None:
        grid = journal.grid
        self._journal, self._grid, self._row = journal, grid, row
        size = Size(grid.pixels(row, 0).height, grid.size.width)
        self._stream = TileRows(size, grid.tile, grid.stored_levels)
        self._writers = [
            BlockWriter(journal.block_path(row, col), grid.tile_count(row, col))
            for col in range(grid.blocks.width)
        ]

    @property
    def taken(self) -> int:
        return self._stream.rows

    @property
    def missing(self) -> int:
        return self._stream.size.height - self._stream.rows

    def push(self, rows: np.ndarray) -> None:
        grid = self._grid
        for level, row, strip in self._stream.cut(rows):
            codec = ZSTD if level == grid.seed_level else self._journal.codec
            tile_row = self._row * grid.tiles_per_block(level) + row
            for col, data in enumerate(self._journal.map_tiles(codec, strip)):
                _, block_col, position = grid.locate(level, tile_row, col)
                self._writers[block_col].add(position, data)
            # After every row of tiles, so that memory holds the encoded tiles of one.
            for writer in self._writers:
                writer.flush()

    def finish(self) -> list[np.ndarray]:
        indexes = [writer.finish() for writer in self._writers]
        sync_folder(self._journal.folder)
        return indexes

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            for writer in self._writers:
                writer.discard()

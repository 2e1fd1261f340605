"""Generic TIFF files: tiles or strips, pages or SubIFDs, any compression of imagecodecs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from wsigen.arrays import ArrayCache, paste
from wsigen.errors import InvalidValueError, SlideError
from wsigen.geometry import Colour, Region, Size
from wsigen.slide.backend import over_background, tiles_of
from wsigen.slide.codestream import jpeg2000_ends_early, jpegxr_ends_early, webp_ends_early
from wsigen.slide.damage import DamagedError
from wsigen.slide.jpeg import ends_early
from wsigen.slide.orientation import (
    UPRIGHT,
    is_turned,
    stored_region,
    upright,
    upright_region,
    upright_size,
)
from wsigen.slide.tiff_colour import (
    JPEG2000,
    check_colours,
    colour_converter,
    has_alpha,
    is_associated,
    over_background_associated,
)
from wsigen.slide.tiff_pages import (
    Planes,
    image_of_sizes,
    orientation_of,
    slide_image,
)
from wsigen.slide.view import WHOLE, View

MAX_SEGMENT_PIXELS = 2**27
_JPEG = (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.ALT_JPEG, tifffile.COMPRESSION.JPEG_LOSSY)
_WEBP = (tifffile.COMPRESSION.WEBP, 34927)
_JPEGXR = (tifffile.COMPRESSION.JPEGXR, tifffile.COMPRESSION.JPEGXR_NDPI)

# It logs what is raised here as an error that names the fix.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class TiffBackend:
    """An open TIFF file, read with tifffile and imagecodecs.

    `wsigen.slide.tiff_pages` says which pages are its levels, `wsigen.slide.tiff_colour` which colours are
    read.

    Args:
        path: the file.
        cache: decoded segments, shared by every file of the process.
        view: which image of the file.
        sizes: of the levels, for a file whose pages another reader has chosen.
        identity: of the file, so that segments of one that had this name before are not taken for its own.

    Raises:
        SlideError: not a TIFF, damaged, or not 8-bit RGB or grey.
        AmbiguousSlideError: the file leaves open which image is the slide, or what its samples mean.
        InvalidValueError: the view names an image that is not there.

    Memory:
        The cache, and one segment. Uncompressed strips are mapped, not loaded.
    """

    nbytes = 0

    def __init__(
        self,
        path: Path,
        cache: ArrayCache,
        view: View = WHOLE,
        sizes: Sequence[Size] | None = None,
        *,
        identity: tuple[int, ...] = (),
    ) -> None:
        self._path, self._cache, self._lock = path, cache, threading.Lock()
        self._identity = identity
        # Damaged files can make tifffile raise any exception, hence `except Exception` here and below.
        try:
            self._tiff = tifffile.TiffFile(path)
        except Exception as error:
            raise SlideError(path, f"not a readable TIFF ({error})") from error
        try:
            if sizes is None:
                self._image = slide_image(path, self._tiff, view)
            else:
                self._image = image_of_sizes(path, self._tiff, sizes)
            self._levels = self._readable((self._image.planes, *self._image.levels))
        except (SlideError, InvalidValueError):
            self._tiff.close()
            raise
        except Exception as error:
            self._tiff.close()
            raise SlideError(path, f"damaged TIFF ({error})") from error
        # Another reader that has chosen the pages takes them as they are stored.
        self._orientation = UPRIGHT if sizes else orientation_of(self._image.page)
        self.levels = tuple(
            upright_size(Size(p[0].imagelength, p[0].imagewidth), self._orientation) for p in self._levels
        )

    def __del__(self) -> None:
        tiff = getattr(self, "_tiff", None)
        if tiff is not None:
            tiff.close()

    @property
    def mpp(self) -> tuple[float, float] | None:
        """Of its image in OME-XML, else from the resolution tags."""
        mpp = self._image.mpp
        return (mpp[1], mpp[0]) if mpp and is_turned(self._orientation) else mpp

    @property
    def icc(self) -> bytes | None:
        """Tag ICC profile of its first page."""
        return self._image.page.tags.valueof("InterColorProfile")

    def tiles(self, level: int, region: Region) -> Iterator[Region]:
        """Yield tiles or strips; of planes, those of the first."""
        page, size = self._levels[level][0], self.levels[level]
        stored = stored_region(region, size, self._orientation)
        whole = Size(page.imagelength, page.imagewidth)
        for tile in tiles_of(stored, Size(*_segment_shape(page)), whole):
            yield upright_region(tile, size, self._orientation)

    def read(self, level: int, region: Region, background: Colour) -> np.ndarray:
        """Return a region inside a level; see `Backend`."""
        planes = self._levels[level]
        stored = stored_region(region, self.levels[level], self._orientation)
        try:
            pixels = [self._read_page(page, stored, background) for page in planes]
        except Exception as error:
            raise DamagedError(self._path, str(error), level, region) from error
        # Of planes, each grey one has become RGB with three equal channels.
        rgb = pixels[0] if len(pixels) == 1 else np.dstack([p[..., i] for i, p in enumerate(pixels)])
        return upright(rgb, self._orientation)

    def _readable(self, levels: tuple[Planes, ...]) -> tuple[Planes, ...]:
        for page in (page for planes in levels for page in planes):
            check_colours(self._path, page)
            _check_segments(self._path, page)
        return levels

    def _read_page(self, page: Any, region: Region, background: Colour) -> np.ndarray:
        mapped = _is_mappable(page)
        pixels = self._mapped(page, region) if mapped else self._assemble(page, region, background)
        if is_associated(page):
            return over_background_associated(pixels, background)
        return over_background(pixels, background) if has_alpha(page) else np.ascontiguousarray(pixels)

    def _mapped(self, page: Any, region: Region) -> np.ndarray:
        shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
        with self._lock:  # of the open file: another one may have its name by now
            pixels = self._tiff.filehandle.memmap_array(np.uint8, shape, page.dataoffsets[0])
        return colour_converter(page)(np.array(pixels[region.y : region.y1, region.x : region.x1]))

    def _assemble(self, page: Any, region: Region, background: Colour) -> np.ndarray:
        out = np.empty((region.height, region.width, 4 if has_alpha(page) else 3), np.uint8)
        out[...] = (*background, 255)[: out.shape[2]]
        height, width = _segment_shape(page)
        columns = -(-page.imagewidth // width)
        separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
        planes = page.samplesperpixel if separate else 1
        per_plane = columns * -(-page.imagelength // height)
        for row in range(region.y // height, -(-region.y1 // height)):
            for column in range(region.x // width, -(-region.x1 // width)):
                for plane in range(planes):
                    segment = self._segment(page, plane * per_plane + row * columns + column)
                    if segment is not None:
                        channels = slice(plane, plane + 1) if planes > 1 else slice(None)
                        at = Region(row * height, column * width, *segment.shape[:2])
                        paste(segment, at, out[..., channels], region)
        return out

    def _segment(self, page: Any, index: int) -> np.ndarray | None:
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if count == 0:  # a tile that was never written
            return None
        key = (self._path, self._identity, offset)
        segment = self._cache.get(key)
        if segment is None:
            with self._lock:
                self._tiff.filehandle.seek(offset)
                data = self._tiff.filehandle.read(count)
            if len(data) < count:
                raise ValueError(f"truncated: {count} bytes expected at {offset}, {len(data)} found")
            decoded = _decoded(page, index, data)
            if decoded is None:
                return None
            if _ends_early(page, index, data, decoded):
                raise ValueError(f"{page.compression.name} data end early")
            segment = colour_converter(page)(decoded)
            self._cache.put(key, segment)
        return segment


def _decoded(page: Any, index: int, data: bytes) -> Any:
    """Return the samples of a tile or strip, uint8 (height, width, channels); None if it holds none."""
    decoded = page.decode(data, index, jpegtables=page.jpegtables)[0]
    return None if decoded is None else decoded.reshape(decoded.shape[-3:])


def _ends_early(page: Any, index: int, data: bytes, decoded: np.ndarray) -> bool:
    """Return whether the decoder made up pixels of a tile or strip, since its data end before them."""
    if page.compression in _JPEG:
        return ends_early(data, decoded, partial(_decoded, page, index))
    if page.compression in JPEG2000:
        return jpeg2000_ends_early(data)
    if page.compression in _WEBP:
        return webp_ends_early(data, decoded.shape[0] * decoded.shape[1])
    return page.compression in _JPEGXR and jpegxr_ends_early(data)


def check_complete(path: Path) -> None:
    """Raise if a TIFF ends before its last tile, as after an interrupted copy.

    Args:
        path: any file; others than TIFF pass.

    Raises:
        SlideError: bytes are missing at the end.
    """
    if not is_tiff(path):
        return
    length = path.stat().st_size
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [p for page in tiff.pages for p in (page, *(page.pages or ()))]
            end = max(
                (o + c for p in pages for o, c in zip(p.dataoffsets, p.databytecounts, strict=False)),
                default=0,
            )
    except Exception as error:
        raise SlideError(path, f"damaged TIFF ({error})") from error
    if end > length:
        raise SlideError(path, f"truncated: {end} bytes expected, {length} found; copy the file again")


def is_tiff(path: Path) -> bool:
    """Return whether a file begins like a TIFF or BigTIFF."""
    if path.is_dir():
        return False
    with path.open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _check_segments(path: Path, page: Any) -> None:
    height, width = _segment_shape(page)
    if height * width > MAX_SEGMENT_PIXELS and not _is_mappable(page):
        reason = f"stored as one segment of {width} × {height} px; rewrite it with tiles"
        raise SlideError(path, reason)


def _is_mappable(page: Any) -> bool:
    return page.is_contiguous and not page.is_tiled and page.planarconfig == tifffile.PLANARCONFIG.CONTIG


def _segment_shape(page: Any) -> tuple[int, int]:
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip or page.imagelength, page.imagelength), page.imagewidth

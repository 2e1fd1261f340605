"""Generic TIFF files: tiles or strips, pages or SubIFDs, any compression of imagecodecs."""

from __future__ import annotations

import logging
import threading
from functools import partial
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import numpy as np
import tifffile

from wsigen.arrays import ArrayCache, paste
from wsigen.errors import SlideError
from wsigen.geometry import Colour, Region, Size
from wsigen.slide.backend import over_background
from wsigen.slide.damage import DamagedError
from wsigen.slide.jpeg import ends_early

MAX_SEGMENT_PIXELS = 2**27
_READABLE = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
_JPEG = (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.ALT_JPEG, tifffile.COMPRESSION.JPEG_LOSSY)
_UNIT_UM = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "\u03bcm": 1.0, "um": 1.0, "nm": 1e-3, "in": 25400.0}

# It logs what is raised here as an error that names the fix.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class TiffBackend:
    """An open TIFF file, read with tifffile and imagecodecs.

    The levels are page 0 and its SubIFDs, or else the reduced pages after it, if of the same proportions.

    Args:
        path: the file.
        cache: decoded segments, shared by every file of the process.
        identity: of the file, so that segments of one that had this name before are not taken for its own.

    Raises:
        SlideError: not a TIFF, damaged, or not 8-bit RGB or grey.

    Memory:
        The cache, and one segment. Uncompressed strips are mapped, not loaded.
    """

    nbytes = 0

    def __init__(self, path: Path, cache: ArrayCache, identity: tuple[int, ...] = ()) -> None:
        self._path, self._cache, self._lock = path, cache, threading.Lock()
        self._identity = identity
        # Damaged files can make tifffile raise any exception, hence `except Exception` here and below.
        try:
            self._tiff = tifffile.TiffFile(path)
        except Exception as error:
            raise SlideError(path, f"not a readable TIFF ({error})") from error
        try:
            self._pages = _level_pages(self._tiff)
            for page in self._pages:
                _check_readable(path, page)
        except SlideError:
            self._tiff.close()
            raise
        except Exception as error:
            self._tiff.close()
            raise SlideError(path, f"damaged TIFF ({error})") from error
        self.levels = tuple(Size(p.imagelength, p.imagewidth) for p in self._pages)

    def __del__(self) -> None:
        tiff = getattr(self, "_tiff", None)
        if tiff is not None:
            tiff.close()

    @property
    def mpp(self) -> tuple[float, float] | None:
        """From OME-XML, else from the resolution tags."""
        return ome_mpp(self._tiff) or _resolution_mpp(self._pages[0])

    def tile(self, level: int) -> Size:
        """Return the size of tiles or strips."""
        return Size(*_segment_shape(self._pages[level]))

    def read(self, level: int, region: Region, background: Colour) -> np.ndarray:
        """Return a region inside a level; see `Backend`."""
        page = self._pages[level]
        try:
            pixels = (
                self._mapped(page, region) if _is_mappable(page) else self._assemble(page, region, background)
            )
        except Exception as error:
            raise DamagedError(self._path, str(error), level, region) from error
        if pixels.shape[2] == 4:
            return over_background(pixels, background)
        return (
            np.repeat(pixels[..., :1], 3, axis=2)
            if pixels.shape[2] < 3
            else np.ascontiguousarray(pixels[..., :3])
        )

    def _mapped(self, page: Any, region: Region) -> np.ndarray:
        shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
        with self._lock:  # of the open file: another one may have its name by now
            pixels = self._tiff.filehandle.memmap_array(np.uint8, shape, page.dataoffsets[0])
        return np.array(pixels[region.y : region.y1, region.x : region.x1])

    def _assemble(self, page: Any, region: Region, background: Colour) -> np.ndarray:
        samples = page.samplesperpixel
        out = np.empty((region.height, region.width, samples), np.uint8)
        out[...] = (*background, 255)[:samples]
        height, width = _segment_shape(page)
        columns = -(-page.imagewidth // width)
        planes = samples if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE else 1
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
            segment = _decoded(page, index, data)
            if segment is None:
                return None
            if page.compression in _JPEG and ends_early(data, segment, partial(_decoded, page, index)):
                raise ValueError("JPEG data end early")
            self._cache.put(key, segment)
        return segment


def _decoded(page: Any, index: int, data: bytes) -> Any:
    """Return the pixels of a tile or strip, uint8 (height, width, channels); None if it holds none."""
    decoded = page.decode(data, index, jpegtables=page.jpegtables)[0]
    return None if decoded is None else decoded.reshape(decoded.shape[-3:])


def ome_mpp(tiff: tifffile.TiffFile) -> tuple[float, float] | None:
    """Return PhysicalSizeY and PhysicalSizeX of the first image of OME-XML in µm; None if missing."""
    text = tiff.pages.first.description
    if "<OME" not in text:
        return None
    try:
        pixels = next(e for e in ElementTree.fromstring(text).iter() if e.tag.rpartition("}")[2] == "Pixels")
        y, x = (float(pixels.attrib[f"PhysicalSize{axis}"]) for axis in "YX")
        unit_y, unit_x = (_UNIT_UM[pixels.attrib.get(f"PhysicalSize{axis}Unit", "µm")] for axis in "YX")
    except (ElementTree.ParseError, StopIteration, KeyError, ValueError):
        return None
    return y * unit_y, x * unit_x


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
    with path.open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _resolution_mpp(page: Any) -> tuple[float, float] | None:
    unit = {2: 25400.0, 3: 1e4}.get(int(page.resolutionunit or 0))
    x, y = page.get_resolution()
    return (unit / y, unit / x) if unit and x > 0 and y > 0 else None


def _level_pages(tiff: tifffile.TiffFile) -> list[Any]:
    first, *others = cast("list[Any]", list(tiff.pages))
    candidates = list(first.pages or ()) or [p for p in others if int(p.subfiletype or 0) & 1]
    pages = [first]
    for page in candidates:
        smaller = page.imagewidth < pages[-1].imagewidth
        if smaller and _same_proportions(first, page):
            pages.append(page)
    return pages


def _same_proportions(first: Any, page: Any) -> bool:
    factor = first.imagewidth / page.imagewidth
    return abs(first.imagelength / factor - page.imagelength) <= 2


def _check_readable(path: Path, page: Any) -> None:
    if page.dtype != np.uint8 or page.photometric not in _READABLE or page.samplesperpixel > 4:
        what = f"{page.dtype} {getattr(page.photometric, 'name', page.photometric)} × {page.samplesperpixel}"
        raise SlideError(path, f"its pixels are {what}; expected 8-bit RGB or grey; convert the file")
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

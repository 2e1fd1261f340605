"""The part of a slide that is used: a region, polygons as QuPath exports them, or a mask image."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import shapely
import tifffile
from PIL import Image
from shapely.geometry import shape

from wsigen.errors import InvalidValueError, SlideError
from wsigen.geometry import Colour, Region, Size
from wsigen.slide.geojson import class_of, features
from wsigen.slide.parts import named_after, slide_stem
from wsigen.slide.provenance import bare_name
from wsigen.slide.read import WholeSlide

GEOJSON_SUFFIXES = (".geojson", ".json")
IMAGE_SUFFIXES = (".png", ".tif", ".tiff")

_SAMPLES = 4  # a side, that a cell is looked at by
_STRIP = 64  # rows of cells that are looked at together


@dataclass(frozen=True, eq=False)
class Polygons:
    """Polygons with holes, in level-0 pixels from the corner of the slide.

    Args:
        edges: of each with its holes, float64 (n, 4): x and y of both ends.
        boxes: left, top, right and bottom of each, float64 (polygons, 4).
    """

    edges: tuple[np.ndarray, ...]
    boxes: np.ndarray

    @classmethod
    def of(cls, edges: Sequence[np.ndarray]) -> Polygons:
        """Return polygons of these edges."""
        corners = [(*e[:, :2].min(axis=0), *e[:, :2].max(axis=0)) for e in edges]
        return cls(tuple(edges), np.array(corners))

    def read(self, region: Region, scale: float) -> np.ndarray:
        """Return the pixels whose centres lie in a polygon: bool (height, width).

        Args:
            region: in pixels that span ``scale`` level-0 pixels.
            scale: of the pixels.
        """
        out = np.zeros((region.height, region.width), bool)
        lefts, tops, rights, bottoms = self.boxes.T / scale
        near = (lefts < region.x1) & (rights > region.x) & (tops < region.y1) & (bottoms > region.y)
        for which in np.flatnonzero(near):
            left, top, right, bottom = self.boxes[which] / scale
            y, x = math.floor(top), math.floor(left)
            box = Region(y, x, math.ceil(bottom) - y, math.ceil(right) - x).intersect(region)
            there = box.shift(-region.y, -region.x)
            out[there.y : there.y1, there.x : there.x1] |= _fill(self.edges[which] / scale, box)
        return out


@dataclass(frozen=True, eq=False)
class Mask:
    """Which pixels of a slide are used.

    Args:
        size: of level 0 of the slide.
        bounds: region of level 0 outside which no pixel is used.
        polygons: a pixel is used if its centre lies in one of them; None for no such limit.
        image: bool (rows, columns) over the whole slide. None for no such limit.
        scale: level-0 pixels that a side of a pixel of `read` spans.

    Memory: the edges, and the image.
    """

    size: Size
    bounds: Region
    polygons: Polygons | None = None
    image: np.ndarray | None = None
    scale: float = 1.0

    def at(self, scale: float) -> Mask:
        """Return the same mask in pixels that span ``scale`` level-0 pixels."""
        return replace(self, scale=scale)

    def read(self, region: Region) -> np.ndarray:
        """Return which pixels are used: bool (height, width).

        Args:
            region: in pixels of ``scale``; none is used outside the slide.
        """
        y, x = ((np.arange(a, b) + 0.5) * self.scale for a, b in _spans(region))
        b = self.bounds
        inside = ((y >= b.y) & (y < b.y1))[:, None] & ((x >= b.x) & (x < b.x1))
        if self.image is not None:
            rows, columns = self.image.shape
            i = (y * rows / self.size.height).astype(np.intp).clip(0, rows - 1)
            j = (x * columns / self.size.width).astype(np.intp).clip(0, columns - 1)
            inside &= self.image[i[:, None], j]
        if self.polygons is not None:
            inside &= self.polygons.read(region, self.scale)
        return inside

    def covered(self, grid: Size, cell: float) -> np.ndarray:
        """Return which cells are used as a whole: bool (rows, columns).

        Args:
            grid: number of cells, from the corner of the slide.
            cell: side of a cell in level-0 pixels.
        """
        # Eroded by one sample, so that the sample's whole area is used and not only its centre.
        kernel = np.ones((3, 3), np.uint8)
        return self._cells(grid, cell, lambda samples: cv2.erode(samples, kernel)) == 255

    def touched(self, grid: Size, cell: float) -> np.ndarray:
        """Return which cells are used in part: bool (rows, columns); arguments as for `covered`."""
        return self._cells(grid, cell, lambda samples: samples) > 0

    def paint(self, pixels: np.ndarray, region: Region, colour: Colour) -> None:
        """Give pixels that are not used a plain colour.

        Args:
            pixels: uint8 (height, width, 3), changed.
            region: that they show, in pixels of ``scale``.
            colour: of the others.
        """
        pixels[~self.read(region)] = colour

    def _cells(self, grid: Size, cell: float, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return the share of the samples of each cell that are used, of 255: uint8 (rows, columns)."""
        fine, n = self.at(cell / _SAMPLES), _SAMPLES
        out = np.empty((grid.height, grid.width), np.uint8)
        for y in range(0, grid.height, _STRIP):
            rows = min(_STRIP, grid.height - y)
            seen = Region(y * n, 0, rows * n, grid.width * n).pad(1)
            samples = change(fine.read(seen).view(np.uint8) * 255)[1:-1, 1:-1]
            out[y : y + rows] = cv2.resize(samples, (grid.width, rows), interpolation=cv2.INTER_AREA)
        return out


@dataclass(frozen=True)
class Roi:
    """The region of interest that the user gives for slides.

    Args:
        mask: a mask of the slide, or a folder with one for each, see `find_mask`.
        mask_class: of the polygons that count; None for all.
        region: in level-0 pixels.
    """

    mask: Path | None = None
    mask_class: str | None = None
    region: Region | None = None

    def require_masks(self, slides: int) -> None:
        """Raise if one mask is given for several slides.

        Raises:
            InvalidValueError: it is no folder.
        """
        if slides > 1 and self.mask is not None and not self.mask.is_dir():
            raise InvalidValueError(
                f"--mask must be a folder with a mask named like each of {slides} slides, got {self.mask}"
            )

    def of(self, slide: WholeSlide, name: str) -> Mask | None:
        """Return the part of a slide that is used; None for all of it.

        Args:
            slide: open.
            name: relative to the folder that slides were searched in, with "/".

        Raises:
            SlideError: the slide has no mask, or one that does not fit; or the region reaches outside it.
        """
        mask = None
        if self.mask is not None:
            mask = open_mask(find_mask(self.mask, name, slide.path), slide, self.mask_class)
        if self.region is not None:
            check_region(self.region, slide)
            mask = replace(mask or Mask(slide.size, slide.size.region), bounds=self.region)
        return mask


WHOLE_SLIDE = Roi()
"""All of every slide."""


def check_region(region: Region, slide: WholeSlide) -> None:
    """Raise unless a region of level 0 lies inside the slide.

    Raises:
        SlideError: it reaches outside.
    """
    if region.intersect(slide.size.region) != region:
        given = f"{region.x},{region.y},{region.width},{region.height}"
        height, width = slide.size.height, slide.size.width
        raise SlideError(
            slide.path,
            f"region {given} (X,Y,WIDTH,HEIGHT) reaches outside the slide, which is {width} x {height} px; "
            f"give one inside 0,0,{width},{height}",
        )


def find_mask(mask: Path, name: str, slide: Path) -> Path:
    """Return the mask of a slide.

    Of ``x/a_HE.ome.tif``, it is called a_HE.ome.tif, a_HE or a, with the suffix of GeoJSON or of an image,
    and lies in the sub-folder x or in the folder itself. Of a DICOM series, it may be called like the series'
    folder, and lie beside it.

    Args:
        mask: the mask itself, or a folder with masks of many slides.
        name: of the slide, relative to the folder that slides were searched in, with "/".
        slide: its file.

    Raises:
        SlideError: the folder has no mask of that name, or several.
    """
    if not mask.is_dir():
        return mask
    path, own, suffixes = PurePosixPath(name), slide_stem(slide), (*GEOJSON_SUFFIXES, *IMAGE_SUFFIXES)
    stem = bare_name(Path(path.name))
    tried: list[tuple[PurePosixPath, tuple[str, ...]]] = [
        (path.parent, (path.name, stem, stem.removesuffix("_HE")))
    ]
    if named_after(slide) != slide:  # first, as files of two series often share their names
        tried.insert(0, (path.parent.parent, (own, own.removesuffix("_HE"))))
    for parent, stems in tried:
        for folder, one in product(dict.fromkeys((mask / parent, mask)), dict.fromkeys(stems)):
            found = [p for suffix in suffixes if (p := folder / f"{one}{suffix}").is_file()]
            if len(found) > 1:
                several = ", ".join(p.name for p in found)
                raise SlideError(folder, f"several masks for slide {name}: {several}; keep one")
            if found:
                return found[0]
    raise SlideError(mask, f"no mask for slide {name}; add {own}.geojson, {own}.png or {own}.tif")


def open_mask(path: Path, slide: WholeSlide, mask_class: str | None = None) -> Mask:
    """Read a mask.

    Args:
        path: GeoJSON with polygons in level-0 pixels, as QuPath exports it, or a PNG or TIFF of any size and
            the slide's aspect, in which all but 0 is used.
        slide: that it belongs to.
        mask_class: of the polygons that count, as QuPath names it; None for all.

    Raises:
        SlideError: it cannot be read, has no polygons (of that class), a ring that crosses itself, or another
            aspect than the slide; or it contains nothing of the slide.
    """
    suffix, whole = path.suffix.lower(), Mask(slide.size, slide.size.region)
    if not path.is_file():
        raise SlideError(path, "no such mask")
    if suffix in GEOJSON_SUFFIXES:
        return replace(whole, polygons=_polygons(path, slide.size, mask_class))
    if suffix not in IMAGE_SUFFIXES:
        known = ", ".join((*GEOJSON_SUFFIXES, *IMAGE_SUFFIXES))
        raise SlideError(path, f"not a mask; give GeoJSON or a lossless image ({known})")
    if mask_class is not None:
        raise SlideError(path, f"an image has no class {mask_class!r}; leave out --mask-class")
    return replace(whole, image=_image(path, slide.size))


def _image(path: Path, size: Size) -> np.ndarray:
    try:
        if path.suffix.lower() == ".png":
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)
                transparent = "A" in picture.getbands()
        else:
            pixels, transparent = tifffile.imread(path, key=0), False
    except (OSError, ValueError, SyntaxError, tifffile.TiffFileError, Image.DecompressionBombError) as error:
        raise SlideError(path, f"not a readable mask ({error})") from error
    if transparent:
        pixels = pixels[..., :-1]
    used = pixels.any(axis=2) if pixels.ndim == 3 else pixels != 0
    if used.ndim != 2:
        raise SlideError(path, f"a mask has rows and columns, this one has shape {pixels.shape}")
    rows, columns = used.shape
    # Reduced by any factor, with both sides rounded up or down.
    if abs(rows * size.width - columns * size.height) > size.width + size.height:
        raise SlideError(
            path,
            f"is {columns} x {rows} px, another aspect than the slide of {size.width} x {size.height} px; "
            "export a mask of the whole slide",
        )
    if not used.any():
        raise SlideError(path, "is 0 everywhere, so that nothing of the slide is used")
    return used


def _polygons(path: Path, size: Size, mask_class: str | None) -> Polygons:
    found: list[Any] = []
    classes: set[str] = set()
    try:
        for feature in features(json.loads(path.read_bytes())):
            if feature["geometry"] is None:
                continue
            name = class_of(feature)
            polygons = [p for p in _parts(shape(feature["geometry"])) if isinstance(p, shapely.Polygon)]
            if polygons and name:
                classes.add(name)
            if mask_class in (None, name):
                found += [p for p in polygons if not p.is_empty]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, shapely.errors.ShapelyError) as error:
        raise SlideError(path, f"not readable GeoJSON ({error})") from error
    if not found and mask_class is not None and classes:
        names = ", ".join(sorted(classes))
        raise SlideError(path, f"no polygon of class {mask_class!r}; its classes are {names}")
    if not found:
        raise SlideError(path, "no polygon in it; export annotations with an area")
    for number, polygon in enumerate(found, 1):
        if not polygon.is_valid:
            raise SlideError(path, f"polygon {number} {_why_invalid(polygon)}; draw it again")
    slide = shapely.box(0, 0, size.width, size.height)
    found = [polygon for polygon in found if polygon.intersection(slide).area > 0]
    if not found:
        raise SlideError(
            path,
            f"no polygon lies on the slide, which is {size.width} x {size.height} px; coordinates must be "
            "pixels of level 0, as QuPath exports them",
        )
    return Polygons.of([_edges(polygon) for polygon in found])


def _parts(geometry: Any) -> Iterator[Any]:
    """Yield the simple geometries of a collection of collections."""
    for part in getattr(geometry, "geoms", ()):
        yield from _parts(part)
    if not hasattr(geometry, "geoms"):
        yield geometry


def _why_invalid(polygon: Any) -> str:
    why, _, place = shapely.is_valid_reason(polygon).rstrip("]").partition("[")
    what = "has a ring that crosses or touches itself" if "elf-intersection" in why else f"is invalid ({why})"
    return f"{what}, at x {place.replace(' ', ', y ')}" if place else what


def _edges(polygon: Any) -> np.ndarray:
    rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
    return np.concatenate([np.hstack([ring[:-1], ring[1:]]) for ring in rings])


def _fill(edges: np.ndarray, region: Region) -> np.ndarray:
    """Return the pixels whose centres lie in a polygon by the even-odd rule: bool (height, width).

    Args:
        edges: float64 (n, 4): x and y of both ends.
        region: to fill, on the same grid.
    """
    # Shifted so that the centre of the pixel in row i and column j is at (j, i).
    x0, y0, x1, y1 = (edges - 0.5 - (region.x, region.y, region.x, region.y)).T
    first, stop = (np.ceil(y).clip(0, region.height) for y in (np.minimum(y0, y1), np.maximum(y0, y1)))
    counts = (stop - first).astype(np.intp)
    edge = np.repeat(np.arange(len(edges)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts - first.astype(np.intp), counts)
    crossing = x0[edge] + (row - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    # Each crossing turns all pixels to its right from outside to inside, or back.
    flips = np.zeros((region.height, region.width + 1), np.uint8)
    np.bitwise_xor.at(flips, (row, np.ceil(crossing).clip(0, region.width).astype(np.intp)), 1)
    return np.bitwise_xor.accumulate(flips, axis=1)[:, :-1].view(bool)


def _spans(region: Region) -> tuple[tuple[int, int], tuple[int, int]]:
    return (region.y, region.y1), (region.x, region.x1)

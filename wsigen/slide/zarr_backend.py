"""OME-Zarr folders, read with zarr."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wsigen.arrays import ArrayCache
from wsigen.errors import AmbiguousSlideError, InvalidValueError, SlideError
from wsigen.geometry import Colour, Region, Size
from wsigen.slide.backend import assemble, tiles_of
from wsigen.slide.damage import DamagedError
from wsigen.slide.ngff import Multiscale, metadata_of, multiscales
from wsigen.slide.tiff_backend import MAX_SEGMENT_PIXELS
from wsigen.slide.view import WHOLE, View, choose_image, no_plane


class ZarrBackend:
    """An open OME-Zarr folder: one image, or several in the layout of bioformats2raw.

    Args:
        path: the folder.
        cache: decoded chunks, shared by every file of the process.
        view: which image and focus plane.
        identity: of the folder, so that chunks of one that had this name before are not taken for its own.

    Raises:
        SlideError: zarr is not installed, or the folder is not OME-Zarr 0.4 or 0.5 of 8-bit RGB.
        AmbiguousSlideError: it leaves open which image is the slide, or what its channels mean.
        InvalidValueError: the view names an image that is not there.

    Memory:
        The cache, and one chunk of each channel.
    """

    nbytes = 0
    icc: bytes | None = None

    def __init__(
        self, path: Path, cache: ArrayCache, view: View = WHOLE, *, identity: tuple[int, ...] = ()
    ) -> None:
        self._path, self._cache, self._identity = path, cache, identity
        # Damaged metadata can make zarr raise any exception.
        try:
            images = _images(path, _zarr(path).open_group(path, mode="r"))
            image = choose_image(path, images, view)
            self._number = image.number
            self._image, self._arrays = image.metadata, _levels(path, image, view)
            self.levels = tuple(_size(self._image, array) for array in self._arrays)
        except (SlideError, InvalidValueError):
            raise
        except Exception as error:
            raise SlideError(path, f"not a readable OME-Zarr folder ({error})") from error
        self._z, self.mpp = view.z or 0, self._image.mpp

    def tiles(self, level: int, region: Region) -> Iterator[Region]:
        """Yield chunks."""
        array, axes = self._arrays[level], self._image.axes
        chunk = Size(array.chunks[axes.index("y")], array.chunks[axes.index("x")])
        return tiles_of(region, chunk, self.levels[level])

    def read(self, level: int, region: Region, background: Colour) -> np.ndarray:
        """Return a region inside a level; see `Backend`. Chunks that are not stored have the fill value."""
        try:
            return assemble(self.tiles(level, region), lambda tile: self._chunk(level, tile), region)
        except Exception as error:  # whatever damaged chunks make zarr raise
            raise DamagedError(self._path, str(error), level, region) from error

    def _chunk(self, level: int, tile: Region) -> np.ndarray:
        key = (self._path, self._identity, self._number, self._z, level, tile)
        return self._cache.fetch(key, partial(self._decoded, level, tile))

    def _decoded(self, level: int, tile: Region) -> np.ndarray:
        at = {"t": 0, "z": self._z, "c": slice(None)}
        at |= {"y": slice(tile.y, tile.y1), "x": slice(tile.x, tile.x1)}
        axes = self._image.axes
        stored = np.asarray(self._arrays[level][tuple(at[axis] for axis in axes)])
        kept = [axis for axis in axes if axis in "cyx"]
        pixels = stored.transpose([kept.index(axis) for axis in "yxc"])[..., list(self._image.order)]
        return np.ascontiguousarray(pixels)


class _Image(NamedTuple):
    """One image, and the arrays of its levels, finest first."""

    number: int
    metadata: Multiscale
    arrays: list[Any]

    @property
    def area(self) -> int:
        """Number of pixels."""
        return _size(self.metadata, self.arrays[0]).area

    @property
    def name(self) -> str:
        """From the metadata; may be empty."""
        return self.metadata.name

    def __str__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        size = _size(self.metadata, self.arrays[0])
        return f"{self.number}:{name} {size.width} × {size.height} px"


def _zarr(path: Path) -> Any:
    try:
        return import_module("zarr")
    except ImportError as error:
        fix = "pip install 'wsigen[zarr]', with Python 3.11 or later"
        raise SlideError(path, f"is a Zarr folder, which needs the package zarr; {fix}") from error


def _images(path: Path, group: Any) -> list[_Image]:
    """Return the images of a folder, each with its arrays, finest first."""
    metadata = metadata_of(group.attrs)
    if "plate" in metadata:
        raise SlideError(
            path, "is an OME-Zarr plate of wells, not a slide; give the folder of one image in it"
        )
    holders = [(group, metadata)]
    if "multiscales" not in metadata and "bioformats2raw.layout" in metadata:
        names = metadata_of(group["OME"].attrs).get("series") if "OME" in group else None
        children = [group[name] for name in (names or _numbered(group))]
        holders = [(child, metadata_of(child.attrs)) for child in children]
    try:
        found = [(holder, image) for holder, own in holders for image in multiscales(own)]
    except ValueError as error:
        raise SlideError(path, f"{error}; convert it to 0.4 or 0.5") from error
    if not found:
        raise SlideError(path, "is a Zarr folder without multiscales, which an OME-Zarr image has; give one")
    return [
        _Image(number, image, [holder[name] for name in image.arrays])
        for number, (holder, image) in enumerate(found)
    ]


def _numbered(group: Any) -> list[str]:
    names = []
    while str(len(names)) in group:
        names.append(str(len(names)))
    return names


def _levels(path: Path, image: _Image, view: View) -> list[Any]:
    """Return the arrays that are levels of an image.

    Raises:
        SlideError: they are not 8-bit RGB, or chunks are too large to be read.
        AmbiguousSlideError: planes or channels are left open.
    """
    axes = image.metadata.axes
    lengths = dict(zip(axes, image.arrays[0].shape, strict=True))
    unclear = image.metadata.unclear
    if lengths.get("c", 3) != 3:
        unclear = f"has {lengths['c']} channels; expected 3, RGB; convert it"
    elif lengths.get("t", 1) > 1:
        unclear = f"holds {lengths['t']} points in time; save the one that is the slide"
    unclear = unclear or no_plane(lengths.get("z", 1), view)
    if unclear:
        raise AmbiguousSlideError(path, unclear)
    levels: list[Any] = []
    first = last = _size(image.metadata, image.arrays[0])
    for array in image.arrays:
        if array.dtype != np.uint8:
            raise SlideError(path, f"its pixels are {array.dtype}; expected uint8, RGB; convert it")
        chunk = Size(*(array.chunks[axes.index(axis)] for axis in "yx"))
        if chunk.area > MAX_SEGMENT_PIXELS:
            reason = f"stored in chunks of {chunk.width} × {chunk.height} px; rewrite it with smaller ones"
            raise SlideError(path, reason)
        size = _size(image.metadata, array)
        fits = abs(first.height * size.width / first.width - size.height) <= 2
        if not levels or (fits and size.width < last.width):
            levels.append(array)
            last = size
    return levels


def _size(image: Multiscale, array: Any) -> Size:
    if len(array.shape) != len(image.axes) or not {"y", "x"} <= set(image.axes):
        raise ValueError(f"an array of {len(array.shape)} axes, {image.axes} by its metadata")
    return Size(*(array.shape[image.axes.index(axis)] for axis in "yx"))

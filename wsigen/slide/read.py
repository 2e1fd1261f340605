"""Read any region of a slide at any µm/px, by averaging pixels of the nearest finer stored level."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np

from wsigen.arrays import part, paste
from wsigen.config.check import is_positive
from wsigen.errors import InvalidValueError, SlideError
from wsigen.geometry import Colour, Region, Size
from wsigen.slide.backend import Backend
from wsigen.slide.damage import FIX, DamagedError, Holes
from wsigen.slide.handles import Identity, check_identity, handles, identity
from wsigen.slide.mpp import mean_mpp, resolve_pixel_um
from wsigen.slide.parts import slide_path
from wsigen.slide.view import WHOLE, View

BACKGROUND: Colour = (243, 243, 243)
"""Colour of the empty slide where the file does not show it."""
FINEST_REQUEST = 0.9
LEVEL_TOLERANCE = 1.02
BLOCK_PIXELS = 2**24


@runtime_checkable
class SlideReader(Protocol):
    """A slide that can be read at any µm/px; picklable, since the reading process opens the file."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def mpp(self) -> float:
        """µm/px of level 0."""
        ...

    @property
    def size(self) -> Size:
        """Size of level 0."""
        ...

    def read_region(self, region: Region, mpp: float, background: Colour = BACKGROUND) -> np.ndarray:
        """Return a region, given in pixels of the slide at ``mpp``: uint8 (height, width, 3)."""
        ...

    def read_patch(
        self, center_um: tuple[float, float], mpp: float, size: int | Size, background: Colour = BACKGROUND
    ) -> np.ndarray:
        """Return a patch centred (y, x) µm from the slide's origin: uint8 (size, size, 3)."""
        ...


@dataclass(frozen=True)
class Level:
    """A stored level: its size, and the level-0 pixels that a side of its pixels spans."""

    size: Size
    downsample: float


@dataclass(frozen=True)
class WholeSlide:
    """A slide file; see `open_slide`.

    Attributes:
        path: the file.
        mpp: µm/px of level 0.
        levels: stored levels, finest first.
        first: index in the file of the finest of them.
        view: which of the file's images it is.
        pixel_um: height and width of a pixel of level 0 in µm, where they differ (by at most 1 %); ``mpp`` is
            their mean. None where pixels are square.
        identity: of the file that was opened; another one under its name is not read in its place.
        holes: where damaged tiles are noted, which are then read as background; None: they are errors.
        damage_fix: what those errors advise.
    """

    path: Path
    mpp: float
    levels: tuple[Level, ...]
    first: int = 0
    view: View = WHOLE
    pixel_um: tuple[float, float] | None = None
    identity: Identity | None = None
    holes: Holes | None = field(default=None, compare=False)
    damage_fix: str = field(default=FIX, compare=False)

    @property
    def size(self) -> Size:
        """Size of level 0."""
        return self.levels[0].size

    def from_level(self, level: int) -> WholeSlide:
        """Return the slide that begins with a stored level, without the finer ones."""
        first = self.levels[level].downsample
        levels = tuple(Level(stored.size, stored.downsample / first) for stored in self.levels[level:])
        pixel_um = self.pixel_um and (self.pixel_um[0] * first, self.pixel_um[1] * first)
        return replace(self, mpp=self.mpp * first, levels=levels, first=self.first + level, pixel_um=pixel_um)

    def read_region(
        self, region: Region, mpp: float, background: Colour = BACKGROUND, *, upsample: bool = False
    ) -> np.ndarray:
        """Read a region at a given µm/px.

        The region is rounded to the pixel grid of the nearest stored level that is finer (or at most 2 %
        coarser), so that adjacent regions use every stored pixel once; then areas are averaged.

        Args:
            region: in pixels of the whole slide at ``mpp``; may reach outside.
            mpp: µm/px to read at.
            background: colour outside the slide and where the file is transparent.
            upsample: allow ``mpp`` below 0.9 of the slide's own, which interpolates.

        Returns:
            uint8 (region.height, region.width, 3).

        Raises:
            InvalidValueError: ``mpp`` is not positive, or finer than the slide.
            SlideError: the file is missing or damaged.

        Memory:
            The result, and at most 16 million stored pixels at a time.
        """
        self._check(mpp, upsample)

        def read(level: int, block: Region) -> np.ndarray:
            return self.read_level(block, level, background)

        return read_scaled(self.levels, read, region, mpp / self.mpp, background)

    def read_patch(
        self, center_um: tuple[float, float], mpp: float, size: int | Size, background: Colour = BACKGROUND
    ) -> np.ndarray:
        """Read a patch around a point.

        Args:
            center_um: (y, x) in µm from the slide's upper left corner.
            mpp: µm/px to read at.
            size: side, or height and width, in pixels.
            background: as for `read_region`.

        Returns:
            uint8 (height, width, 3).

        Raises:
            InvalidValueError: ``mpp`` is not positive, or finer than the slide.
            SlideError: the file is missing or damaged.
        """
        self._check(mpp, upsample=False)
        height, width = (size, size) if isinstance(size, int) else (size.height, size.width)
        y, x = round(center_um[0] / mpp - height / 2), round(center_um[1] / mpp - width / 2)
        return self.read_region(Region(y, x, height, width), mpp, background)

    def _check(self, mpp: float, upsample: bool) -> None:
        if not is_positive(mpp):
            raise InvalidValueError(f"mpp must be a positive number of µm/px, got {mpp!r}")
        if mpp < self.mpp * FINEST_REQUEST and not upsample:
            raise InvalidValueError(
                f"{self.path} has {self.mpp:g} µm/px, cannot be read at {mpp:g}; "
                f"ask for at least {self.mpp * FINEST_REQUEST:g} µm/px, or pass upsample=True"
            )

    def read_level(self, region: Region, level: int, background: Colour = BACKGROUND) -> np.ndarray:
        """Read stored pixels.

        Args:
            region: in pixels of the level; may reach outside.
            level: 0 is the finest.
            background: as for `read_region`.

        Returns:
            uint8 (region.height, region.width, 3).

        Raises:
            DamagedError: a tile is damaged, and the slide has no ``holes``.
            SlideError: the file is missing, or another one than was opened.
        """

        def read(inside: Region) -> np.ndarray:
            if self.holes is not None and self.holes.meets(self.first + level, inside):
                return self._read_tiles(inside, level, background)
            try:
                return self._open().read(self.first + level, inside, background)
            except DamagedError:
                handles().drop(self.path, self.view)  # OpenSlide reads nothing more after an error
                return self._read_tiles(inside, level, background)

        return padded(read, region, self.levels[level].size, background)

    def skipping_damage(self) -> WholeSlide:
        """Return the same slide, whose damaged tiles are read as background and noted in its ``holes``."""
        return replace(self, holes=Holes())

    @property
    def damage(self) -> str:
        """How much of the slide was damaged where it was read, see `Holes.describe`; "" for nothing."""
        sizes = {self.first + i: level.size for i, level in enumerate(self.levels)}
        return "" if self.holes is None else self.holes.describe(sizes)

    def _read_tiles(self, region: Region, level: int, background: Colour) -> np.ndarray:
        """Read a region tile by tile, which finds the damaged ones."""
        stored, backend = self.first + level, self._open_apart()
        out = np.empty((region.height, region.width, 3), np.uint8)
        for tile in backend.tiles(stored, region):
            inside = tile.intersect(region)
            pixels: np.ndarray | Colour = background
            if self.holes is None or (stored, tile) not in self.holes:
                try:
                    pixels = backend.read(stored, inside, background)
                except DamagedError as error:
                    if self.holes is None:
                        raise DamagedError(self.path, error.what, stored, tile, self.damage_fix) from error
                    self.holes.add(stored, tile, error.what)
                    backend = self._open_apart()
            part(out, region, inside)[...] = pixels
        return out

    def _open(self) -> Backend:
        return handles().get(self.path, self.view, self.identity)

    def _open_apart(self) -> Backend:
        return handles().open_apart(self.path, self.view, self.identity)

    def check_same(self) -> None:
        """Raise if the file is not the one that was opened: its size and µm/px may be others.

        Raises:
            SlideError: it was replaced or written to, or is gone.
        """
        check_identity(self.path, self.identity)


def read_scaled(
    levels: Sequence[Level],
    read: Callable[[int, Region], np.ndarray],
    region: Region,
    scale: float,
    background: Colour,
) -> np.ndarray:
    """Read a region at any scale from levels, by averaging pixels of the nearest finer one.

    Args:
        levels: finest first.
        read: pixels of a region of a level, which may reach a pixel outside: uint8 (height, width, 3).
        region: in pixels of the result's grid, whose origin is the slide's; may reach outside.
        scale: level-0 pixels that a side of a pixel of the result spans.
        background: colour outside the slide.

    Returns:
        uint8 (region.height, region.width, 3).
    """
    wanted = scale * LEVEL_TOLERANCE
    level = max((i for i, stored in enumerate(levels) if stored.downsample <= wanted), default=0)
    stored, ratio = levels[level], scale / levels[level].downsample
    out = np.empty((region.height, region.width, 3), np.uint8)
    out[...] = background
    height, width = math.ceil(stored.size.height / ratio), math.ceil(stored.size.width / ratio)
    # In blocks, so that a coarse read of a slide without pyramid does not load all of level 0.
    for block in _blocks(region.intersect(Region(0, 0, height, width)), ratio):
        paste(_resize(read(level, _scaled(block, ratio)), block.size), block, out, region)
    return out


def padded(
    read: Callable[[Region], np.ndarray], region: Region, size: Size, background: Colour
) -> np.ndarray:
    """Read a region that may reach outside an image of this size, which is continued by a plain colour."""
    inside = region.intersect(size.region)
    if inside == region and region:
        return read(region)
    out = np.empty((region.height, region.width, 3), np.uint8)
    out[...] = background
    if inside:
        part(out, region, inside)[...] = read(inside)
    return out


def open_slide(path: str | Path, mpp: float | None = None, view: View = WHOLE) -> WholeSlide:
    """Open a slide: any format of OpenSlide, other TIFF and OME-TIFF, OME-Zarr, PNG and JPEG.

    Args:
        path: the file; of DICOM any file of its series or their folder, of OME-Zarr the folder.
        mpp: the user's µm/px; `wsigen.slide.mpp.resolve_pixel_um` says when it is used.
        view: which image of the file, where it holds several.

    Raises:
        SlideError: the file is missing, damaged or of an unknown format.
        AmbiguousSlideError: it holds several images and ``view`` chooses none, or colours that its tags leave
            open.
        MissingMppError: its µm/px is unknown.
        InvalidValueError: ``mpp`` is out of range, or ``view`` names what is not there.
    """
    path = slide_path(Path(path))
    found = identity(path)
    backend = handles().get(path, view, found)
    sizes = backend.levels
    if not all(s.area for s in sizes):
        raise SlideError(path, "it has no pixels")
    levels = tuple(Level(size, _downsample(sizes[0], size)) for size in sizes)
    pixel_um = resolve_pixel_um(path, backend, mpp)
    square = pixel_um[0] == pixel_um[1]
    return WholeSlide(
        path,
        mean_mpp(pixel_um),
        levels,
        view=view,
        pixel_um=None if square else pixel_um,
        identity=found,
    )


def _downsample(base: Size, size: Size) -> float:
    """Return the factor between two levels: a whole number unless the sizes contradict it."""
    exact = (base.height / size.height + base.width / size.width) / 2
    whole = round(exact)
    rounded = (abs(base.height / whole - size.height), abs(base.width / whole - size.width))
    return float(whole) if max(rounded) < 1 else exact


def _scaled(region: Region, ratio: float) -> Region:
    y, x = round(region.y * ratio), round(region.x * ratio)
    return Region(y, x, max(1, round(region.y1 * ratio) - y), max(1, round(region.x1 * ratio) - x))


def _blocks(region: Region, ratio: float) -> Iterator[Region]:
    """Halve a region until each part needs at most ``BLOCK_PIXELS`` stored pixels."""
    if not region:
        return
    if region.height * region.width * ratio**2 <= BLOCK_PIXELS or region.height == region.width == 1:
        yield region
        return
    # Rows are halved first, since files may be stored in strips.
    if region.width == 1 or (region.height > 1 and region.height * ratio > 512):
        top = region.height // 2
        halves = (Region(0, 0, top, region.width), Region(top, 0, region.height - top, region.width))
    else:
        left = region.width // 2
        halves = (Region(0, 0, region.height, left), Region(0, left, region.height, region.width - left))
    for half in halves:
        yield from _blocks(half.shift(region.y, region.x), ratio)


def _resize(pixels: np.ndarray, size: Size) -> np.ndarray:
    height, width = pixels.shape[:2]
    if (height, width) == (size.height, size.width):
        return pixels
    shrinks = height >= size.height and width >= size.width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(pixels, (size.width, size.height), interpolation=how)

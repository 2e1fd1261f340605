"""Which pages of a TIFF are the slide, and which are its levels.

A TIFF holds images: in OME-TIFF those of its XML, else every page that is not flagged as reduced. The slide
is the largest of them. Where others come near it, the user chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import tifffile

from wsigen.errors import AmbiguousSlideError, SlideError
from wsigen.geometry import Size
from wsigen.slide.backend import PLAUSIBLE_MPP
from wsigen.slide.ome import OmeImage, is_part_of_a_set, ome_images, unit_um
from wsigen.slide.orientation import UPRIGHT
from wsigen.slide.view import View, choose_image, no_plane

REDUCED, MASK = 1, 4

Planes = tuple[Any, ...]
"""Pages that make up one picture: one, or three grey ones for red, green and blue."""


@dataclass(frozen=True)
class TiffImage:
    """One image of a TIFF.

    Attributes:
        number: that the user gives to choose it.
        planes: its pages at full size.
        name: from the metadata; may be empty.
        mpp: µm/px along y and x as the metadata state it, unchecked; None if they do not.
        position: of its first page in the chain.
        levels: pages of its smaller levels, finest first.
        unclear: why its pixels cannot be read without guessing; empty if they can.
    """

    number: int
    planes: Planes
    name: str
    mpp: tuple[float, float] | None
    position: int
    levels: tuple[Planes, ...] = ()
    unclear: str = field(default="", compare=False)

    @property
    def page(self) -> Any:
        """The first page."""
        return self.planes[0]

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.page.imagelength * self.page.imagewidth

    def __str__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"{self.number}:{name} {self.page.imagewidth} × {self.page.imagelength} px"


def slide_image(path: Path, tiff: tifffile.TiffFile, view: View) -> TiffImage:
    """Return the image that is the slide, with its levels.

    Args:
        path: the file, for messages.
        tiff: it, open.
        view: the user's choice.

    Raises:
        AmbiguousSlideError: several large images or focus planes and no choice, or channels that are no RGB.
        InvalidValueError: there is no image or plane of this number.
    """
    pages = cast("list[Any]", list(tiff.pages))
    images = [_ome_image(image, pages, view) for image in ome_images(tiff, pages)]
    images = images or _plain_images(tiff, pages, view)
    image = choose_image(path, images, view, _is_level)
    if image.unclear:
        raise AmbiguousSlideError(path, image.unclear)
    return replace(image, levels=_levels(image, images, pages))


def image_of_sizes(path: Path, tiff: tifffile.TiffFile, sizes: Sequence[Size]) -> TiffImage:
    """Return the image whose levels are the tiled pages of given sizes, as another reader names them.

    Args:
        path: the file, for messages.
        tiff: it, open.
        sizes: of the levels, finest first.

    Raises:
        SlideError: a level has no page of its own, or tiles that were never written.
    """
    tiled = [page for page in cast("list[Any]", list(tiff.pages)) if page.is_tiled]
    levels = []
    for size in sizes:
        found = [p for p in tiled if (p.imagelength, p.imagewidth) == (size.height, size.width)]
        if len(found) != 1 or not all(found[0].databytecounts):
            raise SlideError(path, f"{size.width} × {size.height} px are not in one page of complete tiles")
        levels.append((found[0],))
    return TiffImage(0, levels[0], "", None, 0, levels=tuple(levels[1:]))


def resolution_mpp(page: Any) -> tuple[float, float] | None:
    """Return µm/px along y and x by the resolution tags of a page, unchecked; None if they do not say.

    ImageJ writes their unit into its description, and none into the tag.
    """
    stated = (page.parent.imagej_metadata or {}).get("unit", "") if page.is_imagej else ""
    unit = unit_um(str(stated)) or {2: 25400.0, 3: 1e4}.get(int(page.resolutionunit or 0))
    x, y = (_ratio(page.tags.valueof(f"{axis}Resolution")) for axis in "XY")
    return (unit / y, unit / x) if unit and x > 0 and y > 0 else None


def _ratio(value: Any) -> float:
    """Return a number that a tag stores as a fraction; 0 where it is missing or divides by zero."""
    if not isinstance(value, tuple) or len(value) != 2 or not value[1]:
        return 0.0
    return value[0] / value[1]


def orientation_of(page: Any) -> int:
    """Return a page's tag Orientation, 1 (upright) to 8; 1 where it is missing or invalid."""
    value = page.tags.valueof("Orientation")
    return value if value in range(1, 9) else UPRIGHT


def _plain_images(tiff: tifffile.TiffFile, pages: Sequence[Any], view: View) -> list[TiffImage]:
    whole = [(i, p) for i, p in enumerate(pages) if not _flags(p) & (REDUCED | MASK)]
    images = []
    for number, (position, page) in enumerate(whole or list(enumerate(pages))[:1]):
        unclear = _unclear(tiff, pages) or no_plane(1, view)
        name = page.description.partition("\n")[0].strip()[:40] if len(whole) > 1 else ""
        images.append(TiffImage(number, (page,), name, resolution_mpp(page), position, unclear=unclear))
    return images


def _unclear(tiff: tifffile.TiffFile, pages: Sequence[Any]) -> str:
    """Return why pages of a file without a list of its images cannot be read without guessing."""
    stack = int((tiff.imagej_metadata or {}).get("images", 1)) if tiff.is_imagej and len(pages) == 1 else 1
    if stack > 1:
        return f"is an ImageJ stack of {stack} pictures in one page; save one of them"
    if pages[0].samplesperpixel == 1 and is_part_of_a_set(tiff):
        return "is one file of an OME-TIFF set, and may be one channel; save the slide as one file"
    return ""


def _ome_image(image: OmeImage, pages: Sequence[Any], view: View) -> TiffImage:
    depth = len(image.planes)
    z = view.z if view.z is not None and 0 <= view.z < depth else 0
    planes = tuple(pages[place] for place in image.planes[z])
    return TiffImage(
        image.number,
        planes,
        image.name,
        image.mpp or resolution_mpp(planes[0]),
        min(image.planes[z]),
        unclear=image.unclear or no_plane(depth, view),
    )


def _levels(image: TiffImage, images: Sequence[TiffImage], pages: Sequence[Any]) -> tuple[Planes, ...]:
    """Return the levels that belong to an image: its SubIFDs, else pages flagged as reduced, else images."""
    below = [tuple(level) for level in zip(*(p.pages or () for p in image.planes), strict=False)]
    if not below and len(image.planes) == 1:
        below = [(pages[i],) for i in _flagged(image, images, pages)]
    if not below:
        below = [i.planes for i in images if _is_level(i, image)]
    levels: list[Planes] = []
    width = image.page.imagewidth
    for planes in sorted(below, key=lambda planes: -planes[0].imagewidth):
        page = planes[0]
        if (
            page.imagewidth < width
            and _kind(page) == _kind(image.page)
            and _same_proportions(image.page, page)
        ):
            levels.append(planes)
            width = page.imagewidth
    return tuple(levels)


def _flagged(image: TiffImage, images: Sequence[TiffImage], pages: Sequence[Any]) -> list[int]:
    """Return positions of reduced pages of an image: of those that fit several, pages follow their image."""
    found, own = [], {i.position for i in images}
    for position, page in enumerate(pages):
        if not _flags(page) & REDUCED or position in own:
            continue
        fit = [
            i
            for i in images
            if i.area > page.imagelength * page.imagewidth and _same_proportions(i.page, page)
        ]
        before = [i for i in fit if i.position < position]
        if image in (before[-1:] or fit[:1]):
            found.append(position)
    return found


def _is_level(small: TiffImage, large: TiffImage) -> bool:
    """Return whether an image that nobody flagged is a level of another: a whole factor, also in µm/px."""
    if len(small.planes) != len(large.planes):
        return False
    height, width = large.page.imagelength, large.page.imagewidth
    factor = round(width / small.page.imagewidth)
    if (
        factor < 2
        or max(abs(height / factor - small.page.imagelength), abs(width / factor - small.page.imagewidth))
        >= 1
    ):
        return False
    if not (_is_stated(small.mpp) and _is_stated(large.mpp)):
        return True
    assert small.mpp is not None
    assert large.mpp is not None
    return abs(small.mpp[1] / large.mpp[1] / factor - 1) < 0.02


def _is_stated(mpp: tuple[float, float] | None) -> bool:
    return mpp is not None and PLAUSIBLE_MPP[0] <= mpp[1] <= PLAUSIBLE_MPP[1]


def _kind(page: Any) -> tuple[Any, ...]:
    return page.dtype, page.samplesperpixel, orientation_of(page)


def _same_proportions(first: Any, page: Any) -> bool:
    factor = first.imagewidth / page.imagewidth
    return abs(first.imagelength / factor - page.imagelength) <= 2


def _flags(page: Any) -> int:
    return int(page.subfiletype or 0)

"""Which pages of a TIFF are the slide, and which are its levels.

A TIFF holds images: in OME-TIFF those of its XML, else every page that is not flagged as reduced. The slide
is the largest of them. Where others come near it, the user chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import tifffile

from wsigen.errors import AmbiguousSlideError, InvalidValueError, SlideError
from wsigen.geometry import Size
from wsigen.slide.backend import PLAUSIBLE_MPP
from wsigen.slide.orientation import UPRIGHT
from wsigen.slide.view import WHOLE, View

# An image of at least this share of the largest one's pixels may be a slide of its own.
LARGE = 1 / 16
REDUCED, MASK = 1, 4
_NOT_SLIDES = ("label", "macro", "thumbnail", "overview")
_RGB = ("red", "green", "blue")
# OME's Color is a signed 32-bit number of red, green, blue and alpha.
_OME_COLOURS = {0xFF0000: "red", 0x00FF00: "green", 0x0000FF: "blue"}
_UNIT_UM = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "\u03bcm": 1.0, "um": 1.0, "nm": 1e-3, "in": 25400.0}

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


def choose_image(path: Path, tiff: tifffile.TiffFile, view: View) -> TiffImage:
    """Return the image that is the slide, with its levels.

    Args:
        path: the file, for messages.
        tiff: it, open.
        view: the user's choice.

    Raises:
        AmbiguousSlideError: several large images or focus planes and no choice, or channels that are no RGB.
        InvalidValueError: there is no image or plane of this number.
    """
    images = tiff_images(tiff, view)
    if view.series is None:
        image = max(images, key=lambda i: i.area)
        rivals = [i for i in images if i is not image and _rivals(i, image)]
        if rivals:
            listed = "; ".join(str(i) for i in sorted((image, *rivals), key=lambda i: i.number))
            reason = f"holds several images ({listed}); {_choose('series', 'N')}"
            raise AmbiguousSlideError(path, reason)
    elif 0 <= view.series < len(images):
        image = images[view.series]
    else:
        listed = "; ".join(map(str, images))
        raise InvalidValueError(
            f"--series must be the number of an image of {path} ({listed}), got {view.series}"
        )
    if image.unclear:
        raise AmbiguousSlideError(path, image.unclear)
    return image


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


def tiff_images(tiff: tifffile.TiffFile, view: View = WHOLE) -> list[TiffImage]:
    """Return the images of a TIFF in the order of the file, with their levels.

    Args:
        tiff: an open file.
        view: the focus plane to take of a z-stack.
    """
    pages = cast("list[Any]", list(tiff.pages))
    images = _ome_images(tiff, pages, view) or _plain_images(tiff, pages, view)
    return [replace(image, levels=_levels(image, images, pages)) for image in images]


def ome_elements(tiff: tifffile.TiffFile) -> list[ElementTree.Element]:
    """Return the ``Image`` elements of OME-XML; none where there is no valid XML."""
    text = tiff.pages.first.description
    if "<OME" not in text:
        return []
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return []
    return [e for e in root.iter() if _tag(e) == "Image" and _child(e, "Pixels") is not None]


def pixels_mpp(image: ElementTree.Element) -> tuple[float, float] | None:
    """Return PhysicalSizeY and PhysicalSizeX of an ``Image`` element in µm; None if missing or invalid."""
    pixels = _child(image, "Pixels")
    try:
        assert pixels is not None
        y, x = (float(pixels.attrib[f"PhysicalSize{axis}"]) for axis in "YX")
        unit_y, unit_x = (_UNIT_UM[pixels.attrib.get(f"PhysicalSize{axis}Unit", "µm")] for axis in "YX")
    except (KeyError, ValueError):
        return None
    return y * unit_y, x * unit_x


def resolution_mpp(page: Any) -> tuple[float, float] | None:
    """Return µm/px along y and x by the resolution tags of a page, unchecked; None if they do not say."""
    unit = {2: 25400.0, 3: 1e4}.get(int(page.resolutionunit or 0))
    x, y = page.get_resolution()
    return (unit / y, unit / x) if unit and x > 0 and y > 0 else None


def orientation_of(page: Any) -> int:
    """Return a page's tag Orientation, 1 (upright) to 8; 1 where it is missing or invalid."""
    value = page.tags.valueof("Orientation")
    return value if value in range(1, 9) else UPRIGHT


def _plain_images(tiff: tifffile.TiffFile, pages: Sequence[Any], view: View) -> list[TiffImage]:
    whole = [(i, p) for i, p in enumerate(pages) if not _flags(p) & (REDUCED | MASK)]
    images = []
    for number, (position, page) in enumerate(whole or list(enumerate(pages))[:1]):
        stack = _stack_size(tiff) if len(pages) == 1 else 1
        unclear = f"is an ImageJ stack of {stack} pictures in one page; save one of them" if stack > 1 else ""
        unclear = unclear or _no_plane(1, view)
        name = page.description.partition("\n")[0].strip()[:40] if len(whole) > 1 else ""
        images.append(TiffImage(number, (page,), name, resolution_mpp(page), position, unclear=unclear))
    return images


def _stack_size(tiff: tifffile.TiffFile) -> int:
    return int((tiff.imagej_metadata or {}).get("images", 1)) if tiff.is_imagej else 1


def _ome_images(tiff: tifffile.TiffFile, pages: Sequence[Any], view: View) -> list[TiffImage]:
    """Return the images of OME-XML; none where there is no XML, or it describes other pages than these."""
    try:
        return [_ome_image(n, e, pages, view) for n, e in enumerate(ome_elements(tiff))]
    except (KeyError, ValueError, IndexError):
        return []


def _ome_image(number: int, element: ElementTree.Element, pages: Sequence[Any], view: View) -> TiffImage:
    pixels = _child(element, "Pixels")
    assert pixels is not None
    positions = _plane_positions(pixels, pages)
    sizes = {axis: int(pixels.attrib.get(f"Size{axis}", 1)) for axis in "XYCZT"}
    depth, channels = sizes["Z"], 1 + max(c for c, _, _ in positions)
    z = view.z if view.z is not None and 0 <= view.z < depth else 0
    chosen = [positions[c, z, 0] for c in range(channels)]
    first = pages[chosen[0]]
    if (first.imagelength, first.imagewidth) != (sizes["Y"], sizes["X"]):
        raise ValueError("the XML is that of another picture")
    order, unclear = _channel_order(pixels, channels)
    if sizes["T"] > 1:
        unclear = f"holds {sizes['T']} points in time; save the one that is the slide as a file of its own"
    planes = tuple(pages[chosen[c]] for c in order)
    name = element.attrib.get("Name", "")
    return TiffImage(
        number,
        planes,
        name,
        pixels_mpp(element) or resolution_mpp(first),
        chosen[0],
        unclear=unclear or _no_plane(depth, view),
    )


def _plane_positions(pixels: ElementTree.Element, pages: Sequence[Any]) -> dict[tuple[int, int, int], int]:
    """Return the place in the chain of pages of each plane (channel, z, t), as TiffData elements state it."""
    blocks = [e for e in pixels if _tag(e) == "TiffData"]
    first = int(blocks[0].attrib.get("IFD", 0)) if blocks else 0
    sizes = {axis: int(pixels.attrib[f"Size{axis}"]) for axis in "CZT"}
    sizes["C"] = max(1, sizes["C"] // max(1, pages[first].samplesperpixel))
    axes = pixels.attrib.get("DimensionOrder", "XYCZT")[2:]
    total = sizes["C"] * sizes["Z"] * sizes["T"]
    found: dict[tuple[int, int, int], int] = {}
    for block in blocks or [ElementTree.Element("TiffData")]:
        at = {axis: int(block.attrib.get(f"First{axis}", 0)) for axis in "CZT"}
        start = at[axes[0]] + sizes[axes[0]] * (at[axes[1]] + sizes[axes[1]] * at[axes[2]])
        count = int(block.attrib.get("PlaneCount", 1 if "IFD" in block.attrib else total))
        for n in range(count):
            place, index = {}, start + n
            for axis in axes:
                index, place[axis] = divmod(index, sizes[axis])
            found[place["C"], place["Z"], place["T"]] = int(block.attrib.get("IFD", 0)) + n
    missing = [key for key in _all_planes(sizes) if not 0 <= found.get(key, -1) < len(pages)]
    if missing:
        raise ValueError("planes are missing")
    return found


def _all_planes(sizes: dict[str, int]) -> list[tuple[int, int, int]]:
    ranges = (range(sizes[axis]) for axis in "CZT")
    channels, depths, times = ranges
    return [(c, z, t) for c in channels for z in depths for t in times]


def _channel_order(pixels: ElementTree.Element, channels: int) -> tuple[tuple[int, ...], str]:
    """Return which planes are red, green and blue (or the only one), and why that cannot be known."""
    if channels == 1:
        return (0,), ""
    colours = [_colour(e) for e in pixels if _tag(e) == "Channel"]
    if channels == 3 and sorted(colours) == sorted(_RGB):
        return tuple(colours.index(colour) for colour in _RGB), ""
    names = [e.attrib.get("Name", "?") for e in pixels if _tag(e) == "Channel"]
    listed = f" ({', '.join(names)})" if names else ""
    return (0,), (
        f"has {channels} grey channels{listed}; expected RGB. If they are its colours, name them Red, Green "
        "and Blue in the OME-XML; else save the slide as RGB"
    )


def _colour(channel: ElementTree.Element) -> str:
    name = channel.attrib.get("Name", "").strip().lower()
    for colour in _RGB:
        if name in (colour, colour[0]):
            return colour
    if name:
        return ""
    try:
        return _OME_COLOURS.get((int(channel.attrib["Color"]) & 0xFFFFFFFF) >> 8, "")
    except (KeyError, ValueError):
        return ""


def _no_plane(depth: int, view: View) -> str:
    if view.z is None:
        return "" if depth == 1 else f"has {depth} focus planes; {_choose('z', f'0 to {depth - 1}')}"
    if 0 <= view.z < depth:
        return ""
    planes = "one focus plane" if depth == 1 else f"focus planes 0 to {depth - 1}"
    return f"has {planes}, not plane {view.z}; correct --z"


def _choose(name: str, value: str) -> str:
    return f"choose one with --{name} {value}, {name}= in Python or a column {name} in the table of slides"


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
    found = []
    for position, page in enumerate(pages):
        if not _flags(page) & REDUCED or any(position == i.position for i in images):
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


def _rivals(other: TiffImage, image: TiffImage) -> bool:
    """Return whether an image could be the slide as well as the largest one."""
    if other.area < LARGE * image.area or _is_level(other, image):
        return False
    return not other.name.lower().startswith(_NOT_SLIDES)


def _kind(page: Any) -> tuple[Any, ...]:
    return page.dtype, page.samplesperpixel, orientation_of(page)


def _same_proportions(first: Any, page: Any) -> bool:
    factor = first.imagewidth / page.imagewidth
    return abs(first.imagelength / factor - page.imagelength) <= 2


def _flags(page: Any) -> int:
    return int(page.subfiletype or 0)


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _child(element: ElementTree.Element, tag: str) -> ElementTree.Element | None:
    return next((e for e in element if _tag(e) == tag), None)

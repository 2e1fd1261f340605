"""OME-XML: the images of an OME-TIFF, their µm/px, and which of its pages show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import tifffile

RGB = ("red", "green", "blue")
_COLOURS = {"ff0000": "red", "00ff00": "green", "0000ff": "blue"}
_SYMBOLS = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "\u03bcm": 1.0, "um": 1.0, "nm": 1e-3, "in": 25400.0}
# µm whose UTF-8 was read as Latin-1, and as ImageJ escapes it.
_SYMBOLS |= {"\u00c2µm": 1.0, "\u00ce\u00bcm": 1.0, "\\u00B5m": 1.0}
_WORDS = {"meter": 1e6, "centimeter": 1e4, "millimeter": 1e3, "micrometer": 1.0, "nanometer": 1e-3}
_WORDS |= {word.replace("meter", "metre"): um for word, um in _WORDS.items()}
_WORDS |= {"micron": 1.0, "inch": 25400.0}
_MOST_PLANES = 10**5  # more than slides have; damaged XML may state any number
_LACKING = "lacks planes that its OME-XML names, which may be in other files; save the slide as one file"


@dataclass(frozen=True)
class OmeImage:
    """One ``Image`` of OME-XML.

    Attributes:
        number: its place in the XML, from 0.
        name: may be empty.
        mpp: µm/px along y and x, unchecked; None if not stated.
        planes: for each focus plane, the places of its pages in the chain: one, or those of red, green, blue.
        unclear: why its pixels cannot be read without guessing; empty if they can.
    """

    number: int
    name: str
    mpp: tuple[float, float] | None
    planes: tuple[tuple[int, ...], ...]
    unclear: str = ""


def ome_images(tiff: tifffile.TiffFile, pages: Sequence[Any]) -> list[OmeImage]:
    """Return the images of OME-XML whose pixels lie in the file.

    Args:
        tiff: an open file.
        pages: of its chain.

    Returns:
        The images; empty where there is no valid XML, or it is that of another picture.
    """
    root = _root(tiff)
    if root is None:
        return []
    images = []
    try:
        for number, element in enumerate(_elements(root)):
            image = _image(number, element, pages, root.attrib.get("UUID"))
            if image is not None:
                images.append(image)
    except (KeyError, ValueError, IndexError):
        return []
    return images


def first_mpp(tiff: tifffile.TiffFile) -> tuple[float, float] | None:
    """Return PhysicalSizeY and PhysicalSizeX of the first image of OME-XML in µm; None if missing."""
    root = _root(tiff)
    elements = [] if root is None else _elements(root)
    return _mpp(elements[0]) if elements else None


def unit_um(name: str) -> float | None:
    """Return the length of a unit in µm; None if it is none, such as "pixel".

    Args:
        name: a symbol such as "µm", or a word such as "micrometer" or "microns".
    """
    name = name.strip()
    return _SYMBOLS.get(name, _WORDS.get(name.lower().removesuffix("s")))


def is_part_of_a_set(tiff: tifffile.TiffFile) -> bool:
    """Return whether the file refers to OME-XML in another one."""
    root = _root(tiff)
    return root is not None and _child(root, "BinaryOnly") is not None


def _image(
    number: int, element: ElementTree.Element, pages: Sequence[Any], own: str | None
) -> OmeImage | None:
    """Return an image; None if another file holds it."""
    pixels = _child(element, "Pixels")
    assert pixels is not None, "checked by _elements"
    blocks = [e for e in pixels if _tag(e) == "TiffData"] or [ElementTree.Element("TiffData")]
    here = [block for block in blocks if _file(block, own) == own]
    if not here:
        return None
    start = int(here[0].attrib.get("IFD", 0))
    first = pages[start]
    if (first.imagelength, first.imagewidth) != tuple(int(pixels.attrib[f"Size{axis}"]) for axis in "YX"):
        raise ValueError("the XML is that of another picture")
    sizes = {axis: int(pixels.attrib[f"Size{axis}"]) for axis in "CZT"}
    sizes["C"] = max(1, sizes["C"] // max(1, first.samplesperpixel))
    name, mpp = element.attrib.get("Name", ""), _mpp(element)
    total = sizes["C"] * sizes["Z"] * sizes["T"]
    places = _places(here, sizes, pixels.attrib.get("DimensionOrder", "XYCZT")[2:], total)
    if total < 1 or len({place for place in places.values() if place < len(pages)}) < total:
        return OmeImage(number, name, mpp, ((start,),), _LACKING)
    order, unclear = _channel_order(pixels, sizes["C"])
    if sizes["T"] > 1:
        unclear = f"holds {sizes['T']} points in time; save the one that is the slide as a file of its own"
    planes = tuple(tuple(places[c, z, 0] for c in order) for z in range(sizes["Z"]))
    return OmeImage(number, name, mpp, planes, unclear)


def _places(
    blocks: Sequence[ElementTree.Element], sizes: dict[str, int], axes: str, total: int
) -> dict[tuple[int, int, int], int]:
    """Return the place in the chain of pages of each plane (channel, z, t) that TiffData elements name."""
    places: dict[tuple[int, int, int], int] = {}
    for block in blocks:
        first = {axis: int(block.attrib.get(f"First{axis}", 0)) for axis in "CZT"}
        start = first[axes[0]] + sizes[axes[0]] * (first[axes[1]] + sizes[axes[1]] * first[axes[2]])
        page = int(block.attrib.get("IFD", 0))
        count = int(block.attrib.get("PlaneCount", 1 if "IFD" in block.attrib else total))
        for n in range(min(count, total - start)):
            index, at = start + n, {}
            for axis in axes:
                index, at[axis] = divmod(index, sizes[axis])
            places[at["C"], at["Z"], at["T"]] = page + n
            if len(places) > _MOST_PLANES:
                raise ValueError("damaged XML")
    return places


def _file(block: ElementTree.Element, own: str | None) -> str | None:
    """Return the UUID of the file that a TiffData element refers to."""
    uuid = _child(block, "UUID")
    return own if uuid is None or own is None else (uuid.text or "").strip()


def _channel_order(pixels: ElementTree.Element, channels: int) -> tuple[tuple[int, ...], str]:
    """Return which channels are red, green and blue (or the only one), and why that cannot be known."""
    if channels == 1:
        return (0,), ""
    elements = [e for e in pixels if _tag(e) == "Channel"]
    colours = [_colour(e) for e in elements]
    if channels == 3 and sorted(colours) == sorted(RGB):
        return tuple(colours.index(colour) for colour in RGB), ""
    names = [e.attrib["Name"] for e in elements if "Name" in e.attrib]
    listed = f" ({', '.join(names)})" if names else ""
    return (0,), (
        f"has {channels} grey channels{listed}; expected RGB. If they are its colours, name them Red, Green "
        "and Blue in the OME-XML; else save the slide as RGB"
    )


def _colour(channel: ElementTree.Element) -> str:
    """Return red, green or blue by a channel's name or, where it has none, its colour; else an empty text."""
    try:
        # A signed 32-bit number of red, green, blue and alpha.
        colour = f"{(int(channel.attrib['Color']) & 0xFFFFFFFF) >> 8:06x}"
    except (KeyError, ValueError):
        colour = ""
    return name_of_colour(channel.attrib.get("Name", "").strip(), colour)


def name_of_colour(name: str, colour: str) -> str:
    """Return red, green or blue by a name or, where it is empty, by six hexadecimal digits; else ""."""
    if name:
        return next((known for known in RGB if name.lower() in (known, known[0])), "")
    return _COLOURS.get(colour.lower(), "")


def _mpp(image: ElementTree.Element) -> tuple[float, float] | None:
    pixels = _child(image, "Pixels")
    assert pixels is not None, "checked by _elements"
    try:
        y, x = (float(pixels.attrib[f"PhysicalSize{axis}"]) for axis in "YX")
    except (KeyError, ValueError):
        return None
    unit_y, unit_x = (unit_um(pixels.attrib.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "YX")
    return (y * unit_y, x * unit_x) if unit_y and unit_x else None


def _root(tiff: tifffile.TiffFile) -> ElementTree.Element | None:
    text = tiff.pages.first.description
    if "<OME" not in text:
        return None
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None


def _elements(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [e for e in root.iter() if _tag(e) == "Image" and _child(e, "Pixels") is not None]


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _child(element: ElementTree.Element, tag: str) -> ElementTree.Element | None:
    return next((e for e in element if _tag(e) == tag), None)

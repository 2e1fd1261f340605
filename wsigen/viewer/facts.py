"""What a slide says about itself: provenance beside it or in it, and what its name tells of its stain."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import tifffile

from wsigen.slide.provenance import bare_name, flatten, read_provenance
from wsigen.slide.tiff_backend import is_tiff

_STAINED = re.compile(r"(?P<base>.+?)_(?P<label>HE|IHC-.+|like-.+)")
_SOFTWARE = "wsigen"


class Name(NamedTuple):
    """The parts of a slide's name.

    Attributes:
        whole: without the suffix of the file.
        base: what the slides of a case have in common.
        label: "HE", "IHC-SYN", "like-NAME", or "" where the name does not tell.
    """

    whole: str
    base: str
    label: str


def parse_name(path: Path) -> Name:
    """Take the name of a slide apart: ``a_IHC-SYN.ome.tif`` → ``a_IHC-SYN``, ``a``, ``IHC-SYN``."""
    whole = bare_name(path)
    match = _STAINED.fullmatch(whole)
    return Name(whole, match["base"], match["label"]) if match else Name(whole, whole, "")


def stain_title(label: str) -> str:
    """Return a label as it is shown: ``IHC-SYN`` → ``IHC SYN``, ``HE`` → ``H&E``."""
    if label.startswith("IHC-"):
        return f"IHC {label[4:]}"
    if label.startswith("like-"):
        return f"H&E like {label[5:]}"
    return "H&E" if label in ("HE", "") else label


def find_provenance(path: Path) -> dict[str, str]:
    """Return the facts about a slide that wsigen wrote, flat; empty for other slides.

    They stand in the JSON beside it. A slide that was moved without it still has them in the file.
    """
    beside_it = read_provenance(path)
    if "synthetic" in beside_it:
        return flatten(beside_it)
    # Damaged files can make tifffile raise any exception; reading their pixels says what is wrong.
    try:
        if not is_tiff(path):
            return {}
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            return _in_text(page.description) if str(page.software).startswith(_SOFTWARE) else {}
    except Exception:
        return {}


def _in_text(description: str) -> dict[str, str]:
    """Return the facts of an image description: a MapAnnotation of OME-XML, or ``key = value; …``."""
    if description.lstrip().startswith("<"):
        found = ElementTree.fromstring(description).iter()
        return {e.get("K", ""): e.text or "" for e in found if e.tag.rpartition("}")[2] == "M"}
    return {k: v for k, equals, v in (p.partition(" = ") for p in description.split("; ")) if equals}


def is_synthetic(provenance: dict[str, str]) -> bool:
    """Return whether a slide's provenance says that it is synthetic."""
    return provenance.get("synthetic") == "true"

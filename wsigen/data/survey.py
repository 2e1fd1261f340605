"""Find the slides of a folder, and look at each for its tissue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from wsigen.data.entry import SlideEntry
from wsigen.data.table import Row
from wsigen.errors import SlideError
from wsigen.geometry import Region
from wsigen.slide.picture_backend import PICTURE_SUFFIXES
from wsigen.slide.read import GLASS, WholeSlide, open_slide
from wsigen.slide.tiff_backend import check_complete
from wsigen.slide.tissue import Background, background_colour, border_fraction, mask_resolution, tissue_mask

SLIDE_SUFFIXES = (
    *(".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm", ".czi"),
    *PICTURE_SUFFIXES,
)
MASK_PIXELS = 2**26


class Survey(NamedTuple):
    """What one slide shows.

    Attributes:
        entry: for the index.
        glass: colour of its glass, None where it shows none.
    """

    entry: SlideEntry
    glass: Background | None


def find_slides(slides: Path | Sequence[Path]) -> dict[str, Path]:
    """Name to path, ordered by name. Names are relative to the folder, with "/".

    A PNG or JPEG that belongs to another file (``a_HE.jpg`` beside ``a_HE.ome.tif``, ``index.png`` beside
    ``index.parquet``) is not a slide.

    Args:
        slides: a folder (sub-folders included, hidden ones apart), one slide, or several slides.

    Raises:
        SlideError: nothing there.
    """
    if not isinstance(slides, Path):
        paths = {Path(p).absolute() for p in slides}
        names = {p.name: p for p in sorted(paths)}
        return names if len(names) == len(paths) else {p.as_posix(): p for p in sorted(paths)}
    if slides.is_file():
        return {slides.name: slides.absolute()}
    if not slides.is_dir():
        raise SlideError(slides, "no such file or folder")
    found = {
        path.relative_to(slides).as_posix(): path.absolute() for path in slides.rglob("*") if _is_slide(path)
    }
    found = {
        name: path for name, path in found.items() if not any(p.startswith(".") for p in name.split("/"))
    }
    if not found:
        raise SlideError(slides, f"no slide in this folder; looked for {' '.join(SLIDE_SUFFIXES)}")
    return dict(sorted(found.items()))


def survey_slide(name: str, path: Path, row: Row) -> Survey:
    """Open a slide and look for tissue and glass.

    Args:
        name: the slide's name in the index.
        path: the file.
        row: what the user's table says.

    Returns:
        The entry, its split empty unless the table says it; and the colour of its glass.

    Raises:
        SlideError: unreadable, truncated, without µm/px or without tissue.

    Memory:
        The slide at 8 µm/px or coarser, at most 64 million pixels.
    """
    slide = open_slide(path, row.mpp)
    check_complete(path)
    mask_mpp, overview = _overview(slide)
    mask = tissue_mask(overview, mask_mpp)
    if not mask.any():
        raise SlideError(path, "no tissue found on it (blank, or only pen and specks)")
    glass = background_colour(overview, mask)
    fraction = float(mask.mean())
    entry = SlideEntry(
        slide=name,
        path=slide.path,
        group=row.group.partition("/")[0] if row.group else name,
        split=row.split or "",
        mpp=slide.mpp,
        height=slide.size.height,
        width=slide.size.width,
        background=glass or GLASS,
        tissue_um2=fraction * slide.size.area * slide.mpp**2,
        tissue_fraction=fraction,
        border_tissue=border_fraction(mask),
        mask_mpp=mask_mpp,
        mask_png=_to_png(mask),
        finest_mpp=row.finest_mpp or 0.0,
    )
    return Survey(entry, glass)


def _overview(slide: WholeSlide) -> tuple[float, np.ndarray]:
    mpp = mask_resolution(slide.mpp, slide.size)
    while slide.size.area * (slide.mpp / mpp) ** 2 > MASK_PIXELS:
        mpp *= 2
    height, width = (
        max(1, math.ceil(side * slide.mpp / mpp)) for side in (slide.size.height, slide.size.width)
    )
    return mpp, slide.read_region(Region(0, 0, height, width), mpp)


def _to_png(mask: np.ndarray) -> bytes:
    _, png = cv2.imencode(".png", mask.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
    return png.tobytes()


def _is_slide(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix not in SLIDE_SUFFIXES or not path.is_file():
        return False
    if suffix not in PICTURE_SUFFIXES:
        return True
    stem = path.name[: -len(suffix)]
    others = (p.suffix.lower() for p in path.parent.glob(f"{_escape(stem)}.*") if p != path)
    return not any(s == ".parquet" or (s in SLIDE_SUFFIXES and s not in PICTURE_SUFFIXES) for s in others)


def _escape(stem: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in stem)

"""The H&E slide that is translated: opened, identified, read in rows."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from wsigen.errors import MissingMppError, SlideError
from wsigen.geometry import Colour, Region
from wsigen.runtime import usable_cpus
from wsigen.slide.provenance import beside
from wsigen.slide.read import WholeSlide, open_slide
from wsigen.slide.tiff_backend import check_complete

STRIP = 256  # rows: as high as the tiles of most files, so that each is decoded once
READERS = max(1, min(4, usable_cpus() // 2))  # one keeps up with a CPU, several with a GPU
_CHUNK = 2**22


def open_source(path: Path, mpp: float | None = None) -> WholeSlide:
    """Open a slide to translate.

    Args:
        path: whatever `wsigen.slide.read` opens.
        mpp: µm/px, for a slide that does not say.

    Raises:
        SlideError: missing, damaged, cut off, or of an unknown format.
        MissingMppError: nobody knows its µm/px.
    """
    try:
        slide = open_slide(path, mpp)
    except MissingMppError as error:
        raise MissingMppError(path, "µm/px is not in its metadata; pass --mpp") from error
    check_complete(slide.path)
    return slide


def source_name(path: Path) -> str:
    """The name of a slide without its endings and _HE: ``a_HE.ome.tif`` → ``a``."""
    name = beside(path, "").name
    return (name if name != path.name else path.stem).removesuffix("_HE") or path.stem


def source_facts(slide: WholeSlide) -> dict[str, Any]:
    """What says which pixels a slide has: name, size, µm/px and SHA-256 of the file.

    Of MIRAX, whose pixels lie in a folder beside the file, the folder counts too.

    Raises:
        SlideError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for file in (slide.path, *_folder_files(slide.path)):
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
    except OSError as error:
        raise SlideError(slide.path, f"cannot be read ({error.strerror or error})") from error
    size = {"height": slide.size.height, "width": slide.size.width}
    return {"slide": slide.path.name, **size, "mpp": slide.mpp, "sha256": digest.hexdigest()}


def _folder_files(path: Path) -> list[Path]:
    folder = path.with_suffix("")
    mirax = path.suffix.lower() == ".mrxs" and folder.is_dir()
    return sorted(file for file in folder.rglob("*") if file.is_file()) if mirax else []


def source_rows(slide: WholeSlide, first: int, background: Colour) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of a slide's level 0 in order, strips read while those before them are worked on.

    Args:
        slide: to read.
        first: row to begin with.
        background: where the slide is transparent.

    Yields:
        Index of the first row, and uint8 (at most 256, width, 3).

    Memory: ``READERS`` + 1 strips.
    """
    height, width = slide.size.height, slide.size.width
    tops = [first, *range((first // STRIP + 1) * STRIP, height, STRIP)] if first < height else []

    def read(y: int) -> np.ndarray:
        end = min((y // STRIP + 1) * STRIP, height)
        return slide.read_region(Region(y, 0, end - y, width), slide.mpp, background)

    with ThreadPoolExecutor(READERS, "wsigen-read") as pool:
        ahead = deque(pool.submit(read, y) for y in tops[:READERS])
        try:
            for i, y in enumerate(tops):
                rows = ahead.popleft().result()
                ahead.extend(pool.submit(read, later) for later in tops[i + READERS : i + READERS + 1])
                yield y, rows
        finally:
            for strip in ahead:
                strip.cancel()

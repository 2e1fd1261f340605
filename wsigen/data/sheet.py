"""One picture of all indexed slides, tissue outlined: what will be learnt, at a glance."""

from __future__ import annotations

import math

import cv2
import numpy as np

from wsigen.data.entry import SlideEntry
from wsigen.data.index import SlideIndex
from wsigen.geometry import Region

OUTLINE, INK, PAPER = (0, 150, 60), (40, 40, 40), (255, 255, 255)
CAPTION = 30
MOST = 200


def contact_sheet(index: SlideIndex, cell: int = 240, columns: int | None = None) -> np.ndarray:
    """Thumbnails with the outline of the tissue, the slide's name and its µm/px.

    Args:
        index: the slides; of more than 200, 200 evenly picked.
        cell: side of a thumbnail, px.
        columns: thumbnails in a row; about as many as rows by default.

    Returns:
        uint8 (height, width, 3).

    Memory:
        The sheet, and one slide at a time at the size of its thumbnail.
    """
    picked = np.linspace(0, len(index.entries) - 1, min(MOST, len(index.entries))).round().astype(int)
    columns = columns or math.ceil(math.sqrt(len(picked)))
    rows = math.ceil(len(picked) / columns)
    sheet = np.full((rows * (cell + CAPTION), columns * cell, 3), PAPER, np.uint8)
    for i, which in enumerate(picked):
        y, x = i // columns * (cell + CAPTION), i % columns * cell
        sheet[y : y + cell + CAPTION, x : x + cell] = _cell(index.entries[which], cell)
    return sheet


def _cell(entry: SlideEntry, cell: int) -> np.ndarray:
    inner = cell - 8
    mpp = max(entry.mpp, max(entry.height, entry.width) * entry.mpp / inner)
    height, width = (min(inner, max(1, round(s * entry.mpp / mpp))) for s in (entry.height, entry.width))
    picture = entry.open().read_region(Region(0, 0, height, width), mpp, entry.background)
    mask = cv2.resize(entry.mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, outlines, -1, OUTLINE, 1)
    out = np.full((cell + CAPTION, cell, 3), PAPER, np.uint8)
    y, x = (cell - height) // 2, (cell - width) // 2
    out[y : y + height, x : x + width] = picture
    share = f"{entry.mpp:.3g} um/px, {entry.tissue_fraction:.0%} tissue, {entry.split}"
    for line, text in enumerate((_shorten(entry.slide.rpartition("/")[2], cell), share)):
        cv2.putText(
            out, text, (4, cell + 11 + 13 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.38, INK, 1, cv2.LINE_AA
        )
    return out


def _shorten(name: str, cell: int) -> str:
    most = max(4, cell // 7)
    return name if len(name) <= most else name[: most // 2] + ".." + name[-(most - most // 2 - 2) :]

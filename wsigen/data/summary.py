"""Summaries of an index for people: a table of patches by µm/px, and a contact sheet with tissue outlines."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import cv2
import numpy as np

from wsigen.config import parse_region
from wsigen.config.index import IndexConfig
from wsigen.data.find import Failure
from wsigen.data.index import ROI_MARGIN, SlideEntry, SlideIndex
from wsigen.data.survey import build_index
from wsigen.errors import OutputError
from wsigen.files import write_bytes
from wsigen.geometry import Region
from wsigen.slide.mask import Roi

SCALES = tuple(0.25 * 2**i for i in range(10))


log = logging.getLogger(__name__)


def write_index(config: IndexConfig) -> SlideIndex:
    """Index slides; write the index and its contact sheet; log the summary.

    Args:
        config: which slides, and where to write.

    Raises:
        OutputError: ``config.out`` exists already, or cannot be written.
        SlideError: no slide that can be used.
        InvalidValueError: there is one mask for several slides.
        PathError: the table is wrong.
    """
    out, picture = config.out, config.out.with_suffix(".png")
    taken = [p for p in (out, picture) if p.exists()]
    if taken and not config.overwrite:
        raise OutputError(taken[0], "exists already; pass --overwrite to replace it, or another --out")
    roi = Roi(config.mask, config.mask_class, parse_region(config.region) if config.region else None)
    index, failures = build_index(
        config.slides,
        config.table,
        roi=roi,
        val_fraction=config.val_fraction,
        class_column=config.class_column,
    )
    index.save(out)
    _, png = cv2.imencode(".png", cv2.cvtColor(contact_sheet(index), cv2.COLOR_RGB2BGR))
    write_bytes(picture, png.tobytes())
    log.info("%s", summary(index, failures, config.patch_size))
    log.info("index: %s, contact sheet: %s", out, picture)
    return index


def independent_patches(entry: SlideEntry, patch_size: int, mpp: float) -> int:
    """Return a slide's tissue area in patches, at least 1; 0 if it cannot serve them.

    Args:
        entry: the slide.
        patch_size: side, px.
        mpp: µm/px.
    """
    if not entry.serves(patch_size, mpp):
        return 0
    return max(1, round(entry.tissue_um2 / (patch_size * mpp) ** 2))


def usable_range(entry: SlideEntry, patch_size: int) -> str:
    """Return the µm/px at which a slide serves patches: "0.25-2", "0.25-" (no upper end) or "none"."""
    if not entry.serves(patch_size, entry.finest):
        return "none"
    if entry.serves(patch_size, 1e6):
        return f"{entry.finest:.3g}-"
    margin = 0 if entry.roi_png is None else 2 * ROI_MARGIN
    return f"{entry.finest:.3g}-{entry.widest / (patch_size + margin):.3g}"


def summary(index: SlideIndex, failures: Sequence[Failure] = (), patch_size: int = 256) -> str:
    """Return a table: a line per slide, totals per split and µm/px, and slides left out with reasons.

    Args:
        index: the slides.
        failures: slides left out.
        patch_size: side of the patches that are counted, px.
    """
    columns = [(f"{m:g}", 7) for m in SCALES]
    name = min(44, max(len(e.slide) for e in index.entries))
    head = f"{'slide':<{name}} split  µm/px  height × width   tissue mm²  {'usable at':>10}  " + _cells(
        columns
    )
    lines = [f"Independent {patch_size} px patches of tissue by µm/px (read at that µm/px):", head]
    lines += [_line(entry, name, patch_size) for entry in index.entries]
    for split in ("train", "val", "test"):
        entries = index.split(split).entries
        if entries:
            area = sum(e.tissue_um2 for e in entries) / 1e6
            label = f"{len(entries)} slides, {len({e.group for e in entries})} groups"
            counts = [sum(independent_patches(e, patch_size, m) for e in entries) for m in SCALES]
            lines.append(
                f"{label:<{name}} {split:<5} {'':>6} {'':>15} {area:>12.1f}  {'':>10}  " + _numbers(counts)
            )
    if failures:
        lines.append(f"Left out, {len(failures)}:")
        lines += [f"  {f.slide}: {f.reason}" for f in failures]
    return "\n".join(lines)


def _line(entry: SlideEntry, name: int, patch_size: int) -> str:
    slide = entry.slide if len(entry.slide) <= name else "…" + entry.slide[-(name - 1) :]
    size = f"{entry.height} × {entry.width}"
    counts = [independent_patches(entry, patch_size, m) for m in SCALES]
    return (
        f"{slide:<{name}} {entry.split:<5} {entry.mpp:>6.3g} {size:>15} {entry.tissue_um2 / 1e6:>12.2f}  "
        f"{usable_range(entry, patch_size):>10}  " + _numbers(counts)
    )


def _numbers(counts: Sequence[int]) -> str:
    return _cells([(str(c) if c else "·", 7) for c in counts])


def _cells(cells: Sequence[tuple[str, int]]) -> str:
    return "".join(f"{text:>{width}}" for text, width in cells)


OUTLINE, INK, PAPER = (0, 150, 60), (40, 40, 40), (255, 255, 255)

CAPTION = 30

MOST = 200


def contact_sheet(index: SlideIndex, cell: int = 240, columns: int | None = None) -> np.ndarray:
    """Draw thumbnails with tissue outlines, the slides' names and µm/px.

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
    picture = entry.open().skipping_damage().read_region(Region(0, 0, height, width), mpp, entry.background)
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

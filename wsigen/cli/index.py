"""``wsigen index``: find out where there is tissue, and at which scales, before learning from it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from wsigen.cli.parse import parse
from wsigen.data.index import SlideIndex
from wsigen.data.summary import contact_sheet, summary
from wsigen.data.survey import build_index
from wsigen.errors import InvalidValueError, OutputError
from wsigen.files import write_bytes

DESCRIPTION = (
    "Look at every slide: its µm/px, where its tissue is, at which µm/px patches can be cut from it. Writes "
    "the index and, beside it, a contact sheet with the tissue outlined; prints a summary table."
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """What to index.

    Args:
        slides: a folder of slides, or one slide.
        out: the index to write, a .parquet file; the contact sheet gets the same name and .png.
        table: CSV with columns slide, and any of mpp, group, split, for what the files do not say.
        val_fraction: share of slide groups kept for validation, unless the table says which.
        patch_size: side of the patches that the summary counts, px.
        overwrite: replace an existing index.
    """

    slides: Path
    out: Path = Path("index.parquet")
    table: Path | None = None
    val_fraction: float = 0.1
    patch_size: int = 256
    overwrite: bool = False


def run(argv: Sequence[str], prog: str = "wsigen index") -> None:
    """Parse ``argv`` and index."""
    config, _ = parse(IndexConfig, argv, prog=prog, description=DESCRIPTION, positional="slides")
    run_index(
        Path(config.slides),
        Path(config.out),
        config.table,
        val_fraction=config.val_fraction,
        patch_size=config.patch_size,
        overwrite=config.overwrite,
    )


def run_index(
    slides: Path,
    out: Path,
    table: Path | None = None,
    *,
    val_fraction: float = 0.1,
    patch_size: int = 256,
    overwrite: bool = False,
) -> SlideIndex:
    """Index slides; write the index and its contact sheet; log the summary.

    Args:
        slides: a folder of slides, or one slide.
        out: the index to write, ``.parquet``.
        table: what the files do not say.
        val_fraction: share of slide groups kept for validation.
        patch_size: side of the patches that the summary counts, px.
        overwrite: replace an existing index.

    Raises:
        InvalidValueError: ``out`` is not a ``.parquet``, or a number makes no sense.
        OutputError: ``out`` exists already, or cannot be written.
        SlideError: no slide that can be used.
        PathError: the table is at fault.
    """
    if out.suffix != ".parquet":
        raise InvalidValueError(
            f"--out must end in .parquet, got {out}; pass --out {out.with_suffix('.parquet')}"
        )
    if patch_size < 1:
        raise InvalidValueError(f"--patch-size must be at least 1 px, got {patch_size}")
    picture = out.with_suffix(".png")
    taken = [p for p in (out, picture) if p.exists()]
    if taken and not overwrite:
        raise OutputError(taken[0], "exists already; pass --overwrite to replace it, or another --out")
    index, failures = build_index(slides, table, val_fraction=val_fraction)
    index.save(out)
    _, png = cv2.imencode(".png", cv2.cvtColor(contact_sheet(index), cv2.COLOR_RGB2BGR))
    write_bytes(picture, png.tobytes())
    log.info("%s", summary(index, failures, patch_size))
    log.info("index: %s, contact sheet: %s", out, picture)
    return index

"""``wsigen translate``: translate an H&E slide into IHC."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wsigen.cli.parse import parse
from wsigen.config import TranslateConfig

DESCRIPTION = (
    "Translate an H&E slide into IHC, on the same grid and µm/px. Writes OUT/NAME_IHC-MARKER.ome.tif with "
    "its provenance (.json) and a thumbnail (.jpg). With --like, transfer the stain of another H&E slide "
    "instead: OUT/NAME_like-REFERENCE.ome.tif. If interrupted, run the same command again: it continues "
    "where it stopped."
)


def run(argv: Sequence[str], prog: str = "wsigen translate") -> None:
    """Parse ``argv`` and make the slides, or print their plan."""
    config, _ = parse(TranslateConfig, argv, prog=prog, description=DESCRIPTION, positional="slide")
    from wsigen.pipeline.translate import open_run
    from wsigen.runtime import keep_freed_memory

    keep_freed_memory()
    slides = open_run(config)
    # Features of the largest layers are not kept: of two sizes, they do not fit into each other's place.
    keep_freed_memory(slides.plan.host_bytes // 16)
    if config.dry_run:
        sys.stdout.write(slides.describe() + "\n")
    else:
        slides.make()

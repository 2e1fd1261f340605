"""``wsigen translate``: give an H&E slide its IHC twin."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wsigen.cli.parse import parse
from wsigen.config import TranslateConfig

DESCRIPTION = (
    "Translate an H&E slide into another stain, on the same grid and µm/px. Writes "
    "OUT/NAME_IHC-MARKER.ome.tif with its provenance (.json) and a thumbnail (.jpg). With --like, give it "
    "the stain of another H&E slide instead: OUT/NAME_like-REFERENCE.ome.tif. Interrupted, the same command "
    "goes on where it stopped."
)


def run(argv: Sequence[str], prog: str = "wsigen translate") -> None:
    """Parse ``argv`` and make the slide, or say what it would take."""
    config, _ = parse(TranslateConfig, argv, prog=prog, description=DESCRIPTION, positional="slide")
    from wsigen.runtime import keep_freed_memory
    from wsigen.synthesis.translate import describe_translation, translate

    keep_freed_memory()
    if config.dry_run:
        sys.stdout.write(describe_translation(config) + "\n")
    else:
        translate(config)

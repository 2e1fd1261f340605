"""``sample`` and ``wsigen sample``: synthesise slides."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wsigen.cli.parse import parse
from wsigen.config import SampleConfig

DESCRIPTION = (
    "Synthesise H&E slides. Writes OUT/NAME_HE.ome.tif with its provenance (.json), a thumbnail (.jpg) and "
    "its stage 0 (.png); with --stain, also OUT/NAME_IHC-MARKER.ome.tif on the same grid. With --count, make "
    "several and a table of them; with --overview, start from your own picture; with --region, make only a "
    "region. If interrupted, run the same command again: it continues where it stopped."
)


def run(argv: Sequence[str], prog: str = "sample") -> None:
    """Parse ``argv`` and make the slides, or print their plan."""
    config, _ = parse(SampleConfig, argv, prog=prog, description=DESCRIPTION)
    from wsigen.pipeline.sample import open_run
    from wsigen.runtime import keep_freed_memory

    keep_freed_memory()
    slides = open_run(config)
    if config.dry_run:
        sys.stdout.write(slides.describe() + "\n")
    else:
        slides.make()

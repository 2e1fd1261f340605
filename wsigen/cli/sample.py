"""``sample`` and ``wsigen sample``: synthesise slides."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wsigen.cli.parse import parse
from wsigen.config import SampleConfig

DESCRIPTION = (
    "Synthesise H&E slides. Writes OUT/NAME_HE.ome.tif with its provenance (.json), a thumbnail (.jpg) and "
    "the overview that it was made from (.png); with --stain, OUT/NAME_IHC-MARKER.ome.tif of the same pixels "
    "as well. With --overview, it is made from a picture of yours; with --region, a part of a "
    "slide that is not made. Interrupted, the same command goes on "
    "where it stopped."
)


def run(argv: Sequence[str], prog: str = "sample") -> None:
    """Parse ``argv`` and make the slides, or say what they would take."""
    config, _ = parse(SampleConfig, argv, prog=prog, description=DESCRIPTION)
    from wsigen.runtime import keep_freed_memory
    from wsigen.synthesis.slides import describe_slides, make_slides

    keep_freed_memory()
    if config.region is not None:
        from wsigen.synthesis.part import make_parts

        make_parts(config)
        return
    if config.dry_run:
        sys.stdout.write(describe_slides(config) + "\n")
    else:
        make_slides(config)

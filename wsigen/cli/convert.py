"""``wsigen convert``: write slides as DICOM or OME-Zarr."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wsigen.cli.parse import parse
from wsigen.config.convert import ConvertConfig

DESCRIPTION = (
    "Write slides and pairs as DICOM whole-slide images (the H&E and IHC slides of a pair are series of one "
    "study) or as OME-Zarr 0.5, with the µm/px of every level and the pixels of the slides. If interrupted, "
    "run the same command again."
)


def run(argv: Sequence[str], prog: str = "wsigen convert") -> None:
    """Parse ``argv`` and convert slides.

    Raises:
        WsigenError: a slide cannot be read or written, or a package is missing.
    """
    config, _ = parse(ConvertConfig, argv, prog=prog, description=DESCRIPTION, positional="slides")
    from wsigen.config.check import as_list
    from wsigen.data.domains import expand
    from wsigen.slide.convert import convert

    files = expand(as_list(config.slides))
    for path in convert([*files.values()], config.format, config.out, config.mpp):
        sys.stdout.write(f"{path}\n")

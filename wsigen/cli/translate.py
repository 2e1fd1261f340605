"""``wsigen translate``: translate H&E slides into IHC."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wsigen.cli.parse import parse
from wsigen.config import TranslateSlidesConfig

if TYPE_CHECKING:
    from wsigen.pipeline.translate import TranslateRun

DESCRIPTION = (
    "Translate H&E slides into IHC, on the same grid and µm/px. Writes OUT/NAME_IHC-MARKER.ome.tif with "
    "its provenance (.json) and a thumbnail (.jpg). With --like, transfer the stain of another H&E slide "
    "instead: OUT/NAME_like-REFERENCE.ome.tif. Of several slides or a folder, those that fail are passed "
    "over, and OUT/translate.csv says what became of each. If interrupted, run the same command again: it "
    "continues where it stopped."
)


def run(argv: Sequence[str], prog: str = "wsigen translate") -> None:
    """Parse ``argv`` and make the slides, or print their plan."""
    config, _ = parse(TranslateSlidesConfig, argv, prog=prog, description=DESCRIPTION, positional="slide")
    from wsigen.runtime import keep_freed_memory

    keep_freed_memory()
    if isinstance(config.slide, list) or config.slide.is_dir():
        _run_slides(config)
        return
    from wsigen.pipeline.translate import open_run

    slide = open_run(config.of(config.slide, config.out))
    _limit_kept_memory(slide)
    if config.dry_run:
        sys.stdout.write(slide.describe() + "\n")
    else:
        slide.make()


def _run_slides(config: TranslateSlidesConfig) -> None:
    from wsigen.pipeline.batch import as_text, describe_slides, require_all, translate_slides

    if config.dry_run:
        sys.stdout.write("\n\n".join(describe_slides(config, opened=_limit_kept_memory)) + "\n")
        return
    outcomes = translate_slides(config, opened=_limit_kept_memory)
    sys.stdout.write(as_text(outcomes) + "\n")
    require_all(outcomes, config.out)


def _limit_kept_memory(run: TranslateRun) -> None:
    """Return features of the largest layers when freed: of two sizes, they do not fit into each other."""
    from wsigen.runtime import keep_freed_memory

    keep_freed_memory(run.plan.host_bytes // 16)

"""``wsigen evaluate``: compare sets of slides with real ones."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from wsigen.cli.parse import gathered, parse
from wsigen.config.evaluate import EvaluateConfig

DESCRIPTION = (
    "Compare generated slides with real ones: fidelity, diversity, spectrum, stain, quality, nuclei, scales, "
    "seams, privacy; every value beside the same measure between halves of the real slides. Write "
    "OUT/index.html, one page that needs nothing else, and OUT/report.json. Slides are read in patches, "
    "however large they are."
)
LISTS = ("--generated", "--real", "--compare", "--train", "--pairs", "--real-pairs")

log = logging.getLogger(__name__)


def run(argv: Sequence[str], prog: str = "wsigen evaluate") -> None:
    """Parse ``argv`` and evaluate; with ``--dry-run`` print how many patches each slide would give."""
    config, _ = parse(EvaluateConfig, gathered(argv, LISTS), prog=prog, description=DESCRIPTION)
    if config.dry_run:
        from wsigen.evaluation.inputs import load_inputs
        from wsigen.evaluation.sets import describe

        inputs = load_inputs(config)
        sys.stdout.write(describe(inputs.plans, inputs.warnings, inputs.drawn) + "\n")
        return
    from wsigen.evaluation.inputs import refuse_existing
    from wsigen.evaluation.run import measure

    refuse_existing(config.out, overwrite=config.overwrite)  # before hours are spent on another
    report = measure(config)
    page = report.save(config.out, overwrite=True)
    for name, worst in report.worst().items():
        log.info("%s: %s", name, worst or "no measure has a floor")
    log.info("%s", page)

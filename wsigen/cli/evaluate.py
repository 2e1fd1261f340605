"""``wsigen evaluate``: compare sets of slides with real ones."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence

from wsigen.cli.parse import parse
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
    config, _ = parse(EvaluateConfig, gathered(argv), prog=prog, description=DESCRIPTION)
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


def gathered(argv: Sequence[str]) -> list[str]:
    """Return the arguments with all paths of a flag, which shells expand from a pattern, as one JSON list.

    Args:
        argv: such as ``--real a.tif b.tif --seed 1 --real c.tif``.
    """
    out: list[str] = []
    lists: dict[str, list[str]] = {}
    flag = None
    for argument in argv:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            name = name.replace("_", "-")  # both spellings are one flag
            flag = name if name in LISTS and not equals else None
            if name in LISTS:
                lists.setdefault(name, []).extend([value] if equals else [])
                continue
        if flag is None or argument.startswith("--"):
            out.append(argument)
        else:
            lists[flag].append(argument)
    given = [[name, paths[0] if len(paths) == 1 else json.dumps(paths)] for name, paths in lists.items()]
    return [*out, *(word for pair in given for word in pair)]

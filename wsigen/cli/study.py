"""``wsigen study``: let readers judge slides, blinded."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

from wsigen.cli.parse import gathered, parse
from wsigen.config.study import StudyMakeConfig, StudyReportConfig, StudyServeConfig
from wsigen.errors import InvalidValueError

DESCRIPTIONS = {
    "make": (
        "Make a blinded reader study: images of the same size, µm/px and encoding from real and synthetic "
        "slides (or from H&E slides and their translations), balanced, on tissue, under random codes. OUT "
        "has the images, the readers' codes (readers.csv) and the key (key.json), which is never served."
    ),
    "serve": (
        "Serve a study to its readers, each by a code. An answer is on disk before the next item is shown; "
        "a reader who comes back continues with the next item. Ctrl-C ends it, and nothing is lost."
    ),
    "report": (
        "Report on the answers of a study: accuracy, AUC, agreement, learning and time, for each reader and "
        "pooled, with 95 % intervals. Write index.html, one page that needs nothing else, and tables as CSV."
    ),
}
STEPS = {
    "make": "draw images from slides",
    "serve": "show them to readers and keep the answers",
    "report": "accuracy, AUC and agreement of the readers",
}
LISTS = ("--real", "--synthetic", "--source", "--translation")

log = logging.getLogger(__name__)


def run(argv: Sequence[str], prog: str = "wsigen study") -> None:
    """Parse ``argv`` and make, serve or report on a study."""
    commands: dict[str, Callable[[Sequence[str], str], None]] = {
        "make": _make,
        "serve": _serve,
        "report": _report,
    }
    if argv and argv[0] in ("-h", "--help"):
        sys.stdout.write(_usage(prog) + "\n")
        sys.exit(0)
    if not argv or argv[0] not in commands:
        got = repr(argv[0]) if argv else "nothing"
        raise InvalidValueError(f"the first argument must be one of {', '.join(commands)}, got {got}")
    commands[argv[0]](argv[1:], f"{prog} {argv[0]}")


def _make(argv: Sequence[str], prog: str) -> None:
    words = ["--question+" + w[10:] if w.split("=")[0] == "--question" else w for w in argv]
    words = gathered(words, LISTS)
    config, _ = parse(StudyMakeConfig, words, prog=prog, description=DESCRIPTIONS["make"])
    from wsigen.study.make import make_study

    study = make_study(config)
    log.info("%s", study.describe())
    log.info("codes of the readers: %s", study.folder / "readers.csv")
    log.info("next: wsigen study serve %s", study.folder)


def _serve(argv: Sequence[str], prog: str) -> None:
    config, _ = parse(
        StudyServeConfig, argv, prog=prog, description=DESCRIPTIONS["serve"], positional="study"
    )
    from wsigen.study.server import serve_study

    serve_study(config)


def _report(argv: Sequence[str], prog: str) -> None:
    config, _ = parse(
        StudyReportConfig, argv, prog=prog, description=DESCRIPTIONS["report"], positional="study"
    )
    from wsigen.study.report import report_study

    log.info("%s", report_study(config))


def _usage(prog: str) -> str:
    lines = [f"  {name:<8}{what}" for name, what in STEPS.items()]
    last = f"{prog} make --help shows its options."
    return "\n".join([f"usage: {prog} {'|'.join(STEPS)} …", "", *lines, "", last])

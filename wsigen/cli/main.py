"""Entry points: ``wsigen COMMAND``, ``sample``, and errors as one line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import import_module

from wsigen import __version__
from wsigen.errors import WsigenError

COMMANDS = {
    "sample": "synthesise slides",
    "translate": "translate H&E slides into IHC",
    "train": "train a denoiser, an upscaler or a stain translator on slides",
    "index": "find tissue and µm/px of slides, before training",
    "evaluate": "compare synthetic slides with real ones",
    "convert": "write slides as DICOM or OME-Zarr",
    "corpus": "make and verify corpora of many synthetic slides",
    "view": "look at slides and pairs in a browser",
    "study": "let readers judge slides, blinded, and report their answers",
    "import-stainer": "convert a published stain translator",
}


def main(argv: Sequence[str] | None = None) -> None:
    """``wsigen COMMAND …``."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        _say(_usage())
        sys.exit(0 if argv else 2)
    if argv[0] == "--version":
        _say(__version__)
        return
    if argv[0] not in COMMANDS:
        _say(f"wsigen: error: no command {argv[0]!r}; use one of {', '.join(COMMANDS)}", error=True)
        sys.exit(2)
    run(argv[0], argv[1:], prog=f"wsigen {argv[0]}")


def sample(argv: Sequence[str] | None = None) -> None:
    """``sample …``, the same as ``wsigen sample …``."""
    run("sample", sys.argv[1:] if argv is None else argv, prog="sample")


def train(argv: Sequence[str] | None = None) -> None:
    """``train.py …``, the same as ``wsigen train …``."""
    run("train", sys.argv[1:] if argv is None else argv, prog="train.py")


def run(command: str, argv: Sequence[str], *, prog: str) -> None:
    """Run a command; a user's mistake becomes one line on stderr and exit status 2, an interrupt 130.

    Args:
        command: a key of ``COMMANDS``.
        argv: its arguments.
        prog: how the user called it.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it reports every request of a download
    module = import_module(module_name(command))  # so that --help does not wait for torch
    try:
        module.run(list(argv), prog=prog)
    except WsigenError as error:
        _say(f"{prog}: error: {error}", error=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def module_name(command: str) -> str:
    """Return the module of a command."""
    return f"wsigen.cli.{command.replace('-', '_')}"


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: wsigen COMMAND …", "", *lines, "", "wsigen COMMAND --help shows the options."])


def _say(text: str, *, error: bool = False) -> None:
    (sys.stderr if error else sys.stdout).write(text + "\n")

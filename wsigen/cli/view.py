"""``wsigen view``: look at slides and pairs in a browser."""

from __future__ import annotations

from collections.abc import Sequence

from wsigen.cli.parse import parse
from wsigen.config.view import ViewConfig

DESCRIPTION = (
    "Show slides in a browser: any format that wsigen reads, an H&E slide and its IHC slides side by side, "
    "under a curtain, blinking or blended, with scale bar, magnification, annotations and provenance. With "
    "--seed, a slide that nobody made, computed where it is looked at. The server listens on this machine "
    "only, writes nothing, and serves nothing but the slides that were named."
)


def run(argv: Sequence[str], prog: str = "wsigen view") -> None:
    """Parse ``argv`` and serve until interrupted."""
    # "+" appends: --overlay may be given several times.
    argv = [_appended(argument) for argument in argv]
    config, _ = parse(ViewConfig, argv, prog=prog, description=DESCRIPTION, positional="slides")
    from wsigen.viewer.run import view  # so that --help does not wait for it

    view(config)


def _appended(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    return f"{flag}+{equals}{value}" if flag == "--overlay" else argument

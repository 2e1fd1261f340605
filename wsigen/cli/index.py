"""``wsigen index``: find where there is tissue, and at which scales, before training on slides."""

from __future__ import annotations

from collections.abc import Sequence

from wsigen.cli.parse import parse
from wsigen.config.index import IndexConfig

DESCRIPTION = (
    "Find the µm/px of every slide, its tissue, and the µm/px at which patches can be cut from it. Write "
    "the index and, beside it, a contact sheet with the tissue outlined; print a summary table."
)


def run(argv: Sequence[str], prog: str = "wsigen index") -> None:
    """Parse ``argv`` and index."""
    config, _ = parse(IndexConfig, argv, prog=prog, description=DESCRIPTION, positional="slides")
    from wsigen.data.summary import write_index  # so that --help does not wait for it

    write_index(config)

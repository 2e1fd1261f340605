"""What a run leaves on disk: slides that need no making again, and the state that it goes on with."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from wsigen.files import disk_errors, free_bytes
from wsigen.runtime import format_bytes
from wsigen.slide.provenance import read_provenance

TAKEN = "another process is making this slide; wait for it, or choose another --name"

log = logging.getLogger(__name__)


def is_written(slide: Path, fingerprint: str, layout: str) -> bool:
    """Whether this very slide is there already, by the fingerprint and the layout in its JSON.

    Args:
        slide: the file.
        fingerprint: hash of what its pixels follow from.
        layout: of the file.
    """
    facts = read_provenance(slide)
    same = facts.get("fingerprint") == fingerprint and facts.get("layout") == layout
    return same and slide.is_file()


def drop_other_state(journals: Iterable[Path], fingerprint: str, codecs: Collection[str]) -> None:
    """Remove journals of another run, so that this one may use their folders.

    Args:
        journals: their folders; what is none is left as it is.
        fingerprint: of this run.
        codecs: names of those that this run's journals have.

    Raises:
        OutputError: if one cannot be removed.
    """
    for folder in journals:
        manifest = folder / "journal.json"
        if manifest.is_file() and not _is_of(manifest, fingerprint, codecs):
            with disk_errors(folder):
                shutil.rmtree(folder)


def _is_of(manifest: Path, fingerprint: str, codecs: Collection[str]) -> bool:
    try:
        found = json.loads(manifest.read_bytes())
        return found["fingerprint"] == fingerprint and found["codec"] in codecs
    except (ValueError, KeyError, TypeError):
        return False


def warn_of_disk(out: Path, needed: int) -> None:
    """Warn where a disk may fill up; no more than that, since the estimate is of a slide that is all tissue.

    Args:
        out: the folder that is written to.
        needed: bytes at most.
    """
    free = free_bytes(out)
    if free is not None and free < needed:
        log.warning(
            "%s: a slide can take %s while it is made, %s are free; if it fills up, make room "
            "and run the same command again",
            out,
            format_bytes(needed),
            format_bytes(free),
        )

"""The run folder: one run at a time, its configurations and its statistics."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from wsigen.errors import InvalidValueError
from wsigen.files import only_process, write_bytes
from wsigen.training.state import CHECKPOINT

CONFIG = "config.yaml"
STATS = "stats.jsonl"

log = logging.getLogger(__name__)


def only_run(run_dir: Path, *, main: bool) -> AbstractContextManager[None]:
    """Keep other runs out of the folder, made where missing.

    Args:
        run_dir: the folder.
        main: whether this is the main process of its run; the others share its lock.

    Raises:
        OutputError: on entering, if another run holds the folder, or it cannot be written to.
    """
    taken = "another process is training in this folder; wait for it, or choose another --run_dir"
    return only_process(run_dir, taken) if main else nullcontext()


def check_same_run(
    config: Any, run_dir: Path, *, parts: Sequence[str], data: Sequence[str], index: str
) -> None:
    """Refuse to go on with a run of, say, another network, loss or seed; warn of other slides.

    Args:
        config: the run to be, a dataclass.
        run_dir: its folder.
        parts: fields that must not differ.
        data: fields of ``config.data`` that say which slides.
        index: name of the file in the folder that holds the slides.

    Raises:
        InvalidValueError: if they differ from the folder's.
    """
    path = run_dir / CONFIG
    if not (path.is_file() and (run_dir / CHECKPOINT).is_file()):
        return
    before, now = yaml.safe_load(path.read_text(encoding="utf-8")), _plain(config)
    for part in parts:
        if _differs(before[part], now[part]):
            raise InvalidValueError(
                f"{run_dir} holds a run with {part}={before[part]}, this one has {now[part]}; "
                "pass another --run_dir, or the old settings to continue it"
            )
    if any(before["data"][key] != now["data"][key] for key in data):
        log.warning("%s goes on with the slides of its %s; pass another --run_dir for others", run_dir, index)


def _differs(before: Any, now: Any) -> bool:
    """Fields that have come into being since then are as they were: they have their defaults."""
    if isinstance(before, dict) and isinstance(now, dict):
        return any(key not in now or _differs(value, now[key]) for key, value in before.items())
    return before != now


def save_config(config: Any, run_dir: Path, images: int) -> None:
    """Write config.yaml; a different one that ``images`` images were made with becomes config-KIMG.yaml.

    Args:
        config: the run.
        run_dir: its folder.
        images: images seen so far.

    Raises:
        OutputError: if the disk refuses.
    """
    path, now = run_dir / CONFIG, _plain(config)
    if images and path.is_file():
        before = path.read_bytes()
        earlier = run_dir / f"config-{images / 1000}.yaml"
        # one that is there already led to these images; what was tried from here since has left none
        if yaml.safe_load(before) != now and not earlier.exists():
            write_bytes(earlier, before)
    write_bytes(path, yaml.safe_dump(now, sort_keys=False).encode())


def _plain(config: Any) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(config), default=str))


def drop_lost_stats(run_dir: Path, images: int) -> None:
    """Remove lines of stats.jsonl about images that no checkpoint remembers: they are about to be seen again.

    Args:
        run_dir: the folder of the run.
        images: images that the checkpoint has seen.

    Raises:
        OutputError: if the disk refuses; the file is then as before.
    """
    path = run_dir / STATS
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if _kimg(line) <= images / 1000]
    if kept != lines:
        write_bytes(path, b"".join(kept))


def _kimg(line: bytes) -> float:
    """Thousands of images that a line is about; infinite for one that was cut off while it was written."""
    try:
        return float(json.loads(line)["kimg"]) if line.endswith(b"\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")

"""What a training run stores: its folder, configurations, statistics, and the resumable checkpoint."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml

from wsigen.errors import InvalidValueError, OutputError
from wsigen.files import atomic_path, only_process, write_bytes

CHECKPOINT = "checkpoint.pt"
CONFIG = "config.yaml"
STATS = "stats.jsonl"

log = logging.getLogger(__name__)


class Part(Protocol):
    """Something that a checkpoint holds."""

    def state_dict(self) -> Any:
        """Return what it can be restored from."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Restore what ``state_dict`` returned."""
        ...


@dataclass
class RunState:
    """Everything that the next update depends on, and the progress of the run.

    Args:
        parts: networks, averages, optimisers and the like, by their names in the checkpoint.
        update: updates made.
        images: images seen.
        validated: images seen at the last validation; -1 before the first.
    """

    parts: Mapping[str, Part]
    update: int = 0
    images: int = 0
    validated: int = -1

    def save(self, run_dir: Path) -> None:
        """Replace the checkpoint of ``run_dir``, whole or not at all.

        Raises:
            OutputError: it cannot be written; the old one is then still there.
        """
        state = {
            **{name: part.state_dict() for name, part in self.parts.items()},
            "update": self.update,
            "images": self.images,
            "validated": self.validated,
        }
        path = run_dir / CHECKPOINT
        try:
            with atomic_path(path) as temporary:
                torch.save(state, temporary)
        except RuntimeError as error:  # how torch's own writer reports a full disk
            raise OutputError(path, f"cannot be written ({error}); free some space") from error

    def load(self, run_dir: Path) -> bool:
        """Continue from the checkpoint of ``run_dir``; return False if there is none.

        Raises:
            OutputError: it cannot be read or belongs to another network.
        """
        path = run_dir / CHECKPOINT
        if not path.is_file():
            return False
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)  # runs no code that a file holds
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
        except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            first = str(error).splitlines()[0]
            raise OutputError(
                path, f"does not fit this configuration ({first}); use another --run_dir"
            ) from error
        self.update, self.images = int(state["update"]), int(state["images"])
        self.validated = int(state.get("validated", -1))  # older checkpoints lack it
        return True


def only_run(run_dir: Path, *, main: bool) -> AbstractContextManager[None]:
    """Keep other runs out of the folder, which is made if missing.

    Args:
        run_dir: the folder.
        main: whether this is the main process of its run; the others share its lock.

    Raises:
        OutputError: on entering, another run holds the folder, or it cannot be written to.
    """
    taken = "another process is training in this folder; wait for it, or choose another --run_dir"
    return only_process(run_dir, taken) if main else nullcontext()


def check_same_run(
    config: Any, run_dir: Path, *, parts: Sequence[str], data: Sequence[str], index: str
) -> None:
    """Refuse to continue a run with another network, loss or seed; warn of other slides.

    Args:
        config: the run to be, a dataclass.
        run_dir: its folder.
        parts: fields that must not differ, where the run has them.
        data: fields of ``config.data`` that name the slides, likewise.
        index: name of the file in the folder that holds the slides.

    Raises:
        InvalidValueError: they differ from the folder's.
    """
    path = run_dir / CONFIG
    if not (path.is_file() and (run_dir / CHECKPOINT).is_file()):
        return
    before, now = yaml.safe_load(path.read_text(encoding="utf-8")), _plain(config)
    for part in parts:
        if part in now and _differs(before.get(part), now[part]):
            raise InvalidValueError(
                f"{run_dir} holds a run with {part}={before.get(part)}, this one has {now[part]}; "
                "pass another --run_dir, or the old settings to continue it"
            )
    if any(before["data"].get(key) != now["data"].get(key) for key in data):
        log.warning(
            "%s continues with the slides of its %s; pass another --run_dir for others", run_dir, index
        )


def _differs(before: Any, now: Any) -> bool:
    """Whether settings changed; fields that are newer than the run have the values that they had then."""
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
        OutputError: the disk refuses.
    """
    path, now = run_dir / CONFIG, _plain(config)
    if images and path.is_file():
        before = path.read_bytes()
        earlier = run_dir / f"config-{images / 1000}.yaml"
        # If it exists, its settings led to these images, and later ones left no trace.
        if yaml.safe_load(before) != now and not earlier.exists():
            write_bytes(earlier, before)
    write_bytes(path, yaml.safe_dump(now, sort_keys=False).encode())


def _plain(config: Any) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(config), default=str))  # tuples and paths as YAML gives them back


def drop_lost_stats(run_dir: Path, images: int) -> None:
    """Remove lines of stats.jsonl about images beyond the checkpoint: they will be seen again.

    Args:
        run_dir: the folder of the run.
        images: images that the checkpoint has seen.

    Raises:
        OutputError: the disk refuses; the file is then as before.
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
        # without its end, a line was being written when the run died
        return float(json.loads(line)["kimg"]) if line.endswith(b"\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")

"""``wsigen train`` and ``train.py``: train a denoiser, an upscaler or a stainer on slides."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from wsigen.cli.parse import parse
from wsigen.config import STAIN_METHODS, TrainConfig, UpscalerTrainConfig
from wsigen.errors import InvalidValueError

DENOISER = "denoiser"
METHODS: dict[str, type[Any]] = {DENOISER: TrainConfig, "upscaler": UpscalerTrainConfig, **STAIN_METHODS}
DESCRIPTION = (
    "Train the denoiser on whole-slide images; with --method, or a `method:` in the YAML file, the upscaler "
    f"or a stainer ({', '.join(STAIN_METHODS)}): `train --method cut --help` shows its options. The "
    "same command again continues an interrupted run. Use `accelerate launch train.py …` for several "
    "processes."
)


def run(argv: Sequence[str], prog: str = "wsigen train") -> None:
    """Parse ``argv`` and train."""
    method, argv = _method(argv)
    config, file = parse(METHODS[method], argv, prog=prog, description=DESCRIPTION, dashes=False)
    if config.run_dir is None:
        config = dataclasses.replace(config, run_dir=Path("runs") / (file.stem if file else method))
    if method == DENOISER:
        from wsigen.training.denoiser import train

        train(config)
    elif method == "upscaler":
        from wsigen.training.upscaler.train import train_upscaler

        train_upscaler(config)
    else:
        from wsigen.training.stain.train import train_stainer

        train_stainer(config)


def _method(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return what to train, by the flag or else by the file, and the other arguments."""
    chosen, rest = _take(argv, "--method")
    for file in _values(argv, "--config"):
        said = _in_file(Path(file))
        if said and chosen not in (None, said):
            raise InvalidValueError(
                f"{file} is for method {said}, got --method={chosen}; leave one of them out"
            )
        chosen = said or chosen
    chosen = chosen or DENOISER
    if chosen not in METHODS:
        raise InvalidValueError(f"method must be one of {', '.join(METHODS)}, got {chosen}")
    return chosen, rest if chosen == DENOISER else [*rest, f"--method={chosen}"]


def _take(argv: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    values, rest = _values(argv, flag), []
    arguments = iter(argv)
    for argument in arguments:
        if argument == flag:
            next(arguments, None)
        elif not argument.startswith(f"{flag}="):
            rest.append(argument)
    return (values[-1] if values else None), rest


def _values(argv: Sequence[str], flag: str) -> list[str]:
    following = [b for a, b in pairwise(argv) if a == flag]
    return [*following, *(a.partition("=")[2] for a in argv if a.startswith(f"{flag}="))]


def _in_file(path: Path) -> str | None:
    """Return the method that a YAML file names; the parser reports mistakes in the file."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return values.get("method") if isinstance(values, dict) else None

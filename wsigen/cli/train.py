"""``wsigen train`` and ``train.py``: learn a denoiser from slides."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from wsigen.cli.parse import parse
from wsigen.config import TrainConfig

DESCRIPTION = (
    "Train the denoiser on whole-slide images. The same command again continues an interrupted run. "
    "Use `accelerate launch train.py …` for several processes."
)


def run(argv: Sequence[str], prog: str = "wsigen train") -> None:
    """Parse ``argv`` and train."""
    config, file = parse(TrainConfig, argv, prog=prog, description=DESCRIPTION, dashes=False)
    if config.run_dir is None:
        config = dataclasses.replace(config, run_dir=Path("runs") / (file.stem if file else "denoiser"))
    from wsigen.training.denoiser import train

    train(config)

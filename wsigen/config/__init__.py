"""What a run can be told: frozen dataclasses, one docstring line per field.

The files in ``configs/`` and the flags on the command line fill these in; ``wsigen.cli.parse`` is the one
place that does it.
"""

from wsigen.config.check import check
from wsigen.config.sample import SampleConfig, parse_bytes
from wsigen.config.train import (
    DataConfig,
    DenoiserConfig,
    LossConfig,
    OptimConfig,
    PatchGroup,
    TrainConfig,
)

__all__ = [
    "DataConfig",
    "DenoiserConfig",
    "LossConfig",
    "OptimConfig",
    "PatchGroup",
    "SampleConfig",
    "TrainConfig",
    "check",
    "parse_bytes",
]

"""What a run can be told: frozen dataclasses, one docstring line per field.

The files in ``configs/`` and the flags on the command line fill these in; ``wsigen.cli.parse`` is the one
place that does it.
"""

from wsigen.config.check import check, parse_region
from wsigen.config.domains import StainDataConfig, StainOptimConfig, StainRunConfig
from wsigen.config.sample import SampleConfig, parse_mpp, parse_size
from wsigen.config.stain import (
    STAIN_METHODS,
    CutConfig,
    CutLossConfig,
    CycleGanConfig,
    CycleGanLossConfig,
    DiscriminatorConfig,
    FastCutConfig,
    GanOptimConfig,
    GeneratorConfig,
    LSeSimConfig,
    LSeSimLossConfig,
    StainTrainConfig,
)
from wsigen.config.style import AdainConfig, StyleDataConfig, StyleLossConfig
from wsigen.config.train import (
    AugmentConfig,
    DataConfig,
    DenoiserConfig,
    LossConfig,
    OptimConfig,
    PatchGroup,
    TrainConfig,
)
from wsigen.config.translate import TranslateConfig, TranslateSlidesConfig
from wsigen.config.upscaler import (
    CriticConfig,
    SampledGuidesConfig,
    UpscalerConfig,
    UpscalerLossConfig,
    UpscalerTrainConfig,
)

__all__ = [
    "STAIN_METHODS",
    "AdainConfig",
    "AugmentConfig",
    "CriticConfig",
    "CutConfig",
    "CutLossConfig",
    "CycleGanConfig",
    "CycleGanLossConfig",
    "DataConfig",
    "DenoiserConfig",
    "DiscriminatorConfig",
    "FastCutConfig",
    "GanOptimConfig",
    "GeneratorConfig",
    "LSeSimConfig",
    "LSeSimLossConfig",
    "LossConfig",
    "OptimConfig",
    "PatchGroup",
    "SampleConfig",
    "SampledGuidesConfig",
    "StainDataConfig",
    "StainOptimConfig",
    "StainRunConfig",
    "StainTrainConfig",
    "StyleDataConfig",
    "StyleLossConfig",
    "TrainConfig",
    "TranslateConfig",
    "TranslateSlidesConfig",
    "UpscalerConfig",
    "UpscalerLossConfig",
    "UpscalerTrainConfig",
    "check",
    "parse_mpp",
    "parse_region",
    "parse_size",
]

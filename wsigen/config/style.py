"""Options of the training of a style decoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from wsigen.config.check import check
from wsigen.config.domains import StainDataConfig, StainOptimConfig, StainRunConfig


@dataclass(frozen=True, kw_only=True)
class StyleLossConfig:
    """Content and style losses (Huang & Belongie 2017, eq. 11) and URST's (Chen et al. 2022).

    Args:
        lambda_content: weight of the distance of the output's features to those that it was decoded from.
        lambda_style: λ, weight of the distance of the features' μ and σ to the style's.
        lambda_reconstruction: weight of the reconstruction loss of a new encoder; others have none.
        lambda_stroke: weight of the stroke perceptual loss, 1 in URST; 0 skips a second decoding.
        thumbnail: factor by which the thumbnails of the stroke loss are smaller.
    """

    lambda_content: float = 1.0
    lambda_style: float = 10.0
    lambda_reconstruction: float = 10.0
    lambda_stroke: float = 0.0
    thumbnail: int = 2

    def __post_init__(self) -> None:
        for name in ("lambda_content", "lambda_style", "lambda_reconstruction", "lambda_stroke"):
            check(getattr(self, name) >= 0, f"loss.{name}", getattr(self, name), ">= 0")
        check(self.thumbnail >= 2, "loss.thumbnail", self.thumbnail, ">= 2")


@dataclass(frozen=True, kw_only=True)
class StyleDataConfig(StainDataConfig):
    """Which slides to learn from, and how to cut them.

    Args:
        source: slides to restyle: a folder, a slide, a pattern such as "he/bs25_*.tif", an index made by
            ``wsigen index``, or a list of folders, slides and patterns.
        target: slides whose stain is transferred, given in the same way; not those of the source.
        patch_size: side of the patches, px.
        batch: images of each domain per update, over all processes.
    """

    patch_size: int = 256
    batch: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.patch_size % 8 == 0, "data.patch_size", self.patch_size, "a multiple of 8")


@dataclass(frozen=True, kw_only=True)
class AdainConfig(StainRunConfig):
    """Decoder for stain transfer by example (Huang & Belongie 2017); the published hyper-parameters.

    Args:
        method: "adain".
        data: slides of both domains and how to cut them.
        encoder: "torchvision" to download its VGG-19 weights, a file of them, the folder of a style
            snapshot, or "new" to train an encoder too, where no weights are available.
        encoder_width: channels of the first layer of a new encoder.
        loss: weights of the losses.
        optim: optimiser.
        kimg: thousands of images to train on.
    """

    data: StyleDataConfig
    method: Literal["adain"] = "adain"
    encoder: str = "torchvision"
    encoder_width: int = 64
    loss: StyleLossConfig = field(default_factory=StyleLossConfig)
    optim: StainOptimConfig = field(default_factory=lambda: StainOptimConfig(lr=1e-4, betas=(0.9, 0.999)))
    kimg: float = 1280.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.encoder_width >= 1, "encoder_width", self.encoder_width, ">= 1")
        small, multiple = self.data.patch_size // self.loss.thumbnail, 8 * self.loss.thumbnail
        check(
            not self.loss.lambda_stroke or (self.data.patch_size % multiple == 0 and small >= 16),
            "data.patch_size",
            self.data.patch_size,
            f"a multiple of {multiple} and at least {16 * self.loss.thumbnail} with the stroke loss",
        )

"""What the training of a style decoder can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from wsigen.config.check import check
from wsigen.config.domains import StainDataConfig, StainOptimConfig, StainRunConfig


@dataclass(frozen=True, kw_only=True)
class StyleLossConfig:
    """Content and style losses (Huang & Belongie 2017, eq. 11) and URST's (Chen et al. 2022).

    Args:
        lambda_content: weight of the distance to the features that were painted from.
        lambda_style: λ, weight of the distance of μ and σ to the style's.
        lambda_reconstruction: weight of the reconstruction that a new encoder learns from; others need none.
        lambda_stroke: weight of the stroke perceptual loss, 1 in URST; 0 saves a second painting.
        thumbnail: how many times smaller the thumbnails are that strokes are compared with.
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
        source: slides to paint: a folder, a slide, a pattern such as "he/bs25_*.tif", an index made by
            ``wsigen index``, or a list of folders, slides and patterns.
        target: slides whose stains are painted in, given in the same way; other slides than the source's.
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
        data: slides of both kinds and how to cut them.
        encoder: "torchvision" for its download of VGG-19, a file of VGG-19's weights, the folder of a style
            snapshot, or "new" to train one along, where no weights can be had.
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

"""Adaptive instance normalisation with explicit statistics, and networks that apply it.

Huang & Belongie 2017, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", eq. 8:
AdaIN(x, y) = σ(y) (x − μ(x)) / σ(x) + μ(y). Chen et al. 2022 (URST, thumbnail instance normalisation) measure
μ and σ of content and style on thumbnails, so that every tile of an image is changed by the same map, and
tiles with a halo equal the whole slide. Here the statistics are arguments; the caller measures them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wsigen.stain.style.network import StyleModel

EPSILON = 1e-5  # added to the variance, as in the published weights' training
LARGEST_GAIN = 10.0


@dataclass(frozen=True)
class FeatureStats:
    """Mean and standard deviation over the positions of each channel.

    Attributes:
        mean: (b, c), float32.
        std: (b, c), float32, the root of biased variance + 1e-5.
    """

    mean: Float[Tensor, "b c"]
    std: Float[Tensor, "b c"]


@dataclass(frozen=True)
class ChannelMap:
    """x → scale · x + shift, per channel.

    Attributes:
        scale: (b, c, 1, 1).
        shift: (b, c, 1, 1).
    """

    scale: Float[Tensor, "b c 1 1"]
    shift: Float[Tensor, "b c 1 1"]

    def __call__(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Apply the map to every position."""
        return features * self.scale.to(features.dtype) + self.shift.to(features.dtype)


def feature_stats(
    features: Float[Tensor, "b c h w"], weight: Float[Tensor, "b 1 h w"] | None = None
) -> FeatureStats:
    """Return weighted mean and standard deviation of each channel, in float32.

    Args:
        features: of an encoder.
        weight: how much each position counts, ≥ 0, not all zero; None counts all alike.
    """
    x = features.float().flatten(2)
    w = torch.ones_like(x[:, :1]) if weight is None else weight.float().flatten(2)
    w = w / w.sum(dim=2, keepdim=True)
    mean = (x * w).sum(dim=2, keepdim=True)
    variance = ((x - mean).square() * w).sum(dim=2)
    return FeatureStats(mean[:, :, 0], (variance + EPSILON).sqrt())


def adain_map(content: FeatureStats, style: FeatureStats, strength: float = 1.0) -> ChannelMap:
    """Return AdaIN (eq. 8) blended with the unchanged features (eq. 14), as one map per channel.

    σ(y)/σ(x) is held at 10 or less, unlike in the papers: a channel that is dead in a thumbnail may well be
    alive in a tile, and would be blown up there without limit.

    Args:
        content: statistics of what is to be changed.
        style: statistics of what it is to look like.
        strength: α of eq. 14, in [0, 1]; 0 leaves the features as they are.
    """
    gain = (style.std / content.std).clamp(max=LARGEST_GAIN)
    scale = 1 - strength + strength * gain
    shift = strength * (style.mean - gain * content.mean)
    return ChannelMap(scale[:, :, None, None], shift[:, :, None, None])


class LikeReference(nn.Module):
    """Encoder, AdaIN with constant statistics, decoder.

    Args:
        model: encoder and decoder; shared, not copied.
        content: statistics of one image, the slide to be changed.
        style: statistics of one image, the reference.
        strength: of the transfer, in [0, 1].

    Attributes:
        config: of the model.
        stride: tiles start at, and have sides of, multiples of this many pixels.
        halo: real pixels that a tile needs around it.

    Determinism:
        An output pixel depends on the ``halo`` pixels around it alone.
    """

    def __init__(
        self, model: StyleModel, content: FeatureStats, style: FeatureStats, strength: float = 1.0
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder
        self.config, self.stride, self.halo = model.config, model.stride, model.halo
        moved = adain_map(content, style, strength)
        self.register_buffer("scale", moved.scale)
        self.register_buffer("shift", moved.shift)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return images in [-1, 1] in the reference's stain; sides are multiples of 8 and at least 16."""
        assert isinstance(self.scale, Tensor)
        assert isinstance(self.shift, Tensor)
        return self.decoder(ChannelMap(self.scale, self.shift)(self.encoder(x)))


class LikePictures(nn.Module):
    """Encoder, AdaIN with each picture's own statistics, decoder: for whole pictures, as in training.

    Args:
        model: encoder and decoder; shared, not copied.
        style: statistics of one image, or of several together.
    """

    def __init__(self, model: StyleModel, style: FeatureStats) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder
        self.style = style

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return images in [-1, 1] in the style's stain; sides are multiples of 8 and at least 16."""
        features = self.encoder(x)
        return self.decoder(adain_map(feature_stats(features), self.style)(features))

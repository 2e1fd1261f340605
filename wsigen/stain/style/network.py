"""VGG-19 up to relu4_1, the decoder that mirrors it, and a transfer of statistics between them.

Huang & Belongie 2017, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", eq. 8:
AdaIN(x, y) = σ(y) (x − μ(x)) / σ(x) + μ(y). Li et al. 2017, "Universal Style Transfer via Feature
Transforms", eq. 2 and 3, whitening and colouring with covariances in place of variances:
WCT(x, y) = Σ(y)^½ Σ(x)^-½ (x − μ(x)) + μ(y). Chen et al. 2022 (URST, thumbnail instance normalisation and
whitening) measure these statistics of content and style on thumbnails, so that every tile of an image is
changed by the same map, and tiles with a halo equal the whole slide. Here the statistics are arguments; the
caller measures them.

Images go in and come out in [-1, 1]: what published weights expect instead (BGR, ImageNet's mean, [0, 1]) is
folded into the first and the last convolution, see `wsigen.stain.style.weights`. All convolutions pad by
reflection, all upsampling is nearest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear, max_pool2d, relu

from wsigen.errors import InvalidValueError
from wsigen.nn.network import Network

STRIDE = 8
# Encoder: 2 convolutions at full scale, 2 at 1/2, 4 at 1/4, 1 at 1/8; the decoder the same backwards. Radius
# 2·(2·1 + 2·2 + 4·4 + 1·8) = 60 px, and 2 px more because pooling cells are aligned.
RADIUS = 62
ENCODER_DEPTHS = (2, 2, 4, 1)
TAPS = (0, 2, 4, 8)  # relu1_1, relu2_1, relu3_1, relu4_1: the first convolution of each scale


def encoder_channels(width: int) -> list[tuple[int, int]]:
    """Return (in, out) channels of the encoder's convolutions, in order."""
    outs = [width * 2**scale for scale, depth in enumerate(ENCODER_DEPTHS) for _ in range(depth)]
    return list(zip([3, *outs], outs, strict=False))


def decoder_channels(width: int) -> list[tuple[int, int]]:
    """Return (in, out) channels of the decoder's convolutions: the encoder's, backwards."""
    return [(o, i) for i, o in reversed(encoder_channels(width))]


def _conv(channels: tuple[int, int]) -> nn.Conv2d:
    return nn.Conv2d(*channels, 3, padding=1, padding_mode="reflect")


class Encoder(nn.Module):
    """VGG-19 up to relu4_1.

    Args:
        width: channels of the first convolution; 64 in VGG-19.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.colour = nn.Conv2d(3, 3, 1)
        self.convs = nn.ModuleList(_conv(c) for c in encoder_channels(width))
        with torch.no_grad():
            self.colour.weight.copy_(torch.eye(3)[:, :, None, None])
            self.colour.bias.zero_()  # pyright: ignore[reportOptionalMemberAccess]

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h8 w8"]:
        """Return relu4_1 of images in [-1, 1].

        Raises:
            InvalidValueError: if height or width is no multiple of 8, or below 16.
        """
        *_, last = self._activations(x)
        return last

    def features(self, x: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Return relu1_1, relu2_1, relu3_1 and relu4_1, at 1, 1/2, 1/4 and 1/8 of the image's size."""
        return [h for i, h in enumerate(self._activations(x)) if i in TAPS]

    def _activations(self, x: Tensor) -> Iterator[Tensor]:
        _check_size(x)
        x = self.colour(x)
        for i, conv in enumerate(self.convs):
            if i in TAPS[1:]:  # the published encoder pools before these
                x = max_pool2d(x, 2)
            x = relu(conv(x))
            yield x


class Decoder(nn.Module):
    """From relu4_1 back to an image.

    Args:
        width: of the encoder.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(c) for c in decoder_channels(width))

    def forward(self, features: Float[Tensor, "b c h8 w8"]) -> Float[Tensor, "b 3 h w"]:
        """Return an image, in [-1, 1] except for overshoot."""
        x, last = features, len(self.convs) - 1
        for i, conv in enumerate(self.convs):
            if last - i + 1 in TAPS:  # the mirrored encoder pools here
                x = interpolate(x, scale_factor=2.0, mode="nearest")
            x = conv(x)
            x = relu(x) if i < last else x
        return x


class StyleModel(Network):
    """Encoder and decoder of AdaIN style transfer.

    Args:
        width: channels of the first convolution; 64 in the published weights.
        mpp: µm/px that the decoder was trained at. A record, as are all below.
        mpp_range: smallest and largest µm/px that it was trained at.
        source: where the weights come from, for provenance.

    Raises:
        InvalidValueError: a number that is not positive.

    Attributes:
        stride: images have sides, and tiles start, at multiples of this many pixels.
        halo: real pixels that a tile needs around it for its core to be independent of the tiling.
    """

    stride = STRIDE
    halo = -(-RADIUS // STRIDE) * STRIDE

    def __init__(
        self,
        width: int = 64,
        mpp: float | None = None,
        mpp_range: Sequence[float] | None = None,
        source: str | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"width": width, "mpp": mpp}.items():
            if value is not None and not value > 0:
                raise InvalidValueError(f"{name} must be positive, got {value}")
        self.encoder = Encoder(width)
        self.decoder = Decoder(width)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Reconstruct images in [-1, 1]: no style is transferred."""
        return self.decoder(self.encoder(x))


def _check_size(x: Tensor) -> None:
    height, width = x.shape[-2:]
    if height % STRIDE or width % STRIDE or min(height, width) < 2 * STRIDE:
        raise InvalidValueError(
            f"images must have sides that are multiples of {STRIDE} and at least {2 * STRIDE} px, "
            f"got {height} x {width}; pad them"
        )


EPSILON = 1e-5  # added to the variance, as in the published weights' training
LARGEST_GAIN = 10.0
FAINTEST = 1e-5  # variance below which a component is not whitened, as in the code of WCT's authors

Transfer = Literal["adain", "wct"]


@dataclass(frozen=True)
class FeatureStats:
    """Mean and standard deviation over the positions of each channel, and the channels' covariance.

    Attributes:
        mean: (b, c), float32.
        std: (b, c), float32, the root of biased variance + 1e-5.
        covariance: (b, c, c), float32, biased; None where it was not asked for.
    """

    mean: Float[Tensor, "b c"]
    std: Float[Tensor, "b c"]
    covariance: Float[Tensor, "b c c"] | None = None


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


@dataclass(frozen=True)
class MatrixMap:
    """x → scale · x + shift, of all channels at a position.

    Attributes:
        scale: (c, c).
        shift: (c,).
    """

    scale: Float[Tensor, "c c"]
    shift: Float[Tensor, " c"]

    def __call__(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Apply the map to every position."""
        scale, shift = self.scale.to(features.dtype), self.shift.to(features.dtype)
        return linear(features.permute(0, 2, 3, 1), scale, shift).permute(0, 3, 1, 2)


def feature_stats(
    features: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "b 1 h w"] | None = None,
    *,
    covariance: bool = False,
) -> FeatureStats:
    """Return weighted mean and standard deviation of each channel, in float32.

    Args:
        features: of an encoder.
        weight: how much each position counts, ≥ 0, not all zero; None counts all alike.
        covariance: whether to measure that of the channels too.
    """
    x = features.float().flatten(2)
    w = torch.ones_like(x[:, :1]) if weight is None else weight.float().flatten(2)
    w = w / w.sum(dim=2, keepdim=True)
    mean = (x * w).sum(dim=2, keepdim=True)
    centred = x - mean
    variance = (centred.square() * w).sum(dim=2)
    mixed = centred * w @ centred.mT if covariance else None
    return FeatureStats(mean[:, :, 0], (variance + EPSILON).sqrt(), mixed)


def adain_map(content: FeatureStats, style: FeatureStats, strength: float = 1.0) -> ChannelMap:
    """Return AdaIN (eq. 8) blended with the unchanged features (eq. 14), as one map per channel.

    σ(y)/σ(x) is held at 10 or less, unlike in the papers: a channel that is dead in a thumbnail may well be
    alive in a tile, and would be blown up there without limit.

    Args:
        content: statistics of what is to be changed.
        style: statistics of what it is to look like.
        strength: α of eq. 14, in [0, 1]; 0 leaves the features as they are.
    """
    # both have EPSILON in their variance: no division by 0
    gain = (style.std / content.std).clamp(max=LARGEST_GAIN)
    scale = 1 - strength + strength * gain
    shift = strength * (style.mean - gain * content.mean)
    return ChannelMap(scale[:, :, None, None], shift[:, :, None, None])


def wct_map(content: FeatureStats, style: FeatureStats, strength: float = 1.0) -> MatrixMap:
    """Return whitening and colouring, blended with the unchanged features, as one map of all channels.

    What is changed is whitened by the inverse root of its covariance, components of variance below 1e-5 left
    out, and coloured by the root of the other covariance. No component is enlarged by more than 10, for the
    reason that `adain_map` states.

    Args:
        content: statistics of one image that is to be changed, with covariance.
        style: statistics of one image that it is to look like, with covariance.
        strength: α, in [0, 1]; 0 leaves the features as they are.
    """
    whiten, colour = (_power(stats, power) for stats, power in ((content, -0.5), (style, 0.5)))
    left, gains, right = torch.linalg.svd(colour @ whiten)
    transfer = left * gains.clamp(max=LARGEST_GAIN) @ right
    shift = style.mean[0].double().cpu() - transfer @ content.mean[0].double().cpu()
    scale = (1 - strength) * torch.eye(len(transfer), dtype=torch.float64) + strength * transfer
    device = content.mean.device
    return MatrixMap(scale.float().to(device), (strength * shift).float().to(device))


def _power(stats: FeatureStats, power: float) -> Float[Tensor, "c c"]:
    """Return a power of the covariance of one image, float64 on the CPU, without its faintest components."""
    assert stats.covariance is not None, "asked for"
    variances, axes = torch.linalg.eigh(stats.covariance[0].double().cpu())
    live = variances > FAINTEST
    return axes[:, live] * variances[live] ** power @ axes[:, live].T


class LikeReference(nn.Module):
    """Encoder, AdaIN or WCT with constant statistics, decoder.

    Args:
        model: encoder and decoder; shared, not copied.
        content: statistics of one image, the slide to be changed.
        style: statistics of one image, the reference.
        strength: of the transfer, in [0, 1].
        transfer: "adain", of means and σ; or "wct", of means and covariances, which the statistics then have.

    Attributes:
        config: of the model.
        stride: tiles start at, and have sides of, multiples of this many pixels.
        halo: real pixels that a tile needs around it.

    Determinism:
        An output pixel depends on the ``halo`` pixels around it alone.
    """

    def __init__(
        self,
        model: StyleModel,
        content: FeatureStats,
        style: FeatureStats,
        strength: float = 1.0,
        transfer: Transfer = "adain",
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder
        self.config, self.stride, self.halo = model.config, model.stride, model.halo
        # once for all tiles, so that they cannot differ
        moved = (wct_map if transfer == "wct" else adain_map)(content, style, strength)
        self._map = type(moved)
        self.register_buffer("scale", moved.scale)
        self.register_buffer("shift", moved.shift)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return images in [-1, 1] in the reference's stain; sides are multiples of 8 and at least 16."""
        assert isinstance(self.scale, Tensor)
        assert isinstance(self.shift, Tensor)
        return self.decoder(self._map(self.scale, self.shift)(self.encoder(x)))


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

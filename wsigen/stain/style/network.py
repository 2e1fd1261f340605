"""VGG-19 up to relu4_1, and the decoder that mirrors it (Huang & Belongie 2017, section 6.1).

Images go in and come out in [-1, 1]: what published weights expect instead (BGR, ImageNet's mean, [0, 1]) is
folded into the first and the last convolution, see `wsigen.stain.style.weights`. All convolutions pad by
reflection, all upsampling is nearest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, relu

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
            if i in TAPS[1:]:
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

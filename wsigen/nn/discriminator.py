"""The discriminator that the upscaler is trained against; used in training only.

It sees the image without the guide, whose errors the upscaler could not correct. Its input is the image and
its two finest octaves, amplified, since most of the variance of tissue is at wavelengths that the guide
determines; it learns only with these and group norm. Several heads score positions on coarser and coarser
grids; µm/px enters by projection (Miyato & Koyama 2018).

Beside these, more heads see features of a network trained on ImageNet (Projected GAN, Sauer et al. 2021):
they know from the start what outlines and texture are, and judge shapes that the other heads would need a
hundred times more images to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wsigen.nn import pretrained
from wsigen.nn.upscaler import ScaleEmbedding

OCTAVE_GAINS = (6.0, 4.0)
"""Factors of the two finest octaves: about the reciprocals of their standard deviations."""
SLOPE = 0.2
GROUPS = 8


class Judgement(NamedTuple):
    """Scores and features of images.

    Attributes:
        scores: of each head, finest first, > 0 for real: (b, 1, h, w).
        features: at strides 2, 4, 8, …, normalised: (b, c, h, w).
    """

    scores: list[Tensor]
    features: list[Tensor]


class Judge(nn.Module):
    """Scores each position: a convolution plus a projection of the features on an embedding of µm/px."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, 1, 3, padding=1)
        self.scale = ScaleEmbedding(channels)
        nn.init.normal_(self.score.weight, std=0.02)
        nn.init.zeros_(self.score.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, h: Float[Tensor, "b c h w"], mpp: Float[Tensor, " b"]) -> Float[Tensor, "b 1 h w"]:
        """Return scores, > 0 for real."""
        return self.score(h) + (h * self.scale(mpp)[:, :, None, None]).mean(dim=1, keepdim=True)


class Discriminator(nn.Module):
    """Tells real from generated images, at many positions and several scales.

    Args:
        channels: features at strides 2, 4, 8, …; from stride 4 on there is a head at each.
        projected: features of the heads over those of ``pretrained``, 0 for no such heads.
    """

    def __init__(self, channels: tuple[int, ...] = (48, 96, 144, 192), projected: int = 0) -> None:
        super().__init__()
        inputs = (9, *channels)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip(inputs, channels, strict=False)
        )
        self.keep = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for c in channels)
        for layer in (*self.down, *self.keep):
            nn.init.kaiming_normal_(layer.weight, SLOPE)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
        self.judges = nn.ModuleList(Judge(c) for c in channels[1:])
        self.projected = Projected(projected) if projected else None

    def forward(self, x: Float[Tensor, "b 3 h w"], mpp: Float[Tensor, " b"]) -> Judgement:
        """Score images.

        Args:
            x: images in [-1, 1]; height and width are multiples of 2 to the number of ``channels``.
            mpp: their µm/px.
        """
        h, seen = with_octaves(x), Judgement([], [])
        for i, (down, keep) in enumerate(zip(self.down, self.keep, strict=True)):
            h = down(h)
            h = _activate(keep(F.leaky_relu(h, SLOPE) if i == 0 else _activate(h)))
            seen.features.append(h)
            if i:
                seen.scores.append(self.judges[i - 1](h, mpp))
        if self.projected is not None:
            seen.scores.extend(self.projected(pretrained.features(x), mpp))
        return seen


class Projected(nn.Module):
    """Heads over fixed random mixtures of pretrained features (Sauer et al. 2021, section 3.2).

    Random 1×1 convolutions mix the channels of each scale, and random 3×3 convolutions each scale with the
    enlarged coarser ones: no head can then look at a few telling features only. They are never trained.

    Args:
        channels: of the mixtures and of the heads, a multiple of 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.across = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in pretrained.CHANNELS)
        self.fuse = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in pretrained.CHANNELS)
        for layer in (*self.across, *self.fuse):
            nn.init.kaiming_normal_(layer.weight, 1.0)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
            layer.requires_grad_(False)
        self.down = nn.ModuleList(
            nn.Conv2d(channels, channels, 4, stride=2, padding=1) for _ in pretrained.CHANNELS
        )
        self.keep = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in pretrained.CHANNELS)
        self.judges = nn.ModuleList(Judge(channels) for _ in pretrained.CHANNELS)

    def forward(self, features: Sequence[Tensor], mpp: Float[Tensor, " b"]) -> list[Float[Tensor, "b 1 h w"]]:
        """Score the images that the features, finest first, are of; one score map a scale."""
        scores, mixed = [], None
        for i in reversed(range(len(features))):
            here = self.across[i](features[i])
            # Each scale adds to those above it; division keeps the variance of what is mixed.
            mixed = here if mixed is None else (here + _enlarge(mixed)) / 2**0.5
            mixed = self.fuse[i](mixed)
            h = _activate(self.keep[i](_activate(self.down[i](mixed))))
            scores.append(self.judges[i](h, mpp))
        return scores[::-1]


def with_octaves(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 9 h w"]:
    """Return the image and its two finest octaves, amplified, all at its resolution."""
    half = F.avg_pool2d(x, 2)
    quarter = F.avg_pool2d(half, 2)
    # octaves as of a Laplacian pyramid: faults of grain are small beside tissue's contrast
    fine, coarse = x - _enlarge(half), _enlarge(half - _enlarge(quarter))
    return torch.cat([x, OCTAVE_GAINS[0] * fine, OCTAVE_GAINS[1] * coarse], dim=1)


def _activate(h: Tensor) -> Tensor:
    return F.leaky_relu(F.group_norm(h, GROUPS), SLOPE)


def _enlarge(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

"""What a decoder is trained with (Huang & Belongie 2017, eqs. 11 to 13)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import mse_loss

from wsigen.stain.style.adain import feature_stats


def content_loss(painted: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Eq. 12: how far relu4_1 of the painted image is from the features that it was painted from.

    The mean of squares, as in the published training, where the paper writes the norm.
    """
    return mse_loss(painted.float(), target.float())


def style_loss(painted: Sequence[Tensor], style: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Eq. 13: how far μ and σ of the painted image are from those of the style image, summed over layers.

    Args:
        painted: relu1_1 … relu4_1 of the painted images, each (b, c, h, w).
        style: the same of the style images; sizes may differ.
    """
    terms = []
    for mine, wanted in zip(painted, style, strict=True):
        a, b = feature_stats(mine), feature_stats(wanted)
        terms.append(mse_loss(a.mean, b.mean) + mse_loss(a.std, b.std))
    return torch.stack(terms).sum()

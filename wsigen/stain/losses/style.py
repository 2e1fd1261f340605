"""Losses of style transfer: content and style (Huang & Belongie 2017, eqs. 11 to 13), strokes (URST).

Stroke perceptual loss (Chen et al. 2022): a style network makes marks of a fixed size in pixels, so the
larger the picture, the finer it looks. The loss takes a stylised patch P and the stylised thumbnail of the
same region, T, brings T to P's size (bilinear, U) and asks for the same features φ of a fixed network (VGG at
relu4_1) at each layer l:

    L_sp = mean over l of ‖φ_l(P) − φ_l(U(T))‖² / (C_l H_l W_l)

No gradient flows through T, else the thumbnail could be made finer instead of the patch broader. It is added
to a method's own losses with a weight, 1 in URST.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import mse_loss

from wsigen.errors import InvalidValueError
from wsigen.stain.style.network import feature_stats


def stroke_loss(
    encoder: Callable[[Tensor], Sequence[Tensor]],
    patch: Float[Tensor, "b 3 h w"],
    thumbnail: Float[Tensor, "b 3 th tw"],
) -> Float[Tensor, ""]:
    """Return L_sp ≥ 0, float32 also under autocast.

    Args:
        encoder: φ, from images in [-1, 1] to features of one or more layers, such as ``VGG``.
        patch: stylised patches P, in [-1, 1].
        thumbnail: T, the same regions, shrunk by the same factor in both directions and then stylised.

    Raises:
        InvalidValueError: the thumbnail is larger than the patch, or of another shape.
    """
    (h, w), (th, tw) = patch.shape[2:], thumbnail.shape[2:]
    if th > h or h * tw != w * th:
        raise InvalidValueError(
            f"the thumbnail must be the patch of {h} × {w} px, shrunk by one factor, got {th} × {tw} px"
        )
    with torch.no_grad():  # the thumbnail is the target: it learns nothing
        broad = F.interpolate(thumbnail.float(), size=(h, w), mode="bilinear", align_corners=False)
        wanted = encoder(broad)
    found = encoder(patch)
    return torch.stack([F.mse_loss(a.float(), b.float()) for a, b in zip(found, wanted, strict=True)]).mean()


def content_loss(painted: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Return eq. 12: the distance of the output's relu4_1 to the features that it was decoded from.

    The mean of squares, as in the published training, where the paper writes the norm.
    """
    return mse_loss(painted.float(), target.float())


def style_loss(painted: Sequence[Tensor], style: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Return eq. 13: the distance of the output's μ and σ to those of the style image, summed over layers.

    Args:
        painted: relu1_1 … relu4_1 of the painted images, each (b, c, h, w).
        style: the same of the style images; sizes may differ.
    """
    terms = []
    for mine, wanted in zip(painted, style, strict=True):
        a, b = feature_stats(mine), feature_stats(wanted)
        terms.append(mse_loss(a.mean, b.mean) + mse_loss(a.std, b.std))
    return torch.stack(terms).sum()

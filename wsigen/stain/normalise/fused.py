"""Normalising a feature map with a field: (x - mean(y, x)) · inv_std(y, x)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from wsigen.stain.normalise.field import Field, locate


def apply_field(
    x: Float[Tensor, "c h w"], field: Field, origin: tuple[int, int], scale: tuple[float, float]
) -> Float[Tensor, "c h w"]:
    """One tile's feature map, normalised with the field where the tile lies.

    Args:
        x: features of one tile.
        field: statistics of this layer.
        origin: (y, x) of the tile on the slide, image pixels.
        scale: image pixels per feature pixel, (y, x).
    """
    rows, cols = (
        locate(axis, field.interpolation, field.granularity, origin=o, scale=s, count=n)
        for axis, o, s, n in zip((field.rows, field.cols), origin, scale, x.shape[1:], strict=True)
    )
    out = x.float()
    for table, op in ((field.mean, torch.sub), (field.inv_std, torch.mul)):
        nodes = table.to(x.device, torch.float32).permute(2, 0, 1)
        after = (rows.before + 1).clamp(max=nodes.shape[1] - 1).to(x.device)
        lines = nodes[:, rows.before.to(x.device)]
        lines = lines + (nodes[:, after] - lines) * rows.weight.to(x.device)[:, None]
        after = (cols.before + 1).clamp(max=nodes.shape[2] - 1).to(x.device)
        left = lines[:, :, cols.before.to(x.device)]
        out = op(out, left + (lines[:, :, after] - left) * cols.weight.to(x.device))
    return out.to(x.dtype)

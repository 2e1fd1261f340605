"""The linear constraint between a stage and the coarser image that guides it.

A is k×k average pooling. Its rows are disjoint and A Aᵀ = I/k², hence the pseudo-inverse A† = k² Aᵀ is
nearest-neighbour replication, A A† = I, and u + A†(y - A u) is the image closest to u whose k×k means are
exactly y (DDNM, Wang et al. 2023, eq. 12-13; Harb et al. 2024, Algorithm 1, line 5).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def pool(x: Float[Tensor, "b c h w"], k: int) -> Float[Tensor, "b c gh gw"]:
    """Return A x: the mean of every k×k block.

    Args:
        x: images whose height and width are multiples of ``k``.
        k: factor between the stages, at least 2.
    """
    # Sums of strided slices: five times faster on a CPU than avg_pool2d.
    rows = x[:, :, ::k] + x[:, :, 1::k]
    for i in range(2, k):
        rows += x[:, :, i::k]
    mean = rows[..., ::k] + rows[..., 1::k]
    for i in range(2, k):
        mean += rows[..., i::k]
    return mean.mul_(1 / k**2)


def replicate(y: Float[Tensor, "b c gh gw"], k: int) -> Float[Tensor, "b c h w"]:
    """Return A†y: every pixel becomes a k×k block.

    Args:
        y: coarse images.
        k: factor between the stages, at least 2.
    """
    return y.repeat_interleave(k, dim=3).repeat_interleave(k, dim=2)


def project(u: Float[Tensor, "b c h w"], y: Float[Tensor, "b c gh gw"], k: int) -> Float[Tensor, "b c h w"]:
    """Return the guided estimate ū = u + A†(y - A u), for which A ū = y.

    Args:
        u: a denoised estimate; overwritten.
        y: the guide, k times smaller than ``u``.
        k: factor between the stages, at least 2.
    """
    # In place and by strided rows: u has the size of a batch of patches.
    wide = (y - pool(u, k)).repeat_interleave(k, dim=3)
    for i in range(k):
        u[:, :, i::k] += wide
    return u

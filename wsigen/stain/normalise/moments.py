"""Plain instance normalisation that returns its statistics.

Memory: on the CPU a group of channels at a time, in the cache; on CUDA one compiled expression.

Determinism: the statistics of a patch depend on that patch alone. On the CPU, rows are summed in float32 and
the rows' sums in float64, whatever the batch and the number of threads; and the result is the same, bit for
bit, as that of a field of one node that holds these statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from wsigen.stain.normalise.blocks import (
    Affine,
    block_size,
    blocks,
    buffer_for,
    compiled,
    compiles,
    dense,
    is_channels_last,
    shaped,
)

Moments = tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c"], Float[Tensor, "b c"]]


def instance_normalise(
    x: Float[Tensor, "b c h w"],
    eps: float,
    affine: Affine = None,
    *,
    std_eps: float = 0.0,
    correction: int = 0,
    overwrite: bool = False,
    fuse: bool = True,
) -> Moments:
    """Normalise each tile and channel with its own mean and variance.

    Args:
        x: features, planar or channels-last (others are copied), in any floating-point type.
        eps: added to the variance.
        affine: weight and bias per channel, applied after normalising.
        std_eps: added to the standard deviation.
        correction: 0 for the biased variance, as in training; 1 for the unbiased one.
        overwrite: the result may take the place of ``x`` (where that saves memory).
        fuse: on CUDA, use the compiled kernel where there is one.

    Returns:
        The result in the type of ``x``; mean and 1 / (sqrt(variance + eps) + std_eps) in float32.
    """
    gain, shift = (None, None) if affine is None else (affine[0].float(), affine[1].float())
    if fuse and compiles(x.device):
        return compiled(moments_normalise)(x, eps, gain, shift, correction, std_eps)
    x, copied = dense(x)
    out = x if overwrite or copied else torch.empty_like(x)
    mean = torch.empty(x.shape[:2], dtype=torch.float32, device=x.device)
    inv_std = torch.empty_like(mean)
    for b in range(len(x)):
        for group in _groups(x[b]):
            source, target = x[b, group], out[b, group]
            work = source if x.dtype == torch.float32 else source.float()
            # float32 is written where it belongs; other types are converted back at the end
            values = target if x.dtype == torch.float32 else work
            mean[b, group] = centre = _mean(work)
            torch.sub(work, centre[:, None, None], out=values)
            inv_std[b, group] = scale = _inverse_std(values, eps, std_eps, correction)
            values.mul_((scale if gain is None else scale * gain[group])[:, None, None])
            if shift is not None:
                values.add_(shift[group, None, None])
            if values is not target:
                target.copy_(values)
    return out, mean, inv_std


def _groups(x: Float[Tensor, "c h w"]) -> Iterator[slice]:
    """Channels to treat together: what fits into the cache, or all where they lie side by side."""
    if is_channels_last(x) and x.dtype == torch.float32:
        # side by side, channels share cache lines: each is read once for all
        yield slice(None)
        return
    group = max(1, block_size(x) // (x.shape[1] * x.shape[2]))
    for c in range(0, len(x), group):
        yield slice(c, min(c + group, len(x)))


def _mean(x: Float[Tensor, "c h w"]) -> Float[Tensor, " c"]:
    # float32 holds the sum of a row; that of all rows would lose digits
    rows = x.sum(dim=-1).double()
    return (rows.sum(dim=-1) / (x.shape[1] * x.shape[2])).float()


def _inverse_std(
    centred: Float[Tensor, "c h w"], eps: float, std_eps: float, correction: int
) -> Float[Tensor, " c"]:
    """1/σ of values whose mean was subtracted."""
    # of centred values: E x² - (E x)² would cancel where the mean is large
    squares = torch.zeros(len(centred), dtype=torch.float64, device=centred.device)
    size = block_size(centred)
    scratch = buffer_for(centred, size)
    for c, y in blocks(centred, size):
        part = centred[c, y]
        rows = torch.mul(part, part, out=shaped(scratch, part)).sum(dim=-1)
        squares[c] += rows.double().sum(dim=-1)
    count = centred.shape[1] * centred.shape[2] - correction
    return _inverted(squares / count, eps, std_eps).float()


@no_type_check  # part of what is compiled, see below
def _inverted(variance: Float[Tensor, "..."], eps: float, std_eps: float) -> Float[Tensor, "..."]:
    """1 / (sqrt(variance + eps) + std_eps)."""
    if std_eps:
        return 1 / ((variance + eps).sqrt() + std_eps)
    return (variance + eps).rsqrt()


@no_type_check  # checks of shapes at run time would split what the compiler takes as one graph
def moments_normalise(
    x: Float[Tensor, "b c h w"],
    eps: float,
    gain: Float[Tensor, " c"] | None,
    shift: Float[Tensor, " c"] | None,
    correction: int,
    std_eps: float = 0.0,
) -> Moments:
    """Normalise in one expression, for the compiler; equal to `instance_normalise` within float32's rounding.

    Args:
        x: features.
        eps: added to the variance.
        gain: multiplied after normalising.
        shift: added after that.
        correction: 0 for the biased variance.
        std_eps: added to the standard deviation.
    """
    variance, mean = torch.var_mean(x.float(), dim=(2, 3), correction=correction)
    inv_std = _inverted(variance, eps, std_eps)
    scale = inv_std if gain is None else inv_std * gain
    out = (x.float() - mean[:, :, None, None]) * scale[:, :, None, None]
    return (out if shift is None else out + shift[:, None, None]).to(x.dtype), mean, inv_std

"""Layers whose rounding does not depend on the number of threads, in float32 on the CPU.

PyTorch divides the sums of two layers among its threads, so that their last bits vary: those of group norm
over 1024 positions or more of images that are channels last, and those of 1 × 1 convolutions of 256 channels
or more (oneDNN). Its SiLU takes another exponential for the values that are left over where a thread's share
ends.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_DIVIDED = 1024  # positions from which PyTorch divides the sums of group norm


def silu(x: Tensor) -> Tensor:
    """Return x / (1 + exp(-x)), as ``F.silu``."""
    if not _is_steady(x):
        return F.silu(x)
    below = x.neg().exp_().add_(1)  # of the exponential alone, all values are computed alike
    return torch.div(x, below, out=below)


class SteadySiLU(nn.SiLU):
    """The activation `silu`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the activations."""
        return silu(input)


class SteadyGroupNorm(nn.GroupNorm):
    """Group norm; of contiguous images, each group is summed by one thread."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised images."""
        if not _is_steady(input) or input.shape[2] * input.shape[3] < _DIVIDED:
            return super().forward(input)
        return super().forward(input.contiguous()).contiguous(memory_format=torch.channels_last)


class SteadyPointwise(nn.Conv2d):
    """A 1 × 1 convolution; as a matrix product, whose sums are not divided."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the features."""
        if not _is_steady(input):
            return super().forward(input)
        return F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def make_steady(net: nn.Module) -> None:
    """Turn group norms, SiLU and 1 × 1 convolutions of a network into those of this module, in place.

    Args:
        net: any; its weights stay as they are.
    """
    for layer in net.modules():
        if type(layer) is nn.GroupNorm:
            layer.__class__ = SteadyGroupNorm
        elif type(layer) is nn.SiLU:
            layer.__class__ = SteadySiLU
        elif type(layer) is nn.Conv2d and layer.kernel_size == layer.stride == (1, 1):
            layer.__class__ = SteadyPointwise


def _is_steady(x: Tensor) -> bool:
    """Return whether rounding matters: where a network is used in float32 on the CPU, and not trained."""
    used = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return used and x.device.type == "cpu" and x.dtype == torch.float32 and x.ndim == 4

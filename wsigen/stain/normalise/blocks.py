"""How features are computed on: on the CPU by blocks that stay in its cache, on CUDA by compiled kernels.

Compiled expressions run on CUDA where Triton is installed. On the CPU the blocked kernels are as fast as
memory allows, a C++ compiler may be absent, and compiled code need not round alike. The device decides, never
an error that was caught.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

Affine = tuple[Float[Tensor, " c"], Float[Tensor, " c"]] | None
"""A layer's own weight and bias per channel, applied after normalising, if it has them."""

CACHE = 1 << 17
"""Elements of a block on the CPU: two or three such float32 blocks fit into a level-2 cache of 1 to 2 MiB."""
DEVICE = 1 << 25
"""Elements of a block elsewhere: few kernels, and still no temporary of a whole layer."""


def dense(x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], bool]:
    """Return the values without gaps in memory (planar or channels-last), and whether that is a copy."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x, False
    return x.contiguous(), True


def is_channels_last(x: Float[Tensor, "c h w"]) -> bool:
    """Return whether the channels of a pixel lie side by side in memory."""
    return x.stride(0) == 1 and x.shape[0] > 1


def block_size(x: Tensor) -> int:
    """Return the elements of a block on the tensor's device."""
    return CACHE if x.device.type == "cpu" else DEVICE


def blocks(x: Float[Tensor, "c h w"], size: int) -> Iterator[tuple[slice, slice]]:
    """Cut one tile's features into (channels, rows), contiguous in memory as far as possible.

    Args:
        x: planar or channels-last features.
        size: elements of a block, at most, but at least a row.
    """
    channels, height, width = x.shape
    if is_channels_last(x):
        group, rows = channels, max(1, min(height, size // (channels * width)))
    else:
        rows = max(1, min(height, size // width))
        group = max(1, min(channels, size // (rows * width)))
    for c in range(0, channels, group):
        for y in range(0, height, rows):
            yield slice(c, min(c + group, channels)), slice(y, min(y + rows, height))


def buffer_for(x: Float[Tensor, "c h w"], size: int) -> Float[Tensor, " n"]:
    """Return float32 memory for any block of the features."""
    row = x.shape[2] * (x.shape[0] if is_channels_last(x) else 1)
    return torch.empty(min(x.numel(), max(size, row)), dtype=torch.float32, device=x.device)


def shaped(buffer: Float[Tensor, " n"], block: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    """Return the start of a buffer, with the shape and memory order of a block."""
    c, h, w = block.shape
    if is_channels_last(block):
        return buffer[: block.numel()].view(h, w, c).permute(2, 0, 1)
    return buffer[: block.numel()].view(c, h, w)


R = TypeVar("R")


def compiles(device: torch.device) -> bool:
    """Return whether expressions on this device are compiled."""
    return device.type == "cuda" and _has_triton()


@lru_cache
def compiled(function: Callable[..., R]) -> Callable[..., R]:
    """Return the function as one kernel for any size, compiled at its first call for each type."""
    return torch.compile(function, dynamic=True)


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return find_spec("triton") is not None

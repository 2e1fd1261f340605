"""How much memory a network takes while it runs, found without running it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_SIDE = 128


class _Alive(TorchDispatchMode):
    """Adds up the storages that are alive after each operation."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[StorageWeakRef, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self._sizes[StorageWeakRef(storage)] = storage.nbytes()
        self._sizes = {ref: size for ref, size in self._sizes.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self._sizes.values()))
        return out


def activation_bytes(net: nn.Module, dtype: torch.dtype) -> float:
    """Bytes of features that are alive at once, for each pixel of the input.

    Tensors without memory (torch's meta device) are sent through a copy of the network. What kernels need
    beside inputs and outputs is not counted.

    Args:
        net: any fully convolutional network of RGB images.
        dtype: in which it runs.
    """
    ghost = nn.Module.to(copy.deepcopy(net), device="meta", dtype=dtype)
    counter = _Alive()
    with torch.no_grad(), counter:
        ghost(torch.empty((1, 3, _SIDE, _SIDE), device="meta", dtype=dtype))
    return counter.peak / _SIDE**2


def weight_bytes(net: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of parameters and buffers."""
    tensors = [*net.parameters(), *net.buffers()]
    return sum(t.numel() for t in tensors) * dtype.itemsize

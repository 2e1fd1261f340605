"""Which expressions run as one compiled kernel: on CUDA, where Triton is installed.

On the CPU the blocked kernels are as fast as memory allows, a C++ compiler may be absent, and compiled code
need not round alike. What decides is the device, never an error that was caught.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


def compiles(x: Tensor) -> bool:
    """Whether expressions on this tensor's device are compiled."""
    return x.device.type == "cuda" and _has_triton()


@lru_cache
def compiled(function: Callable[..., R]) -> Callable[..., R]:
    """The function as one kernel, for any size; compiled when it is first called, once for each type."""
    return torch.compile(function, dynamic=True)


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return find_spec("triton") is not None

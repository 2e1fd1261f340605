"""Exponential moving average of weights with a power-function profile (Karras et al. 2024, section 3.1).

θ̂(t) = β(t) θ̂(t−1) + (1 − β(t)) θ(t) with β(t) = (1 − 1/t)^(γ+1): the average's memory grows with training, so
its width relative to the run is constant and there is no start-up bias.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def power_function_gamma(sigma_rel: float) -> float:
    """Return γ of the profile with standard deviation ``sigma_rel`` of the run (Karras et al. 2024, alg. 2).

    Args:
        sigma_rel: relative width in (0, 0.28]; 0.05 to 0.15 in practice.
    """
    t = sigma_rel**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


class PowerEMA:
    """Running average of a module's parameters and buffers.

    Args:
        module: the module to follow; its present weights are the average's start.
        sigma_rel: relative width of the profile.

    Memory:
        One float32 copy of the weights, on the module's device.
    """

    def __init__(self, module: nn.Module, sigma_rel: float = 0.1) -> None:
        self.gamma = power_function_gamma(sigma_rel)
        self.average = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, t: int) -> None:
        """Take in the weights after update ``t`` (counted from 1)."""
        weight = 1 - (1 - 1 / t) ** (self.gamma + 1)
        current = module.state_dict()
        for name, value in self.average.items():
            if value.is_floating_point():
                value.lerp_(current[name], weight)
            else:
                value.copy_(current[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights, under the module's own names."""
        return self.average

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from averaged weights that were saved before."""
        for name, value in self.average.items():
            value.copy_(state[name])

"""Where networks run and in what portions."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

GPU_LOAD = 1 << 23
"""Pixels per network call that keep a GPU busy. A CPU is as busy with one tile as with several."""


@dataclass(frozen=True)
class Machine:
    """What runs the networks.

    Args:
        device: of weights, statistics and features.
        dtype: of weights and features.
        load: pixels per network call, at most, if that is more than one tile.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    load: int = GPU_LOAD

    def batch(self, area: int) -> int:
        """Regions of so many pixels for one network call; one on the CPU, so that each is computed alone."""
        return 1 if self.device.type == "cpu" else max(1, self.load // area)

"""Small upscalers with random weights, in which every input pixel of the receptive field counts."""

from __future__ import annotations

import torch

from wsigen.nn.upscaler import Upscaler


def small_upscaler(seed: int = 0, **changes: object) -> Upscaler:
    """Reproducible weights; stride 2, 12 guide pixels of radius unless changed."""
    values = {"channels": (24, 24), "blocks": (1, 1), "head_channels": (8, 8), "noise_channels": 9}
    torch.manual_seed(seed)
    net = Upscaler(**(values | changes))  # pyright: ignore[reportArgumentType]
    for name, parameter in net.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.7 / parameter[0].numel() ** 0.5)
        if name.endswith("gain"):
            torch.nn.init.constant_(parameter, 0.5)
    torch.nn.init.normal_(net.out.weight, std=0.06)
    return net.eval().requires_grad_(False)

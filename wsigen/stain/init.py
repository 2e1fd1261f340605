"""First weights of the translation networks."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from wsigen.errors import InvalidValueError

Net = TypeVar("Net", bound=nn.Module)

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def initialise(net: Net, seed: int = 0, kind: str = "xavier", gain: float = 0.02) -> Net:
    """Draw every convolution's and linear layer's weights; biases become 0, scales 1, shifts 0.

    Args:
        net: changed in place.
        seed: of the draw.
        kind: "normal", with standard deviation ``gain`` (CycleGAN: Zhu et al. 2017, appendix 7.1), or
            "xavier", with ``gain`` times that of Glorot and Bengio 2010 (as CUT was published).
        gain: see ``kind``.

    Returns:
        ``net``.

    Raises:
        InvalidValueError: no such kind.

    Determinism:
        The same seed gives the same weights wherever the network lies; no global random state is touched.
    """
    if kind not in ("normal", "xavier"):
        raise InvalidValueError(f"kind of first weights must be normal or xavier, got {kind!r}")
    random = torch.Generator().manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, _CONVOLUTIONS):
            drawn = torch.empty(layer.weight.shape)
            if kind == "normal":
                nn.init.normal_(drawn, std=gain, generator=random)
            else:
                nn.init.xavier_normal_(drawn, gain=gain, generator=random)
            _set(layer.weight, layer.bias, drawn)
        elif isinstance(layer, nn.InstanceNorm2d) and layer.affine:
            _set(layer.weight, layer.bias, torch.ones(layer.weight.shape))
    return net


@torch.no_grad()
def _set(weight: Tensor, bias: Tensor | None, value: Tensor) -> None:
    weight.copy_(value)
    if bias is not None:
        bias.zero_()

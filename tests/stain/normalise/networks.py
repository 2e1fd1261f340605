"""Small networks as other people write them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def generator(width: int = 6, affine: bool = False) -> nn.Sequential:
    """Convolution, half the size, residual block, double the size: what stain generators are made of."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.InstanceNorm2d(width, affine=affine),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.InstanceNorm2d(2 * width, affine=affine),
        nn.ReLU(inplace=True),
        Residual(2 * width, affine),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(2 * width, width, 3, padding=1),
        nn.InstanceNorm2d(width, affine=affine),
        nn.Conv2d(width, 3, 1),
    )


class Residual(nn.Module):
    """Normalises before the convolution, so that what the norm read is needed afterwards."""

    def __init__(self, width: int, affine: bool = False) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(width, affine=affine)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(torch.relu(self.norm(x)))


class UNet(nn.Module):
    """Skip connections, affine norms, a deep layer at an eighth of the size, a norm that is never called."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width]
        self.down = nn.ModuleList(
            self.block(a, b, stride=2) for a, b in zip([3, *sizes[:-1]], sizes, strict=True)
        )
        self.spare = nn.InstanceNorm2d(7)
        self.up = nn.ModuleList(
            self.block(2 * b, a) for a, b in zip([width, *sizes[:-1]], sizes, strict=True)
        )
        self.out = nn.Conv2d(width, 3, 1)

    @staticmethod
    def block(before: int, after: int, stride: int = 1) -> nn.Sequential:
        norm = nn.InstanceNorm2d(after, affine=True)
        assert norm.weight is not None
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
        return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), norm, nn.LeakyReLU(0.2, inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
        for block in reversed(self.up):
            x = block(torch.cat([x, kept.pop()], dim=1))
            x = nn.functional.interpolate(x, scale_factor=2)
        return self.out(x)


class Shared(nn.Module):
    """One stateless norm layer used three times, once for two branches of the same features."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.InstanceNorm2d(width)
        self.out = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.first(x)
        a = torch.relu(self.norm(features))
        b = torch.sigmoid(self.norm(features))
        return self.out(self.norm(self.second(a * b)))

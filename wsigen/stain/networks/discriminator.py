"""PatchGAN: a discriminator with one score for every 70×70 px (Isola et al. 2017, section 3.2.2)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from wsigen.errors import InvalidValueError
from wsigen.stain.networks.blocks import BlurDown

WIDEST = 8  # times the first layer's width


class PatchDiscriminator(nn.Module):
    """C64-C128-C256-C512-C1 of 4×4 convolutions with leaky rectifiers, normalised but for the first and last.

    Args:
        width: channels of the first layer.
        layers: layers that halve the resolution; 3 see 70×70 px, 2 see 34×34, 1 sees 16×16.
        in_channels: of the pictures.
        antialias: blur when halving, as CUT's published discriminator does, in place of strides.

    Raises:
        InvalidValueError: a number that is not positive.
    """

    def __init__(
        self, width: int = 64, layers: int = 3, in_channels: int = 3, antialias: bool = False
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("layers", layers), ("in_channels", in_channels)):
            if value < 1:
                raise InvalidValueError(f"{name} must be at least 1, got {value}")
        widths = [width * min(2**i, WIDEST) for i in range(layers + 1)]
        steps: list[nn.Module] = []
        for i, (before, after) in enumerate(zip([in_channels, *widths], widths, strict=False)):
            halve = i < layers
            steps.append(nn.Conv2d(before, after, 4, stride=2 if halve and not antialias else 1, padding=1))
            steps += [nn.InstanceNorm2d(after)] if i else []
            steps.append(nn.LeakyReLU(0.2, True))
            steps += [BlurDown()] if halve and antialias else []
        steps.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.model = nn.Sequential(*steps)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 rows cols"]:
        """Return one unbounded score per patch, for a least-squares loss: 1 real, 0 generated.

        Args:
            x: pictures in [-1, 1], at least 24 px with three layers.
        """
        return self.model(x)

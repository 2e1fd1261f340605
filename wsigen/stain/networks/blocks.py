"""Parts of the stain networks: the residual block, ways to halve and double the resolution, first weights.

Blurred resampling follows Zhang, "Making Convolutional Networks Shift-Invariant Again" (2019): a binomial
filter goes with every change of resolution. Learned resampling has the same taps, strides and margins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wsigen.errors import InvalidValueError

Normalisation = Callable[[int], nn.Module]
"""Makes a normalisation of so many channels."""

DOWN_TAPS = (1.0, 2.0, 1.0)
UP_TAPS = (1.0, 3.0, 3.0, 1.0)

# Values in a band of rows: few on the CPU, where a call costs little, more where a kernel is launched for it.
_BAND, _DEVICE_BAND, _LEAST_ROWS = 1 << 18, 1 << 25, 16


def binomial(taps: tuple[float, ...], gain: float = 1.0) -> Float[Tensor, "1 1 k k"]:
    """Return the separable filter taps ⊗ taps, which sums to ``gain``.

    Args:
        taps: one-dimensional filter.
        gain: 1 keeps the mean when halving, 4 when doubling with stride 2.
    """
    row = torch.tensor(taps)
    filt = row[:, None] * row
    return (gain * filt / filt.sum())[None, None]


class BlurDown(nn.Module):
    """Halves the resolution: [1, 2, 1] ⊗ [1, 2, 1] / 16 at every second pixel, edges reflected."""

    filt: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filt", binomial(DOWN_TAPS), persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c (h+1)//2 (w+1)//2"]:
        """Return ``x`` at half the resolution."""
        filt = self.filt.expand(x.shape[1], -1, -1, -1)
        return _halved(x, lambda padded: F.conv2d(padded, filt, stride=2, groups=len(filt)))


class LearnedDown(nn.Conv2d):
    """Halves the resolution with a learned 3×3 convolution, edges reflected.

    Args:
        channels: of the input and of the output.
        bias: whether it has one.
    """

    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__(channels, channels, 3, stride=2, bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c (h+1)//2 (w+1)//2"]:  # pyright: ignore
        """Return ``x`` at half the resolution."""
        return _halved(x, super().forward)


def _halved(x: Tensor, convolve: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a 3×3 convolution of stride 2 with reflected edges.

    A padded copy of all of it would be the largest allocation of a generator. So where no gradient is needed,
    a band of rows is padded at a time: a pixel's value does not depend on the band that it is computed in.
    """
    height, rows = x.shape[2], -(-x.shape[2] // 2)
    most = x.numel() // (_BAND if x.device.type == "cpu" else _DEVICE_BAND)
    # bands would be kept for the gradient as well
    count = 1 if torch.is_grad_enabled() else max(1, min(most, rows // _LEAST_ROWS))
    bands = []
    for i in range(count):
        first, stop = i * rows // count, (i + 1) * rows // count
        # rows 2·first - 1 to 2·stop - 1: the first one, and the last one of an odd height, are reflections
        part = x[:, :, max(0, 2 * first - 1) : 2 * stop]
        bands.append(convolve(F.pad(part, (1, 1, int(not first), int(2 * stop > height)), mode="reflect")))
    return bands[0] if count == 1 else torch.cat(bands, dim=2)


class BlurUp(nn.Module):
    """Doubles the resolution: 4 · [1, 3, 3, 1] ⊗ [1, 3, 3, 1] / 64 between the pixels, edges replicated."""

    filt: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filt", binomial(UP_TAPS, 4.0), persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
        """Return ``x`` at twice the resolution."""
        channels = x.shape[1]
        filt = self.filt.expand(channels, -1, -1, -1)
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv_transpose2d(padded, filt, stride=2, padding=3, groups=channels)


class StridedUp(nn.ConvTranspose2d):
    """Doubles the resolution with a learned 3×3 transposed convolution, as ``output_padding=1`` does.

    A row and a column of zeros are added and their results dropped instead: with ``output_padding`` the last
    bits of a pixel depend on where in a tile it lies (seen with oneDNN 3.13 on x86).

    Args:
        before: channels of the input.
        after: channels of the output.
        bias: whether it has one.
    """

    def __init__(self, before: int, after: int, bias: bool = True) -> None:
        super().__init__(before, after, 3, stride=2, padding=1, bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d 2*h 2*w"]:  # pyright: ignore
        """Return ``x`` at twice the resolution."""
        # 2 (n + 1) - 1 results, the last of which is of the zeros alone
        return super().forward(F.pad(x, (0, 1, 0, 1)))[..., :-1, :-1]


class LearnedUp(nn.Sequential):
    """Doubles the resolution with a learned 4×4 transposed convolution, edges replicated.

    Args:
        channels: of the input and of the output.
        bias: whether the convolution has one.
    """

    def __init__(self, channels: int, bias: bool = True) -> None:
        up = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=3, bias=bias)
        super().__init__(nn.ReplicationPad2d(1), up)


class ResnetBlock(nn.Module):
    """x + two 3×3 convolutions, each behind a margin of one pixel and followed by a normalisation.

    Args:
        channels: of input and output.
        bias: whether the convolutions have one.
        norm: makes the normalisation of so many channels.
        dropout: drop half of the activations between the convolutions while training.
        zeros: whether margins are 0, in place of reflected.
    """

    def __init__(
        self,
        channels: int,
        bias: bool = True,
        norm: Normalisation = nn.InstanceNorm2d,
        dropout: bool = False,
        zeros: bool = False,
    ) -> None:
        super().__init__()

        def conv() -> list[nn.Module]:
            # margins of 0 are no layer of their own, so that layers have the published numbers
            margin = [] if zeros else [nn.ReflectionPad2d(1)]
            return [*margin, nn.Conv2d(channels, channels, 3, padding=int(zeros), bias=bias), norm(channels)]

        middle = [nn.ReLU(True), *([nn.Dropout(0.5)] if dropout else [])]
        self.conv_block = nn.Sequential(*conv(), *middle, *conv())

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return ``x`` plus its residual."""
        return x + self.conv_block(x)


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

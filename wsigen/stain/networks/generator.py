"""The stain generators: a ResNet between two halvings and two doublings of the resolution.

c7s1-w, d2w, d4w, R4w × blocks, u2w, uw, c7s1-3 (Johnson et al. 2016; Zhu et al. 2017, appendix 7.2). The
published networks differ only in how they halve and double: CUT (Park et al. 2020) and L-LSeSim (Zheng et
al. 2021) convolve and blur, CycleGAN strides, URUST and DN (Ho et al. 2022, 2024) convolve and then learn
the filter. Options of CUT's code leave either blur out, the normalisation, or reflect nothing in the residual
blocks.

Layers carry the numbers, and weights the names, that the published CUT and CycleGAN checkpoints have.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wsigen.errors import InvalidValueError
from wsigen.nn.network import Network
from wsigen.runtime import return_freed_memory
from wsigen.stain.networks.blocks import (
    BlurDown,
    BlurUp,
    LearnedDown,
    LearnedUp,
    Normalisation,
    ResnetBlock,
    StridedUp,
)

# How far the layers around the residual blocks see, px; a block sees 8 px further.
FAMILIES = {"cut": 21, "cyclegan": 12, "cut-antialias-up": 18, "cut-antialias-down": 15, "urust": 21}

_DOUBLING = (BlurUp, LearnedUp, StridedUp)
_LARGE = 1 << 20  # values of a feature; below that, memory is not worth the call

_MARKER = re.compile(r"\w[\w+.-]*", re.ASCII)


class Generator(Network):
    """Translates a picture of one stain into another; fully convolutional, with instance normalisation.

    Args:
        family: "cut" (blur with every change of resolution), "cyclegan" (strided and transposed
            convolutions; CUT without antialiasing too), "cut-antialias-up" (strided down, blur up),
            "cut-antialias-down" (blur down, transposed up), "urust" (learned filters).
        width: channels after the first layer; four times as many in the residual blocks.
        blocks: residual blocks.
        in_channels: of the input.
        out_channels: of the output.
        bias: whether convolutions that are normalised have a bias; the last one always has.
        affine: whether normalisations have a learned scale and shift.
        norm: "instance", or "none" for a network without normalisation.
        padding: margins in the residual blocks: "reflect", or "zero". Elsewhere all are reflected.
        dropout: drop half of each residual block's activations while training.
        marker: marker that the output shows, such as "SYN". A record, as are all below.
        mpp: µm/px of the pictures it was trained on.
        mpp_range: smallest and largest µm/px it was trained on.
        patch_size: side of the pictures it was trained on, px.
        source: origin of the weights, in words.

    Raises:
        InvalidValueError: no such family, norm or padding, an affine norm of "none", a number that is too
            small, or a marker that is no file name.

    Determinism:
        In float32 on the CPU a pixel's value does not depend on the tile that it is computed in, to the last
        bit, if statistics are given, the halo is kept, and the tile with its halo has more than
        81,920 / ``width`` pixels: PyTorch convolves inputs of up to 20,480 values in another order.
    """

    stride = 4
    """Heights and widths must be multiples of this, px."""

    min_size = 16
    """Smallest height and width, px, so that every margin can be reflected."""

    def __init__(
        self,
        family: str = "cut",
        width: int = 64,
        blocks: int = 9,
        in_channels: int = 3,
        out_channels: int = 3,
        bias: bool = True,
        affine: bool = False,
        dropout: bool = False,
        norm: str = "instance",
        padding: str = "reflect",
        marker: str | None = None,
        mpp: float | None = None,
        mpp_range: Sequence[float] | None = None,
        patch_size: int = 512,
        source: str | None = None,
    ) -> None:
        super().__init__()
        if family not in FAMILIES:
            raise InvalidValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
        least = {"width": 1, "blocks": 0, "in_channels": 1, "out_channels": 1, "patch_size": self.min_size}
        for name, value in least.items():
            if self.config[name] < value:
                raise InvalidValueError(f"{name} must be at least {value}, got {self.config[name]}")
        _check_layers(norm, affine, padding)
        _check_record(marker, mpp, mpp_range)
        make = partial(nn.InstanceNorm2d, affine=affine) if norm == "instance" else _no_norm
        first = nn.Conv2d(in_channels, width, 7, bias=bias)
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            *_normalised(first, width, make),
            *_down(family, width, bias, make),
            *_down(family, 2 * width, bias, make),
            *(ResnetBlock(4 * width, bias, make, dropout, padding == "zero") for _ in range(blocks)),
            *_up(family, 4 * width, bias, make),
            *_up(family, 2 * width, bias, make),
            nn.ReflectionPad2d(3),
            nn.Conv2d(width, out_channels, 7),
            nn.Tanh(),
        )

    @property
    def radius(self) -> int:
        """Radius of the receptive field of the convolutions, px."""
        return FAMILIES[self.config["family"]] + 8 * self.config["blocks"]

    @property
    def halo(self) -> int:
        """The radius rounded up to a multiple of ``stride``: the margin that makes tiles independent, px."""
        return -(-self.radius // self.stride) * self.stride

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Translate pictures; return values in (-1, 1).

        Args:
            x: pictures in [-1, 1]; height and width multiples of ``stride``, at least ``min_size``.

        Raises:
            InvalidValueError: another height or width.
        """
        _check_size(*x.shape[-2:])
        for layer in self.model:
            if isinstance(layer, _DOUBLING) and _is_large(x):
                # what the residual blocks have freed fits no feature of the larger layers that follow
                return_freed_memory()
            x = layer(x)
        return x

    def features(self, x: Float[Tensor, "b c h w"], layers: Sequence[int]) -> list[Tensor]:
        """Return the outputs of some layers; PatchNCE uses 0, 4, 8, 12, 16 (Park et al. 2020).

        Layer 0 is the margin around the picture, so its features are pixels. Layers past the last of them are
        not computed.

        Args:
            x: as for ``forward``.
            layers: numbers in ``self.model``, in rising order.

        Returns:
            One tensor (b, channels, height, width) for each layer.

        Raises:
            InvalidValueError: no such layers, not in rising order, or a bad height or width.
        """
        _check_size(*x.shape[-2:])
        wanted = list(layers)
        if wanted != sorted(set(wanted)) or not wanted or wanted[0] < 0 or wanted[-1] >= len(self.model):
            raise InvalidValueError(
                f"layers must be rising numbers from 0 to {len(self.model) - 1}, got {wanted}"
            )
        found = []
        for number, layer in enumerate(self.model[: wanted[-1] + 1]):
            if number - 1 in wanted and isinstance(layer, nn.ReLU):
                x = x.clone()  # the rectifier would overwrite the feature
            x = layer(x)
            if number in wanted:
                found.append(x)
        return found


def _is_large(x: Tensor) -> bool:
    """Whether freed features are worth returning: on the CPU, and where none are kept for gradients."""
    return x.device.type == "cpu" and x.numel() >= _LARGE and not torch.is_grad_enabled()


def _no_norm(channels: int) -> nn.Module:
    return nn.Identity()  # layers after it keep their numbers


def _normalised(conv: nn.Module, channels: int, norm: Normalisation) -> list[nn.Module]:
    return [conv, norm(channels), nn.ReLU(inplace=True)]


def _down(family: str, channels: int, bias: bool, norm: Normalisation) -> list[nn.Module]:
    """From ``channels`` to twice as many at half the resolution."""
    strided = family in ("cyclegan", "cut-antialias-up")
    conv = nn.Conv2d(channels, 2 * channels, 3, stride=2 if strided else 1, padding=1, bias=bias)
    layers = _normalised(conv, 2 * channels, norm)
    if family in ("cut", "cut-antialias-down"):
        layers.append(BlurDown())
    elif family == "urust":
        layers.append(LearnedDown(2 * channels, bias))
    return layers


def _up(family: str, channels: int, bias: bool, norm: Normalisation) -> list[nn.Module]:
    """From ``channels`` to half as many at twice the resolution."""
    half = channels // 2
    if family in ("cyclegan", "cut-antialias-down"):
        return _normalised(StridedUp(channels, half, bias), half, norm)
    double = LearnedUp(channels, bias) if family == "urust" else BlurUp()
    return [double, *_normalised(nn.Conv2d(channels, half, 3, padding=1, bias=bias), half, norm)]


def _check_layers(norm: str, affine: bool, padding: str) -> None:
    if norm not in ("instance", "none") or (norm == "none" and affine):
        raise InvalidValueError(
            f"norm must be instance, or none and then not affine, got {norm!r} with affine {affine}"
        )
    if padding not in ("reflect", "zero"):
        raise InvalidValueError(f"padding must be reflect or zero, got {padding!r}")


def _check_record(marker: str | None, mpp: float | None, mpp_range: Sequence[float] | None) -> None:
    if marker is not None and not _MARKER.fullmatch(marker):
        raise InvalidValueError(
            f"marker must be letters, digits and + - . _, as it becomes part of file names, got {marker!r}"
        )
    if mpp is not None and not 0 < mpp < math.inf:
        raise InvalidValueError(f"mpp must be a positive number of µm/px, got {mpp}")
    if mpp_range is not None and not 0 < mpp_range[0] <= mpp_range[1] < math.inf:
        raise InvalidValueError(f"mpp_range must be two rising positive µm/px, got {tuple(mpp_range)}")


def _check_size(height: int, width: int) -> None:
    if height % Generator.stride or width % Generator.stride or min(height, width) < Generator.min_size:
        raise InvalidValueError(
            f"height and width must be multiples of {Generator.stride} px and at least "
            f"{Generator.min_size} px, got {height} × {width}"
        )

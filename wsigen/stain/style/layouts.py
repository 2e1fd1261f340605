"""Published weights, translated: VGG-19 as torchvision or AdaIN implementations store it, and their decoder.

A layout is where the convolutions stand in an ``nn.Sequential`` whose indices are the keys. AdaIN
implementations (and URST) publish ``vgg_normalised.pth``, whose first layer is a 1×1 convolution of colours,
and ``decoder.pth``; torchvision publishes VGG-19, which wants ImageNet's mean and deviation taken out. Here
images are in [-1, 1] on both ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wsigen.errors import InvalidValueError
from wsigen.stain.style.network import decoder_channels, encoder_channels

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PREFIXES = ("module.", "encoder.", "decoder.", "vgg.", "features.")
SUPPORTED_ENCODERS = (
    "VGG-19 of torchvision (keys features.0.weight, features.2.weight, …) or of AdaIN implementations "
    "(vgg_normalised.pth: 0.weight, 2.weight, 5.weight, …)"
)
SUPPORTED_DECODERS = "the decoder of AdaIN implementations (decoder.pth: 1.weight, 5.weight, 8.weight, …)"

State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Where an encoder's convolutions are.

    Attributes:
        name: as in messages.
        convs: indices of the 3×3 convolutions up to relu4_1.
        colour: index of the 1×1 convolution before them; None where ImageNet's normalisation is expected.
    """

    name: str
    convs: tuple[int, ...]
    colour: int | None = None


ENCODERS = (
    Layout("AdaIN's normalised VGG-19", (2, 5, 9, 12, 16, 19, 22, 25, 29), colour=0),
    Layout("torchvision's VGG-19", (0, 2, 5, 7, 10, 12, 14, 16, 19)),
)
DECODER_CONVS = (1, 5, 8, 11, 14, 18, 21, 25, 28)


def translate_encoder(state: Mapping[str, Tensor]) -> tuple[State, int, str]:
    """The state of `Encoder` from published weights.

    Args:
        state: of a whole VGG-19 or its first part; layers past relu4_1 are left out.

    Returns:
        Our state, the width, and what was recognised.

    Raises:
        InvalidValueError: if the layout is none of those known.
    """
    found = _stripped(state)
    for layout in ENCODERS:
        width = _width(found, layout.convs, encoder=True)
        if width is None or (layout.colour is not None and not _is_colour(found, layout.colour)):
            continue
        weight, bias = _imagenet() if layout.colour is None else _conv(found, layout.colour)
        # x in [0, 1] is (x' + 1) / 2
        ours = {"colour.weight": weight / 2, "colour.bias": bias + weight.sum(dim=(1, 2, 3)) / 2}
        return ours | _renamed(found, layout.convs), width, layout.name
    raise _unknown("an encoder", SUPPORTED_ENCODERS, state)


def translate_decoder(state: Mapping[str, Tensor]) -> tuple[State, int]:
    """The state of `Decoder` from published weights, and its width.

    Raises:
        InvalidValueError: if the layout is not the known one.
    """
    found = _stripped(state)
    width = _width(found, DECODER_CONVS, encoder=False)
    if width is None:
        raise _unknown("a decoder", SUPPORTED_DECODERS, state)
    ours = _renamed(found, DECODER_CONVS)
    last = len(DECODER_CONVS) - 1
    # it paints in [0, 1]
    ours[f"convs.{last}.weight"] = 2 * ours[f"convs.{last}.weight"]
    ours[f"convs.{last}.bias"] = 2 * ours[f"convs.{last}.bias"] - 1
    return ours, width


def is_decoder(state: Mapping[str, Tensor]) -> bool:
    """Whether a state is that of a published decoder."""
    return _width(_stripped(state), DECODER_CONVS, encoder=False) is not None


def is_encoder(state: Mapping[str, Tensor]) -> bool:
    """Whether a state is that of a published encoder."""
    found = _stripped(state)
    return any(_width(found, layout.convs, encoder=True) is not None for layout in ENCODERS)


def _stripped(state: Mapping[str, Tensor]) -> State:
    return {_without_prefix(key): value for key, value in state.items() if isinstance(value, Tensor)}


def _without_prefix(key: str) -> str:
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _width(state: State, convs: Sequence[int], *, encoder: bool) -> int | None:
    """The width of the network whose convolutions stand at these indices; None if they do not."""
    ends = state.get(f"{convs[0 if encoder else -1]}.weight")
    if ends is None or ends.ndim != 4:
        return None
    width = ends.shape[0 if encoder else 1]
    channels = encoder_channels(width) if encoder else decoder_channels(width)
    fits = all(_shapes(state, i) == ((o, c, 3, 3), (o,)) for i, (c, o) in zip(convs, channels, strict=True))
    return width if fits else None


def _shapes(state: State, index: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    weight, bias = state.get(f"{index}.weight"), state.get(f"{index}.bias")
    return None if weight is None or bias is None else (tuple(weight.shape), tuple(bias.shape))


def _is_colour(state: State, index: int) -> bool:
    return _shapes(state, index) == ((3, 3, 1, 1), (3,))


def _conv(state: State, index: int) -> tuple[Tensor, Tensor]:
    return state[f"{index}.weight"].float(), state[f"{index}.bias"].float()


def _renamed(state: State, convs: Sequence[int]) -> State:
    ours: State = {}
    for i, index in enumerate(convs):
        ours[f"convs.{i}.weight"], ours[f"convs.{i}.bias"] = _conv(state, index)
    return ours


def _imagenet() -> tuple[Tensor, Tensor]:
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return torch.diag(1 / std)[:, :, None, None], -mean / std


def _unknown(what: str, supported: str, state: Mapping[str, Tensor]) -> InvalidValueError:
    first = ", ".join(list(state)[:5]) or "none"
    return InvalidValueError(f"not {what} that is known; supported: {supported}; first keys found: {first}")

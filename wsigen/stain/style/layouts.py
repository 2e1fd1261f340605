"""Published weights, translated: VGG-19 as torchvision or AdaIN implementations store it, and their decoder.

A layout is where the convolutions stand in an ``nn.Sequential`` whose indices are the keys. AdaIN
implementations (and URST) publish ``vgg_normalised.pth``, whose first layer is a 1×1 convolution of colours,
and ``decoder.pth``; torchvision publishes VGG-19, which wants ImageNet's mean and deviation taken out. Here
images are in [-1, 1] on both ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wsigen.errors import InvalidValueError
from wsigen.stain.losses.vgg import MEAN, STD
from wsigen.stain.style.network import decoder_channels, encoder_channels

SUPPORTED_ENCODERS = (
    "VGG-19 of torchvision (keys features.0.weight, features.2.weight, …) or of AdaIN implementations "
    "(vgg_normalised.pth: 0.weight, 2.weight, 5.weight, …)"
)
SUPPORTED_DECODERS = "the decoder of AdaIN implementations (decoder.pth: 1.weight, 5.weight, 8.weight, …)"

_NUMBERED = re.compile(r"(?P<prefix>.*?)(?P<name>\d+\.(weight|bias))")

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
    for found in _sequences(state):
        for layout in ENCODERS:
            width = _width(found, layout.convs, encoder=True)
            if width is not None and (layout.colour is None or _is_colour(found, layout.colour)):
                return _colour(found, layout) | _renamed(found, layout.convs), width, layout.name
    raise _unknown("an encoder", SUPPORTED_ENCODERS, state)


def translate_decoder(state: Mapping[str, Tensor]) -> tuple[State, int]:
    """The state of `Decoder` from published weights, and its width.

    Raises:
        InvalidValueError: if the layout is not the known one.
    """
    for found in _sequences(state):
        width = _width(found, DECODER_CONVS, encoder=False)
        if width is not None:
            return _in_our_range(_renamed(found, DECODER_CONVS)), width
    raise _unknown("a decoder", SUPPORTED_DECODERS, state)


def _sequences(state: Mapping[str, Tensor]) -> Iterator[State]:
    """The weights of every ``nn.Sequential``, whatever stands before the indices."""
    found: dict[str, State] = {}
    for key, value in state.items():
        match = _NUMBERED.fullmatch(key)
        if match:
            found.setdefault(match["prefix"], {})[match["name"]] = value
    yield from found.values()


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


def _colour(state: State, layout: Layout) -> State:
    """What happens to colours first; x in [0, 1] is (x' + 1) / 2 with x' in [-1, 1]."""
    if layout.colour is None:
        mean, std = torch.tensor(MEAN), torch.tensor(STD)
        weight, bias = torch.diag(1 / std)[:, :, None, None], -mean / std
    else:
        weight, bias = _conv(state, layout.colour)
    return {"colour.weight": weight / 2, "colour.bias": bias + weight.sum(dim=(1, 2, 3)) / 2}


def _in_our_range(state: State) -> State:
    """The decoder's last convolution for [-1, 1] in place of [0, 1]."""
    last = f"convs.{len(DECODER_CONVS) - 1}"
    return state | {
        f"{last}.weight": 2 * state[f"{last}.weight"],
        f"{last}.bias": 2 * state[f"{last}.bias"] - 1,
    }


def _unknown(what: str, supported: str, state: Mapping[str, Tensor]) -> InvalidValueError:
    first = ", ".join(list(state)[:5]) or "none"
    return InvalidValueError(f"not {what} that is known; supported: {supported}; first keys found: {first}")

"""Style models from files: snapshots, published weights, and encoders to train a decoder for.

Published weights are VGG-19 as torchvision, AdaIN or WCT implementations store it, and a decoder. AdaIN
implementations (and URST) publish ``vgg_normalised.pth``, whose first layer is a 1×1 convolution of colours,
and ``decoder.pth``; WCT's are the same networks, of which those of relu4_1 are taken. torchvision publishes
VGG-19, which expects ImageNet's mean and deviation removed. Here images are in [-1, 1] on both ends.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wsigen.errors import InvalidValueError, SnapshotError
from wsigen.nn.snapshot import CONFIG, load_snapshot, read_tensors, resolve
from wsigen.stain.losses.vgg import MEAN, STD, TORCHVISION, vgg_state
from wsigen.stain.networks.blocks import initialise
from wsigen.stain.style.network import StyleModel, decoder_channels, encoder_channels

NEW = "new"
RELU_GAIN = 2**0.5  # of Glorot's deviation: keeps the variance through convolution and ReLU

log = logging.getLogger(__name__)


def load_style(name: str | Path, device: torch.device | str = "cpu") -> StyleModel:
    """Load a style model: float32 weights, evaluation mode, no gradients.

    Args:
        name: a snapshot folder, or a hub id ("owner/name").
        device: where to put it.

    Raises:
        SnapshotError: if it is missing, truncated, of another class or shape than its config, or holds NaN.
    """
    path = Path(name)
    if path.is_file():
        raise SnapshotError(
            path,
            "is a file; convert it first: wsigen import-stainer VGG.pth --decoder DECODER.pth --out FOLDER",
        )
    return load_snapshot(StyleModel, resolve(name), device)


def import_style(vgg: Path, decoder: Path, *, mpp: float | None = None) -> StyleModel:
    """Load a style model from published weights.

    Args:
        vgg: ``vgg_normalised.pth`` of an AdaIN implementation, or torchvision's VGG-19.
        decoder: ``decoder.pth`` of an AdaIN implementation, trained for that encoder.
        mpp: µm/px of the pictures that it was trained on, to be recorded.

    Returns:
        float32, evaluation mode, no gradients.

    Raises:
        SnapshotError: a file cannot be read, is of no known layout, of another width, or holds NaN.
    """
    try:
        encoder_state, width, layout = translate_encoder(read_tensors(vgg))
    except InvalidValueError as error:
        raise SnapshotError(vgg, str(error)) from error
    try:
        decoder_state, decoder_width = translate_decoder(read_tensors(decoder))
    except InvalidValueError as error:
        raise SnapshotError(decoder, str(error)) from error
    if width != decoder_width:
        raise SnapshotError(
            decoder, f"is for an encoder of width {decoder_width}, {vgg.name} has {width}; give the other one"
        )
    _check_finite(vgg, encoder_state)
    _check_finite(decoder, decoder_state)
    log.info("%s: recognised %s, width %d; %s: its decoder", vgg, layout, width, decoder)
    net = StyleModel(width=width, mpp=mpp, source=f"{vgg.name} ({layout}), {decoder.name}")
    net.encoder.load_state_dict(encoder_state)
    net.decoder.load_state_dict(decoder_state)
    return net.eval().requires_grad_(False)


def untrained_style(encoder: str = TORCHVISION, *, width: int = 64, seed: int = 0) -> StyleModel:
    """Return an encoder with an untrained decoder.

    Args:
        encoder: "torchvision" to download its VGG-19 weights; a file of them; a style snapshot's folder; or
            "new" for an untrained encoder, where no weights are available.
        width: of a new encoder; otherwise the weights say.
        seed: of the weights that are drawn.

    Returns:
        In training mode; a trained encoder is in evaluation mode and gets no gradients.

    Raises:
        SnapshotError: the weights could not be loaded, or are of no known layout.
    """
    state, width, source = _encoder_state(encoder, width)
    net = initialise(StyleModel(width=width, source=source), seed, "xavier", RELU_GAIN)
    with torch.no_grad():
        net.encoder.colour.weight.copy_(torch.eye(3)[:, :, None, None])
    if state is not None:
        net.encoder.load_state_dict(state)
        net.encoder.eval()
    net.encoder.requires_grad_(state is None)
    net.encoder.colour.requires_grad_(False)
    return net


def _encoder_state(encoder: str, width: int) -> tuple[Mapping[str, Tensor] | None, int, str]:
    if encoder == NEW:
        return None, width, "encoder trained along"
    if (Path(encoder) / CONFIG).is_file():
        net = load_style(encoder)
        return net.encoder.state_dict(), net.config["width"], f"encoder: {net.config['source']}"
    try:
        state, width, layout = translate_encoder(vgg_state("vgg19", encoder))
    except InvalidValueError as error:
        raise SnapshotError(encoder, str(error)) from error
    _check_finite(encoder, state)
    return state, width, f"encoder: {layout}"


def _check_finite(path: str | Path, state: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise SnapshotError(path, f"{name} holds NaN or infinity; copy the file again")


SUPPORTED_ENCODERS = (
    "VGG-19 of torchvision (keys features.0.weight, features.2.weight, …), of AdaIN implementations "
    "(vgg_normalised.pth: 0.weight, 2.weight, 5.weight, …) or of WCT (conv1.weight, conv2.weight, …)"
)
SUPPORTED_DECODERS = (
    "the decoder of AdaIN implementations (decoder.pth: 1.weight, 5.weight, 8.weight, …), or of WCT at "
    "relu4_1 (the same, or conv11.weight, conv12.weight, …)"
)

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
    Layout("WCT's normalised VGG-19", tuple(range(2, 11)), colour=1),
)
# Of AdaIN implementations and of WCT's converted files; of WCT's PyTorch implementation.
DECODERS = ((1, 5, 8, 11, 14, 18, 21, 25, 28), tuple(range(11, 20)))


def translate_encoder(state: Mapping[str, Tensor]) -> tuple[State, int, str]:
    """Return the state of `Encoder` from published weights.

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
    raise _unknown("encoder", SUPPORTED_ENCODERS, state)


def translate_decoder(state: Mapping[str, Tensor]) -> tuple[State, int]:
    """Return the state of `Decoder` from published weights, and its width.

    Raises:
        InvalidValueError: if the layout is not the known one.
    """
    for found in _sequences(state):
        for convs in DECODERS:
            width = _width(found, convs, encoder=False)
            if width is not None:
                return _in_our_range(_renamed(found, convs)), width
    raise _unknown("decoder", SUPPORTED_DECODERS, state)


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
    last = f"convs.{len(DECODERS[0]) - 1}"
    return state | {
        f"{last}.weight": 2 * state[f"{last}.weight"],
        f"{last}.bias": 2 * state[f"{last}.bias"] - 1,
    }


def _unknown(what: str, supported: str, state: Mapping[str, Tensor]) -> InvalidValueError:
    first = ", ".join(list(state)[:5]) or "none"
    return InvalidValueError(f"is not a known {what}; supported: {supported}; its first keys are {first}")

"""Style models from files: snapshots, published weights, and encoders to train a decoder for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wsigen.errors import InvalidValueError, SnapshotError
from wsigen.nn.snapshot import CONFIG, load_snapshot, read_tensors, resolve
from wsigen.stain.init import initialise
from wsigen.stain.losses.vgg import TORCHVISION, vgg_state
from wsigen.stain.style.layouts import translate_decoder, translate_encoder
from wsigen.stain.style.network import StyleModel

NEW = "new"
RELU_GAIN = 2**0.5  # of Glorot's deviation: keeps the variance through convolution and ReLU

log = logging.getLogger(__name__)


def load_style(name: str | Path, device: torch.device | str = "cpu") -> StyleModel:
    """A style model ready to use: float32 weights, evaluation mode, no gradients.

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
    """A style model from published weights.

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
    """An encoder, with a decoder that has learnt nothing yet.

    Args:
        encoder: "torchvision" for its download of VGG-19; a file of VGG-19's weights; a style snapshot's
            folder; or "new" for an encoder that is yet to be trained itself, where no weights can be had.
        width: of a new encoder; otherwise the weights say.
        seed: of the weights that are drawn.

    Returns:
        In training mode; an encoder that has learnt already is in evaluation mode and takes no gradients.

    Raises:
        SnapshotError: the weights cannot be had, or are of no known layout.
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

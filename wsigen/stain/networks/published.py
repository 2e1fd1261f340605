"""Generators from published checkpoints, recognised by the names and shapes of their weights.

Weights may lie in nested dictionaries and behind prefixes such as ``module.`` or ``netG.``: whatever comes
before the name of a first 7×7 layer is such a prefix. CUT and CycleGAN number the layers of one sequence, as
`Generator` does. URUST and DN name the parts; their layers follow one another as CUT's do, so each name
stands for one number.

Whether layers are normalised, weights tell only in part: an instance norm without scale and shift has none.
In the authors' code convolutions have a bias before an instance norm, and none where there is no norm.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from wsigen.errors import InvalidValueError, SnapshotError
from wsigen.nn.snapshot import read_tensors
from wsigen.stain.networks.blocks import BlurDown, BlurUp
from wsigen.stain.networks.generator import FAMILIES, Generator

PUBLISHED = {
    "cut": "CUT, L-LSeSim",
    "cyclegan": "CycleGAN, or CUT without antialiasing",
    "cut-antialias-up": "CUT with antialiasing on the way up alone",
    "cut-antialias-down": "CUT with antialiasing on the way down alone",
    "urust": "URUST, DN",
}

STEM = r"(?:model\.1|block1\.0)"
"""Name of the first layer in any layout, as a regular expression."""

_FIRST_BLOCK = 12
_FILTER = ".filt"
_RUNNING = ("running_mean", "running_var", "num_batches_tracked")
_PREFIXED_STEM = re.compile(rf"(?P<prefix>.*?){STEM}\.weight")
_SHOWN = 6

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recognised:
    """A generator found in a checkpoint.

    Args:
        config: arguments of ``Generator``.
        weights: float32, under the names of ``Generator``.
        description: what it is, in one line.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    description: str


def import_checkpoint(
    path: Path, key: str | None = None, norm: str | None = None, **record: Any
) -> Generator:
    """Load a generator from a ``.pth``, ``.pt`` or ``.safetensors`` file; log what was recognised.

    Args:
        path: the file.
        key: which of several generators in the file, such as "netG_A".
        norm: as for `recognise`.
        record: what else to record, such as ``marker``, ``mpp``: see ``Generator``.

    Returns:
        float32, evaluation mode, no gradients.

    Raises:
        SnapshotError: the file cannot be read, is no generator of a known family, does not translate RGB to
            RGB, or holds NaN.
        InvalidValueError: a record that ``Generator`` refuses.
    """
    try:
        found = recognise(read_tensors(path), key, norm)
    except InvalidValueError as error:
        raise SnapshotError(path, str(error)) from error
    log.info("%s: recognised %s", path, found.description)
    net = Generator(**{"source": f"{path.name}: {found.description}", **found.config, **record})
    net.load_state_dict(found.weights)
    return net.eval().requires_grad_(False)


def recognise(state: Mapping[str, Tensor], key: str | None = None, norm: str | None = None) -> Recognised:
    """Recognise family, width, depth and options of a generator by the names and shapes of its weights.

    Args:
        state: tensors by name; statistics that old files carry along are dropped.
        key: which of several generators, such as "netG_A".
        norm: "instance" or "none"; None to go by the weights, where neither a bias before a norm nor a norm's
            own weights or statistics mean "none".

    Raises:
        InvalidValueError: none, or several, or one that cannot be used; in one line, with the first names.
    """
    found, prefix = _one_generator(state, key)
    kept = {name: value for name, value in found.items() if not name.endswith(_RUNNING)}
    weights, blur = as_sequence(kept)
    config = _options(weights)
    measured = len(kept) < len(found)
    config["norm"] = _norm(config, measured, norm)
    config["family"] = _family(config, weights, blur) or _refuse(found)
    if measured and config["affine"]:
        raise InvalidValueError("has batch normalisation; only instance normalisation can be used")
    channels = (config["in_channels"], config["out_channels"])
    if channels != (3, 3):
        raise InvalidValueError(
            f"turns {channels[0]} channels into {channels[1]}; only RGB to RGB can be used"
        )
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise InvalidValueError(f"{name} holds NaN or infinity; its training diverged, or it is damaged")
    return Recognised(config, weights, _description(config, weights, prefix))


def _norm(config: Mapping[str, Any], measured: bool, asked: str | None) -> str:
    """Which normalisation the layers have: as asked, or what the weights say."""
    if asked == "none" and (config["affine"] or measured):
        raise InvalidValueError(
            "holds weights or statistics of normalisations, so norm cannot be none; leave --norm out"
        )
    normalised = config["bias"] or config["affine"] or measured
    return asked or ("instance" if normalised else "none")


def _one_generator(state: Mapping[str, Tensor], key: str | None) -> tuple[dict[str, Tensor], str]:
    """The weights of one generator without their prefix, and the prefix."""
    # only the first and last layer of these generators have kernels of 7 × 7
    stems = (_PREFIXED_STEM.fullmatch(name) for name, value in state.items() if _is_7x7(value))
    prefixes = sorted({stem["prefix"] for stem in stems if stem})
    if key is not None:
        prefixes = [p for p in prefixes if key in p.split(".")]
    if not prefixes:
        _refuse(state, f"holds no generator {key!r}" if key else "no generator of a known family")
    if len(prefixes) > 1:
        names = ", ".join(p.rstrip(".") or "(unnamed)" for p in prefixes)
        raise InvalidValueError(f"holds several generators: {names}; choose one with --key")
    prefix = prefixes[0]
    chosen = {n[len(prefix) :]: value.float() for n, value in state.items() if n.startswith(prefix)}
    return chosen, prefix.rstrip(".")


def _is_7x7(value: Tensor) -> bool:
    return value.ndim == 4 and value.shape[2:] == (7, 7)


def _options(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    stem = weights["model.1.weight"]
    last = [value for name, value in weights.items() if _is_7x7(value) and value is not stem] or [stem]
    blocks = {tuple(name.split(".")) for name in weights if ".conv_block." in name}
    convs = {parts[3] for parts in blocks if weights[".".join(parts)].ndim == 4}
    return {
        "width": stem.shape[0],
        "blocks": len({parts[1] for parts in blocks}),
        "in_channels": stem.shape[1],
        "out_channels": last[-1].shape[0],
        "bias": "model.1.bias" in weights,
        "affine": any(name.endswith(".weight") and value.ndim == 1 for name, value in weights.items()),
        # each margin of its own and a dropout move what follows by one
        "dropout": bool(convs & {"4", "6"}),
        "padding": "zero" if "0" in convs else "reflect",
    }


def _family(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], blur: Mapping[str, Tensor]
) -> str | None:
    """The family whose weights have these names; their shapes and filters are checked."""
    for family in FAMILIES:
        with torch.device("meta"):  # names and shapes alone, without memory for weights
            net = Generator(**{**config, "family": family})
        wanted = net.state_dict()
        if wanted.keys() != weights.keys():
            continue
        for name, value in wanted.items():
            shapes = tuple(weights[name].shape), tuple(value.shape)
            if shapes[0] != shapes[1]:
                raise InvalidValueError(f"{name} of a {family} must have shape {shapes[1]}, got {shapes[0]}")
        _check_blur(net, blur)
        return family
    return None


def _check_blur(net: Generator, blur: Mapping[str, Tensor]) -> None:
    layers = {
        f"{name}.filt": layer for name, layer in net.named_modules() if isinstance(layer, BlurDown | BlurUp)
    }
    for name, filt in blur.items():
        known = type(layers[name])().filt if name in layers else None
        if (
            not isinstance(known, Tensor)
            or known.shape[2:] != filt.shape[2:]
            or (filt - known).abs().max() > 1e-3
        ):
            raise InvalidValueError(f"{name} must be [1, 2, 1] on the way down, [1, 3, 3, 1] up")


def _refuse(state: Mapping[str, Tensor], what: str = "no generator of a known family") -> NoReturn:
    families = "; ".join(f"{family} ({published})" for family, published in PUBLISHED.items())
    names = ", ".join(list(state)[:_SHOWN]) or "none"
    raise InvalidValueError(f"{what}; supported are ResNets of {families}; its first keys are {names}")


def _description(config: Mapping[str, Any], weights: Mapping[str, Tensor], prefix: str) -> str:
    millions = sum(value.numel() for value in weights.values()) / 1e6
    return ", ".join(
        [
            f"{config['family']} generator ({PUBLISHED[config['family']]})",
            f"width {config['width']}",
            f"{config['blocks']} blocks",
            *(["affine norms"] if config["affine"] else []),
            *(["no norms"] if config["norm"] == "none" else []),
            *(["zero padding"] if config["padding"] == "zero" else []),
            *(["dropout"] if config["dropout"] else []),
            *([] if config["bias"] else ["no bias"]),
            f"{millions:.2f} M parameters",
            *([f"taken from {prefix}"] if prefix else []),
        ]
    )


def as_sequence(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return weights under the names of a sequence, and separately the blur filters, which are constants.

    Args:
        state: weights of one generator, named as either layout does; unknown names are kept.
    """
    if "block1.0.weight" in state:
        blocks = len({name.split(".")[1] for name in state if name.startswith("resnetblocks4.")})
        state = {_numbered(name, blocks): value for name, value in state.items()}
    blur = {name: value for name, value in state.items() if name.endswith(_FILTER)}
    return {name: value for name, value in state.items() if name not in blur}, blur


def _numbered(name: str, blocks: int) -> str:
    """``resnetblocks4.0.model.1.weight`` → ``model.12.conv_block.1.weight``, and so on."""
    up = _FIRST_BLOCK + blocks
    parts = {
        r"block1\.(\d+)": lambda m: 1 + int(m[1]),
        r"downsampleblock2\.conv": lambda m: 4,
        r"downsampleblock2\.instancenorm": lambda m: 5,
        r"downsampleblock2\.downsample\.conv": lambda m: 7,
        r"downsampleblock3\.conv": lambda m: 8,
        r"downsampleblock3\.instancenorm": lambda m: 9,
        r"downsampleblock3\.downsample\.conv": lambda m: 11,
        r"resnetblocks4\.(\d+)\.model\.(\d+)": lambda m: f"{_FIRST_BLOCK + int(m[1])}.conv_block.{m[2]}",
        r"upsampleblock5\.upsample\.model\.1": lambda m: f"{up}.1",
        r"upsampleblock5\.conv": lambda m: up + 1,
        r"upsampleblock5\.instancenorm": lambda m: up + 2,
        r"upsampleblock6\.upsample\.model\.1": lambda m: f"{up + 4}.1",
        r"upsampleblock6\.conv": lambda m: up + 5,
        r"upsampleblock6\.instancenorm": lambda m: up + 6,
        r"block7\.1": lambda m: up + 9,
    }
    layer, _, kind = name.rpartition(".")
    for pattern, number in parts.items():
        found = re.fullmatch(pattern, layer)
        if found:
            return f"model.{number(found)}.{kind}"
    return name

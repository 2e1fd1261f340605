"""A model: the networks that make a slide together, each in a folder of its own beside model_index.json.

    model_index.json    {"_class_name": "Model", "denoiser": ["wsigen.nn.denoiser", "Denoiser"], …}
    denoiser/           config.json, diffusion_pytorch_model.safetensors
    upscaler/           the same; may be missing

That is how diffusers writes a pipeline. The snapshot folder of a single denoiser is a model as well.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.modeling_utils import ModelMixin

from wsigen.files import write_bytes
from wsigen.nn.denoiser import Denoiser
from wsigen.nn.snapshot import INDEX, load_snapshot, networks, resolve, save_snapshot, weights_hash
from wsigen.nn.upscaler import Upscaler

CLASSES: dict[str, type[ModelMixin]] = {"denoiser": Denoiser, "upscaler": Upscaler}


@dataclass(frozen=True, kw_only=True)
class Model:
    """The networks of a model, ready to run.

    Args:
        denoiser: for stage 0 and other diffused stages.
        upscaler: for upscaled stages; None if the model has none.
        denoiser_hash: of its config and weights.
        upscaler_hash: likewise; empty without upscaler.
    """

    denoiser: Denoiser
    upscaler: Upscaler | None
    denoiser_hash: str
    upscaler_hash: str = ""


def load_model(
    model: str | Path = "default",
    upscaler: str | Path | None = None,
    device: torch.device | str = "cpu",
    *,
    upscaled: bool = True,
) -> Model:
    """Load the networks of a model: float32 weights, channels last, evaluation mode, no gradients.

    Args:
        model: "default", a folder, or a hub id, with a denoiser and perhaps an upscaler.
        upscaler: another snapshot or model to load the upscaler from.
        device: where to put them.
        upscaled: whether to load an upscaler.

    Raises:
        SnapshotError: a network is missing, damaged, does not match its config, or contains NaN.
    """
    folder = resolve(model)
    other = folder if upscaler is None or not upscaled else resolve(upscaler)
    there = upscaled and (upscaler is not None or has_upscaler(folder))
    # Channels last like the images; otherwise every convolution would copy its weights.
    denoiser = load_snapshot(Denoiser, folder, device)
    fine = load_snapshot(Upscaler, other, device) if there else None
    for net in (denoiser, fine):
        if net is not None:
            net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return Model(
        denoiser=denoiser,
        upscaler=fine,
        # each by itself: another upscaler leaves slides of the denoiser alone what they are
        denoiser_hash=weights_hash(folder, [Denoiser.__name__]),
        upscaler_hash=weights_hash(other, [Upscaler.__name__]) if there else "",
    )


def has_upscaler(model: str | Path) -> bool:
    """Return whether a model has an upscaler; downloads the model if it is a hub id.

    Raises:
        SnapshotError: there is no such model.
    """
    return Upscaler.__name__ in networks(resolve(model))


def save_model(
    folder: Path,
    *,
    denoiser: Denoiser | None = None,
    upscaler: Upscaler | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write networks into a model's folder, beside those that are there.

    Args:
        folder: created if missing.
        denoiser: to write; None keeps the existing one.
        upscaler: likewise.
        dtype: precision of the stored weights.
    """
    for name, net in (("denoiser", denoiser), ("upscaler", upscaler)):
        if net is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            save_snapshot(net, folder / name, dtype)
    index: dict[str, object] = {"_class_name": Model.__name__}
    for name, kind in CLASSES.items():
        if (folder / name).is_dir():
            index[name] = [kind.__module__, kind.__name__]  # as diffusers writes a pipeline's parts
    write_bytes(folder / INDEX, (json.dumps(index, indent=2) + "\n").encode())

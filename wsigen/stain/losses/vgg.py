"""Features of VGG networks trained on ImageNet (Simonyan and Zisserman 2015), for losses that compare images.

Images in [-1, 1] are brought to ImageNet's mean and standard deviation, as torchvision's weights want them.
Only the part of the network up to the deepest wanted layer is built; it is never trained. Weights are
torchvision's, through its own download or from a file that was downloaded elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wsigen.errors import InvalidValueError, SnapshotError
from wsigen.nn.snapshot import read_tensors

TORCHVISION = "torchvision"
POOL = 0  # in a plan: max pooling; any other number is the channels of a convolution and its ReLU
PLANS = {
    "vgg16": (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0),
    "vgg19": (64, 64, 0, 128, 128, 0, *(256,) * 4, 0, *(512,) * 4, 0, *(512,) * 4, 0),
}
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def layer_names(plan: Sequence[int]) -> list[str]:
    """Return the names of the modules in order: conv1_1, relu1_1, conv1_2, relu1_2, pool1, conv2_1, …"""
    names: list[str] = []
    block, place = 1, 1
    for width in plan:
        if width == POOL:
            names.append(f"pool{block}")
            block, place = block + 1, 1
        else:
            names += [f"conv{block}_{place}", f"relu{block}_{place}"]
            place += 1
    return names


def _build(plan: Sequence[int]) -> list[nn.Module]:
    modules: list[nn.Module] = []
    channels = 3
    for width in plan:
        if width == POOL:
            modules.append(nn.MaxPool2d(2))
        else:  # not in place: that would spoil a convolution's output that was asked for
            modules += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return modules


class VGG(nn.Module):
    """A VGG network's features at named layers.

    Args:
        plan: channels of the convolutions, ``POOL`` between blocks, as in ``PLANS``.
        layers: names of the wanted layers, as in ``layer_names``.

    Raises:
        InvalidValueError: there is no such layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, plan: Sequence[int], layers: Sequence[str]) -> None:
        super().__init__()
        names = layer_names(plan)
        unknown = [name for name in layers if name not in names]
        if unknown or not layers:
            raise InvalidValueError(f"no VGG layer {', '.join(unknown)!r}; choose from {', '.join(names)}")
        self._places = [names.index(name) for name in layers]
        modules = _build(plan)[: max(self._places) + 1]  # deeper layers would cost and change nothing
        self.features = nn.Sequential(*modules)
        # a convolution and its ReLU have one width; pooling keeps the one before
        widths = [width for width in plan for _ in range(1 if width == POOL else 2)]
        self.channels = tuple(
            next(w for w in reversed(widths[: place + 1]) if w != POOL) for place in self._places
        )
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        """Return features at each layer, in the order of ``layers``.

        Args:
            images: in [-1, 1]; gradients flow through to them, none to the network.
        """
        x = ((images.float() + 1) / 2 - self.mean) / self.std
        found: dict[int, Tensor] = {}
        for place, module in enumerate(self.features):
            x = module(x)
            if place in self._places:
                found[place] = x
        return [found[place] for place in self._places]


def load_vgg(
    layers: Sequence[str],
    *,
    name: str = "vgg16",
    weights: str | Path = TORCHVISION,
    device: torch.device | str = "cpu",
) -> VGG:
    """Load a VGG with ImageNet weights.

    Args:
        layers: wanted layers, such as "relu3_1".
        name: "vgg16" or "vgg19".
        weights: "torchvision" for its download (0.5 GB, once, kept in torch's cache), or a .pth or
            .safetensors file with the same keys.
        device: where to put it.

    Raises:
        InvalidValueError: there is no such network or layer.
        SnapshotError: the weights cannot be downloaded, cannot be read, or are of another network.
    """
    if name not in PLANS:
        raise InvalidValueError(f"no network {name!r}; choose from {', '.join(PLANS)}")
    net = VGG(PLANS[name], layers)
    load_weights(net, vgg_state(name, weights), name if str(weights) == TORCHVISION else weights)
    return net.to(device)


def vgg_state(name: str, weights: str | Path = TORCHVISION) -> dict[str, Tensor]:
    """Return the weights of a whole VGG, under any keys.

    Args:
        name: "vgg16" or "vgg19", for torchvision's download.
        weights: as for `load_vgg`.

    Raises:
        SnapshotError: the weights cannot be downloaded or read.
    """
    return _download(name) if str(weights) == TORCHVISION else read_tensors(Path(weights))


def load_weights(net: VGG, state: dict[str, Tensor], source: str | Path) -> None:
    """Copy the weights that ``net`` needs; those of deeper layers and of the classifier are left out.

    Args:
        net: where to.
        state: keys ``features.N.weight`` and ``features.N.bias``, or the same without ``features.``.
        source: where they are from, for the error.

    Raises:
        SnapshotError: one is missing, of another shape, or not finite.
    """
    for key, wanted in net.features.state_dict().items():
        value = state.get(f"features.{key}", state.get(key))
        if value is None:
            raise SnapshotError(source, f"has no weights features.{key}; give torchvision's VGG weights")
        if value.shape != wanted.shape:
            raise SnapshotError(
                source,
                f"features.{key} is {tuple(value.shape)} and should be {tuple(wanted.shape)}; "
                "these are the weights of another network",
            )
        if not value.isfinite().all():
            raise SnapshotError(source, f"features.{key} holds NaN or infinity; copy the file again")
        wanted.copy_(value)


def _download(name: str) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    weights = get_model_weights(name)["IMAGENET1K_V1"]  # pyright: ignore[reportIndexIssue]
    try:
        return weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
        raise SnapshotError(
            name,
            f"could not download weights from {weights.url} ({_first_line(error)}); "
            "download that file elsewhere and give its path",
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

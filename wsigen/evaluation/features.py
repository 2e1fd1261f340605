"""Feature extractors: they describe patches by vectors before sets of patches are compared.

`load_extractor` knows them by name:

- ``weight-free``: colour, stains and texture; always available (`wsigen.evaluation.descriptor`).
- ``inception`` or ``inception:PATH``: torch-fidelity's Inception v3, 2048-d pool features, as in published
  FIDs.
- ``timm:NAME`` and ``transformers:NAME``: any vision encoder by hub id or folder, pathology encoders too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from wsigen.errors import InvalidValueError, SnapshotError
from wsigen.evaluation.descriptor import WeightFree
from wsigen.slide.stains import require_rgb

Item = TypeVar("Item")
KINDS = "weight-free, inception, inception:PATH, timm:NAME or transformers:NAME"


class Extractor(Protocol):
    """Describes patches by vectors."""

    @property
    def name(self) -> str:
        """Name in the report."""
        ...

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        ...

    @property
    def comparable(self) -> bool:
        """Whether Fréchet distances between its features compare with published FIDs."""
        ...

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Describe uint8 (n, h, w, 3) by float32 (n, dimensions)."""
        ...


def load_extractor(name: str, device: str | torch.device = "cpu", threads: int = 1) -> Extractor:
    """Load an extractor by name; see the module.

    Args:
        name: ``weight-free``, ``inception``, ``inception:PATH``, ``timm:NAME`` or ``transformers:NAME``.
        device: where networks run.
        threads: patches that ``weight-free`` describes at once.

    Raises:
        InvalidValueError: an unknown name, or an optional package that is not installed.
        SnapshotError: weights that are neither here nor to be downloaded, or do not fit.
    """
    kind, _, which = name.partition(":")
    if name == "weight-free":
        return WeightFree(threads)
    if kind == "inception":
        return Inception(which or None, device)
    if kind == "timm" and which:
        return timm_extractor(which, device)
    if kind == "transformers" and which:
        return transformers_extractor(which, device)
    raise InvalidValueError(f"features must be {KINDS}, got {name!r}")


def batches(stream: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the stream in lists of ``size``; the last may be shorter."""
    items = iter(stream)
    while group := list(islice(items, size)):
        yield group


class Inception:
    """Inception v3 with the weights of the original FID: pool features, as torch-fidelity computes them.

    Args:
        weights: ``weights-inception-2015-12-05-6726825d.pth``; None: torch-fidelity's download, kept by
            torch.
        device: where it runs.

    Raises:
        SnapshotError: no such file, other weights, or no network to download from.
    """

    name = "inception"
    dimensions = 2048
    comparable = True

    def __init__(self, weights: str | Path | None = None, device: str | torch.device = "cpu") -> None:
        # imported here: other extractors do not need torch-fidelity
        from torch_fidelity import feature_extractor_inceptionv3 as inception

        self._device, url = torch.device(device), inception.URL_INCEPTION_V3
        if weights is not None:
            _require_tensors(Path(weights), url)
        try:
            self._net = inception.FeatureExtractorInceptionV3(
                "inception",
                ["2048"],
                feature_extractor_weights_path=None if weights is None else str(weights),
            ).to(self._device)
        except OSError as error:  # the download; a file has been read once already
            reason = f"could not download {url} ({error}); get it elsewhere and use inception:PATH"
            raise SnapshotError("inception", reason) from error
        except (RuntimeError, AttributeError, TypeError) as error:
            reason = f"does not hold torch-fidelity's Inception v3; get {url}"
            raise SnapshotError(weights or "inception", reason) from error

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Describe uint8 (n, h, w, 3), resized to 299 px as the original does, by float32 (n, 2048)."""
        with torch.inference_mode():
            return self._net(to_tensor(patches, self._device))[0].float().cpu().numpy()


class VisionEncoder:
    """A vision encoder with its own resizing and normalisation.

    Args:
        name: in the report.
        net: the network, moved to ``device`` and set to evaluation.
        pool: from the network's output to (n, dimensions).
        size: (height, width) of its input, px.
        mean: of each channel, in [0, 1].
        std: of each channel.
        device: where it runs.
    """

    comparable = False

    def __init__(
        self,
        name: str,
        net: nn.Module,
        pool: Callable[[Any], torch.Tensor],
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        device: str | torch.device = "cpu",
    ) -> None:
        self.name = name
        self._net = net.to(device).eval().requires_grad_(False)
        self._pool, self._size, self._device = pool, size, torch.device(device)
        self._mean, self._std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (mean, std))
        # encoders do not state it alike
        self.dimensions = self(np.full((1, *size, 3), 255, np.uint8)).shape[1]

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Describe uint8 (n, h, w, 3) by float32 (n, dimensions)."""
        with torch.inference_mode():
            x = to_tensor(patches, self._device).float() / 255
            if tuple(x.shape[2:]) != self._size:
                x = F.interpolate(x, self._size, mode="bicubic", antialias=True).clamp(0, 1)
            return self._pool(self._net((x - self._mean) / self._std)).float().cpu().numpy()


def to_tensor(patches: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return uint8 (n, h, w, 3) as a tensor (n, 3, h, w)."""
    require_rgb(patches, 4, what="patches")
    return torch.from_numpy(np.ascontiguousarray(patches.transpose(0, 3, 1, 2))).to(device)


def timm_extractor(name: str, device: str | torch.device = "cpu") -> VisionEncoder:
    """Load a timm model without its head.

    Args:
        name: a timm model name, a hub id (``hf-hub:owner/model`` or ``owner/model``) or a folder with
            ``config.json`` and weights as timm saves them.
        device: where it runs.

    Raises:
        InvalidValueError: timm is not installed.
        SnapshotError: unknown model, or weights that could not be downloaded.
    """
    timm = _optional("timm")
    where = name
    if Path(name).is_dir():
        where = f"local-dir:{name}"
    elif "/" in name and ":" not in name:
        where = f"hf-hub:{name}"
    net = _load(name, lambda: timm.create_model(where, pretrained=True, num_classes=0))
    data = timm.data.resolve_model_data_config(net)
    size = tuple(data["input_size"][1:])
    return VisionEncoder(f"timm:{name}", net, lambda y: y, size, data["mean"], data["std"], device)


def transformers_extractor(name: str, device: str | torch.device = "cpu") -> VisionEncoder:
    """Load a transformers vision model: its pooled output where it has one, else its first token.

    Args:
        name: hub id or folder.
        device: where it runs.

    Raises:
        InvalidValueError: transformers is not installed.
        SnapshotError: unknown model, or weights that could not be downloaded.
    """
    transformers = _optional("transformers")
    net = _load(name, lambda: transformers.AutoModel.from_pretrained(name))
    net = getattr(net, "vision_model", net)  # CLIP-like models hold two encoders
    wanted = _load(name, lambda: transformers.AutoImageProcessor.from_pretrained(name))
    crop = getattr(wanted, "crop_size", None) if getattr(wanted, "do_center_crop", False) else None
    size = _height_width(crop or wanted.size)
    mean, std = wanted.image_mean, wanted.image_std
    return VisionEncoder(f"transformers:{name}", net, _pooled, size, mean, std, device)


def _pooled(output: Any) -> torch.Tensor:
    pooled = getattr(output, "pooler_output", None)
    return (output.last_hidden_state[:, 0] if pooled is None else pooled).flatten(1)


def _height_width(size: Any) -> tuple[int, int]:
    """Read a size of transformers: a height and width, or the shortest edge."""
    spelt: dict[str, Any] = dict(size) if hasattr(size, "keys") else vars(size)
    edge = spelt.get("shortest_edge")
    height, width = spelt.get("height") or edge, spelt.get("width") or edge
    if height is None or width is None:
        raise InvalidValueError(f"an encoder must state its input size, its processor says {size}")
    return int(height), int(width)


def _require_tensors(weights: Path, url: str) -> None:
    """Make sure that a file holds tensors only, since torch-fidelity unpickles whatever is in it."""
    if not weights.is_file():
        raise SnapshotError(weights, f"no such file; get {url}")
    try:
        torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:
        raise SnapshotError(weights, f"is not a plain weights file ({type(error).__name__})") from error


def _optional(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InvalidValueError(
            f"features {package}:… need the package {package}: pip install 'wsigen[features]'"
        ) from error


def _load(name: str, load: Callable[[], Any]) -> Any:
    """Run a hub's client; report whatever it raises in one line."""
    try:
        return load()
    except Exception as error:
        reason = f"{error}".strip().split("\n")[0]
        raise SnapshotError(
            name, f"cannot be loaded ({reason}); give a folder that holds it, or check name and network"
        ) from error

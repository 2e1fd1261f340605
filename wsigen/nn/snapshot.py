"""Find, load and save the weights of networks: of a bundled model, a folder, or a hub id.

A folder contains one network (config.json and weights), or several, each in a folder beside model_index.json,
as diffusers writes it (`wsigen.nn.model`). Weight files of other projects are read as tensors only.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import re
import shutil
import warnings
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wsigen.errors import SnapshotError
from wsigen.nn.network import CONFIG, WEIGHTS, Network

if TYPE_CHECKING:
    from diffusers.models.modeling_utils import ModelMixin  # takes seconds to import

INDEX = "model_index.json"

COMPONENTS = ("denoiser", "upscaler")
"""Folders of the networks in a model."""

Net = TypeVar("Net", bound=nn.Module)

log = logging.getLogger(__name__)


def bundled(name: str) -> Path:
    """Return the folder of a model that comes with the package."""
    return Path(str(resources.files("wsigen"))) / "models" / name


def resolve(model: str | Path) -> Path:
    """Return the local folder of a model; download it if ``model`` is a hub id.

    Args:
        model: "default", a folder with config.json and weights or with model_index.json, or a hub id
            ("owner/name").

    Raises:
        SnapshotError: there is no such model.
    """
    for folder in (bundled(str(model)), Path(model)):
        if (folder / CONFIG).is_file() or (folder / INDEX).is_file():
            return folder
    if Path(model).exists():
        raise SnapshotError(
            model, f"no {CONFIG} here, nor {INDEX}; give the folder that save_pretrained or train.py wrote"
        )
    name = str(model)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise SnapshotError(
            model, "no such model; give 'default', a snapshot folder, or a hub id 'owner/name'"
        )
    return _download(name)


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    # nothing else of the repository, such as other weights, is downloaded
    parts = [f"{name}/{file}" for name in COMPONENTS for file in (CONFIG, WEIGHTS)]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=[CONFIG, WEIGHTS, INDEX, *parts]))
    except Exception as error:  # the hub client raises its own, the transport's and the system's errors
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        raise SnapshotError(
            hub_id,
            f"no such folder, and could not download weights from the hub ({reason}); check name and network",
        ) from error


def networks(folder: Path) -> dict[str, Path]:
    """Return the folders of a model's networks by the names of their classes.

    Args:
        folder: of one network, or of several with model_index.json; see ``resolve``.

    Raises:
        SnapshotError: a config file cannot be read, or a network that it names is missing.
    """
    try:
        if not (folder / INDEX).is_file():
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            return {str(config.get("_class_name", "")): folder}
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        named = {str(value[1]): folder / key for key, value in index.items() if isinstance(value, list)}
    except (OSError, ValueError, AttributeError, IndexError) as error:
        raise SnapshotError(folder, f"{INDEX} or {CONFIG} cannot be read ({_first_line(error)})") from error
    for part in named.values():
        if not (part / CONFIG).is_file():
            raise SnapshotError(part, f"no {CONFIG} here, but {INDEX} names it; copy the whole model folder")
    return named


def folder_of(kind: str, folder: Path) -> Path:
    """Return the folder of the network of a class in a model.

    Args:
        kind: name of the class.
        folder: of one network, or of several with model_index.json.

    Raises:
        SnapshotError: there is none.
    """
    found = networks(folder)
    if kind in found:
        return found[kind]
    if (folder / INDEX).is_file():
        held = " and ".join(found) or "nothing"
        raise SnapshotError(folder, f"has no {kind}, only {held}; give another folder")
    return folder  # the folder of one network, whose config may lack the class


def load_snapshot(kind: type[Net], folder: Path, device: torch.device | str = "cpu") -> Net:
    """Load a network to run: float32 weights, evaluation mode, no gradients.

    Args:
        kind: class of the network.
        folder: with config.json and weights, or of a model that has a network of this class; see ``resolve``.
        device: where to put it.

    Raises:
        SnapshotError: it is missing, truncated, does not match its config, or contains NaN.
    """
    folder = folder_of(kind.__name__, folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise SnapshotError(folder, f"has {CONFIG} but no {WEIGHTS}; copy the whole snapshot folder")
    net = _fitting(kind, folder)
    for name, value in net.state_dict().items():
        if not torch.isfinite(value).all():
            raise SnapshotError(
                weights,
                f"{name} holds NaN or infinity: training diverged or the file is damaged; use another one",
            )
    return net.to(device=device).eval().requires_grad_(False)  # pyright: ignore[reportCallIssue]


def _fitting(kind: type[Net], folder: Path) -> Net:
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("_class_name", kind.__name__)
        if found != kind.__name__:
            raise SnapshotError(folder, f"holds a {found}, not a {kind.__name__}; give another folder")
        if issubclass(kind, Network):
            return kind.from_pretrained(folder)
        loaded: Any = kind.from_pretrained(  # pyright: ignore[reportAttributeAccessIssue]: a ModelMixin
            str(folder),
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (SafetensorError, OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SnapshotError(
            folder, f"weights cannot be read ({_first_line(error)}); copy them again"
        ) from error
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SnapshotError(folder, f"weights do not fit {CONFIG} ({_first_line(error)})") from error
    net, info = loaded
    astray = [*info["missing_keys"], *info["unexpected_keys"]]
    if astray:  # diffusers would fill in random weights
        raise SnapshotError(
            folder, f"weights do not fit {CONFIG} ({len(astray)} missing or unexpected, such as {astray[0]})"
        )
    assert isinstance(net, kind)
    return net


def save_snapshot(net: Network | ModelMixin, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write config.json and safetensors, both complete or not at all.

    Args:
        net: the network; not changed.
        folder: created if missing.
        dtype: precision of the stored weights.
    """
    logging.getLogger("diffusers.models.modeling_utils").setLevel(logging.ERROR)  # it warns of .to(dtype)
    part = folder.with_name(folder.name + ".part")
    try:
        # a copy: training goes on in full precision
        copy.deepcopy(net).to(dtype=dtype).save_pretrained(str(part))  # pyright: ignore[reportCallIssue]
        config = json.loads((part / CONFIG).read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # a local path
        (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(part.iterdir()):
            file.chmod(0o644)  # safetensors creates files that only the owner may read
            file.replace(folder / file.name)  # complete files replace the old ones one by one
    finally:
        shutil.rmtree(part, ignore_errors=True)


def weights_hash(model: str | Path, kinds: Collection[str] | None = None) -> str:
    """Return the first 16 hex digits of the SHA-256 of config and weights; names a model in provenance.

    Args:
        model: see ``resolve``.
        kinds: classes of the networks to include; None for all.

    Raises:
        SnapshotError: there is no such model, or it lacks one of the networks or its weights.
    """
    folder = resolve(model)
    digest = hashlib.sha256()
    for kind in sorted(networks(folder) if kinds is None else kinds):
        part = folder_of(kind, folder)
        for name in (CONFIG, WEIGHTS):
            if not (part / name).is_file():
                raise SnapshotError(part, f"has no {name}; copy the whole snapshot folder")
            digest.update((part / name).read_bytes())
    return digest.hexdigest()[:16]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


_OBJECTS = re.compile("GLOBAL|safe_globals|to call reduce|TorchScript")
"""In messages of the restricted unpickler about objects other than tensors, numbers, lists and dicts."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a ``.pth``, ``.pt`` or ``.safetensors`` file, on the CPU.

    Nested dictionaries are flattened, their keys joined with dots; values other than tensors are left out.

    Raises:
        SnapshotError: the file is missing or damaged, or contains Python objects.
    """
    if not path.is_file():
        what = "is a folder, not a checkpoint" if path.is_dir() else "no such file"
        raise SnapshotError(path, f"{what}; give a .pth, .pt or .safetensors file")
    try:
        return _flat(_loaded(path))
    except Exception as error:  # a damaged pickle can raise anything
        if _OBJECTS.search(str(error)):
            raise SnapshotError(
                path,
                "holds Python objects, which could run any code; save only the weights, with "
                "torch.save(net.state_dict(), FILE)",
            ) from error
        raise SnapshotError(path, "not a checkpoint, or damaged; copy it again") from error


def _loaded(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of pickle protocols that are read all the same
        return torch.load(path, map_location="cpu", weights_only=True)


def _flat(value: Any, name: str = "") -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {name: value}
    if not isinstance(value, Mapping):
        return {}
    dot = f"{name}." if name else ""
    return {k: t for key, inner in value.items() for k, t in _flat(inner, f"{dot}{key}").items()}

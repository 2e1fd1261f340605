"""Other projects' weight files, read as tensors alone, never as Python objects."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from wsigen.errors import SnapshotError

_OBJECTS = re.compile("GLOBAL|safe_globals|to call reduce|TorchScript")
"""What the restricted unpickler says of anything but tensors, numbers, lists and dictionaries."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a ``.pth``, ``.pt`` or ``.safetensors`` file, on the CPU.

    Dictionaries in dictionaries are made flat, their keys joined with dots; what is no tensor is left out.

    Raises:
        SnapshotError: there is no such file, it is damaged, or it holds Python objects.
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
                "holds Python objects, which could run any code; save the weights alone, with "
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

"""Stainers, generators ready to translate with: found by marker, folder or hub id, loaded, saved."""

from __future__ import annotations

from pathlib import Path

import torch

from wsigen.errors import SnapshotError
from wsigen.nn.snapshot import CONFIG, bundled, load_snapshot, resolve, save_snapshot
from wsigen.stain.networks.generator import Generator

_FOLDER = "stain-{}"


def bundled_markers() -> tuple[str, ...]:
    """Markers whose stainers come with the package, in alphabetical order."""
    folders = bundled("").glob(_FOLDER.format("*"))
    prefix = len(_FOLDER.format(""))
    return tuple(sorted(f.name[prefix:].upper() for f in folders if (f / CONFIG).is_file()))


def resolve_stainer(name: str | Path) -> Path:
    """The local folder of a stainer, downloading it if ``name`` is a hub id.

    Args:
        name: a bundled marker in any case ("SYN"), a snapshot folder, or a hub id ("owner/name").

    Raises:
        SnapshotError: there is no such stainer.
    """
    markers = bundled_markers()
    if str(name).upper() in markers:
        return bundled(_FOLDER.format(str(name).lower()))
    path = Path(name)
    if path.is_file():
        raise SnapshotError(
            path, f"is a file; convert it first: wsigen import-stainer {path} --out {path.stem}"
        )
    if not path.exists() and len(path.parts) == 1:
        raise SnapshotError(
            name,
            f"no stainer of this name; bundled markers are: {', '.join(markers) or 'none'}; give one of "
            "them, the path of a snapshot folder, or a hub id 'owner/name'",
        )
    return resolve(name)


def load_stainer(name: str | Path, device: torch.device | str = "cpu") -> Generator:
    """A generator ready to translate with: float32 weights, evaluation mode, no gradients.

    Args:
        name: see ``resolve_stainer``.
        device: where to put it.

    Raises:
        SnapshotError: if it is missing, truncated, of another class or shape than its config, or holds NaN.
    """
    return load_snapshot(Generator, resolve_stainer(name), device)


def save_stainer(net: Generator, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write config.json and safetensors, both whole or not at all.

    Args:
        net: the generator; left as it is.
        folder: made if it does not exist.
        dtype: precision of the stored weights; they are loaded as float32.
    """
    save_snapshot(net, folder, dtype)

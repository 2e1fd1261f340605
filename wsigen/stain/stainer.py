"""Stainers: models that translate H&E into one stain. Find, load, save and import them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from wsigen.config.stain import ImportStainerConfig
from wsigen.errors import InvalidValueError, OutputError, SnapshotError
from wsigen.nn.snapshot import CONFIG, bundled, load_snapshot, resolve, save_snapshot
from wsigen.stain.networks.generator import Generator
from wsigen.stain.networks.published import import_checkpoint

if TYPE_CHECKING:
    from wsigen.nn.network import Network

_FOLDER = "stain-{}"

log = logging.getLogger(__name__)


def bundled_markers() -> tuple[str, ...]:
    """Return the markers of the bundled stainers, in alphabetical order."""
    folders = bundled("").glob(_FOLDER.format("*"))
    prefix = len(_FOLDER.format(""))
    return tuple(sorted(f.name[prefix:].upper() for f in folders if (f / CONFIG).is_file()))


def resolve_stainer(name: str | Path) -> Path:
    """Return the local folder of a stainer; download it if ``name`` is a hub id.

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
    """Load the generator of a stainer: float32 weights, evaluation mode, no gradients.

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


def import_stainer(config: ImportStainerConfig) -> Path:
    """Convert a checkpoint to a snapshot of a stainer or style model; log what it was and where it is.

    Returns:
        The folder.

    Raises:
        InvalidValueError: a value of ``config`` that makes no sense.
        OutputError: there is a stainer in the folder already, or it is a file, or cannot be written.
        SnapshotError: the checkpoint cannot be read or used.
    """
    out = Path(config.out)
    if out.is_file():
        raise OutputError(out, "is a file; give --out a folder")
    if (out / CONFIG).exists() and not config.overwrite:
        raise OutputError(out, "holds a model already; pass --overwrite to replace it, or another --out")
    net = _imported(config)
    dtype = getattr(torch, config.dtype)
    largest = max(float(value.abs().max()) for value in net.parameters())
    if largest > torch.finfo(dtype).max:  # float16 ends at 65,504
        raise InvalidValueError(
            f"weights up to {largest:.3g} do not fit {config.dtype}; pass --dtype bfloat16"
        )
    try:
        save_snapshot(net, out, dtype)
    except OSError as error:
        raise OutputError(out, f"cannot be written ({error.strerror or error})") from error
    log.info("stainer: %s", out)
    return out


def _imported(config: ImportStainerConfig) -> Network:
    if config.decoder is None:
        record = {"marker": config.marker, "mpp": config.mpp, "patch_size": config.patch_size}
        return import_checkpoint(Path(config.checkpoint), config.key, config.norm, **record)
    from wsigen.stain.style.weights import import_style

    given = [f"--{name}" for name in ("key", "marker", "norm") if getattr(config, name) is not None]
    if given:
        raise InvalidValueError(f"{given[0]} is for a generator; leave it out, or leave out --decoder")
    return import_style(Path(config.checkpoint), Path(config.decoder), mpp=config.mpp)

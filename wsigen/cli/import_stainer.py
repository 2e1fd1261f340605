"""``wsigen import-stainer``: a published generator, or style network, becomes a snapshot of ours."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wsigen.cli.parse import parse
from wsigen.errors import InvalidValueError, OutputError

if TYPE_CHECKING:
    from wsigen.nn.network import Network

DESCRIPTION = (
    "Convert the generator of CUT, CycleGAN, L-LSeSim, URUST or DN, as trained by their authors' code, to a "
    "folder that `wsigen translate --stainer` takes; with --decoder, the encoder and decoder of AdaIN style "
    "transfer to one that `wsigen translate --like` takes. Family, width and depth are recognised; nothing "
    "in the files is run."
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ImportStainerConfig:
    """What to convert.

    Args:
        checkpoint: the file, such as latest_net_G.pth; .pth, .pt or .safetensors.
        out: folder for the stainer.
        decoder: decoder.pth of AdaIN style transfer; the checkpoint is then its encoder, vgg_normalised.pth.
        marker: what the output shows, such as SYN; it becomes part of file names.
        mpp: µm/px of the pictures that it was trained on.
        patch_size: side of the pictures that it was trained on, px.
        key: which generator, if the file holds several, such as netG_A.
        dtype: precision of the stored weights.
        overwrite: replace an existing stainer.
    """

    checkpoint: Path
    out: Path
    decoder: Path | None = None
    marker: str | None = None
    mpp: float | None = None
    patch_size: int = 512
    key: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    overwrite: bool = False


def run(argv: Sequence[str], prog: str = "wsigen import-stainer") -> None:
    """Parse ``argv`` and convert."""
    config, _ = parse(ImportStainerConfig, argv, prog=prog, description=DESCRIPTION, positional="checkpoint")
    import_stainer(config)


def import_stainer(config: ImportStainerConfig) -> Path:
    """Convert a checkpoint; log what it was and where the stainer is.

    Returns:
        The folder.

    Raises:
        InvalidValueError: a value of ``config`` that makes no sense.
        OutputError: there is a stainer in the folder already, or it is a file, or cannot be written.
        SnapshotError: the checkpoint cannot be read or used.
    """
    import torch  # so that --help does not wait for it

    from wsigen.nn.snapshot import CONFIG, save_snapshot

    out = Path(config.out)
    if out.is_file():
        raise OutputError(out, "is a file; give --out a folder")
    if (out / CONFIG).exists() and not config.overwrite:
        raise OutputError(out, "holds a model already; pass --overwrite to replace it, or another --out")
    net = _imported(config)
    dtype = getattr(torch, config.dtype)
    largest = max(float(value.abs().max()) for value in net.parameters())
    if largest > torch.finfo(dtype).max:
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
        from wsigen.stain.networks.published import import_checkpoint

        record = {"marker": config.marker, "mpp": config.mpp, "patch_size": config.patch_size}
        return import_checkpoint(Path(config.checkpoint), config.key, **record)
    from wsigen.stain.style.weights import import_style

    given = [f"--{name}" for name in ("key", "marker") if getattr(config, name) is not None]
    if given:
        raise InvalidValueError(f"{given[0]} is said of a generator; leave it out, or leave out --decoder")
    return import_style(Path(config.checkpoint), Path(config.decoder), mpp=config.mpp)

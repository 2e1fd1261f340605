"""``wsigen import-stainer``: convert a published generator, or style network, to a snapshot."""

from __future__ import annotations

from collections.abc import Sequence

from wsigen.cli.parse import parse
from wsigen.config.stain import ImportStainerConfig

DESCRIPTION = (
    "Convert the generator of CUT, CycleGAN, L-LSeSim, URUST or DN, as trained by their authors' code, to a "
    "folder for `wsigen translate --stainer`; with --decoder, the encoder and decoder of AdaIN or WCT "
    "style transfer to one for `wsigen translate --like`. Family, width and depth are recognised; no code "
    "in the files is run."
)


def run(argv: Sequence[str], prog: str = "wsigen import-stainer") -> None:
    """Parse ``argv`` and convert."""
    config, _ = parse(ImportStainerConfig, argv, prog=prog, description=DESCRIPTION, positional="checkpoint")
    from wsigen.stain.stainer import import_stainer  # so that --help does not wait for torch

    import_stainer(config)

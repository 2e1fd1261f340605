"""Names of weights in published checkpoints, turned into those of ``Generator``.

CUT and CycleGAN number the layers of one sequence, as we do. URUST and DN name the parts; their layers follow
one another as CUT's do, so each name has one number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

STEM = r"(?:model\.1|block1\.0)"
"""Name of the first layer in any layout, as a regular expression."""

_FIRST_BLOCK = 12
_FILTER = ".filt"


def as_sequence(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights under the names of a sequence, and apart from them the blur filters, which are constants.

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

"""Feature extractors: what a patch is described by before sets of patches are compared.

`load_extractor` knows them by name:

- ``weight-free``: colour, stains and texture; always available (`wsigen.evaluate.descriptor`).
- ``inception`` or ``inception:PATH``: torch-fidelity's Inception v3, 2048-d pool features, as in published
FIDs. - ``timm:NAME`` and ``transformers:NAME``: any vision encoder by hub id or folder; pathology encoders
too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
import torch

from wsigen.errors import InvalidValueError
from wsigen.evaluate.descriptor import WeightFree

Item = TypeVar("Item")
KINDS = "weight-free, inception, inception:PATH, timm:NAME or transformers:NAME"


class Extractor(Protocol):
    """Describes patches by vectors.

    Attributes:
        name: what the report calls it.
        dimensions: length of a vector.
        comparable: whether Fréchet distances between its features compare with published FIDs.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def dimensions(self) -> int: ...  # noqa: D102

    @property
    def comparable(self) -> bool: ...  # noqa: D102

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """uint8 (n, h, w, 3) to float32 (n, dimensions)."""
        ...


def load_extractor(name: str, device: str | torch.device = "cpu", threads: int = 1) -> Extractor:
    """An extractor by name; see the module.

    Args:
        name: ``weight-free``, ``inception``, ``inception:PATH``, ``timm:NAME`` or ``transformers:NAME``.
        device: where networks run.
        threads: patches that ``weight-free`` describes at once.

    Raises:
        InvalidValueError: an unknown name, or an optional package that is not installed.
        SnapshotError: weights that are neither here nor to be had from the network, or do not fit.
    """
    from wsigen.evaluate import encoders  # networks are not needed to describe without weights

    kind, _, which = name.partition(":")
    if name == "weight-free":
        return WeightFree(threads)
    if kind == "inception":
        return encoders.Inception(which or None, device)
    if kind == "timm" and which:
        return encoders.timm_encoder(which, device)
    if kind == "transformers" and which:
        return encoders.transformers_encoder(which, device)
    raise InvalidValueError(f"features must be {KINDS}, got {name!r}")


def extract(extractor: Extractor, patches: Iterable[np.ndarray], batch: int = 32) -> np.ndarray:
    """Features of a stream of patches.

    Args:
        extractor: which features.
        patches: uint8 (h, w, 3) each, all of one size.
        batch: how many are described at once.

    Returns:
        float32 (n, dimensions); (0, dimensions) if there are no patches.

    Memory: one batch of patches, and the features.
    """
    parts = [extractor(np.stack(group)) for group in batches(patches, batch)]
    return np.concatenate(parts) if parts else np.empty((0, extractor.dimensions), np.float32)


def batches(patches: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The stream in lists of ``size``; the last may be shorter."""
    stream = iter(patches)
    while group := list(islice(stream, size)):
        yield group

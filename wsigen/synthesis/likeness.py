"""One slide in the stain of another: the network that does it is made from both, and runs as stainers do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from wsigen import __version__
from wsigen.config import TranslateConfig
from wsigen.errors import MissingMppError
from wsigen.nn.snapshot import resolve, weights_hash
from wsigen.slide.read import WholeSlide
from wsigen.stain.style.adain import LikeReference
from wsigen.stain.style.thumbnail import compare_stains
from wsigen.stain.style.weights import load_style
from wsigen.synthesis.source import open_source, source_facts, source_name
from wsigen.synthesis.stainers import Rendering, Stainers

_NOT_PLAIN = re.compile(r"[^\w+.-]+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How a slide gets the stain of another.

    Args:
        name: of the other slide, for the new one's.
        reference: facts about it that say which pixels it has.
        strength: of the transfer.
        stainer: the style model's name, for provenance.
        stainer_hash: of its weights.
        dtype: precision of the network.
    """

    name: str
    reference: Mapping[str, Any]
    strength: float
    stainer: str
    stainer_hash: str
    dtype: str

    @property
    def label(self) -> str:
        """What it is called in names of files."""
        return f"like-{self.name}"

    @property
    def marker(self) -> str:
        """What it is called in messages."""
        return self.label

    def facts(self) -> dict[str, Any]:
        """What the pixels follow from, besides those of the slide that is changed."""
        model = {"stainer": self.stainer, "stainer_hash": self.stainer_hash, "dtype": self.dtype}
        return {"version": __version__, "like": dict(self.reference), "strength": self.strength, **model}


def open_likeness(config: TranslateConfig, slide: WholeSlide, rendering: Rendering) -> Stainers:
    """The network that gives a slide the stain of ``config.like``; looks at thumbnails of both.

    Args:
        config: with ``like`` and ``style``.
        slide: to be changed.
        rendering: how the network runs; it has no norm layers.

    Raises:
        SlideError: the reference cannot be read, or holds no tissue.
        SnapshotError: the style model cannot be loaded.

    Determinism: the statistics are computed in float32 on the rendering's device.
    """
    assert config.like is not None, "checked by the config"
    assert config.style is not None, "checked by the config"
    try:
        reference = open_source(config.like, config.like_mpp)
    except MissingMppError as error:
        raise MissingMppError(config.like, "µm/px is not in its metadata; pass --like-mpp") from error
    model = load_style(config.style, rendering.device)
    net = LikeReference(model, *compare_stains(model.encoder, slide, reference), config.strength)
    net.to(rendering.device, rendering.dtype, memory_format=torch.channels_last).eval()  # pyright: ignore
    likeness = Likeness(
        name=_NOT_PLAIN.sub("-", source_name(reference.path)),
        reference=source_facts(reference),
        strength=config.strength,
        stainer=config.style,
        stainer_hash=weights_hash(resolve(config.style)),
        dtype=str(rendering.dtype).removeprefix("torch."),
    )
    return Stainers(nets=(net,), stains=(likeness,), rendering=replace(rendering, norm=None))

"""Stainers of a run: loaded, named, and applied to slides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from wsigen import __version__
from wsigen.config.translate import split_paths
from wsigen.errors import InvalidValueError
from wsigen.geometry import Size
from wsigen.pipeline.networks import Networks, warn_of_scale
from wsigen.pipeline.outputs import IHCOutput, Stain
from wsigen.pipeline.source import open_source, source_facts, source_name
from wsigen.slide.mask import Mask
from wsigen.slide.read import WholeSlide
from wsigen.slide.view import View
from wsigen.stain.engine.background import BackgroundMap
from wsigen.stain.engine.plan import TileSize
from wsigen.stain.engine.render import Compute
from wsigen.stain.engine.statistics import ReadRegion, prepare_constant
from wsigen.stain.engine.stream import StreamTranslator
from wsigen.stain.networks.generator import Generator
from wsigen.stain.normalise.norm import Norm
from wsigen.stain.style.network import LikeReference, Transfer
from wsigen.stain.style.thumbnail import compare_stains

_NOT_PLAIN = re.compile(r"[^\w+.-]+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """How stainers run; norm and pitch change the pixels, the rest at most their rounding.

    Args:
        norm: normalisation; None for networks without norm layers.
        pitch: px from one patch of statistics to the next.
        device: where the networks run.
        dtype: of their arithmetic.
        tile: side of the tiles, px.
        batch: tiles per call; None chooses by the device.
    """

    norm: Norm | None
    pitch: int = 512
    device: torch.device
    dtype: torch.dtype
    tile: TileSize = "auto"
    batch: int | None = None

    @property
    def dtype_name(self) -> str:
        """The precision, for provenance: "float32"."""
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True, kw_only=True)
class Stainers:
    """Networks that translate H&E, each with its stain.

    Args:
        nets: on their device.
        stains: one for each.
        rendering: how they run.
    """

    nets: tuple[Generator | LikeReference, ...]
    stains: tuple[Stain, ...]
    rendering: Rendering

    def only(self, which: Sequence[int]) -> Stainers:
        """Return those of some indices."""
        nets, stains = tuple(self.nets[i] for i in which), tuple(self.stains[i] for i in which)
        return replace(self, nets=nets, stains=stains)

    def of(self, outputs: Sequence[IHCOutput]) -> Stainers:
        """Return those that make the given slides, in their order."""
        return self.only([self.stains.index(output.stain) for output in outputs])

    def with_tile(self, tile: int) -> Stainers:
        """Return the same with tiles of this side, px."""
        return replace(self, rendering=replace(self.rendering, tile=tile))

    def begin(
        self, size: Size, background: BackgroundMap | None, start: int = 0, read: ReadRegion | None = None
    ) -> StreamTranslator:
        """Return a translator for the rows of a slide.

        Args:
            size: of the slide, in pixels.
            background: where the slide is empty; None for nowhere.
            start: first row of output wanted.
            read: pixels of any of its regions; needed, and used here, by norms that are constant over the
                slide.
        """
        how, constant = self.rendering, None
        if how.norm is not None and how.norm.is_constant:
            assert read is not None, "the whole slide exists"
            machine = Compute(how.device, how.dtype)
            constant = prepare_constant(
                self.nets, read, size, how.norm, background=background, pitch=how.pitch, machine=machine
            )
        return StreamTranslator(
            self.nets,
            size,
            constant=constant,
            norm=how.norm,
            background=background,
            pitch=how.pitch,
            tile=how.tile,
            device=how.device,
            dtype=how.dtype,
            batch=how.batch,
            start=start,
        )

    def warn_of_scale(self, mpp: float) -> None:
        """Warn where a slide's µm/px is more than 20 % outside those that a stainer was trained at."""
        for net, stain in zip(self.nets, self.stains, strict=True):
            warn_of_scale(stain.stainer, net.config, mpp)


def open_stainers(
    names: str, markers: Sequence[str] | None, rendering: Rendering, networks: Networks | None = None
) -> Stainers:
    """Load stainers.

    Args:
        names: bundled names, snapshot folders or hub ids, separated by commas.
        markers: what each shows; None for what their snapshots state.
        rendering: how they run; without its norm where they have no norm layers.
        networks: where loaded networks are kept.

    Raises:
        SnapshotError: one cannot be loaded.
        InvalidValueError: a marker is missing or given twice, there are more or fewer than stainers, or some
            stainers have norm layers and others none.
    """
    wanted, networks = split_paths(names, "stainer"), networks or Networks()
    loaded = [
        # the same stainer twice: each keeps statistics of its own
        networks.stainer(name, rendering.device, rendering.dtype, copy=wanted[:i].count(name))
        for i, name in enumerate(wanted)
    ]
    if not _normalised(wanted, [net for net, _ in loaded]):
        rendering = replace(rendering, norm=None)
    shown = _markers(wanted, [net.config["marker"] for net, _ in loaded], markers)
    how = {"norm": rendering.norm, "pitch": rendering.pitch, "dtype": rendering.dtype_name}
    stains = tuple(
        Stain.of_marker(marker, stainer=name, stainer_hash=digest, **how)
        for name, marker, (_, digest) in zip(wanted, shown, loaded, strict=True)
    )
    return Stainers(nets=tuple(net for net, _ in loaded), stains=stains, rendering=rendering)


def _normalised(names: Sequence[str], nets: Sequence[Generator]) -> bool:
    """Whether the networks have norm layers, all of them or none."""
    plain = [name for name, net in zip(names, nets, strict=True) if net.config["norm"] == "none"]
    if plain and len(plain) < len(nets):
        raise InvalidValueError(
            f"{', '.join(plain)} without norm layers cannot share a run with stainers that have some; give "
            "them to a run of their own"
        )
    return not plain


def _markers(names: Sequence[str], own: Sequence[str | None], given: Sequence[str] | None) -> Sequence[str]:
    if given is not None and len(given) != len(names):
        raise InvalidValueError(
            f"--marker must name one for each of {len(names)} stainers, got {', '.join(given)}"
        )
    shown = [marker or "" for marker in (given or own)]
    for name, marker in zip(names, shown, strict=True):
        if not marker:
            raise InvalidValueError(
                f"stainer {name} does not state its marker; pass --marker to `wsigen translate`, or write "
                '"marker" into its config.json'
            )
    # some disks take names that differ in case alone for one file
    if len({marker.lower() for marker in shown}) < len(shown):
        raise InvalidValueError(
            f"two stainers have the same marker, got {', '.join(shown)}; pass --marker with a name for each"
        )
    return shown


def open_like(
    reference: Path,
    slide: WholeSlide,
    rendering: Rendering,
    *,
    style: str,
    strength: float = 1.0,
    transfer: Transfer = "adain",
    mpp: float | None = None,
    series: int | None = None,
    networks: Networks | None = None,
    mask: Mask | None = None,
) -> Stainers:
    """Make the network that gives a slide the stain of another one, from thumbnails of both.

    Args:
        reference: the slide whose stain is wanted.
        slide: to be translated.
        rendering: how the network runs; it has no norm layers.
        style: the style model: a snapshot folder or a hub id.
        strength: from 0, the slide as the model reproduces it, to 1.
        transfer: "adain", of means and σ of the features; or "wct", of means and covariances.
        mpp: µm/px of the reference, for a file that does not state it.
        series: number of the reference's image, for a TIFF or OME-Zarr that holds several.
        networks: where loaded networks are kept.
        mask: of the slide, outside which its tissue does not count.

    Raises:
        SlideError: the reference cannot be read, or contains no tissue.
        SnapshotError: the style model cannot be loaded.

    Determinism: the statistics are computed in float32 on the rendering's device.
    """
    other = open_source(reference, mpp, view=View(series), prefix="like-")
    kept, digest = (networks or Networks()).style(style, rendering.device)
    model = deepcopy(kept)  # the network below converts its weights in place
    net = LikeReference(model, *compare_stains(model.encoder, slide, other, mask), strength, transfer)
    net.to(rendering.device, rendering.dtype, memory_format=torch.channels_last).eval()  # pyright: ignore
    label = f"like-{_NOT_PLAIN.sub('-', source_name(other.path))}"
    facts = {
        "version": __version__,
        "like": source_facts(other),
        "strength": strength,
        "transfer": transfer,
        "stainer": style,
        "stainer_hash": digest,
        "dtype": rendering.dtype_name,
    }
    stain = Stain(label=label, marker=label, facts=facts)
    return Stainers(nets=(net,), stains=(stain,), rendering=replace(rendering, norm=None))

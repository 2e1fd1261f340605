"""The generators that make IHC of H&E: loaded, named, and put to work."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from wsigen.config.translate import split_list
from wsigen.errors import InvalidValueError
from wsigen.geometry import Size
from wsigen.nn.snapshot import weights_hash
from wsigen.stain.engine.background import BackgroundMap
from wsigen.stain.engine.batches import Compute
from wsigen.stain.engine.plan import TileSize
from wsigen.stain.engine.statistics import ReadRegion, prepare_constant
from wsigen.stain.engine.stream import Norm, StreamTranslator
from wsigen.stain.networks.generator import Generator
from wsigen.stain.stainer import load_stainer, resolve_stainer
from wsigen.stain.style.adain import LikeReference
from wsigen.synthesis.twin import Look, Stain

_FAR = 1.2

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """How generators run; norm and pitch show in the pixels, the rest no more than as rounding.

    Args:
        norm: whose statistics normalise a pixel; None for networks without norm layers.
        pitch: px from one patch of statistics to the next.
        device: where the generators run.
        dtype: of their arithmetic.
        tile: side of what is rendered at once, px.
        batch: tiles per call; None for what the device likes.
    """

    norm: Norm | None
    pitch: int = 512
    device: torch.device
    dtype: torch.dtype
    tile: TileSize = "auto"
    batch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Stainers:
    """Generators, and what of each shows in its slides.

    Args:
        nets: on their device.
        stains: one for each.
        rendering: how they run.
    """

    nets: tuple[Generator | LikeReference, ...]
    stains: tuple[Look, ...]
    rendering: Rendering

    def only(self, which: Sequence[int]) -> Stainers:
        """Those of some indices."""
        nets, stains = tuple(self.nets[i] for i in which), tuple(self.stains[i] for i in which)
        return replace(self, nets=nets, stains=stains)

    def with_tile(self, tile: int) -> Stainers:
        """The same with tiles of this side, px."""
        return replace(self, rendering=replace(self.rendering, tile=tile))

    def begin(
        self, size: Size, glass: BackgroundMap | None, start: int = 0, read: ReadRegion | None = None
    ) -> StreamTranslator:
        """A translator for a slide.

        Args:
            size: of the slide, in pixels.
            glass: where it is bare; None for nowhere.
            start: first row of output wanted.
            read: pixels of any of its regions; for norms that are the same for the whole slide, which is
                looked at here.
        """
        how, constant = self.rendering, None
        if how.norm is not None and how.norm.is_constant:
            assert read is not None, "the whole slide is there"
            machine = Compute(how.device, how.dtype)
            constant = prepare_constant(
                self.nets, read, size, how.norm, background=glass, pitch=how.pitch, machine=machine
            )
        return StreamTranslator(
            self.nets,
            size,
            constant=constant,
            norm=how.norm,
            background=glass,
            pitch=how.pitch,
            tile=how.tile,
            device=how.device,
            dtype=how.dtype,
            batch=how.batch,
            start=start,
        )

    def warn_of_scale(self, mpp: float) -> None:
        """Warn where a slide's µm/px is more than 20 % outside those that a generator was trained on.

        Args:
            mpp: µm/px of the slide.
        """
        for net, stain in zip(self.nets, self.stains, strict=True):
            trained = net.config["mpp"]
            low, high = net.config["mpp_range"] or (trained, trained)
            if low is not None and not low / _FAR <= mpp <= high * _FAR:
                seen = f"{low:g}" if low == high else f"{low:g} to {high:g}"
                log.warning(
                    "the slide has %g µm/px; stainer %s was trained on %s, expect less of it",
                    mpp,
                    stain.stainer,
                    seen,
                )


def open_stainers(names: str, markers: Sequence[str] | None, rendering: Rendering) -> Stainers:
    """Load generators.

    Args:
        names: bundled names, snapshot folders or hub ids, with commas between them.
        markers: what each shows; None for what their snapshots say.
        rendering: how they run.

    Raises:
        SnapshotError: one cannot be loaded.
        InvalidValueError: markers that are missing, twice there, or more or fewer than generators.
    """
    assert rendering.norm is not None, "generators are normalised"
    wanted = split_list(names)
    nets = tuple(load_stainer(name, rendering.device) for name in wanted)
    shown = _markers(wanted, [net.config["marker"] for net in nets], markers)
    dtype = str(rendering.dtype).removeprefix("torch.")
    stains = tuple(
        Stain(
            marker=marker,
            stainer=name,
            stainer_hash=weights_hash(resolve_stainer(name)),
            norm=rendering.norm,
            pitch=rendering.pitch,
            dtype=dtype,
        )
        for name, marker in zip(wanted, shown, strict=True)
    )
    return Stainers(nets=nets, stains=stains, rendering=rendering)


def _markers(names: Sequence[str], own: Sequence[str | None], given: Sequence[str] | None) -> Sequence[str]:
    if given is not None and len(given) != len(names):
        raise InvalidValueError(
            f"--marker must name one for each of {len(names)} stainers, got {', '.join(given)}"
        )
    shown = [marker or "" for marker in (given or own)]
    for name, marker in zip(names, shown, strict=True):
        if not marker:
            raise InvalidValueError(
                f"stainer {name} does not say what it shows; pass --marker to `wsigen translate`, or write "
                '"marker" into its config.json'
            )
    if len({marker.lower() for marker in shown}) < len(shown):
        raise InvalidValueError(
            f"stainers show {', '.join(shown)}, one of them twice; pass --marker with a name for each"
        )
    return shown

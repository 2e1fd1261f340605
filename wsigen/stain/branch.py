"""One network of a translation: its tiles, its statistics, and how a batch of tiles is rendered."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wsigen.errors import InvalidValueError
from wsigen.stain.nodes import NodeGrid
from wsigen.stain.normalise import Field, NormLayers, WhiteningStats
from wsigen.stain.schedule import Schedule
from wsigen.stain.tables import NodeRow, TableWindow
from wsigen.stain.tiles import Tile

Constant = Sequence[Field | WhiteningStats]
"""Statistics that are the same for the whole slide, one for each call of a norm layer."""

_WATCHED = 64


def stride_of(net: nn.Module) -> int:
    """Tiles of this network begin at, and are as long as, multiples of this many pixels."""
    return int(getattr(net, "stride", 4))  # type: ignore[arg-type]


def common_stride(nets: Sequence[nn.Module]) -> int:
    """The least stride that suits all networks."""
    return math.lcm(*(stride_of(net) for net in nets))


def halo_of(net: nn.Module) -> int:
    """Pixels around a tile that its result depends on.

    Raises:
        InvalidValueError: the network does not say, or its halo is no multiple of its stride.
    """
    halo, stride = getattr(net, "halo", None), stride_of(net)
    if not isinstance(halo, int) or halo < 0 or halo % stride:
        raise InvalidValueError(
            f"{type(net).__name__} must have an attribute halo, the radius of its receptive field rounded up "
            f"to a multiple of {stride} px, got {halo!r}"
        )
    return halo


def check_channels(net: nn.Module) -> None:
    """Refuse a network that says that it does not translate RGB into RGB.

    Raises:
        InvalidValueError: it takes or gives another number of channels.
    """
    config = getattr(net, "config", None) or {}
    for name in ("in_channels", "out_channels"):
        channels = config.get(name, 3)  # type: ignore[union-attr]
        if channels != 3:
            raise InvalidValueError(
                f"a stainer of slides needs 3 {name}, as RGB has; this one has {channels}"
            )


def take_over(net: nn.Module, device: torch.device, dtype: torch.dtype) -> NormLayers:
    """Get a network ready: on its device, in its type, channels last, its norm layers known.

    One picture is sent through it, so that the first pass, which is watched and not compiled, is none of a
    slide's: a run that goes on must compute as the first one did.

    Args:
        net: changed in place, its instance norms too.
        device: that is to run it.
        dtype: in which it is to run.

    Raises:
        InvalidValueError: there are no norm layers.
    """
    layers = NormLayers(net)
    # past diffusers' own method, which logs that it would rather convert while loading
    nn.Module.to(net, device, dtype)
    nn.Module.to(net, memory_format=torch.channels_last)
    net.eval()
    layers.instance(torch.zeros((1, 3, _WATCHED, _WATCHED), device=device, dtype=dtype))
    return layers


class Branch:
    """One network.

    Args:
        net: on its device.
        layers: its norm layers; None to render it as it is.
        schedule: of its tiles.
        grid: of nodes, where statistics are measured on the way.
        constant: statistics, where they are known before.
    """

    def __init__(
        self,
        net: nn.Module,
        layers: NormLayers | None,
        schedule: Schedule,
        *,
        grid: NodeGrid | None,
        constant: Constant | None,
    ) -> None:
        self.net, self.layers, self.schedule = net, layers, schedule
        self._fields: Constant = constant or ()
        self._table: TableWindow | None = None
        if layers is not None and grid is not None and schedule.norm is not None:
            self._table = TableWindow(grid, schedule.norm, layers.channels)

    def put(self, row: int, values: NodeRow) -> None:
        """Take the statistics of a row of nodes."""
        assert self._table is not None
        self._table.put(row, values)

    def begin_row(self, row: int) -> None:
        """To be called before the tiles of a row are rendered."""
        if self._table is not None:
            self._table.drop(self.schedule.measured(row)[0])
            self._fields = self._table.fields(*self.schedule.fields(row))

    def render(self, x: Float[Tensor, "b 3 h w"], tiles: Sequence[Tile]) -> Float[Tensor, "b 3 h w"]:
        """A batch of tiles, with the pixels around them."""
        if self.layers is None or self.schedule.norm is None:
            return self.net(x)
        if self.schedule.norm.kind == "in":
            return self.layers.instance(x)
        return self.layers.render(x, self._fields, [(tile.read.y, tile.read.x) for tile in tiles])

"""Forward passes of a network whose norm layers measure their input, or normalise it with fields.

Statistics are never stored in the network: a pass carries them, and lasts as long as one call of
`NormLayers`. Two passes over one network, in two threads for example, do not see each other.

Normalising in place saves a network's largest allocations, but a residual connection or a list of features
may still need what the layer read. So the first pass is watched, operation by operation: where no later
operation reads the storage of a layer's input, and nothing holds it at the end, the next passes may overwrite
it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wsigen.errors import InvalidValueError
from wsigen.stain.normalise.blocks import Affine
from wsigen.stain.normalise.field import Field, LayerStats
from wsigen.stain.normalise.fused import Places, apply_field
from wsigen.stain.normalise.moments import instance_normalise


@runtime_checkable
class Pass(Protocol):
    """What the norm layers of a network do during one forward pass."""

    def __call__(self, layer: SlideNorm, x: Float[Tensor, "b c h w"], /) -> Float[Tensor, "b c h w"]:
        """Return the layer's output."""
        ...


_ACTIVE: ContextVar[Pass | None] = ContextVar("pass", default=None)


def active_pass() -> Pass | None:
    """Return the pass of this thread, if it is in one."""
    return _ACTIVE.get()


@contextmanager
def run_pass(chosen: Pass) -> Iterator[None]:
    """Hand the input of all norm layers of this thread to a pass."""
    token = _ACTIVE.set(chosen)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


class SlideNorm(nn.InstanceNorm2d):
    """An instance norm whose statistics may come from outside; without a pass it is what it replaced."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the output of the active pass, or plain instance normalisation without one."""
        active = active_pass()
        return super().forward(input) if active is None else active(self, input)

    @classmethod
    def take_over(cls, layer: nn.InstanceNorm2d) -> None:
        """Convert a layer in place; parameters, hooks and references to it stay valid.

        A module may change its class as long as both hold the same data; torch's lazy modules do it too.
        """
        layer.__class__ = cls

    @property
    def weight_and_bias(self) -> Affine:
        """The layer's own weight and bias, if it has them."""
        return None if self.weight is None else (self.weight, self.bias)


@dataclass(frozen=True)
class Call:
    """One call of a norm layer in a forward pass.

    Args:
        name: of the layer in the network; from its second call on with the number of the call, ``norm:2``.
        channels: of its input.
        overwrite: nothing but this call needs its input.
    """

    name: str
    channels: int
    overwrite: bool


class Watch(TorchDispatchMode):
    """Sees each operation of PyTorch while it is active."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled meanwhile, and to skip it torch would import its compiler: 150 MB.
        return False


class Trace(Watch):
    """Watches a pass.

    Args:
        inner: what the norm layers do meanwhile.
        names: name of each layer.
    """

    def __init__(self, inner: Pass, names: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self.inner, self.names = inner, names
        self._calls: list[Call] = []
        self._of: defaultdict[StorageWeakRef, list[int]] = defaultdict(list)  # calls by their input's memory
        self._needed: set[int] = set()
        self._inside = False

    def __call__(self, layer: SlideNorm, x: Tensor) -> Tensor:
        """Run the layer, and note its input."""
        self._inside = True  # what the layer itself reads does not count
        out = self.inner(layer, x)
        self._inside = False
        self._note_read(x)
        self._of[StorageWeakRef(x.untyped_storage())].append(len(self._calls))
        name = self.names[layer]
        # `name:2` is the second call of `name`
        times = 1 + sum(call.name.partition(":")[0] == name for call in self._calls)
        self._calls.append(Call(name if times == 1 else f"{name}:{times}", x.shape[1], False))
        return out

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and note what it reads."""
        if not self._inside:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
                    self._note_read(leaf)
        return func(*args, **(kwargs or {}))

    def _note_read(self, x: Tensor) -> None:
        self._needed.update(self._of.get(StorageWeakRef(x.untyped_storage()), ()))

    def calls(self) -> tuple[Call, ...]:
        """Return all calls of norm layers, in order; to be called after the pass, when tensors are gone."""
        # alive after the pass: the network keeps it, as for a skip connection
        held = {i for storage, calls in self._of.items() if not storage.expired() for i in calls}
        return tuple(
            replace(call, overwrite=i not in self._needed and i not in held)
            for i, call in enumerate(self._calls)
        )


class PassFinished(Exception):
    """Ends a forward pass early: all statistics are known."""


class NormPass:
    """One forward pass, which must call the norm layers as the first one did.

    Args:
        batch: tiles that the network was given.
        names: name of each layer.
        calls: of the first pass; None in the first.
    """

    def __init__(self, batch: int, names: Mapping[nn.Module, str], calls: Sequence[Call] | None) -> None:
        self.batch, self.names, self.calls, self.done = batch, names, calls, 0

    def __call__(self, layer: SlideNorm, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the layer's output.

        Raises:
            InvalidValueError: ``x`` is not a batch of tiles, or the layer was not called here before.
        """
        name, index, overwrite = self.names[layer], self.done, False
        if x.ndim != 4 or x.shape[0] != self.batch:
            raise InvalidValueError(
                f"layer {name} normalises a tensor of shape {tuple(x.shape)}; it must be given "
                f"one (channels, height, width) for each of the {self.batch} tiles of a batch"
            )
        if self.calls is not None:
            expected = self.calls[index].name if index < len(self.calls) else "no further layer"
            if expected.partition(":")[0] != name:
                raise InvalidValueError(
                    f"the network called norm layer {name} where it called {expected} before; statistics are "
                    "stored by order of calls, which must not depend on the input"
                )
            overwrite = self.calls[index].overwrite
        self.done += 1
        return self.normalise(index, layer, x, overwrite)

    def normalise(self, index: int, layer: SlideNorm, x: Tensor, overwrite: bool) -> Tensor:
        """Return the normalised input of one call.

        Args:
            index: of the call.
            layer: that is called.
            x: its input, (b, c, h, w).
            overwrite: the result may replace the input.
        """
        raise NotImplementedError

    @property
    def watched(self) -> bool:
        """Whether this is the first pass, which must run operation by operation."""
        return self.calls is None


class MeasuringPass(NormPass):
    """Plain instance normalisation that keeps the statistics.

    Args:
        batch: tiles that the network was given.
        names: name of each layer.
        calls: of the first pass; None in the first.
        statistics_only: end the pass with its last statistics (by `PassFinished`).
        eps: added to variances, in place of the layers' own.
        std_eps: added to standard deviations.
        correction: 0 for the biased variance, 1 for the unbiased one.
    """

    def __init__(
        self,
        batch: int,
        names: Mapping[nn.Module, str],
        calls: Sequence[Call] | None,
        *,
        statistics_only: bool = False,
        eps: float | None = None,
        std_eps: float = 0.0,
        correction: int = 0,
    ) -> None:
        super().__init__(batch, names, calls)
        self.statistics_only, self.eps, self.std_eps = statistics_only, eps, std_eps
        self.correction = correction
        self.stats: list[LayerStats] = []

    def normalise(self, index: int, layer: SlideNorm, x: Tensor, overwrite: bool) -> Tensor:
        """Normalise each tile with its own statistics; in place where nothing else needs the input."""
        out, mean, inv_std = instance_normalise(
            x,
            layer.eps if self.eps is None else self.eps,
            layer.weight_and_bias,
            std_eps=self.std_eps,
            correction=self.correction,
            overwrite=overwrite,
            fuse=not self.watched,
        )
        self.stats.append(LayerStats(mean, inv_std))
        if self.statistics_only and self.calls is not None and len(self.stats) == len(self.calls):
            raise PassFinished
        return out


class RenderingPass(NormPass):
    """Normalisation with fields, each tile at its position.

    Args:
        batch: tiles that the network was given.
        names: name of each layer.
        calls: of the first pass; None in the first.
        fields: by call.
        origins: (y, x) of each tile on the slide.
        size: (height, width) of the tiles, image pixels.
    """

    def __init__(
        self,
        batch: int,
        names: Mapping[nn.Module, str],
        calls: Sequence[Call] | None,
        *,
        fields: Sequence[Field],
        origins: Sequence[tuple[int, int]],
        size: tuple[int, int],
    ) -> None:
        super().__init__(batch, names, calls)
        self.fields, self.origins, self.size = fields, origins, size
        self._found: dict[tuple, Places] = {}

    def normalise(self, index: int, layer: SlideNorm, x: Tensor, overwrite: bool) -> Tensor:
        """Normalise with the field of this call."""
        field = self._field(index, layer, x.shape[1])
        places, affine = self._places(field, (x.shape[2], x.shape[3])), layer.weight_and_bias
        return apply_field(x, field, places, affine, overwrite=overwrite, fuse=not self.watched)

    def _field(self, index: int, layer: nn.Module, channels: int) -> Field:
        if index >= len(self.fields):
            raise InvalidValueError(
                f"the network calls more norm layers than there are fields ({len(self.fields)}); "
                f"{self.names[layer]} has none"
            )
        field = self.fields[index]
        if field.channels != channels:
            raise InvalidValueError(
                f"layer {self.names[layer]} has {channels} channels, but its field {field.channels}: "
                "fields go by the order in which measure returns statistics"
            )
        return field

    def _places(self, field: Field, features: tuple[int, int]) -> Places:
        """Where the tiles lie, found once for all layers of one size."""
        key = (field.rows, field.cols, field.interpolation, field.granularity, features)
        if key not in self._found:
            down, right = (pixels_per_feature(p, n) for p, n in zip(self.size, features, strict=True))
            self._found[key] = Places(
                [
                    (
                        field.locate(field.rows, origin=y, scale=down, count=features[0]),
                        field.locate(field.cols, origin=x, scale=right, count=features[1]),
                    )
                    for y, x in self.origins
                ]
            )
        return self._found[key]


def pixels_per_feature(pixels: int, features: int) -> float:
    """Return image pixels per feature pixel along one side of a tile.

    A whole number (or one over a whole number) where sizes differ by rounding alone: 255 pixels give 127 or
    128 features of 2 pixels each, wherever the tile lies.
    """
    if features > pixels:
        return 1 / pixels_per_feature(features, pixels)
    scale = max(1, round(pixels / features))
    return float(scale) if abs(pixels - scale * features) < scale else pixels / features

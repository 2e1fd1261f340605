"""Instance normalisation with external statistics, on any network.

The network is not retrained: its layers keep their weights and names, and called directly it works as before.
IN, TIN, KIN and DN differ only in the fields that are passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wsigen.errors import InvalidValueError
from wsigen.stain.normalise.field import Field, LayerStats
from wsigen.stain.normalise.passes import (
    Call,
    MeasuringPass,
    NormPass,
    PassFinished,
    RenderingPass,
    SlideNorm,
    Trace,
    run_pass,
)


class NormLayers:
    """The norm layers of a network, with statistics passed explicitly.

    Statistics and fields go by call, in the order in which a forward pass calls the layers. Layers that are
    never called have none; a layer that is called twice has two. Which they are is found in the first pass;
    until then ``names`` lists each layer once, in order of registration (in most networks that is the same).

    Args:
        net: any module with ``nn.InstanceNorm2d`` (affine or not). They are replaced in place; doing so twice
            changes nothing. Switching dropout off is the caller's task.

    Memory:
        From the second pass on, layers normalise in place where nothing else needs their input.

    Raises:
        InvalidValueError: there are no such layers, or some that keep running statistics or are subclasses
            with a behaviour of their own.
    """

    def __init__(self, net: nn.Module) -> None:
        for name, layer in net.named_modules():
            if isinstance(layer, nn.InstanceNorm2d) and not isinstance(layer, SlideNorm):
                _check(name, layer)
                SlideNorm.take_over(layer)
        layers = [(n, m) for n, m in net.named_modules() if isinstance(m, SlideNorm)]
        if not layers:
            raise InvalidValueError(
                f"{type(net).__name__} has no nn.InstanceNorm2d layers: no field could be applied"
            )
        self.net = net
        self._names: dict[nn.Module, str] = {layer: name for name, layer in layers}
        self._channels = tuple(layer.num_features for _, layer in layers)
        self._calls: tuple[Call, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers, by call; a second call of a layer is ``name:2``."""
        return tuple(self._names.values()) if self._calls is None else tuple(c.name for c in self._calls)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the layers, likewise."""
        return self._channels if self._calls is None else tuple(c.channels for c in self._calls)

    @torch.inference_mode()
    def instance(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b _ _ _"]:
        """Run the network with plain instance normalisation.

        Equal to calling the network within float32's rounding, and, bit for bit, to `render` with a field of
        one node that holds what `measure` returns for ``x``.

        Args:
            x: images in [-1, 1].
        """
        return self._run(x, MeasuringPass(len(x), self._names, self._calls))

    @torch.inference_mode()
    def measure(
        self,
        x: Float[Tensor, "n 3 h w"],
        *,
        eps: float | None = None,
        std_eps: float = 0.0,
        correction: int = 0,
    ) -> list[LayerStats]:
        """Measure statistics of n patches, each by itself, under plain instance normalisation.

        Args:
            x: patches in [-1, 1].
            eps: added to variances, in place of the layers' own.
            std_eps: added to standard deviations, as the authors of dense normalisation do.
            correction: 0 for the biased variance, as in training; 1 for the unbiased one.

        Returns:
            One `LayerStats` for each call of a norm layer.

        Determinism: the statistics of a patch depend on that patch alone.
        """
        measure = MeasuringPass(
            len(x),
            self._names,
            self._calls,
            statistics_only=True,
            eps=eps,
            std_eps=std_eps,
            correction=correction,
        )
        self._run(x, measure)
        return measure.stats

    @torch.inference_mode()
    def render(
        self,
        x: Float[Tensor, "b 3 h w"],
        fields: Sequence[Field],
        origins: Sequence[tuple[int, int]],
    ) -> Float[Tensor, "b _ _ _"]:
        """Run the network, normalised with fields.

        Args:
            x: tiles of a slide, in [-1, 1].
            fields: one for each call, in order of ``names``.
            origins: (y, x) of each tile on the slide, image pixels.

        Determinism: on the CPU a layer's result depends on its input and on its position on the slide alone.

        Raises:
            InvalidValueError: numbers of tiles, origins, layers, fields or channels that do not fit together.
        """
        if len(origins) != len(x):
            raise InvalidValueError(f"render needs one origin for each of {len(x)} tiles, got {len(origins)}")
        size = (x.shape[2], x.shape[3])
        render = RenderingPass(len(x), self._names, self._calls, fields=fields, origins=origins, size=size)
        out = self._run(x, render)
        if render.done != len(fields):
            raise InvalidValueError(
                f"the network calls {render.done} norm layers, but there are {len(fields)} fields"
            )
        return out

    def _run(self, x: Tensor, present: NormPass) -> Tensor:
        """One forward pass; the first is watched."""
        if self._calls is not None:
            # measuring ends with the last norm layer: what follows is never computed
            with run_pass(present), suppress(PassFinished):
                return self.net(x)
            return x.new_empty(0)
        trace = Trace(present, self._names)
        with trace, run_pass(trace):
            out = self.net(x)
        self._calls = trace.calls()
        if not self._calls:
            raise InvalidValueError(
                f"{type(self.net).__name__} calls none of its norm layers in its forward pass"
            )
        return out


def _check(name: str, layer: nn.InstanceNorm2d) -> None:
    if type(layer) is not nn.InstanceNorm2d:
        raise InvalidValueError(
            f"layer {name} is a {type(layer).__name__}: only nn.InstanceNorm2d itself can be replaced, since "
            "a subclass may behave otherwise"
        )
    if layer.track_running_stats:
        raise InvalidValueError(
            f"layer {name} keeps running statistics, which are the same for every tile already; build the "
            "network with track_running_stats=False to normalise it by fields"
        )

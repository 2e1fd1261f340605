"""Instance normalisation with statistics from outside: one call on any network that has nn.InstanceNorm2d."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wsigen.errors import InvalidValueError
from wsigen.stain.normalise.field import Field
from wsigen.stain.normalise.fused import apply_field


@dataclass(frozen=True)
class LayerStats:
    """Statistics of one layer's input on n patches, each by itself.

    Args:
        mean: float32 (n, channels).
        inv_std: 1 / sqrt(biased variance + eps), float32 (n, channels).
    """

    mean: Float[Tensor, "n c"]
    inv_std: Float[Tensor, "n c"]


class Treatment(Protocol):
    """What the norm layers of a network do during one forward pass."""

    def __call__(self, layer: SlideNorm, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]: ...


_TREATMENT: ContextVar[Treatment | None] = ContextVar("treatment", default=None)


@contextmanager
def treated(treatment: Treatment) -> Iterator[None]:
    """Within, every norm layer that was replaced does as the treatment says, in this thread alone."""
    token = _TREATMENT.set(treatment)
    try:
        yield
    finally:
        _TREATMENT.reset(token)


class SlideNorm(nn.InstanceNorm2d):
    """An instance norm layer that can take its statistics from outside; by itself it is what it replaced."""

    name = ""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name of the layer that it replaces
        """Normalise as the present treatment says, or plainly where there is none."""
        treatment = _TREATMENT.get()
        return super().forward(input) if treatment is None else treatment(self, input)


def affine(layer: SlideNorm, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The layer's own weight and bias, if it has them."""
    if layer.weight is None:
        return x
    return x * layer.weight[:, None, None] + layer.bias[:, None, None]


class _Measure:
    """Plain instance normalisation that keeps the statistics."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.stats: list[LayerStats] = []

    def __call__(self, layer: SlideNorm, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x.float(), dim=(2, 3), correction=0)
        inv_std = (var + layer.eps).rsqrt()
        self.names.append(layer.name)
        self.stats.append(LayerStats(mean, inv_std))
        out = (x.float() - mean[:, :, None, None]) * inv_std[:, :, None, None]
        return affine(layer, out).to(x.dtype)


class _Render:
    """Normalisation with fields, one for each call of a norm layer."""

    def __init__(
        self, fields: Sequence[Field], origins: Sequence[tuple[int, int]], size: Sequence[int]
    ) -> None:
        self.fields, self.origins, self.size, self.called = fields, origins, size, 0

    def __call__(self, layer: SlideNorm, x: Tensor) -> Tensor:
        field = self.fields[self.called]
        self.called += 1
        scale = (self.size[0] / x.shape[2], self.size[1] / x.shape[3])
        tiles = zip(x, self.origins, strict=True)
        return affine(layer, torch.stack([apply_field(t, field, o, scale) for t, o in tiles]))


class NormLayers:
    """The norm layers of a network, with statistics passed explicitly.

    Args:
        net: any module that has ``nn.InstanceNorm2d`` (affine or not); its layers are replaced in place, with
            the same weights and the same behaviour as long as the network is called directly.

    Raises:
        InvalidValueError: the network has no such layers.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        layers = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.InstanceNorm2d)]
        if not layers:
            raise InvalidValueError(f"{type(net).__name__} has no nn.InstanceNorm2d layers to normalise")
        for name, layer in layers:
            new = SlideNorm(layer.num_features, layer.eps, affine=False)
            new.name, new.weight, new.bias = name, layer.weight, layer.bias
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, new)
        self.names = tuple(name for name, _ in layers)
        self.channels = tuple(layer.num_features for _, layer in layers)

    @torch.inference_mode()
    def instance(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The network with plain instance normalisation."""
        return self.net(x)

    @torch.inference_mode()
    def measure(self, x: Float[Tensor, "n 3 h w"]) -> list[LayerStats]:
        """Statistics of n patches, each by itself, per layer in order of ``names``."""
        treatment = _Measure()
        with treated(treatment):
            self.net(x)
        return treatment.stats

    @torch.inference_mode()
    def render(
        self, x: Float[Tensor, "b 3 h w"], fields: Sequence[Field], origins: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "b 3 h w"]:
        """The network, normalised with fields.

        Args:
            x: tiles of a slide.
            fields: one per layer, in order of ``names``.
            origins: (y, x) of each tile on the slide, image pixels.
        """
        with treated(_Render(fields, origins, x.shape[2:])):
            return self.net(x)

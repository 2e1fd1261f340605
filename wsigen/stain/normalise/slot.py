"""The layer that takes an instance norm's place in a network.

The statistics never lie in the network: a pass carries them, and lasts as long as one call of `NormLayers`.
Two passes over one network, in two threads say, do not see each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn

from wsigen.stain.normalise.blocks import Affine


class Pass(Protocol):
    """What the norm layers of a network do during one forward pass."""

    def __call__(self, layer: nn.Module, x: Float[Tensor, "b c h w"], /) -> Float[Tensor, "b c h w"]:
        """The layer's output."""
        ...


_PASS: ContextVar[Pass | None] = ContextVar("pass", default=None)


def present_pass() -> Pass | None:
    """The pass that this thread is in."""
    return _PASS.get()


@contextmanager
def during(present: Pass) -> Iterator[None]:
    """Within, all norm layers of this thread do as the pass says."""
    token = _PASS.set(present)
    try:
        yield
    finally:
        _PASS.reset(token)


class SlideNorm(nn.InstanceNorm2d):
    """An instance norm whose statistics may come from outside; without a pass it is what it replaced."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """As the present pass says, or plainly where there is none."""
        present = present_pass()
        return super().forward(input) if present is None else present(self, input)

    @classmethod
    def take_over(cls, layer: nn.InstanceNorm2d) -> None:
        """Make a layer one of these, in place: parameters, hooks and whoever holds it notice nothing.

        A module may change its class as long as both hold the same data; torch's lazy modules do it too.
        """
        layer.__class__ = cls

    @property
    def weight_and_bias(self) -> Affine:
        """The layer's own weight and bias, if it has them."""
        return None if self.weight is None else (self.weight, self.bias)

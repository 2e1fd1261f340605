"""The layer that replaces an instance norm, and the first pass through a network with such layers.

Statistics are never stored in the network: a pass carries them, and lasts as long as one call of
`NormLayers`. Two passes over one network, in two threads for example, do not see each other.

Normalising in place saves a network's largest allocations, but a residual connection or a list of features
may still need what the layer read. So the first pass is watched, operation by operation: where no later
operation reads the storage of a layer's input, and nothing holds it at the end, the next passes may overwrite
it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
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

from wsigen.stain.normalise.blocks import Affine


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


class Trace(TorchDispatchMode):
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
        self._inside = True
        out = self.inner(layer, x)
        self._inside = False
        self._note_read(x)
        self._of[StorageWeakRef(x.untyped_storage())].append(len(self._calls))
        name = self.names[layer]
        times = 1 + sum(call.name.partition(":")[0] == name for call in self._calls)
        self._calls.append(Call(name if times == 1 else f"{name}:{times}", x.shape[1], False))
        return out

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled in a watched pass, and to skip it torch would import its compiler: 150 MB.
        return False

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
        held = {i for storage, calls in self._of.items() if not storage.expired() for i in calls}
        return tuple(
            replace(call, overwrite=i not in self._needed and i not in held)
            for i, call in enumerate(self._calls)
        )

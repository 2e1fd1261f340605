"""What a method of training a stain translator is, and what it gets from the machine.

Gradients are averaged over processes here rather than by a wrapper around the networks: an update has several
phases with a part of the networks each, and a wrapper would have to be told which.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from wsigen.nn.network import Network
from wsigen.training.state import Part

Scalars = dict[str, Tensor]


class Batch(NamedTuple):
    """Unpaired images of both domains, in [-1, 1], and their running numbers."""

    source: Float[Tensor, "b 3 h w"]
    target: Float[Tensor, "b 3 h w"]
    numbers: list[int]


class Machine:
    """The processes and the precision that a method computes with.

    Args:
        accelerator: of the run.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator

    @property
    def compile_options(self) -> dict[str, Any]:
        """For ``torch.compile``, which on a CPU errs about the layout that replicating a margin keeps."""
        return {} if self.accelerator.device.type == "cuda" else {"options": {"layout_optimization": False}}

    def autocast(self) -> AbstractContextManager[None]:
        """Around each phase of an update, apart: it remembers weights that the phase before has changed."""
        return self.accelerator.autocast()

    def apply(self, loss: Float[Tensor, ""], optimizer: torch.optim.Optimizer) -> None:
        """One step of an optimiser down the gradient of a loss, averaged over processes."""
        optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        if self.accelerator.num_processes > 1:
            self._average([p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None])
        optimizer.step()

    def gather(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "n c h w"]:
        """The images of all processes, in the order of their numbers."""
        return torch.as_tensor(self.accelerator.gather(images.contiguous()))

    def gather_numbers(self, numbers: list[int]) -> list[int]:
        """The numbers of the images of all processes: they follow one another."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        first = numbers[0] - rank * len(numbers)
        return list(range(first, first + processes * len(numbers)))

    def share(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "b c h w"]:
        """Of gathered images, those of this process."""
        return images.chunk(self.accelerator.num_processes)[self.accelerator.process_index]

    def _average(self, gradients: Sequence[Tensor]) -> None:
        flat = torch.cat([g.flatten() for g in gradients])
        flat = torch.as_tensor(self.accelerator.reduce(flat, "mean"))
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


class Method(ABC):
    """One way to train a generator.

    Args:
        machine: what it computes with.

    Attributes:
        nets: everything that is trained, by name.
        generator: of these, the one that is averaged and kept, saved as a snapshot.
        optimizers: by name; all follow the run's learning rate.
        memory: what else the next update depends on.
    """

    nets: nn.ModuleDict
    generator: Network
    optimizers: dict[str, torch.optim.Optimizer]
    memory: dict[str, Part]

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.memory = {}

    @abstractmethod
    def update(self, batch: Batch) -> Scalars:
        """Change the weights once; the losses to report, detached, the generator's "loss" first."""

    def translator(self, net: nn.Module, target: UInt8[Tensor, "n 3 h w"]) -> nn.Module:
        """What translates pictures in validation: the generator itself, unless it must be shown the target.

        Args:
            net: the averaged generator.
            target: held-out pictures of the target.
        """
        del target
        return net

    def compile(self) -> None:
        """Have the networks compiled."""
        for net in self.nets.values():
            net.compile(**self.machine.compile_options)


@contextmanager
def frozen(*nets: nn.Module) -> Iterator[None]:
    """No gradients for the weights of networks that are only looked through; saves a third of their cost."""
    parameters = [p for net in nets for p in net.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)

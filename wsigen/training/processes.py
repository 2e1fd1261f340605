"""Updates of several networks in turn, on one or several processes.

Gradients are averaged over processes here rather than by a wrapper around the networks: an update has several
phases, each with some of the networks, and a wrapper would have to know which.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn


class Processes:
    """The processes and the precision of an update.

    Args:
        accelerator: of the run.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator

    @property
    def compile_options(self) -> dict[str, Any]:
        """Return options of ``torch.compile``, which on a CPU mistakes the layout after replicate padding."""
        return {} if self.accelerator.device.type == "cuda" else {"options": {"layout_optimization": False}}

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context for one phase of an update: it caches weights, which each phase changes."""
        return self.accelerator.autocast()

    def apply(self, loss: Float[Tensor, ""], optimizer: torch.optim.Optimizer) -> None:
        """Step an optimiser along the gradient of a loss, averaged over processes."""
        optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        if self.accelerator.num_processes > 1:
            self._average([p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None])
        optimizer.step()

    def gather(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "n c h w"]:
        """Return the images of all processes, in the order of their numbers."""
        return torch.as_tensor(self.accelerator.gather(images.contiguous()))

    def gather_numbers(self, numbers: list[int]) -> list[int]:
        """Return the numbers of the images of all processes, which follow one another."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        first = numbers[0] - rank * len(numbers)  # number of the first process's first image
        return list(range(first, first + processes * len(numbers)))

    def share(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "b c h w"]:
        """Return this process's share of gathered images."""
        return images.chunk(self.accelerator.num_processes)[self.accelerator.process_index]

    def _average(self, gradients: Sequence[Tensor]) -> None:
        flat = torch.cat([g.flatten() for g in gradients])  # one message for all
        flat = torch.as_tensor(self.accelerator.reduce(flat, "mean"))
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


@contextmanager
def frozen(*nets: nn.Module) -> Iterator[None]:
    """Compute no gradients of the weights of networks that pass gradients on; saves a third of the cost."""
    parameters = [p for net in nets for p in net.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)

"""What a training run keeps: the resumable checkpoint, written whole or not at all."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from wsigen.errors import OutputError
from wsigen.files import atomic_path
from wsigen.nn.ema import PowerEMA

CHECKPOINT = "checkpoint.pt"


class Part(Protocol):
    """Something that a checkpoint holds."""

    def state_dict(self) -> Any:
        """What it is to be made from again."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Go on from what ``state_dict`` gave."""
        ...


class RunState:
    """What a checkpoint holds: parts that go on by themselves, and how far the run is."""

    update: int
    images: int
    validated: int

    def parts(self) -> dict[str, Part]:
        """What the next update depends on, by its name in the checkpoint."""
        raise NotImplementedError

    def save(self, run_dir: Path) -> None:
        """Replace the checkpoint of ``run_dir``.

        Raises:
            OutputError: if it cannot be written; the old one is then still there.
        """
        state = {
            **{name: part.state_dict() for name, part in self.parts().items()},
            "update": self.update,
            "images": self.images,
            "validated": self.validated,
        }
        path = run_dir / CHECKPOINT
        try:
            with atomic_path(path) as temporary:
                torch.save(state, temporary)
        except RuntimeError as error:  # how torch's own writer reports a full disk
            raise OutputError(path, f"cannot be written ({error}); free some space") from error

    def load(self, run_dir: Path) -> bool:
        """Continue from the checkpoint of ``run_dir``; False if there is none.

        Raises:
            OutputError: if it cannot be read or belongs to another network.
        """
        path = run_dir / CHECKPOINT
        if not path.is_file():
            return False
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            for name, part in self.parts().items():
                part.load_state_dict(state[name])
        except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            first = str(error).splitlines()[0]
            raise OutputError(
                path, f"does not fit this configuration ({first}); use another --run_dir"
            ) from error
        self.update, self.images = int(state["update"]), int(state["images"])
        self.validated = int(state.get("validated", -1))  # checkpoints of before did not tell
        return True


@dataclass
class TrainState(RunState):
    """Everything that the next update of the denoiser depends on.

    Args:
        step: the module that holds every trained parameter.
        ema: average of the denoiser's weights.
        optimizer: the optimiser.
        update: updates made.
        images: images seen.
        validated: images seen at the last validation; -1 before the first.
    """

    step: nn.Module
    ema: PowerEMA
    optimizer: torch.optim.Optimizer
    update: int = 0
    images: int = 0
    validated: int = -1

    def parts(self) -> dict[str, Part]:
        """The module, its average and the optimiser."""
        return {"step": self.step, "ema": self.ema, "optimizer": self.optimizer}

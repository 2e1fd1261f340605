"""The loop that every training run shares: progress, reports, checkpoints, validation, stopping.

A run is a subclass of `Loop` that defines what it trains on, how, at which rates, and what validation shows.
Progress is counted in images seen; the same command again continues from the last checkpoint.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm

from wsigen.errors import DivergedError, OutputError
from wsigen.files import disk_errors
from wsigen.nn.ema import PowerEMA
from wsigen.nn.network import Network
from wsigen.nn.snapshot import save_snapshot
from wsigen.training.state import STATS, RunState, drop_lost_stats, save_config

if TYPE_CHECKING:
    from diffusers.models.modeling_utils import ModelMixin

log = logging.getLogger(__name__)


class RunConfig(Protocol):
    """The settings that every run has."""

    @property
    def mixed_precision(self) -> str:
        """Number format of the networks: "bf16" or "no"."""
        ...

    @property
    def kimg(self) -> float:
        """Thousands of images to train on."""
        ...

    @property
    def report_every(self) -> int:
        """Updates between lines in stats.jsonl."""
        ...

    @property
    def checkpoint_every(self) -> float:
        """Minutes between checkpoints."""
        ...

    @property
    def validate_every(self) -> float:
        """Thousands of images between validations."""
        ...

    @property
    def run_dir(self) -> Path | None:
        """Output folder; None: runs/ and the name of the config."""
        ...

    @property
    def tracker(self) -> str | None:
        """Name of accelerate's tracker, or None."""
        ...


Config = TypeVar("Config", bound=RunConfig)
Net = TypeVar("Net", bound=nn.Module)
Scalars = dict[str, Tensor]


class Loop(ABC, Generic[Config]):
    """One call of a training command.

    Args:
        config: the run.
        run_dir: its folder.
        accelerator: its processes and devices.
        state: what a checkpoint holds, as at the start of a run.
        net: the network that is averaged and saved.
        ema: its average.
        trained: all networks that are trained.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        accelerator: Accelerator,
        *,
        state: RunState,
        net: Network | ModelMixin,
        ema: PowerEMA,
        trained: nn.Module,
    ) -> None:
        self.config, self.run_dir, self.accelerator, self.state = config, run_dir, accelerator, state
        self.net, self.ema, self.trained = net, ema, trained
        self.images = math.ceil(config.kimg * 1000)
        self.lr = self.wait_seconds = self.step_seconds = 0.0
        self.reported_at = (time.perf_counter(), state.images)

    @abstractmethod
    def _begin(self) -> Iterable[Any]:
        """Prepare for the first update; return the batches, each ending with its images' numbers."""

    @abstractmethod
    def _train_on(self, batch: Any) -> Scalars:
        """Train on one batch; return the losses to report, detached."""

    @abstractmethod
    def _rates(self) -> Sequence[tuple[Any, float]]:
        """Return the optimisers and their learning rates for the next update; the first one is reported."""

    @abstractmethod
    def _write_validation(self) -> None:
        """Write statistics and pictures of the averaged weights."""

    def _latest(self) -> Scalars:
        """Return numbers of the last update, reported as they are."""
        return {}

    def run(self) -> None:
        """Begin a run, continue it, or leave it as it is if it is finished.

        Raises:
            OutputError: the checkpoint belongs to another network, or the disk refuses.
            DivergedError: weights or losses are NaN or infinite; the last good checkpoint is kept.
        """
        resumed = self.state.load(self.run_dir)
        # validation comes last: a run that was killed before it is not finished
        if self.state.validated == self.state.images >= self.images:
            log.info("%s is finished; raise --kimg to train it further", self.run_dir)
            return
        if resumed:
            log.info("continuing %s at %.1f kimg", self.run_dir, self.state.images / 1000)
        if self.accelerator.is_main_process:
            save_config(self.config, self.run_dir, self.state.images)
            drop_lost_stats(self.run_dir, self.state.images)  # what follows the checkpoint is done again
            if self.config.tracker:
                self.accelerator.init_trackers("wsigen")
        self.reported_at = (time.perf_counter(), self.state.images)
        self._loop()

    def _loop(self) -> None:
        """Update until enough images are seen."""
        config, state, accelerator = self.config, self.state, self.accelerator
        batches = iter(self._begin())
        bar = tqdm(
            total=self.images,
            initial=state.images,
            unit="img",
            disable=not accelerator.is_main_process,
            smoothing=0.05,  # validations and checkpoints would make the estimate jump
        )
        checkpoint_at = time.monotonic() + 60 * config.checkpoint_every
        losses: list[Scalars] = []
        stopped = False
        with interruptible() as received, bar:
            while state.images < self.images:
                stopped = self._asked_to_stop(received)
                if stopped:
                    break
                before = state.images
                losses.append(self._update(batches))
                bar.update(state.images - before)
                if state.update % config.report_every == 0:
                    self._report(losses, bar)
                    losses = []
                if accelerator.is_main_process and time.monotonic() > checkpoint_at:
                    self._save()
                    checkpoint_at = time.monotonic() + 60 * config.checkpoint_every
                if self._crossed(before, config.validate_every * 1000):
                    self._validate()
        del batches  # ends the loader's processes now, not after a wait at exit
        if accelerator.is_main_process and state.validated != state.images:
            self._keep()
        if stopped:
            log.warning("interrupted at %.1f kimg; the same command continues from here", state.images / 1000)
            raise KeyboardInterrupt
        self._validate()
        if accelerator.is_main_process:
            self._save()  # once more: only now is the run finished

    def _update(self, batches: Iterator[Any]) -> Scalars:
        """Change the weights once, from as many batches as the run accumulates; return their mean losses."""
        state, losses = self.state, []
        rates = self._rates()
        for optimizer, lr in rates:
            for group in optimizer.param_groups:
                group["lr"] = lr
        self.lr = rates[0][1]
        for _ in range(getattr(self.config, "accumulation", 1)):
            batch = self._next(batches)
            start = time.perf_counter()
            losses.append(self._train_on(batch))
            self.step_seconds += time.perf_counter() - start
            state.images += len(batch[-1]) * self.accelerator.num_processes  # all processes see as many
        state.update += 1
        self.ema.update(self.net, state.update)
        return {name: torch.stack([one[name] for one in losses]).mean() for name in losses[0]}

    def _asked_to_stop(self, received: list[int]) -> bool:
        """Whether any process got a signal, so that all of them stop after the same update."""
        if self.accelerator.num_processes == 1:
            return bool(received)
        asked = torch.tensor(float(bool(received)), device=self.accelerator.device)
        # one process that stopped alone would leave the others waiting for its gradients
        return float(torch.as_tensor(self.accelerator.reduce(asked, "sum"))) > 0

    def _next(self, batches: Iterator[Any]) -> Any:
        start = time.perf_counter()
        batch = next(batches)
        self.wait_seconds += time.perf_counter() - start
        return batch

    def _crossed(self, before: int, every: float) -> bool:
        return self.state.images // every > before // every

    def _report(self, losses: list[Scalars], bar: tqdm[Any]) -> None:
        # A term that an update has no use for is NaN there; the total never is.
        means = torch.stack([torch.stack([one[name] for one in losses]).nanmean() for name in losses[0]])
        # one transfer from the device for all
        means = torch.as_tensor(self.accelerator.reduce(means, "mean")).tolist()
        now, (then, images) = time.perf_counter(), self.reported_at
        record: dict[str, Any] = {"kimg": self.state.images / 1000, "update": self.state.update}
        record |= {name: round(value, 5) for name, value in zip(losses[0], means, strict=True)}
        record |= {name: round(float(value), 4) for name, value in self._latest().items()}
        record |= {
            "lr": self.lr,
            "images_per_second": round((self.state.images - images) / (now - then), 2),
            "data_wait_fraction": round(self.wait_seconds / (self.wait_seconds + self.step_seconds), 4),
        }
        self.wait_seconds = self.step_seconds = 0.0
        self.reported_at = (now, self.state.images)
        bar.set_postfix({name: f"{record[name]:.4f}" for name in losses[0]})
        self._write(record)

    def _write(self, record: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        path = self.run_dir / STATS
        with disk_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        scalars = {k: v for k, v in record.items() if isinstance(v, float)}
        self.accelerator.log(scalars, step=self.state.update)

    def _save(self) -> None:
        for name, value in self.trained.state_dict().items():
            if not torch.isfinite(value).all():
                raise DivergedError(f"{name} is not finite {self._advice()}")
        self.state.save(self.run_dir)

    def _advice(self) -> str:
        return (
            f"at update {self.state.update}; the last good checkpoint is kept in {self.run_dir}: "
            "continue from it with a lower --optim.lr"
        )

    def _keep(self) -> None:
        """Save the checkpoint first, since it cannot be recreated, then the snapshot."""
        self._save()
        self._snapshot()

    def _snapshot(self) -> None:
        folder = self.run_dir / "snapshot"
        try:
            with disk_errors(folder):
                save_snapshot(averaged(self.net, self.ema), folder)
        except SafetensorError as error:  # how its writer reports a full disk
            raise OutputError(folder, f"cannot be written ({error}); free some space") from error

    def _validate(self) -> None:
        """Validate on the main process while the others wait; once for an image count."""
        state = self.state
        if state.validated == state.images:
            return
        if self.accelerator.is_main_process:
            self._write_validation()
            self._keep()
        state.validated = state.images
        self.accelerator.wait_for_everyone()
        self.reported_at = (time.perf_counter(), state.images)


def averaged(net: Net, ema: PowerEMA) -> Net:
    """Return a copy of a network with its averaged weights, in evaluation mode and without gradients.

    Args:
        net: left as it is.
        ema: its average.
    """
    net = copy.deepcopy(net)
    net.load_state_dict(ema.state_dict())
    return net.eval().requires_grad_(False)


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list, so that the current update ends; a second one interrupts."""
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {s: signal.signal(s, remember) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def ignore_ctrl_c(worker: int) -> None:
    """Ignore SIGINT in a loader's process, which a terminal sends to it too: the current update needs it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

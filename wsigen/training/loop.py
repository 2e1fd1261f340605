"""What every training run does around its updates: progress, reports, checkpoints, validation, stopping.

A run is a subclass of `Loop` that says what an update is, what is looked at, and what is kept. Progress is
counted in images seen; the same command again continues where the last checkpoint left off.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm

from wsigen.errors import OutputError
from wsigen.files import disk_errors
from wsigen.nn.ema import PowerEMA
from wsigen.training.folder import STATS, drop_lost_stats, save_config
from wsigen.training.interrupt import interruptible
from wsigen.training.state import RunState

log = logging.getLogger(__name__)


class RunConfig(Protocol):
    """What any run wants to know of its configuration."""

    @property
    def mixed_precision(self) -> str: ...  # noqa: D102
    @property
    def kimg(self) -> float: ...  # noqa: D102
    @property
    def report_every(self) -> int: ...  # noqa: D102
    @property
    def checkpoint_every(self) -> float: ...  # noqa: D102
    @property
    def validate_every(self) -> float: ...  # noqa: D102
    @property
    def tracker(self) -> str | None: ...  # noqa: D102


Config = TypeVar("Config", bound=RunConfig)
State = TypeVar("State", bound=RunState)
Scalars = dict[str, Tensor]


def images_of(config: RunConfig) -> int:
    """Images that a run sees in all."""
    return math.ceil(config.kimg * 1000)


class Loop(ABC, Generic[Config, State]):
    """One call of a training command.

    Args:
        config: the run.
        run_dir: its folder.
        accelerator: its processes and devices.
        state: where to begin.
    """

    def __init__(self, config: Config, run_dir: Path, accelerator: Accelerator, state: State) -> None:
        self.config, self.run_dir, self.accelerator, self.state = config, run_dir, accelerator, state
        self.images = images_of(config)
        self.wait_seconds = self.step_seconds = 0.0
        self.reported_at = (time.perf_counter(), state.images)
        if accelerator.is_main_process:
            save_config(config, run_dir, state.images)
            drop_lost_stats(run_dir, state.images)
            if config.tracker:
                accelerator.init_trackers("wsigen")

    @abstractmethod
    def _begin(self) -> Iterable[Any]:
        """Last preparations; the batches that are to come."""

    @abstractmethod
    def _update(self, batches: Iterator[Any]) -> tuple[Scalars, Scalars]:
        """One update, which counts its images: losses to report as means, numbers to report as they are."""

    @abstractmethod
    def _write_validation(self) -> None:
        """Look at the averaged weights."""

    @abstractmethod
    def _save_snapshot(self, folder: Path) -> None:
        """Write the averaged weights as a model to use."""

    def _learning_rate(self) -> float:
        """The rate of the last update."""
        raise NotImplementedError

    def _before_save(self) -> None:
        """Refuse to keep weights that are no good."""

    def loop(self) -> None:
        """Updates until enough images are seen."""
        config, state, accelerator = self.config, self.state, self.accelerator
        batches = iter(self._begin())
        bar = tqdm(
            total=self.images,
            initial=state.images,
            unit="img",
            disable=not accelerator.is_main_process,
            smoothing=0.05,
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
                means, latest = self._update(batches)
                losses.append(means)
                bar.update(state.images - before)
                if state.update % config.report_every == 0:
                    self._report(losses, latest, bar)
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

    def _asked_to_stop(self, received: list[int]) -> bool:
        """Whether any process got a signal, so that all of them stop after the same update."""
        if self.accelerator.num_processes == 1:
            return bool(received)
        asked = torch.tensor(float(bool(received)), device=self.accelerator.device)
        return float(torch.as_tensor(self.accelerator.reduce(asked, "sum"))) > 0

    def _next(self, batches: Iterator[Any]) -> Any:
        start = time.perf_counter()
        batch = next(batches)
        self.wait_seconds += time.perf_counter() - start
        return batch

    def _crossed(self, before: int, every: float) -> bool:
        return self.state.images // every > before // every

    def _report(self, losses: list[Scalars], latest: Scalars, bar: tqdm[Any]) -> None:
        means = torch.stack([torch.stack([one[name] for one in losses]).mean() for name in losses[0]])
        means = torch.as_tensor(self.accelerator.reduce(means, "mean")).tolist()
        now, (then, images) = time.perf_counter(), self.reported_at
        record: dict[str, Any] = {"kimg": self.state.images / 1000, "update": self.state.update}
        record |= {name: round(value, 5) for name, value in zip(losses[0], means, strict=True)}
        record |= {name: round(float(value), 4) for name, value in latest.items()}
        record |= {
            "lr": self._learning_rate(),
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
        self._before_save()
        self.state.save(self.run_dir)

    def _keep(self) -> None:
        """Checkpoint first: it is what cannot be made again."""
        self._save()
        self._snapshot()

    def _snapshot(self) -> None:
        folder = self.run_dir / "snapshot"
        try:
            with disk_errors(folder):
                self._save_snapshot(folder)
        except SafetensorError as error:  # how its writer reports a full disk
            raise OutputError(folder, f"cannot be written ({error}); free some space") from error

    def _validate(self) -> None:
        """Look at the averaged weights on the main process while the others wait; once for an image count."""
        state = self.state
        if state.validated == state.images:
            return
        if self.accelerator.is_main_process:
            self._write_validation()
            self._keep()
        state.validated = state.images
        self.accelerator.wait_for_everyone()
        self.reported_at = (time.perf_counter(), state.images)


def run_to_end(config: RunConfig, run_dir: Path, state: RunState, make: Callable[[], Loop[Any, Any]]) -> None:
    """Begin a run, go on with it, or leave it as it is where it is finished.

    Args:
        config: the run.
        run_dir: its folder.
        state: as at the start of a run; goes on from the folder's checkpoint, if there is one.
        make: the loop around that state.

    Raises:
        OutputError: if the checkpoint belongs to another network, or the disk refuses.
    """
    resumed = state.load(run_dir)
    if state.validated == state.images >= images_of(config):
        log.info("%s is finished; raise --kimg to train it further", run_dir)
        return
    if resumed:
        log.info("continuing %s at %.1f kimg", run_dir, state.images / 1000)
    make().loop()


Net = TypeVar("Net", bound=nn.Module)


def averaged(net: Net, ema: PowerEMA) -> Net:
    """A copy of a network with its averaged weights, ready to be used.

    Args:
        net: left as it is.
        ema: its average.
    """
    net = copy.deepcopy(net)
    net.load_state_dict(ema.state_dict())
    return net.eval().requires_grad_(False)

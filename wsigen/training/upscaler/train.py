"""Training of the upscaler, in the loop that all runs share.

Progress is counted in images seen; the same command again continues where the last checkpoint left off, with
the same images and the same noise as if it had never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from wsigen.config.upscaler import UpscalerConfig, UpscalerTrainConfig
from wsigen.data.index import SlideIndex
from wsigen.data.patches import PatchDataset, PatchKey
from wsigen.errors import DivergedError
from wsigen.files import disk_errors
from wsigen.nn.ema import PowerEMA
from wsigen.nn.images import to_unit
from wsigen.nn.snapshot import load_snapshot, resolve, save_snapshot
from wsigen.nn.upscaler import Upscaler
from wsigen.training.folder import only_run
from wsigen.training.loop import Loop, Scalars, averaged, run_to_end
from wsigen.training.setup import background_of, check_alike, make_accelerator, make_loader, run_index
from wsigen.training.stain.method import Machine
from wsigen.training.state import Part, RunState
from wsigen.training.upscaler.update import UpscalerUpdate
from wsigen.training.upscaler.validate import chain_sheet, stage_sheet, stage_statistics
from wsigen.training.validate import Band, held_out

CHAINS, OVERVIEW = 3, 64
"""Overviews from which chains are shown, and their side in px."""


@dataclass
class UpscalerState(RunState):
    """Everything that the next update of the upscaler depends on.

    Args:
        step: networks and optimisers.
        ema: average of the upscaler's weights.
        update: updates made.
        images: images seen.
        validated: images seen at the last validation; -1 before the first.
    """

    step: UpscalerUpdate
    ema: PowerEMA
    update: int = 0
    images: int = 0
    validated: int = -1

    def parts(self) -> dict[str, Part]:
        """Networks, average and optimisers."""
        optimizers = {f"optimizer_{name}": o for name, o in self.step.optimizers.items()}
        return {"nets": self.step.nets, "ema": self.ema, **optimizers}


def train_upscaler(config: UpscalerTrainConfig) -> Path:
    """Train until ``config.kimg``, resuming if the run folder holds a checkpoint.

    A run that is finished is left as it is.

    Returns:
        The folder of the last snapshot, ready for ``sample --upscaler``.

    Raises:
        SlideError: if there is nothing to learn from.
        SnapshotError: if the weights of ``init`` cannot be loaded.
        InvalidValueError: if the run folder holds a run of another network, loss or seed.
        OutputError: if another process trains in the run folder, or the disk refuses.
        DivergedError: if a loss becomes NaN; the last good checkpoint is kept.
    """
    run_dir = config.run_dir or Path("runs") / "upscaler"
    accelerator = make_accelerator(config, run_dir)
    with only_run(run_dir, main=accelerator.is_main_process):
        index = run_index(config, run_dir, accelerator, parts=("model", "discriminator", "loss", "seed"))
        step = UpscalerUpdate(config, make_upscaler(config, index), Machine(accelerator))
        step.nets.to(accelerator.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        state = UpscalerState(step, PowerEMA(step.G, config.optim.ema_sigma_rel))
        run_to_end(config, run_dir, state, lambda: _Run(config, run_dir, accelerator, index, state))
        accelerator.end_training()
    return run_dir / "snapshot"


def make_upscaler(config: UpscalerTrainConfig, index: SlideIndex) -> Upscaler:
    """The upscaler before its first update: random, or with the weights of ``init``.

    Args:
        config: the run.
        index: all slides of the run.

    Raises:
        SnapshotError: if the weights of ``init`` cannot be loaded.
        InvalidValueError: if they are of a network of another shape than ``config.model``.

    Determinism:
        Random weights follow from ``config.seed``.
    """
    torch.manual_seed(config.seed)
    low, high = config.data.mpp_range
    net = Upscaler(**asdict(config.model), mpp_range=(low, high), background=background_of(index))
    if config.init is None:
        return net
    given = load_snapshot(Upscaler, resolve(config.init))
    check_alike(given, net, config.init, {f.name: f"model.{f.name}" for f in fields(UpscalerConfig)})
    net.load_state_dict(given.state_dict())
    return net


class _Run(Loop[UpscalerTrainConfig, UpscalerState]):
    """One call of ``train_upscaler``."""

    def __init__(
        self,
        config: UpscalerTrainConfig,
        run_dir: Path,
        accelerator: Accelerator,
        index: SlideIndex,
        state: UpscalerState,
    ) -> None:
        super().__init__(config, run_dir, accelerator, state)
        self.train_index, self.val_index = index.split("train"), index.split("val")
        self.bands: list[Band] | None = None
        self.overviews: Tensor | None = None
        self.lr = config.optim.lr

    def _begin(self) -> Iterable[Any]:
        step = self.state.step
        if self.config.compile:
            for net in step.nets.values():
                net.compile(**step.machine.compile_options)
        return make_loader(self.config, self.train_index, self.state, self.images, self.accelerator)

    def _update(self, batches: Iterator[Any]) -> tuple[Scalars, Scalars]:
        state = self.state
        images, mpp, numbers = self._next(batches)
        start = time.perf_counter()
        self._set_lr()
        device = self.accelerator.device
        x = to_unit(images.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
        reported = state.step(x, mpp.to(device), numbers, state.update)
        self.step_seconds += time.perf_counter() - start
        state.images += len(numbers) * self.accelerator.num_processes
        state.update += 1
        state.ema.update(state.step.G, state.update)
        return reported, {}

    def _set_lr(self) -> None:
        o = self.config.optim
        left = 1 - self.state.images / self.images
        fall = min(1.0, left / o.cooldown) if o.cooldown else 1.0
        self.lr = o.lr * fall
        for name, rate in o.rates.items():
            for group in self.state.step.optimizers[name].param_groups:
                group["lr"] = rate * fall

    def _learning_rate(self) -> float:
        return self.lr

    def _before_save(self) -> None:
        for name, value in self.state.step.nets.state_dict().items():
            if not torch.isfinite(value).all():
                raise DivergedError(
                    f"{name} is not finite at update {self.state.update}; the last good checkpoint is kept "
                    f"in {self.run_dir}: continue from it with a lower --optim.lr"
                )

    def _save_snapshot(self, folder: Path) -> None:
        save_snapshot(averaged(self.state.step.G, self.state.ema), folder)

    def _write_validation(self) -> None:
        """Numbers and pictures of the averaged weights on held-out slides."""
        if self.bands is None:
            self._draw_held_out()
        assert self.bands is not None
        net, kimg = averaged(self.state.step.G, self.state.ema), self.state.images / 1000
        low, _ = self.config.data.mpp_range
        if not self.bands:
            return
        with self.accelerator.autocast():
            self._write({"kimg": kimg, "val": stage_statistics(net, self.state.step.D, self.bands)})
            stages, chains = (self.run_dir / f"{name}-{kimg:07.1f}kimg.png" for name in ("stages", "chains"))
            with disk_errors(stages):
                stage_sheet(net, self.bands, stages)
            if self.overviews is not None:
                with disk_errors(chains):
                    chain_sheet(net, self.overviews, self.config.preview_mpp, low, chains)

    def _draw_held_out(self) -> None:
        """The same patches every time, where validation slides offer them."""
        config, mpp = self.config, self.config.preview_mpp
        size = min(g.size for g in config.data.patches)
        self.bands = held_out(
            self.val_index, size=size, images=config.val_images, mpp_range=config.data.mpp_range
        )
        if not self.val_index.usable(OVERVIEW, mpp):
            return
        patches = PatchDataset(
            self.val_index, seed=2**31, mpp_range=(mpp, mpp * 1.001), anywhere_fraction=0.0, augment=False
        )
        self.overviews = torch.stack([patches[PatchKey(i, OVERVIEW)].image for i in range(CHAINS)])

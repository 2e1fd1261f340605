"""Training of the upscaler."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from wsigen.config.upscaler import UpscalerConfig, UpscalerTrainConfig
from wsigen.data.index import SlideIndex
from wsigen.data.patches import PatchDataset, PatchKey
from wsigen.files import disk_errors
from wsigen.nn.ema import PowerEMA
from wsigen.nn.images import to_unit
from wsigen.nn.snapshot import load_snapshot, resolve
from wsigen.nn.upscaler import Upscaler
from wsigen.training.loop import Loop, Scalars, averaged
from wsigen.training.processes import Processes
from wsigen.training.setup import background_of, check_alike, make_loader, run_index, run_training
from wsigen.training.state import RunState
from wsigen.training.upscaler.sampled import SampledGuides, load_or_sample
from wsigen.training.upscaler.update import UpscalerUpdate
from wsigen.training.upscaler.validate import chain_sheet, stage_sheet, stage_statistics
from wsigen.training.validate import Band, held_out

CHAINS, OVERVIEW = 3, 64
"""Overviews from which chains are shown, and their side in px."""


def train_upscaler(config: UpscalerTrainConfig) -> Path:
    """Train an upscaler; see `wsigen.training.setup.run_training`.

    Returns:
        The folder of the last snapshot, ready for ``sample --upscaler``.
    """
    return run_training(config, "upscaler", _Run)


def make_upscaler(config: UpscalerTrainConfig, index: SlideIndex) -> Upscaler:
    """Return the upscaler before its first update: random, or with the weights of ``init``.

    Args:
        config: the run.
        index: all slides of the run.

    Raises:
        SnapshotError: the weights of ``init`` could not be loaded.
        InvalidValueError: they are of a network of another shape than ``config.model``.

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


def _sampled(config: UpscalerTrainConfig, run_dir: Path, accelerator: Accelerator) -> SampledGuides | None:
    """Return the guides that a denoiser sampled, by the main process; None without a denoiser."""
    if config.guides.denoiser is None:
        return None
    values = asdict(config.guides)
    model, path = values.pop("denoiser"), run_dir / "guides.pt"
    with accelerator.main_process_first():
        return load_or_sample(path, model, **values, seed=config.seed)


class _Run(Loop[UpscalerTrainConfig]):
    """One call of ``train_upscaler``."""

    def __init__(self, config: UpscalerTrainConfig, run_dir: Path, accelerator: Accelerator) -> None:
        index = run_index(config, run_dir, accelerator)
        self.train_index, self.val_index = index.split("train"), index.split("val")
        sampled = _sampled(config, run_dir, accelerator)
        self.step = step = UpscalerUpdate(
            config, make_upscaler(config, index), Processes(accelerator), sampled
        )
        step.nets.to(accelerator.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        ema = PowerEMA(step.G, config.optim.ema_sigma_rel)
        optimizers = {f"optimizer_{name}": o for name, o in step.optimizers.items()}
        state = RunState({"nets": step.nets, "ema": ema, **optimizers})
        super().__init__(config, run_dir, accelerator, state=state, net=step.G, ema=ema, trained=step.nets)
        self.bands: list[Band] | None = None
        self.overviews: Tensor | None = None

    def _begin(self) -> Iterable[Any]:
        if self.config.compile:
            for net in self.step.nets.values():
                net.compile(**self.step.processes.compile_options)
        return make_loader(self.config, self.train_index, self.state, self.images, self.accelerator)

    def _train_on(self, batch: tuple[Tensor, Tensor, Tensor, list[int]]) -> Scalars:
        images, mpp, _, numbers = batch
        device = self.accelerator.device
        x = to_unit(images.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
        return self.step(x, mpp.to(device), numbers, self.state.update)

    def _rates(self) -> list[tuple[Any, float]]:
        """Return the rates, which fall linearly to 0 at the end of the run."""
        o, left = self.config.optim, 1 - self.state.images / self.images
        fall = min(1.0, left / o.cooldown) if o.cooldown else 1.0
        return [(self.step.optimizers[name], rate * fall) for name, rate in o.rates.items()]

    def _write_validation(self) -> None:
        """Numbers and pictures of the averaged weights on held-out slides."""
        if self.bands is None:
            self._draw_held_out()
        assert self.bands is not None
        net, kimg = averaged(self.step.G, self.ema), self.state.images / 1000
        low, _ = self.config.data.mpp_range
        if not self.bands:
            return
        with self.accelerator.autocast():
            self._write({"kimg": kimg, "val": stage_statistics(net, self.step.D, self.bands)})
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

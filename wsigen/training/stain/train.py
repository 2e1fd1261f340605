"""Training of a stainer by any method, from slides of two stains that are not registered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from wsigen.config.domains import StainRunConfig
from wsigen.config.train import PatchGroup
from wsigen.data.domains import TARGET_STREAM, DomainDataset, Domains, collate_domains, load_or_build_domains
from wsigen.data.index import SlideIndex
from wsigen.files import disk_errors
from wsigen.nn.ema import PowerEMA
from wsigen.nn.images import to_unit
from wsigen.training.loop import Loop, Scalars, averaged
from wsigen.training.processes import Processes
from wsigen.training.setup import batches, run_indices, run_training
from wsigen.training.stain.adain import Adain
from wsigen.training.stain.cut import Cut
from wsigen.training.stain.cyclegan import CycleGan
from wsigen.training.stain.lsesim import LSeSim
from wsigen.training.stain.method import Batch, Method
from wsigen.training.stain.validate import (
    HeldOut,
    draw_held_out,
    make_patches,
    save_sheet,
    stain_statistics,
    translate,
)
from wsigen.training.state import RunState

METHODS: dict[str, Callable[[Any, Processes], Method]] = {
    "cut": Cut,
    "fastcut": Cut,
    "cyclegan": CycleGan,
    "lsesim": LSeSim,
    "adain": Adain,
}


def make_method(config: StainRunConfig, processes: Processes) -> Method:
    """Return the method of a configuration, with untrained networks.

    Args:
        config: the run.
        processes: of the run.
    """
    return METHODS[getattr(config, "method")](config, processes)  # noqa: B009


def train_stainer(config: StainRunConfig) -> Path:
    """Train a stainer; see `wsigen.training.setup.run_training`.

    Returns:
        The folder of the last snapshot, ready for ``translate --stainer``.
    """
    return run_training(config, "stain", _Run)


def _domains(config: StainRunConfig, run_dir: Path, accelerator: Accelerator) -> Domains:
    """The slides of this run, kept in the run folder once there is a checkpoint."""
    data = config.data

    def build() -> Sequence[SlideIndex]:
        found = load_or_build_domains(
            data.source, data.target, table=data.table, val_fraction=data.val_fraction
        )
        return found.source, found.target

    return Domains(*run_indices(config, run_dir, accelerator, ["index-source", "index-target"], build))


def make_pairs(
    config: StainRunConfig, domains: Domains, state: RunState, images: int, accelerator: Accelerator
) -> DataLoader[Any]:
    """Return the batches of pairs of this process, from the update that ``state`` has reached on.

    Args:
        config: the run.
        domains: the slides to learn from.
        state: where to begin.
        images: images of the whole run.
        accelerator: which share of every batch is this process's.

    Raises:
        InvalidValueError: no slide can serve the patches, or the batch cannot be shared out evenly.
    """
    dataset = DomainDataset(
        make_patches(config, domains.source, config.seed, augment=True),
        make_patches(config, domains.target, config.seed ^ TARGET_STREAM, augment=True),
    )
    dataset.require(config.data.patch_size)
    group = PatchGroup(size=config.data.patch_size, batch=config.data.batch)
    return batches(
        dataset, collate_domains, config, [group], state=state, images=images, accelerator=accelerator
    )


class _Run(Loop[StainRunConfig]):
    """One call of ``train_stainer``."""

    def __init__(self, config: StainRunConfig, run_dir: Path, accelerator: Accelerator) -> None:
        self.domains = _domains(config, run_dir, accelerator)
        self.method = method = make_method(config, Processes(accelerator))
        # narrow networks in bf16 take a fifth less time on a CPU when channels come first
        on_gpu = accelerator.device.type == "cuda"
        self.layout = torch.channels_last if on_gpu else torch.contiguous_format
        method.nets.to(accelerator.device).to(memory_format=self.layout)  # pyright: ignore[reportCallIssue]
        ema = PowerEMA(method.generator, config.optim.ema_sigma_rel)
        optimizers = {f"optimizer_{name}": o for name, o in method.optimizers.items()}
        state = RunState({"nets": method.nets, "ema": ema, **optimizers, **method.memory})
        super().__init__(
            config, run_dir, accelerator, state=state, net=method.generator, ema=ema, trained=method.nets
        )
        self.held_out: HeldOut | None = None

    def _begin(self) -> Iterable[Any]:
        self.method.nets.train()
        if self.config.compile:
            self.method.compile()
        return make_pairs(self.config, self.domains.split("train"), self.state, self.images, self.accelerator)

    def _train_on(self, batch: tuple[Tensor, Tensor, list[int]]) -> Scalars:
        source, target, numbers = batch
        return self.method.update(Batch(self._image(source), self._image(target), numbers))

    def _image(self, pixels: Tensor) -> Tensor:
        image = to_unit(pixels.to(self.accelerator.device, non_blocking=True))
        return image.contiguous(memory_format=self.layout)

    def _rates(self) -> list[tuple[Any, float]]:
        """Return the rates: constant for a share of the run, then falling linearly to 0."""
        o, left = self.config.optim, 1 - self.state.images / self.images
        share = min(1.0, left / max(1 - o.constant, 1e-9))
        return [(optimizer, o.rate(name) * share) for name, optimizer in self.method.optimizers.items()]

    def _write_validation(self) -> None:
        """Translations by the averaged weights: pictures, and how their stain compares with the target's."""
        if self.held_out is None:
            self.held_out = draw_held_out(self.config, self.domains)
        kept, net = self.held_out, averaged(self.method.generator, self.ema)
        with self.accelerator.autocast():
            translator = self.method.translator(net, kept.target)
            translated = translate(translator, kept.source, self.accelerator.device)
        kimg = self.state.images / 1000
        self._write({"kimg": kimg, "val": stain_statistics(kept, translated)})
        path = self.run_dir / f"translations-{kimg:010.3f}kimg.png"
        with disk_errors(path):
            save_sheet(path, kept, translated, self.config.preview_images)

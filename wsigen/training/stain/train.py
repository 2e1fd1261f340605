"""Training of a stain translator, by any method: one loop.

Progress is counted in images of each domain; the same command again continues where the last checkpoint left
off, with the same images as if it had never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from wsigen.config.domains import StainRunConfig
from wsigen.data.domains import Domains
from wsigen.errors import DivergedError
from wsigen.files import disk_errors
from wsigen.nn.ema import PowerEMA
from wsigen.nn.images import to_unit
from wsigen.nn.snapshot import save_snapshot
from wsigen.training.folder import only_run
from wsigen.training.loop import Loop, averaged, run_to_end
from wsigen.training.setup import make_accelerator
from wsigen.training.stain.method import Batch, Machine, Method, Scalars
from wsigen.training.stain.methods import make_method
from wsigen.training.stain.setup import make_pairs, run_domains
from wsigen.training.stain.validate import HeldOut, draw_held_out, save_sheet, stain_statistics, translate
from wsigen.training.state import Part, RunState


@dataclass
class StainState(RunState):
    """Everything that the next update of a stain translator depends on.

    Args:
        method: networks, optimisers and memory.
        ema: average of the generator's weights.
        update: updates made.
        images: images of each domain seen.
        validated: images seen at the last validation; -1 before the first.
    """

    method: Method
    ema: PowerEMA
    update: int = 0
    images: int = 0
    validated: int = -1

    def parts(self) -> dict[str, Part]:
        """Networks, average, optimisers and memory."""
        optimizers = {f"optimizer_{name}": o for name, o in self.method.optimizers.items()}
        return {"nets": self.method.nets, "ema": self.ema, **optimizers, **self.method.memory}


def train_stainer(config: StainRunConfig) -> Path:
    """Train until ``config.kimg``, resuming if the run folder holds a checkpoint.

    A run that is finished is left as it is.

    Returns:
        The folder of the last snapshot, ready for ``translate --stainer``.

    Raises:
        SlideError: if there is nothing to learn from.
        InvalidValueError: if the run folder holds a run of another method, network, loss or seed.
        OutputError: if another process trains in the run folder, or the disk refuses.
        DivergedError: if a loss becomes NaN; the last good checkpoint is kept.
    """
    run_dir = config.run_dir or Path("runs") / "stain"
    accelerator = make_accelerator(config, run_dir)
    with only_run(run_dir, main=accelerator.is_main_process):
        domains = run_domains(config, run_dir, accelerator)
        method = make_method(config, Machine(accelerator))
        method.nets.to(accelerator.device).to(memory_format=_layout(accelerator))  # pyright: ignore[reportCallIssue]
        state = StainState(method, PowerEMA(method.generator, config.optim.ema_sigma_rel))
        run_to_end(config, run_dir, state, lambda: _Run(config, run_dir, accelerator, domains, state))
        accelerator.end_training()
    return run_dir / "snapshot"


def _layout(accelerator: Accelerator) -> torch.memory_format:
    """Narrow networks in bf16 take a fifth less time on a CPU when channels come first."""
    return torch.channels_last if accelerator.device.type == "cuda" else torch.contiguous_format


class _Run(Loop[StainRunConfig, StainState]):
    """One call of ``train_stainer``."""

    def __init__(
        self,
        config: StainRunConfig,
        run_dir: Path,
        accelerator: Accelerator,
        domains: Domains,
        state: StainState,
    ) -> None:
        super().__init__(config, run_dir, accelerator, state)
        self.domains = domains
        self.held_out: HeldOut | None = None
        self.lr = config.optim.lr

    def _begin(self) -> Iterable[Any]:
        self.state.method.nets.train()
        if self.config.compile:
            self.state.method.compile()
        return make_pairs(self.config, self.domains.split("train"), self.state, self.images, self.accelerator)

    def _update(self, batches: Iterator[Any]) -> tuple[Scalars, Scalars]:
        state = self.state
        source, target, numbers = self._next(batches)
        start = time.perf_counter()
        self._set_lr()
        reported = state.method.update(Batch(self._image(source), self._image(target), numbers))
        self.step_seconds += time.perf_counter() - start
        state.images += len(numbers) * self.accelerator.num_processes
        state.update += 1
        state.ema.update(state.method.generator, state.update)
        return reported, {}

    def _image(self, pixels: torch.Tensor) -> torch.Tensor:
        image = to_unit(pixels.to(self.accelerator.device, non_blocking=True))
        return image.contiguous(memory_format=_layout(self.accelerator))

    def _set_lr(self) -> None:
        """The run's rate, falling linearly to 0 once the share of it that is constant has passed."""
        o, left = self.config.optim, 1 - self.state.images / self.images
        self.lr = o.lr * min(1.0, left / max(1 - o.constant, 1e-9))
        for optimizer in self.state.method.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.lr

    def _learning_rate(self) -> float:
        return self.lr

    def _before_save(self) -> None:
        for name, value in self.state.method.nets.state_dict().items():
            if not torch.isfinite(value).all():
                raise DivergedError(
                    f"{name} is not finite at update {self.state.update}; the last good checkpoint is kept "
                    f"in {self.run_dir}: continue from it with a lower --optim.lr"
                )

    def _save_snapshot(self, folder: Path) -> None:
        save_snapshot(averaged(self.state.method.generator, self.state.ema), folder)

    def _write_validation(self) -> None:
        """Translations by the averaged weights: pictures, and how their stain compares with the target's."""
        if self.held_out is None:
            self.held_out = draw_held_out(self.config, self.domains)
        kept, net = self.held_out, averaged(self.state.method.generator, self.state.ema)
        with self.accelerator.autocast():
            translator = self.state.method.translator(net, kept.target)
            translated = translate(translator, kept.source, self.accelerator.device)
        kimg = self.state.images / 1000
        self._write({"kimg": kimg, "val": stain_statistics(kept, translated)})
        path = self.run_dir / f"translations-{kimg:010.3f}kimg.png"
        with disk_errors(path):
            save_sheet(path, kept, translated, self.config.preview_images)

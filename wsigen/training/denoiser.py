"""Training of the denoiser: one loop.

Progress is counted in images seen; the same command again continues where the last checkpoint left off, with
the same images and the same noise as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from wsigen.config import TrainConfig
from wsigen.data.index import SlideIndex
from wsigen.diffusion.loss import denoising_loss, draw_noise, uncertainty_weighted
from wsigen.errors import DivergedError
from wsigen.files import disk_errors
from wsigen.nn.denoiser import Denoiser, Uncertainty
from wsigen.nn.ema import PowerEMA
from wsigen.nn.images import to_unit
from wsigen.nn.snapshot import save_snapshot
from wsigen.training.folder import only_run
from wsigen.training.loop import Loop, Scalars, averaged, run_to_end
from wsigen.training.preview import sample_sheet
from wsigen.training.setup import main_size, make_accelerator, make_loader, make_network, run_index
from wsigen.training.state import TrainState
from wsigen.training.validate import Band, held_out, mean_over, validation_loss


class TrainingStep(nn.Module):
    """From clean images to the loss: one module, so that one wrapper shares all gradients among processes.

    Args:
        net: the denoiser.
        uncertainty: weight the loss by a learnt u(σ, µm/px).
    """

    def __init__(self, net: Denoiser, *, uncertainty: bool) -> None:
        super().__init__()
        self.net = net
        self.uncertainty = Uncertainty() if uncertainty else None

    def forward(self, clean: Tensor, noise: Tensor, sigma: Tensor, mpp: Tensor) -> tuple[Tensor, Tensor]:
        """The loss to differentiate, and the plain denoising loss to report; means over the images."""
        D_x = self.net(clean + sigma[:, None, None, None] * noise, sigma, mpp)
        plain = denoising_loss(D_x, clean, sigma, self.net.config["sigma_data"])
        loss = (
            plain if self.uncertainty is None else uncertainty_weighted(plain, self.uncertainty(sigma, mpp))
        )
        return loss.mean(), plain.detach().mean()


def train(config: TrainConfig) -> Path:
    """Train until ``config.kimg``, resuming if the run folder holds a checkpoint.

    A run that is finished is left as it is.

    Returns:
        The folder of the last snapshot, ready for ``sample --model``.

    Raises:
        SlideError: if there is nothing to learn from.
        InvalidValueError: if the run folder holds a run of another network or seed.
        OutputError: if another process trains in the run folder, or the disk refuses.
        DivergedError: if the loss becomes NaN; the last good checkpoint is kept.
    """
    run_dir = config.run_dir or Path("runs") / "denoiser"
    accelerator = make_accelerator(config, run_dir)
    with only_run(run_dir, main=accelerator.is_main_process):
        index = run_index(config, run_dir, accelerator)
        step = TrainingStep(make_network(config, index), uncertainty=config.loss.uncertainty)
        step.to(accelerator.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        optimizer = torch.optim.AdamW(
            step.parameters(), lr=config.optim.lr, betas=config.optim.betas, weight_decay=0.0
        )
        state = TrainState(step, PowerEMA(step.net, config.optim.ema_sigma_rel), optimizer)
        run_to_end(config, run_dir, state, lambda: _Run(config, run_dir, accelerator, index, step.net, state))
        accelerator.end_training()
    return run_dir / "snapshot"


class _Run(Loop[TrainConfig, TrainState]):
    """One call of ``train``."""

    def __init__(
        self,
        config: TrainConfig,
        run_dir: Path,
        accelerator: Accelerator,
        index: SlideIndex,
        net: Denoiser,
        state: TrainState,
    ) -> None:
        super().__init__(config, run_dir, accelerator, state)
        self.net = net
        self.train_index, self.val_index = index.split("train"), index.split("val")
        self.bands: list[Band] | None = None

    def _begin(self) -> Iterable[Any]:
        state = self.state
        wrapped = torch.compile(state.step) if self.config.compile else state.step
        self.wrapped, self.optimizer = self.accelerator.prepare(wrapped, state.optimizer)
        return make_loader(self.config, self.train_index, state, self.images, self.accelerator)

    def _update(self, batches: Iterator[Any]) -> tuple[Scalars, Scalars]:
        """One update of the weights: its plain loss, and the gradient's norm before clipping."""
        accelerator, plain, norm = self.accelerator, [], torch.tensor(0.0)
        self._set_lr()
        for _ in range(self.config.accumulation):
            batch = self._next(batches)
            start = time.perf_counter()
            with accelerator.accumulate(self.wrapped):
                loss, reported = self.wrapped(*self._inputs(batch))
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    norm = self._clip()
                self._stop_if_diverged(loss, norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            plain.append(reported)
            self.step_seconds += time.perf_counter() - start
            self.state.images += len(batch[2]) * accelerator.num_processes
        self.state.update += 1
        self.state.ema.update(self.net, self.state.update)
        return {"loss": torch.stack(plain).mean()}, {"grad_norm": norm}

    def _inputs(self, batch: tuple[Tensor, Tensor, list[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """clean, noise, sigma and mpp of one batch, on the device."""
        images, mpp, numbers = batch
        device, loss = self.accelerator.device, self.config.loss
        channels, height, width = images.shape[1:]
        sigma, noise = draw_noise(
            self.config.seed,
            numbers,
            (channels, height, width),
            P_mean=loss.P_mean,
            P_std=loss.P_std,
            device=device,
        )
        return to_unit(images.to(device, non_blocking=True)), noise, sigma, mpp.to(device)

    def _clip(self) -> Tensor:
        """Clip the gradient; returns the norm that it had."""
        norm = self.accelerator.clip_grad_norm_(self.state.step.parameters(), self.config.optim.grad_clip)
        return torch.as_tensor(norm)

    def _set_lr(self) -> None:
        o, t = self.config.optim, self.state.update + 1
        lr = o.lr * min(1.0, t / max(1, o.warmup))
        if o.decay_from:
            lr /= math.sqrt(max(1.0, t / o.decay_from))
        if o.cooldown:
            lr *= min(1.0, (1 - self.state.images / self.images) / o.cooldown)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _stop_if_diverged(self, loss: Tensor, norm: Tensor) -> None:
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise DivergedError(
                f"loss {loss.item()} with gradient norm {float(norm)} at update {self.state.update}; the "
                f"last good checkpoint is kept in {self.run_dir}: continue from it with a lower --optim.lr"
            )

    def _learning_rate(self) -> float:
        return self.state.optimizer.param_groups[0]["lr"]

    def _save_snapshot(self, folder: Path) -> None:
        save_snapshot(averaged(self.net, self.state.ema), folder)

    def _write_validation(self) -> None:
        """Loss and pictures of the averaged weights."""
        config, net = self.config, averaged(self.net, self.state.ema)
        size = main_size(config)
        if self.bands is None:
            self.bands = held_out(
                self.val_index, size=size, images=config.val_images, mpp_range=config.data.mpp_range
            )
        with self.accelerator.autocast():
            table = validation_loss(
                net, self.bands, sigma_data=config.loss.sigma_data, device=self.accelerator.device
            )
            if table:
                self._write({"kimg": self.state.images / 1000, "val_loss": mean_over(table), "val": table})
            name = f"samples-{self.state.images // 1000:06d}kimg.png"
            if config.preview_mpp:
                with disk_errors(self.run_dir / name):
                    sample_sheet(
                        net, self.run_dir / name, mpps=config.preview_mpp, size=size, seed=config.seed
                    )

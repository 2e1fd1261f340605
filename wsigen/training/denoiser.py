"""Training of the denoiser."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from wsigen.config import TrainConfig
from wsigen.diffusion.loss import denoising_loss, draw_noise, uncertainty_weighted
from wsigen.errors import DivergedError
from wsigen.files import disk_errors
from wsigen.nn.denoiser import Denoiser, Uncertainty
from wsigen.nn.ema import PowerEMA
from wsigen.nn.images import to_unit
from wsigen.training.loop import Loop, Scalars, averaged
from wsigen.training.setup import main_size, make_loader, make_network, run_index, run_training
from wsigen.training.state import RunState
from wsigen.training.validate import Band, held_out, mean_over, sample_sheet, validation_loss


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

    def forward(
        self, clean: Tensor, noise: Tensor, sigma: Tensor, mpp: Tensor, class_labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss to differentiate, and the plain denoising loss to report; means over the images."""
        D_x = self.net(clean + sigma[:, None, None, None] * noise, sigma, mpp, class_labels)
        plain = denoising_loss(D_x, clean, sigma, self.net.config["sigma_data"])
        loss = (
            plain if self.uncertainty is None else uncertainty_weighted(plain, self.uncertainty(sigma, mpp))
        )
        return loss.mean(), plain.detach().mean()


def train(config: TrainConfig) -> Path:
    """Train a denoiser; see `wsigen.training.setup.run_training`.

    Returns:
        The folder of the last snapshot, ready for ``sample --model``.
    """
    return run_training(config, "denoiser", _Run)


class _Run(Loop[TrainConfig]):
    """One call of ``train``."""

    def __init__(self, config: TrainConfig, run_dir: Path, accelerator: Accelerator) -> None:
        index = run_index(config, run_dir, accelerator)
        self.train_index, self.val_index = index.split("train"), index.split("val")
        self.denoiser = make_network(config, index)
        self.step = TrainingStep(self.denoiser, uncertainty=config.loss.uncertainty)
        self.step.to(accelerator.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimizer: Any = torch.optim.AdamW(
            self.step.parameters(), lr=config.optim.lr, betas=config.optim.betas, weight_decay=0.0
        )
        ema = PowerEMA(self.denoiser, config.optim.ema_sigma_rel)
        state = RunState({"step": self.step, "ema": ema, "optimizer": self.optimizer})
        super().__init__(
            config, run_dir, accelerator, state=state, net=self.denoiser, ema=ema, trained=self.step
        )
        self.norm = torch.tensor(0.0)
        self.bands: list[Band] | None = None

    def _begin(self) -> Iterable[Any]:
        wrapped = torch.compile(self.step) if self.config.compile else self.step
        self.wrapped, self.optimizer = self.accelerator.prepare(wrapped, self.optimizer)
        return make_loader(
            self.config,
            self.train_index,
            self.state,
            self.images,
            self.accelerator,
            classes=self.denoiser.classes,
        )

    def _train_on(self, batch: tuple[Tensor, Tensor, Tensor, list[int]]) -> Scalars:
        accelerator = self.accelerator
        with accelerator.accumulate(self.wrapped):
            loss, reported = self.wrapped(*self._inputs(batch))
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                self.norm = self._clip()
            # before the step, which would carry NaN into the weights
            if not (torch.isfinite(loss) and torch.isfinite(self.norm)):
                raise DivergedError(
                    f"loss {loss.item()} with gradient norm {float(self.norm)} {self._advice()}"
                )
            self.optimizer.step()
            self.optimizer.zero_grad()
        return {"loss": reported}

    def _latest(self) -> Scalars:
        """Return the gradient's norm before clipping."""
        return {"grad_norm": self.norm}

    def _inputs(self, batch: tuple[Tensor, Tensor, Tensor, list[int]]) -> tuple[Tensor, ...]:
        """clean, noise, sigma, mpp and classes of one batch, on the device."""
        images, mpp, classes, numbers = batch
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
        clean = to_unit(images.to(device, non_blocking=True))
        return clean, noise, sigma, mpp.to(device), classes.to(device)

    def _clip(self) -> Tensor:
        """Clip the gradient; returns the norm that it had."""
        norm = self.accelerator.clip_grad_norm_(self.step.parameters(), self.config.optim.grad_clip)
        return torch.as_tensor(norm)

    def _rates(self) -> list[tuple[Any, float]]:
        o, t = self.config.optim, self.state.update + 1  # from 1, or the first update would have a rate of 0
        lr = o.lr * min(1.0, t / max(1, o.warmup))
        if o.decay_from:
            lr /= math.sqrt(max(1.0, t / o.decay_from))
        if o.cooldown:
            lr *= min(1.0, (1 - self.state.images / self.images) / o.cooldown)
        return [(self.optimizer, lr)]

    def _write_validation(self) -> None:
        """Loss and pictures of the averaged weights."""
        config, net = self.config, averaged(self.denoiser, self.ema)
        size = main_size(config)
        if self.bands is None:
            self.bands = held_out(
                self.val_index,
                size=size,
                images=config.val_images,
                mpp_range=config.data.mpp_range,
                classes=self.denoiser.classes,
            )
        with self.accelerator.autocast():
            how = {"sigma_data": config.loss.sigma_data, "device": self.accelerator.device}
            table = validation_loss(net, self.bands, **how)
            if table:
                record = {"kimg": self.state.images / 1000, "val_loss": mean_over(table), "val": table}
                if net.classes:
                    told = validation_loss(net, self.bands, **how, classes=True)
                    record |= {"val_class_loss": mean_over(told), "val_class": told}
                self._write(record)
            name = f"samples-{self.state.images // 1000:06d}kimg.png"
            if config.preview_mpp:
                with disk_errors(self.run_dir / name):
                    sample_sheet(
                        net, self.run_dir / name, mpps=config.preview_mpp, size=size, seed=config.seed
                    )

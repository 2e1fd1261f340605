"""Training of the denoiser: one loop.

Progress is counted in images seen; the same command again continues where the last checkpoint left off, with
the same images and the same noise as if it had never stopped.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm

from wsigen.config import TrainConfig
from wsigen.data.index import SlideIndex
from wsigen.data.patches import to_unit_range
from wsigen.diffusion.loss import denoising_loss, draw_noise, uncertainty_weighted
from wsigen.errors import DivergedError, OutputError
from wsigen.files import disk_errors
from wsigen.nn.denoiser import Denoiser
from wsigen.nn.ema import PowerEMA
from wsigen.nn.snapshot import save_denoiser
from wsigen.nn.uncertainty import Uncertainty
from wsigen.training.folder import STATS, drop_lost_stats, only_run, save_config
from wsigen.training.interrupt import interruptible
from wsigen.training.preview import sample_sheet
from wsigen.training.setup import make_accelerator, make_loader, make_network, run_index
from wsigen.training.state import TrainState
from wsigen.training.validate import Band, held_out, mean_over, validation_loss

log = logging.getLogger(__name__)


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
        resumed = state.load(run_dir)
        if state.validated == state.images >= _images(config):
            log.info("%s is finished; raise --kimg to train it further", run_dir)
        else:
            if resumed:
                log.info("continuing %s at %.1f kimg", run_dir, state.images / 1000)
            _Run(config, run_dir, accelerator, index, step.net, state).loop()
        accelerator.end_training()
    return run_dir / "snapshot"


def _images(config: TrainConfig) -> int:
    return math.ceil(config.kimg * 1000)


class _Run:
    """The state of one call of ``train``: what the loop and its reports share."""

    def __init__(
        self,
        config: TrainConfig,
        run_dir: Path,
        accelerator: Accelerator,
        index: SlideIndex,
        net: Denoiser,
        state: TrainState,
    ) -> None:
        self.config, self.run_dir, self.accelerator = config, run_dir, accelerator
        self.net, self.state = net, state
        self.train_index, self.val_index = index.split("train"), index.split("val")
        self.images = _images(config)
        self.bands: list[Band] | None = None
        self.wait_seconds = self.step_seconds = 0.0
        self.reported_at = (time.perf_counter(), state.images)
        if accelerator.is_main_process:
            save_config(config, run_dir, state.images)
            drop_lost_stats(run_dir, state.images)
            if config.tracker:
                accelerator.init_trackers("wsigen")

    def loop(self) -> None:
        """Updates until enough images are seen."""
        config, state, accelerator = self.config, self.state, self.accelerator
        wrapped = torch.compile(state.step) if config.compile else state.step
        wrapped, optimizer = accelerator.prepare(wrapped, state.optimizer)
        batches = iter(make_loader(config, self.train_index, state, self.images, accelerator))
        bar = tqdm(
            total=self.images,
            initial=state.images,
            unit="img",
            disable=not accelerator.is_main_process,
            smoothing=0.05,
        )
        checkpoint_at = time.monotonic() + 60 * config.checkpoint_every
        losses: list[Tensor] = []
        stopped = False
        with interruptible() as received, bar:
            while state.images < self.images:
                stopped = self._asked_to_stop(received)
                if stopped:
                    break
                before = state.images
                plain, norm = self._update(wrapped, optimizer, batches)
                state.update += 1
                state.ema.update(self.net, state.update)
                losses.append(plain)
                bar.update(state.images - before)
                if state.update % config.report_every == 0:
                    self._report(losses, norm, bar)
                    losses = []
                if accelerator.is_main_process and time.monotonic() > checkpoint_at:
                    state.save(self.run_dir)
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
            state.save(self.run_dir)  # once more: only now is the run finished

    def _update(self, wrapped: nn.Module, optimizer: Any, batches: Iterator[Any]) -> tuple[Tensor, Tensor]:
        """One update of the weights: its plain loss, and the gradient's norm before clipping."""
        accelerator, plain, norm = self.accelerator, [], torch.tensor(0.0)
        self._set_lr(optimizer)
        for _ in range(self.config.accumulation):
            batch = self._next(batches)
            start = time.perf_counter()
            with accelerator.accumulate(wrapped):
                loss, reported = wrapped(*self._inputs(batch))
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    norm = self._clip()
                self._stop_if_diverged(loss, norm)
                optimizer.step()
                optimizer.zero_grad()
            plain.append(reported)
            self.step_seconds += time.perf_counter() - start
            self.state.images += len(batch[2]) * accelerator.num_processes
        return torch.stack(plain).mean(), norm

    def _asked_to_stop(self, received: list[int]) -> bool:
        """Whether any process got a signal, so that all of them stop after the same update."""
        if self.accelerator.num_processes == 1:
            return bool(received)
        asked = torch.tensor(float(bool(received)), device=self.accelerator.device)
        return float(torch.as_tensor(self.accelerator.reduce(asked, "sum"))) > 0

    def _next(self, batches: Iterator[Any]) -> tuple[Tensor, Tensor, list[int]]:
        start = time.perf_counter()
        batch = next(batches)
        self.wait_seconds += time.perf_counter() - start
        return batch

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
        return to_unit_range(images.to(device, non_blocking=True)), noise, sigma, mpp.to(device)

    def _clip(self) -> Tensor:
        """Clip the gradient; returns the norm that it had."""
        norm = self.accelerator.clip_grad_norm_(self.state.step.parameters(), self.config.optim.grad_clip)
        return torch.as_tensor(norm)

    def _set_lr(self, optimizer: Any) -> None:
        o, t = self.config.optim, self.state.update + 1
        lr = o.lr * min(1.0, t / max(1, o.warmup))
        if o.decay_from:
            lr /= math.sqrt(max(1.0, t / o.decay_from))
        if o.cooldown:
            lr *= min(1.0, (1 - self.state.images / self.images) / o.cooldown)
        for group in optimizer.param_groups:
            group["lr"] = lr

    def _stop_if_diverged(self, loss: Tensor, norm: Tensor) -> None:
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise DivergedError(
                f"loss {loss.item()} with gradient norm {float(norm)} at update {self.state.update}; the "
                f"last good checkpoint is kept in {self.run_dir}: continue from it with a lower --optim.lr"
            )

    def _crossed(self, before: int, every: float) -> bool:
        return self.state.images // every > before // every

    def _report(self, losses: list[Tensor], norm: Tensor, bar: tqdm[Any]) -> None:
        loss = self.accelerator.reduce(torch.stack(losses).mean(), "mean")
        assert isinstance(loss, Tensor)
        now, (then, images) = time.perf_counter(), self.reported_at
        record = {
            "kimg": self.state.images / 1000,
            "update": self.state.update,
            "loss": round(float(loss), 5),
            "grad_norm": round(float(norm), 4),
            "lr": self.state.optimizer.param_groups[0]["lr"],
            "images_per_second": round((self.state.images - images) / (now - then), 2),
            "data_wait_fraction": round(self.wait_seconds / (self.wait_seconds + self.step_seconds), 4),
        }
        self.wait_seconds = self.step_seconds = 0.0
        self.reported_at = (now, self.state.images)
        bar.set_postfix(loss=f"{record['loss']:.4f}")
        self._write(record)

    def _write(self, record: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        path = self.run_dir / STATS
        with disk_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        scalars = {k: v for k, v in record.items() if isinstance(v, float)}
        self.accelerator.log(scalars, step=self.state.update)

    def _averaged(self) -> Denoiser:
        net = copy.deepcopy(self.net)
        net.load_state_dict(self.state.ema.state_dict())
        return net.eval().requires_grad_(False)

    def _keep(self) -> None:
        """Checkpoint first: it is what cannot be made again."""
        self.state.save(self.run_dir)
        self._snapshot()

    def _snapshot(self) -> None:
        folder = self.run_dir / "snapshot"
        try:
            with disk_errors(folder):
                save_denoiser(self._averaged(), folder)
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

    def _write_validation(self) -> None:
        """Loss and pictures of the averaged weights."""
        config, net = self.config, self._averaged()
        size = min(g.size for g in config.data.patches)
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

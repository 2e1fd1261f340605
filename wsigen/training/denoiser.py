"""Training of the denoiser: one loop.

Progress is counted in images seen; the same command again continues where the last checkpoint left off, with
the same images and the same noise as if it had never stopped.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from wsigen.config import TrainConfig
from wsigen.data.index import SlideIndex, load_or_build_index
from wsigen.data.patches import PatchDataset, PatchSchedule, collate, to_unit_range
from wsigen.diffusion.loss import denoising_loss, draw_noise, uncertainty_weighted
from wsigen.errors import DivergedError, InvalidValueError, OutputError, SlideError
from wsigen.files import disk_errors, make_folder, write_bytes
from wsigen.nn.denoiser import Denoiser
from wsigen.nn.ema import PowerEMA
from wsigen.nn.snapshot import save_denoiser
from wsigen.nn.uncertainty import Uncertainty
from wsigen.training.preview import sample_sheet
from wsigen.training.state import CHECKPOINT, TrainState
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

    Returns:
        The folder of the last snapshot, ready for ``sample --model``.

    Raises:
        SlideError: if there is nothing to learn from.
        DivergedError: if the loss becomes NaN; the last good checkpoint is kept.
    """
    run_dir = config.run_dir or Path("runs") / "denoiser"
    accelerator = _accelerator(config, run_dir)
    index = _index(config, run_dir, accelerator)
    step = TrainingStep(_network(config, index), uncertainty=config.loss.uncertainty).to(accelerator.device)
    step.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.AdamW(
        step.parameters(), lr=config.optim.lr, betas=config.optim.betas, weight_decay=0.0
    )
    state = TrainState(step, PowerEMA(step.net, config.optim.ema_sigma_rel), optimizer)
    if state.load(run_dir):
        log.info("continuing %s at %.1f kimg", run_dir, state.images / 1000)
    run = _Run(config, run_dir, accelerator, index, step.net, state)
    run.loop()
    return run_dir / "snapshot"


def _accelerator(config: TrainConfig, run_dir: Path) -> Accelerator:
    try:
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.accumulation,
            log_with=config.tracker,
            project_config=ProjectConfiguration(project_dir=str(run_dir)),
        )
    except ValueError as error:  # a device without bf16, a tracker that does not exist
        raise InvalidValueError(" ".join(str(error).split())) from error
    if config.tracker and not accelerator.log_with:  # accelerate leaves it out without a word
        raise InvalidValueError(
            f"tracker {config.tracker} is not installed; run `pip install {config.tracker}`, or leave it out"
        )
    return accelerator


def _network(config: TrainConfig, index: SlideIndex) -> Denoiser:
    torch.manual_seed(config.seed)
    red, green, blue = (
        sorted(e.background[c] for e in index.entries)[len(index.entries) // 2] for c in range(3)
    )
    low, high = config.data.mpp_range
    return Denoiser(
        **asdict(config.model),
        sigma_data=config.loss.sigma_data,
        patch_sizes=tuple(g.size for g in config.data.patches),
        mpp_range=(low, high),
        background=(red, green, blue),
    )


def _index(config: TrainConfig, run_dir: Path, accelerator: Accelerator) -> SlideIndex:
    """The slides of this run, indexed until there is a checkpoint and then kept in the run folder."""
    path = run_dir / "index.parquet"
    if accelerator.is_main_process:
        make_folder(run_dir)
        _check_same_network(config, run_dir)
        if not (path.is_file() and (run_dir / CHECKPOINT).is_file()):
            index = load_or_build_index(
                config.data.slides, table=config.data.table, val_fraction=config.data.val_fraction
            )
            index.save(path)
    accelerator.wait_for_everyone()
    index = SlideIndex.load(path)
    if not index.split("train").entries:
        raise SlideError(config.data.slides, "no slide in the train split; check the table's split column")
    return index


def _check_same_network(config: TrainConfig, run_dir: Path) -> None:
    path = run_dir / "config.yaml"
    now = json.loads(json.dumps(asdict(config), default=str))
    if path.is_file() and (run_dir / CHECKPOINT).is_file():
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
        for part in ("model", "loss", "seed"):
            if before[part] != now[part]:
                raise InvalidValueError(
                    f"{run_dir} holds a run with {part}={before[part]}, this one has {now[part]}; "
                    "pass another --run_dir, or the old settings to continue it"
                )
        if any(before["data"][key] != now["data"][key] for key in ("slides", "table", "val_fraction")):
            log.warning(
                "%s goes on with the slides of its index.parquet; pass another --run_dir for others", run_dir
            )
    write_bytes(path, yaml.safe_dump(now, sort_keys=False).encode())


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
        self.images = math.ceil(config.kimg * 1000)
        self.bands: list[Band] | None = None
        self.wait_seconds = self.step_seconds = 0.0
        self.reported_at = (time.perf_counter(), state.images)
        if config.tracker and accelerator.is_main_process:
            accelerator.init_trackers("wsigen")

    def loop(self) -> None:
        """Updates until enough images are seen."""
        config, state, accelerator = self.config, self.state, self.accelerator
        wrapped = torch.compile(state.step) if config.compile else state.step
        wrapped, optimizer = accelerator.prepare(wrapped, state.optimizer)
        batches = iter(self._loader())
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
        with _interruptible() as received, bar:
            while state.images < self.images:
                stopped = self._asked_to_stop(received)
                if stopped:
                    break
                before, plain, norm = state.images, [], torch.tensor(0.0)
                self._set_lr(optimizer)
                for _ in range(config.accumulation):
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
                    state.images += len(batch[2]) * accelerator.num_processes
                state.update += 1
                state.ema.update(self.net, state.update)
                losses.append(torch.stack(plain).mean())
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
        if accelerator.is_main_process:
            state.save(self.run_dir)
            self._snapshot()
        if stopped:
            log.warning("interrupted at %.1f kimg; the same command continues from here", state.images / 1000)
            raise KeyboardInterrupt
        if accelerator.is_main_process:
            self._validate()
        accelerator.end_training()

    def _asked_to_stop(self, received: list[int]) -> bool:
        """Whether any process got a signal, so that all of them stop after the same update."""
        if self.accelerator.num_processes == 1:
            return bool(received)
        asked = torch.tensor(float(bool(received)), device=self.accelerator.device)
        return float(torch.as_tensor(self.accelerator.reduce(asked, "sum"))) > 0

    def _loader(self) -> DataLoader[Any]:
        config, accelerator = self.config, self.accelerator
        dataset = PatchDataset(
            self.train_index,
            seed=config.seed,
            mpp_range=config.data.mpp_range,
            mpp_sampling=config.data.mpp_sampling,
            anywhere_fraction=config.data.anywhere_fraction,
        )
        for group in config.data.patches:
            dataset.require(group.size)
        schedule = PatchSchedule(
            config.data.patches,
            seed=config.seed,
            images=self.images,
            first_update=self.state.update,
            first_image=self.state.images,
            accumulation=config.accumulation,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        workers = config.data.workers
        return DataLoader(
            dataset,
            batch_sampler=schedule,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=accelerator.device.type == "cuda",
            prefetch_factor=4 if workers else None,
            worker_init_fn=_ignore_ctrl_c,
        )

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
        path = self.run_dir / "stats.jsonl"
        with disk_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        scalars = {k: v for k, v in record.items() if isinstance(v, float)}
        self.accelerator.log(scalars, step=self.state.update)

    def _averaged(self) -> Denoiser:
        net = copy.deepcopy(self.net)
        net.load_state_dict(self.state.ema.state_dict())
        return net.eval().requires_grad_(False)

    def _snapshot(self) -> None:
        folder = self.run_dir / "snapshot"
        try:
            with disk_errors(folder):
                save_denoiser(self._averaged(), folder)
        except SafetensorError as error:  # how its writer reports a full disk
            raise OutputError(folder, f"cannot be written ({error}); free some space") from error

    def _validate(self) -> None:
        """Loss and pictures of the averaged weights, on the main process."""
        if not self.accelerator.is_main_process:
            return
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
        self.state.save(self.run_dir)
        self._snapshot()
        self.reported_at = (time.perf_counter(), self.state.images)


def _ignore_ctrl_c(worker: int) -> None:
    """A terminal sends it to the loader's processes too, but the update in hand still needs them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that fills when the process is asked to stop, so that the update in hand is finished first."""
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

"""Both trainings on one GPU: which order gains more, and how to end at a falling learning rate on time."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.gpu.parts import PartError, Run, end
from wsigen.cli.parse import parse
from wsigen.config import TrainConfig, UpscalerTrainConfig
from wsigen.errors import SnapshotError
from wsigen.nn.denoiser import Denoiser
from wsigen.nn.model import save_model
from wsigen.nn.snapshot import CONFIG, folder_of, load_snapshot, resolve
from wsigen.nn.upscaler import Upscaler

WORKERS = {"upscaler": 5, "denoiser": 9}
"""Loader processes on 16 cores: the denoiser's patches, turned and stretched, cost more than its network."""
THREADS = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
FINALE = 0.4
"""Share of the time of training in which the learning rate falls."""
CLOSING = 20.0
"""Seconds that a training needs after its last update: snapshot, figures and pictures of held-out slides."""
TICK = 0.1


@dataclass
class Training:
    """One training run.

    Args:
        run: the call that it is part of.
        name: "upscaler" or "denoiser".
        words: its command.
        run_dir: its folder.
    """

    run: Run
    name: str
    words: list[str]
    run_dir: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str) -> None:
        """Begin, or go on from the checkpoint."""
        self.process = self.run.start(self.name, [*self.words, *flags], **THREADS)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def lines(self) -> list[dict[str, Any]]:
        """What it wrote of itself so far."""
        path = self.run_dir / "stats.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        found = []
        for line in lines:
            with suppress(ValueError):  # one that is being written
                found.append(json.loads(line))
        return found

    def reports(self) -> list[dict[str, Any]]:
        """Of that, its progress and losses."""
        return [one for one in self.lines() if "images_per_second" in one]

    @property
    def images(self) -> float:
        """Images seen by the last report."""
        reports = self.reports()
        return 1000 * reports[-1]["kimg"] if reports else 0.0

    def pause(self, paused: bool) -> None:
        """Stop it where it is, or let it go on."""
        if self.alive and self.process is not None:
            os.killpg(self.process.pid, signal.SIGSTOP if paused else signal.SIGCONT)

    def ask_to_stop(self) -> None:
        """It ends after its update, and keeps a checkpoint and a snapshot."""
        if self.alive and self.process is not None:
            os.kill(self.process.pid, signal.SIGTERM)

    def facts(self) -> dict[str, Any]:
        """Its progress, speed and last figures."""
        reports, code = self.reports(), self.process.poll() if self.process is not None else None
        if not reports:
            return {"images": 0, "exit": code}
        middle = reports[len(reports) // 2 :]
        losses = {k: v for k, v in reports[-1].items() if k not in ("update", "kimg", "lr")}
        last = [one for one in self.lines() if "val" in one]
        return {
            "exit": code,
            "images": round(self.images),
            "updates": reports[-1]["update"],
            "images_per_second": sorted(r["images_per_second"] for r in middle)[len(middle) // 2],
            "data_wait_fraction": sorted(r["data_wait_fraction"] for r in middle)[len(middle) // 2],
            "last": losses,
            "val": last[-1].get("val_loss", last[-1].get("val")) if last else None,
        }


def watch(trainings: Sequence[Training], seconds: float) -> dict[str, float]:
    """Images per second of each over a while, between its first and its last report; 0 without two."""
    seen: dict[str, list[tuple[float, float]]] = {t.name: [] for t in trainings}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for training in trainings:
            points, images = seen[training.name], training.images
            if not points or images != points[-1][1]:
                points.append((time.monotonic(), images))
        time.sleep(TICK)
    # the first point is of a report that came earlier
    return {name: _slope(points[1:]) for name, points in seen.items()}


def _slope(points: Sequence[tuple[float, float]]) -> float:
    if len(points) < 2:
        return 0.0
    (t0, n0), (t1, n1) = points[0], points[-1]
    return (n1 - n0) / (t1 - t0)


def compare_orders(trainings: Sequence[Training], window: float) -> dict[str, Any]:
    """Speed of each training alone, and of all together.

    Returns:
        ``alone`` and ``together``, images per second; and ``gain``, the sum of their ratios: above 1 all
        together make more progress than by turns.
    """
    alone: dict[str, float] = {}
    for training in trainings:
        others = [t for t in trainings if t is not training]
        for other in others:
            other.pause(True)
        alone |= watch([training], window)
        for other in others:
            other.pause(False)
    both = watch(trainings, window)
    gain = sum(both[n] / alone[n] for n in alone if alone[n]) if all(alone.values()) else 1.0
    return {
        "alone": {n: round(v, 1) for n, v in alone.items()},
        "together": {n: round(v, 1) for n, v in both.items()},
        "gain": round(gain, 3),
    }


def wait(trainings: Sequence[Training], until: float, done: Callable[[Training], bool]) -> bool:
    """Until all are done; False if the time comes first."""
    while time.monotonic() < until:
        if all(done(t) for t in trainings):
            return True
        time.sleep(TICK)
    return False


def stop(trainings: Sequence[Training], limit: float = 30.0) -> None:
    """Ask all to stop; after the limit, end them."""
    for training in trainings:
        training.ask_to_stop()
    wait(trainings, time.monotonic() + limit, lambda t: not t.alive)
    for training in trainings:
        if training.process is not None:
            end(training.process)


def finish(
    trainings: Sequence[Training], until: float, startup: float, keep: Callable[[], None]
) -> dict[str, float]:
    """Train on, and end at a falling learning rate.

    Args:
        trainings: that run.
        until: when to be done.
        startup: seconds from a start to the first update.
        keep: called when there are snapshots, while the trainings go on.

    Returns:
        Images that each was set to see.
    """
    left = until - time.monotonic()
    finale = max(FINALE * left, startup + CLOSING)
    rates = watch(trainings, left - finale) if left > finale else {}
    stop(trainings)
    images = until - time.monotonic() - startup - CLOSING
    targets = {}
    for training in trainings:
        more = rates.get(training.name, 0.0) * images
        if more > 0:
            targets[training.name] = target = training.images + more
            training.start(f"--kimg={target / 1000:.4f}", f"--optim.cooldown={more / target:.4f}")
    keep()
    wait(trainings, until, lambda t: not t.alive)
    stop(trainings, 15)
    return {name: round(target) for name, target in targets.items()}


def train(run: Run, args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Train both networks for so long; see the module."""
    index = str(run.work / "pack" / "index.parquet")
    trainings = []
    for name, config in (("upscaler", args.upscaler), ("denoiser", args.denoiser)):
        run_dir = run.work / "runs" / name
        words = [sys.executable, "train.py", f"--config={config}", f"--data.slides={index}"]
        words += [f"--run_dir={run_dir}", "--report_every=10", "--validate_every=1e9", "--checkpoint_every=2"]
        words += [f"--data.workers={WORKERS[name]}", *beginning(name, config, args.model)]
        words += shlex.split(args.train_flags)
        trainings.append(Training(run, name, words, run_dir))
    begun = time.monotonic()
    until = begun + min(60 * args.train_minutes, seconds - 15)
    for training in trainings:
        training.start("--kimg=1e6", "--optim.cooldown=0")
    wait(trainings, begun + 0.4 * (until - begun), lambda t: len(t.reports()) >= 2 or not t.alive)
    startup = time.monotonic() - begun
    found: dict[str, Any] = {"startup": round(startup, 1)}
    running = [t for t in trainings if t.alive]
    if len(running) > 1:
        found |= compare_orders(running, args.window)
    together = found.get("gain", 1.0) >= 1
    turns = [running] if together else [[t] for t in running]
    for number, turn in enumerate(turns):
        for training in running:
            training.pause(training not in turn)
        now = time.monotonic()
        share = now + (until - now) / (len(turns) - number)
        found |= {
            "set": finish(turn, share, startup, lambda: save_networks(run, args.model)) | found.get("set", {})
        }
    stop(trainings)
    save_networks(run, args.model)
    found |= {t.name: t.facts() for t in trainings}
    if not any(t.images for t in trainings):
        raise PartError(f"no update; {' | '.join(run.log('upscaler')[-4:])}")
    return found


def beginning(name: str, config: Path, model: str) -> list[str]:
    """Flags to begin with a network of the model, where it has one of the shape in the configuration."""
    kind = {"upscaler": UpscalerTrainConfig, "denoiser": TrainConfig}[name]
    values, _ = parse(kind, [f"--config={config}", "--data.slides=PATH"], prog="run.py", description="")
    try:
        folder = folder_of(name.title(), resolve(model))
        theirs = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (SnapshotError, OSError):
        return []
    same = theirs.get("_class_name", name.title()) == name.title() and all(
        json.dumps(theirs.get(key)) == json.dumps(value) for key, value in asdict(values.model).items()
    )
    return [f"--init={folder}"] if same else []


def save_networks(run: Run, model: str) -> None:
    """Write model/ in float16: the networks that were trained, and the model's own where one was not."""

    def newest(kind: type[Any]) -> Any:
        trained = run.work / "runs" / kind.__name__.lower() / "snapshot"
        with suppress(SnapshotError):
            folder = trained if trained.is_dir() else folder_of(kind.__name__, resolve(model))
            return load_snapshot(kind, folder)
        return None

    save_model(run.work / "model", denoiser=newest(Denoiser), upscaler=newest(Upscaler), dtype=torch.float16)
    run.bring_back()

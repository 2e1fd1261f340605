"""What a run needs before its first update: accelerator, slides, network, loader."""

from __future__ import annotations

import json
import logging
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from torch.utils.data import DataLoader

from wsigen.config import TrainConfig
from wsigen.data.index import SlideIndex, load_or_build_index
from wsigen.data.patches import PatchDataset, PatchSchedule, collate
from wsigen.errors import InvalidValueError, SlideError
from wsigen.files import make_folder, write_bytes
from wsigen.nn.denoiser import Denoiser
from wsigen.training.state import CHECKPOINT, TrainState

log = logging.getLogger(__name__)


def make_accelerator(config: TrainConfig, run_dir: Path) -> Accelerator:
    """The processes, devices, precision and tracker of a run.

    Args:
        config: the run.
        run_dir: where trackers write.

    Raises:
        InvalidValueError: if the device has no bf16, or the tracker is not installed.
    """
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


def make_network(config: TrainConfig, index: SlideIndex) -> Denoiser:
    """The untrained denoiser; its background is the middle one of the slides'.

    Args:
        config: the run.
        index: all slides of the run.

    Determinism:
        The weights follow from ``config.seed``.
    """
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


def run_index(config: TrainConfig, run_dir: Path, accelerator: Accelerator) -> SlideIndex:
    """The slides of this run, indexed until there is a checkpoint and then kept in the run folder.

    Args:
        config: the run.
        run_dir: its folder.
        accelerator: the main process indexes, the others wait.

    Raises:
        InvalidValueError: if the folder holds a run of another network or seed.
        SlideError: if there is nothing to learn from.
    """
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


def make_loader(
    config: TrainConfig, index: SlideIndex, state: TrainState, images: int, accelerator: Accelerator
) -> DataLoader[Any]:
    """The batches of this process from the update that ``state`` has reached to the end of the run.

    Args:
        config: the run.
        index: the slides to learn from.
        state: where to begin.
        images: images of the whole run.
        accelerator: which share of every batch is this process's.

    Raises:
        SlideError: if no slide can serve a patch size.
    """
    dataset = PatchDataset(
        index,
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
        images=images,
        first_update=state.update,
        first_image=state.images,
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


def _ignore_ctrl_c(worker: int) -> None:
    """A terminal sends it to the loader's processes too, but the update in hand still needs them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

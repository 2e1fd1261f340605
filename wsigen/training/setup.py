"""What runs need before their first update: accelerator, slides, denoiser, loader."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration
from torch.utils.data import DataLoader, Dataset

from wsigen.config import DenoiserConfig, PatchGroup, TrainConfig, UpscalerTrainConfig
from wsigen.data.index import SlideIndex
from wsigen.data.patches import PatchDataset, PatchKey, PatchSchedule, collate
from wsigen.data.survey import load_or_build_index
from wsigen.diffusion.spectrum import image_std
from wsigen.errors import InvalidValueError, SlideError
from wsigen.nn.denoiser import Denoiser
from wsigen.nn.images import to_unit
from wsigen.nn.network import Network
from wsigen.nn.snapshot import load_snapshot, resolve
from wsigen.training.loop import Loop, RunConfig, ignore_ctrl_c
from wsigen.training.state import CHECKPOINT, RunState, check_same_run, only_run

if TYPE_CHECKING:
    from diffusers.models.modeling_utils import ModelMixin

# how long processes wait for the main one, which indexes slides and validates alone
PATIENCE = timedelta(hours=2)
IDENTITY = ("method", "model", "generator", "discriminator", "encoder", "encoder_width", "loss", "seed")
"""Settings that a run cannot change on the way; each kind of run has some of them."""
SLIDES = ("slides", "source", "target", "table", "val_fraction", "class_column")
"""Settings of a run's data that say which slides it has; likewise."""
FEWEST = 3
"""Cases below which a class is warned of: a network remembers what it sees of one or two."""
MEASURED = 64
"""Training patches from which the strength of detail at one µm/px is measured."""

log = logging.getLogger(__name__)


def run_training(config: Any, default: str, make: Callable[[Any, Path, Accelerator], Loop[Any]]) -> Path:
    """Train until ``config.kimg``, continuing if the run folder holds a checkpoint.

    A run that is finished is left as it is.

    Args:
        config: the run.
        default: name of its folder in ``runs``, if it gives none.
        make: makes the loop from the run, its folder and the accelerator.

    Returns:
        The folder of the last snapshot.

    Raises:
        SlideError: there is nothing to learn from.
        SnapshotError: the weights to begin with could not be loaded.
        InvalidValueError: the run folder holds a run of another network, loss or seed.
        OutputError: another process trains in the run folder, or the disk refuses.
        DivergedError: weights or losses are NaN or infinite; the last good checkpoint is kept.
    """
    run_dir = config.run_dir or Path("runs") / default
    accelerator = make_accelerator(config, run_dir)
    with only_run(run_dir, main=accelerator.is_main_process):
        make(config, run_dir, accelerator).run()
        accelerator.end_training()
    return run_dir / "snapshot"


def make_accelerator(config: RunConfig, run_dir: Path) -> Accelerator:
    """Return the processes, devices, precision and tracker of a run.

    Args:
        config: the run; where it has ``accumulation``, that many micro-batches make an update.
        run_dir: where trackers write.

    Raises:
        InvalidValueError: if the device has no bf16, or the tracker is not installed.
    """
    try:
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=getattr(config, "accumulation", 1),
            log_with=config.tracker,
            project_config=ProjectConfiguration(project_dir=str(run_dir)),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except ValueError as error:  # a device without bf16, a tracker that does not exist
        raise InvalidValueError(" ".join(str(error).split())) from error
    if config.tracker and not accelerator.log_with:  # accelerate leaves it out without a word
        raise InvalidValueError(
            f"tracker {config.tracker} is not installed; run `pip install {config.tracker}`, or leave it out"
        )
    return accelerator


def make_network(config: TrainConfig, index: SlideIndex) -> Denoiser:
    """Return the denoiser before its first update; its background is the median of the slides'.

    Its preconditioning is measured on training patches, or that of ``init``.

    Args:
        config: the run; its weights are those of ``init``, or random.
        index: all slides of the run.

    Raises:
        SnapshotError: the weights of ``init`` could not be loaded.
        InvalidValueError: they are of a network of another shape than ``config.model``, or of classes where
            the run has none; or no slide has a class.

    Determinism:
        Random weights follow from ``config.seed``.
    """
    torch.manual_seed(config.seed)
    low, high = config.data.mpp_range
    net = Denoiser(
        **asdict(config.model),
        sigma_data=config.loss.sigma_data,
        patch_sizes=tuple(dict.fromkeys(g.size for g in config.data.patches)),
        mpp_range=(low, high),
        background=background_of(index),
        classes=classes_of(config, index),
    )
    if config.init is None:
        net.set_octave_std(*_octave_std(config, index, net.octaves))
        return net
    given = load_snapshot(Denoiser, resolve(config.init))
    shape = {f.name: f"model.{f.name}" for f in fields(DenoiserConfig)}
    check_alike(given, net, config.init, {**shape, "sigma_data": "loss.sigma_data"})
    if given.config["octave_std"]:
        net.set_octave_std(given.config["octave_std"], given.config["octave_mpp"])
    _begin_with(net, given, config.init)
    return net


def classes_of(config: TrainConfig, index: SlideIndex) -> tuple[str, ...]:
    """Return the names of the classes that training slides have, in order; none without ``class_column``.

    Slides without a class are learnt from, as of none. Warns of classes of few cases.

    Raises:
        InvalidValueError: no training slide has a class.
    """
    if config.data.class_column is None:
        return ()
    groups: dict[str, set[str]] = {}
    for entry in index.split("train").entries:
        if entry.class_label is not None:
            groups.setdefault(entry.class_label, set()).add(entry.group)
    if not groups:
        raise InvalidValueError(
            f"data.class_column {config.data.class_column}: no training slide of {config.data.slides} has a "
            "class; add the column to the table, and make an index again with it"
        )
    for name, cases in sorted(groups.items()):
        if len(cases) < FEWEST:
            log.warning(
                "class %s has slides of %d case%s, which its samples will resemble; merge classes, or add "
                "slides",
                name,
                len(cases),
                "" if len(cases) == 1 else "s",
            )
    return tuple(sorted(groups))


def _begin_with(net: Denoiser, given: Denoiser, init: str) -> None:
    """Copy the weights of ``init``; a class that it has not begins as its images without class do."""
    weights = given.state_dict()
    if given.classes and not net.classes:
        raise InvalidValueError(
            f"--init {init} has the classes {', '.join(given.classes)}; set --data.class_column"
        )
    name = "class_embedding.weight"
    if net.classes:
        vectors = net.state_dict()[name]
        if given.classes:
            rows = {label: weights[name][i] for i, label in enumerate(given.classes)}
            none = weights[name][-1]
            vectors = torch.stack([*(rows.get(label, none) for label in net.classes), none])
        weights[name] = vectors
    net.load_state_dict(weights)


def background_of(index: SlideIndex) -> tuple[int, int, int]:
    """Return the median of the slides' background colours, by channel."""
    red, green, blue = (
        # a middle value that occurs, not a mean of two colours
        sorted(e.background[c] for e in index.entries)[len(index.entries) // 2]
        for c in range(3)
    )
    return red, green, blue


def main_size(config: TrainConfig) -> int:
    """Return the patch size that most images of the run have."""
    return max(config.data.patches, key=lambda g: g.weight * g.batch).size


def _octave_std(
    config: TrainConfig, index: SlideIndex, octaves: int
) -> tuple[list[list[list[float]]], list[float]]:
    """Return σ_k of patches of the main size, at about each octave of the µm/px range; and these µm/px."""
    low, high = config.data.mpp_range
    patches = PatchDataset(
        index.split("train"),
        seed=config.seed,
        mpp_range=(low, high),
        anywhere_fraction=config.data.anywhere_fraction,
    )
    size, steps = main_size(config), max(1, round(math.log2(high / low)))
    tables, nodes = [], []
    for step in range(steps + 1):
        at, half = low * (high / low) ** (step / steps), (high / low) ** (0.25 / steps)
        # a quarter of the way to the next node on either side
        around = (max(low, at / half), min(high, at * half))
        try:
            patches.require(size, around)
        except InvalidValueError:  # too fine or too coarse for these slides: the next node counts there, too
            continue
        images, *_ = collate([patches[PatchKey(i, size, around)] for i in range(MEASURED)])
        tables.append(_rounded(image_std(to_unit(images), octaves)))
        nodes.append(round(at, 4))
    if not nodes:
        patches.require(size)  # raises the error that names what the slides offer
    return tables, nodes


def _rounded(std: torch.Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in std.tolist()]


def check_alike(
    given: Network | ModelMixin, net: Network | ModelMixin, init: str, flags: Mapping[str, str]
) -> None:
    """Refuse initial weights of a network of another shape.

    Args:
        given: the network of ``init``.
        net: the network of the run.
        init: where ``given`` comes from.
        flags: parts of the networks' configuration that must agree, and the flag that sets each.

    Raises:
        InvalidValueError: one of them differs.
    """
    for part, flag in flags.items():
        theirs, ours = (json.dumps(n.config[part]) for n in (given, net))  # tuples and lists alike
        if theirs != ours:
            raise InvalidValueError(
                f"--init {init} has {part} {theirs} and this run {ours}; set --{flag} {theirs}"
            )


def run_indices(
    config: Any,
    run_dir: Path,
    accelerator: Accelerator,
    names: Sequence[str],
    build: Callable[[], Sequence[SlideIndex]],
) -> list[SlideIndex]:
    """Return the slides of this run, indexed until there is a checkpoint and then kept in the run folder.

    Args:
        config: the run.
        run_dir: its folder.
        accelerator: the main process indexes, the others wait.
        names: of the indices.
        build: indexes the slides.

    Raises:
        InvalidValueError: the folder holds a run of another method, network, loss or seed.
        SlideError: a slide cannot be used.
    """
    paths = [run_dir / f"{name}.parquet" for name in names]
    if accelerator.is_main_process:
        check_same_run(
            config, run_dir, parts=IDENTITY, data=SLIDES, index=" and ".join(p.name for p in paths)
        )
        # without a checkpoint nothing has been learnt yet: slides may still be changed
        if not (all(path.is_file() for path in paths) and (run_dir / CHECKPOINT).is_file()):
            for path, index in zip(paths, build(), strict=True):
                index.save(path)
    accelerator.wait_for_everyone()
    return [SlideIndex.load(path) for path in paths]


def run_index(
    config: TrainConfig | UpscalerTrainConfig, run_dir: Path, accelerator: Accelerator
) -> SlideIndex:
    """Return the slides of a run on H&E alone; see `run_indices`.

    Args:
        config: the run.
        run_dir: its folder.
        accelerator: the main process indexes, the others wait.

    Raises:
        InvalidValueError: the folder holds a run of another network, loss or seed.
        SlideError: there is nothing to learn from.
    """
    data = config.data

    def build() -> list[SlideIndex]:
        return [
            load_or_build_index(
                data.slides,
                table=data.table,
                val_fraction=data.val_fraction,
                class_column=data.class_column,
            )
        ]

    (index,) = run_indices(config, run_dir, accelerator, ["index"], build)
    if not index.split("train").entries:
        raise SlideError(data.slides, "no slide in the train split; check the table's split column")
    return index


def make_loader(
    config: TrainConfig | UpscalerTrainConfig,
    index: SlideIndex,
    state: RunState,
    images: int,
    accelerator: Accelerator,
    *,
    classes: Sequence[str] = (),
) -> DataLoader[Any]:
    """Return the batches of patches of this process, from the update that ``state`` has reached on.

    Args:
        config: the run.
        index: the slides to learn from.
        state: where to begin.
        images: images of the whole run.
        accelerator: which share of every batch is this process's.
        classes: names of the classes, by their numbers.

    Raises:
        SlideError: no slide can serve a patch size.
    """
    dataset = PatchDataset(
        index,
        seed=config.seed,
        mpp_range=config.data.mpp_range,
        mpp_sampling=config.data.mpp_sampling,
        anywhere_fraction=config.data.anywhere_fraction,
        vary=config.data.augment,
        classes=classes,
        class_dropout=config.data.class_dropout,
    )
    for group in config.data.patches:
        dataset.require(group.size, group.mpp_range)
    return batches(
        dataset, collate, config, config.data.patches, state=state, images=images, accelerator=accelerator
    )


def batches(
    dataset: Dataset[Any],
    collate: Callable[[list[Any]], Any],
    config: Any,
    groups: list[PatchGroup],
    *,
    state: RunState,
    images: int,
    accelerator: Accelerator,
) -> DataLoader[Any]:
    """Return the batches of this process, from the update of ``state`` on; Ctrl-C does not end them.

    Args:
        dataset: images by key.
        collate: makes a batch of images.
        config: the run; where it has ``accumulation``, that many batches make an update.
        groups: patch sizes and batches.
        state: where to begin.
        images: images of the whole run.
        accelerator: which share of every batch is this process's; a GPU's gets pinned memory.

    Raises:
        InvalidValueError: if a batch cannot be shared out evenly.
    """
    schedule = PatchSchedule(
        groups,
        seed=config.seed,
        images=images,
        first_update=state.update,
        first_image=state.images,
        accumulation=getattr(config, "accumulation", 1),
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
        prefetch_factor=4 if workers else None,  # without workers a number is an error
        worker_init_fn=ignore_ctrl_c,
    )

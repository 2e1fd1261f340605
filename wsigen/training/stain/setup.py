"""What a run of a stain translator needs before its first update: slides of both stains and their loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch.utils.data import DataLoader

from wsigen.config.domains import StainRunConfig
from wsigen.config.train import PatchGroup
from wsigen.data.domains import TARGET_STREAM, DomainDataset, Domains, collate_domains, load_or_build_domains
from wsigen.data.index import SlideIndex
from wsigen.data.patches import PatchDataset
from wsigen.training.folder import check_same_run
from wsigen.training.setup import batches
from wsigen.training.state import CHECKPOINT, RunState

IDENTITY = ("method", "generator", "discriminator", "encoder", "encoder_width", "loss", "seed")
"""What a run cannot change on the way; a method has some of them."""


def run_domains(config: StainRunConfig, run_dir: Path, accelerator: Accelerator) -> Domains:
    """The slides of this run, indexed until there is a checkpoint and then kept in the run folder.

    Args:
        config: the run.
        run_dir: its folder.
        accelerator: the main process indexes, the others wait.

    Raises:
        InvalidValueError: if the folder holds a run of another method, network, loss or seed.
        SlideError: if there is nothing to learn from.
    """
    paths = [run_dir / f"index-{name}.parquet" for name in ("source", "target")]
    if accelerator.is_main_process:
        check_same_run(
            config,
            run_dir,
            parts=[part for part in IDENTITY if hasattr(config, part)],
            data=("source", "target", "table", "val_fraction"),
            index="index-source.parquet and index-target.parquet",
        )
        if not (all(path.is_file() for path in paths) and (run_dir / CHECKPOINT).is_file()):
            data = config.data
            domains = load_or_build_domains(
                data.source, data.target, table=data.table, val_fraction=data.val_fraction
            )
            domains.source.save(paths[0])
            domains.target.save(paths[1])
    accelerator.wait_for_everyone()
    return Domains(*(SlideIndex.load(path) for path in paths))


def make_patches(config: StainRunConfig, index: SlideIndex, seed: int, *, augment: bool) -> PatchDataset:
    """Patches of one domain.

    Args:
        config: the run.
        index: its slides.
        seed: of the draws.
        augment: rotate and reflect.
    """
    data = config.data
    return PatchDataset(
        index,
        seed=seed,
        mpp_range=data.mpp_range,
        mpp_sampling=data.mpp_sampling,
        anywhere_fraction=data.anywhere_fraction,
        augment=augment,
        weight=data.weight,
        min_tissue=data.min_tissue,
    )


def make_pairs(
    config: StainRunConfig, domains: Domains, state: RunState, images: int, accelerator: Accelerator
) -> DataLoader[Any]:
    """The batches of this process from the update that ``state`` has reached to the end of the run.

    Args:
        config: the run.
        domains: the slides to learn from.
        state: where to begin.
        images: images of the whole run.
        accelerator: which share of every batch is this process's.

    Raises:
        InvalidValueError: if no slide can serve the patches, or the batch cannot be shared out evenly.
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

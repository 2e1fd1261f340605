"""What helps a denoiser that has few minutes and few slides: the same images, the same time, one change each.

    python benchmarks/ablations/denoiser.py --slides HE --table HE.csv --minutes 5

Writes denoiser.md and denoiser.png; the last line is one JSON object with the table's rows.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.ablations.figure import draw_sheet
from benchmarks.ablations.options import REAL, TABLE, Device, options
from benchmarks.ablations.page import Column, Page, Row
from benchmarks.ablations.sampler import Clock
from wsigen.config import AugmentConfig, DataConfig, DenoiserConfig, LossConfig, PatchGroup, TrainConfig
from wsigen.data.index import SlideIndex
from wsigen.data.patches import PatchDataset, PatchKey, collate
from wsigen.data.survey import load_or_build_index
from wsigen.diffusion.loss import draw_noise
from wsigen.diffusion.spectrum import combine, image_std
from wsigen.nn.denoiser import Denoiser
from wsigen.nn.ema import PowerEMA
from wsigen.nn.images import to_unit
from wsigen.training.denoiser import TrainingStep
from wsigen.training.loop import averaged
from wsigen.training.setup import make_network
from wsigen.training.validate import Band, held_out, mean_over, samples, validation_loss

TEXT = """
Networks trained from the same random weights on the same images for the same time, loading included; every
row but the first differs from the first in one thing. *Images*: seen in that time. *Loss*: EDM-weighted, on
held-out slides, mean over noise levels, by µm/px; patches are of the first row's size for all. *Filter*: the
mean over bands before any training, of the linear filter that the preconditioning is. *Detail*:
strength of the finest octave of luminance in unguided samples over that in held-out patches (1 = as real),
mean over the bands of µm/px; what is above 1 is grain.
"""
WARMUP, COOLDOWN = 50, 0.4  # updates; share of the time over which the rate falls to 0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to train.

    Args:
        name: in the table.
        size: side of the patches, px.
        batch: images per update.
        pooled: one table of σ_k for all µm/px.
        augment: variation of the patches.
    """

    name: str
    size: int
    batch: int = 16
    pooled: bool = False
    augment: AugmentConfig = field(default_factory=AugmentConfig)


def settings(size: int) -> list[Setting]:
    """What is compared: the first, and one change each."""
    return [
        Setting(name=f"{size} px, σ_k by µm/px", size=size),
        Setting(name="one σ_k for all µm/px", size=size, pooled=True),
        Setting(name=f"{2 * size} px", size=2 * size, batch=4),
        Setting(name="augmented", size=size, augment=AugmentConfig(rotate=0.75, stretch=0.2, stain=0.1)),
    ]


def main(argv: Sequence[str] | None = None) -> Row:
    """Train every way, measure, write."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    where = Device.of(args)
    table = TABLE if args.table is None and args.slides == REAL else args.table
    index = load_or_build_index(args.slides, table=table)
    bands = held_out(index.split("val"), size=args.size, images=args.images, mpp_range=tuple(args.mpp_range))
    rows: list[Row] = []
    pictures: dict[str, dict[str, np.ndarray]] = {}
    for setting in settings(args.size):
        net, images = trained(setting, index, args, where.device)
        row, pictures[setting.name] = _measured(net, bands, args, where.device)
        rows.append({"setting": setting.name, "images": images} | row)
    draw_sheet(pictures, args.out / "denoiser.png")
    page = Page(
        name="denoiser",
        title="Training of a denoiser",
        text=f"{TEXT.strip()}\n\nEach was trained for {args.minutes:g} minutes only.",
        columns=[
            Column("setting", "setting"),
            Column("images", "images", ",d"),
            *(Column(band.name, f"loss at {band.name} µm/px", ".4f") for band in bands),
            Column("filter", "filter", ".4f"),
            Column("detail", "detail", ".2f"),
        ],
        rows=rows,
    )
    return page.write(args.out, argv, where)


def trained(
    setting: Setting, index: SlideIndex, args: argparse.Namespace, device: torch.device
) -> tuple[Denoiser, int]:
    """A denoiser after ``args.minutes``, its weights averaged; and the images that it has seen."""
    config = _config(setting, args)
    net = make_network(config, index)
    if setting.pooled:
        table = torch.tensor(net.config["octave_std"])
        net.set_octave_std(table.square().mean(dim=0).sqrt().tolist())
    step = TrainingStep(net, uncertainty=True)
    step.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.AdamW(step.parameters(), betas=config.optim.betas, weight_decay=0.0)
    ema = PowerEMA(net, config.optim.ema_sigma_rel)
    dataset = PatchDataset(index.split("train"), mpp_range=config.data.mpp_range, vary=config.data.augment)
    clock, updates, share = Clock(device), 0, 0.0 if args.minutes else 1.0
    while share < 1:
        for group in optimizer.param_groups:
            group["lr"] = config.optim.lr * min(1.0, (updates + 1) / WARMUP, (1 - share) / COOLDOWN)
        loss, _ = step(*_batch(dataset, setting, updates * setting.batch, config.loss, device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(step.parameters(), config.optim.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        updates += 1
        ema.update(net, updates)
        share = clock.seconds() / (60 * args.minutes)
    return averaged(net, ema), updates * setting.batch


def _config(setting: Setting, args: argparse.Namespace) -> TrainConfig:
    low, high = args.mpp_range
    return TrainConfig(
        data=DataConfig(
            slides=args.slides,
            patches=[PatchGroup(size=setting.size, batch=setting.batch)],
            mpp_range=(low, high),
            augment=setting.augment,
        ),
        model=DenoiserConfig(patchify=args.patchify, block_out_channels=tuple(args.channels)),
        loss=LossConfig(P_mean=0.0, P_std=1.6),
        seed=args.seed,
    )


def _batch(
    dataset: PatchDataset, setting: Setting, first: int, loss: LossConfig, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    keys = [PatchKey(first + i, setting.size) for i in range(setting.batch)]
    images, mpp, _, numbers = collate([dataset[key] for key in keys])
    shape = (3, setting.size, setting.size)
    sigma, noise = draw_noise(0, numbers, shape, P_mean=loss.P_mean, P_std=loss.P_std, device=device)
    return to_unit(images.to(device)), noise, sigma, mpp.to(device)


def _measured(
    net: Denoiser, bands: Sequence[Band], args: argparse.Namespace, device: torch.device
) -> tuple[Row, dict[str, np.ndarray]]:
    """Loss of each band and strength of detail; and four samples of each."""
    table = validation_loss(net, list(bands), sigma_data=net.config["sigma_data"], device=device)
    row: Row = {name: float(np.mean(list(losses.values()))) for name, losses in table.items()}
    row["filter"] = mean_over(
        validation_loss(
            lambda x, sigma, mpp: combine(x, torch.zeros_like(x), sigma, net.octave_std(mpp)),
            list(bands),
            sigma_data=net.config["sigma_data"],
            device=device,
        )
    )
    detail, pictures = [], {}
    for band in bands:
        mpp = math.exp(float(band.mpp.log().mean()))
        drawn = samples(net, mpp=mpp, size=args.size, count=args.drawn, seed=args.seed)
        real = _detail(band.images)
        detail.append(_detail(torch.from_numpy(drawn).permute(0, 3, 1, 2)) / real)
        four = np.concatenate([np.concatenate(drawn[i::2][:2], axis=1) for i in (0, 1)])
        pictures[f"{mpp:.3g} µm/px"] = four.repeat(2, axis=0).repeat(2, axis=1)
    return row | {"detail": float(np.mean(detail))}, pictures


def _detail(images: Tensor) -> float:
    return float(image_std(to_unit(images), 1)[0, 0])


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--slides", type=Path, default=REAL, help="folder of slides, or an index")
    parser.add_argument("--table", type=Path, help="what the slides do not say, as for `wsigen index`")
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="time of each training; 0: the preconditioning alone"
    )
    parser.add_argument("--mpp-range", type=float, nargs=2, default=[4.0, 130.0])
    parser.add_argument("--size", type=int, default=64, help="side of the patches, px")
    parser.add_argument("--images", type=int, default=32, help="held-out patches per band of µm/px")
    parser.add_argument("--drawn", type=int, default=16, help="samples per band of µm/px")
    parser.add_argument("--patchify", type=int, default=4)
    parser.add_argument("--channels", type=int, nargs="+", default=[96, 160, 224])
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()

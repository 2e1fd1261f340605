"""Whether the discriminator of an upscaler's run limits it, or lags behind.

    python benchmarks/discriminator.py runs/upscaler --mpp 0.45 2.2 --updates 75

Draws images from the run's training slides, each from a guide that two of the upscaler's own stages made, and
trains the discriminator alone on them, without penalty, against the upscaler as it is. Prints for each head
its hinge loss (2: it cannot tell), and the share of pairs of a real and a drawn image that it ranks right, at
the first updates and at the last. If both improve at once, the run's discriminator lags: lower ``optim.lr``,
raise ``optim.discriminator_lr``, or lower ``loss.r1``. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from wsigen.cli.parse import parse
from wsigen.config import UpscalerTrainConfig
from wsigen.data.index import SlideIndex
from wsigen.data.patches import PatchDataset, PatchKey, collate
from wsigen.nn.discriminator import Discriminator
from wsigen.nn.images import to_unit
from wsigen.nn.upscaler import Upscaler
from wsigen.training.state import CHECKPOINT, CONFIG
from wsigen.training.upscaler.update import discriminator_hinge

FIRST = 10**7  # number of the first image: far from those that the run has seen
STAGES = 3  # from the real image reduced to the drawn one
AT_ONCE = 25  # updates of a row


class Row(NamedTuple):
    """Of some updates, by head, finest first."""

    hinge: list[float]
    ranked: list[float]


def main() -> None:
    """Parse the command line, train the discriminator alone, print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path, help="run folder of an upscaler")
    parser.add_argument("--mpp", type=float, nargs=2, default=(0.45, 2.2), help="range of the images' µm/px")
    parser.add_argument("--size", type=int, default=128, help="their side, px")
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--updates", type=int, default=75)
    parser.add_argument("--lr", type=float, default=3e-4)
    args = parser.parse_args()
    rows = measure(args.run, tuple(args.mpp), args.size, args.batch, args.updates, args.lr)
    for i, row in enumerate(rows):
        sys.stdout.write(f"updates {i * AT_ONCE}-{(i + 1) * AT_ONCE - 1}: hinge {row.hinge}\n")
        sys.stdout.write(f"    ranked right {row.ranked}\n")
    sys.stdout.write(json.dumps([row._asdict() for row in rows]) + "\n")


def measure(
    run: Path, mpp_range: tuple[float, float], size: int, batch: int, updates: int, lr: float
) -> list[Row]:
    """Train the discriminator of a run alone, and return how it did, `AT_ONCE` updates a row."""
    flags = ["--config", str(run / CONFIG)]
    config, _ = parse(UpscalerTrainConfig, flags, prog="discriminator", description="", dashes=False)
    upscaler, judge = Upscaler(**asdict(config.model)), Discriminator(**asdict(config.discriminator))
    nets = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)["nets"]
    for prefix, net in (("G.", upscaler), ("D.", judge)):
        net.load_state_dict({k.removeprefix(prefix): v for k, v in nets.items() if k.startswith(prefix)})
    optimizer = torch.optim.Adam(judge.parameters(), lr, betas=config.optim.betas)
    index = SlideIndex.load(run / "index.parquet").split("train")
    patches = PatchDataset(index, seed=config.seed, mpp_range=mpp_range, anywhere_fraction=0.0)
    generator = torch.Generator().manual_seed(config.seed)
    rows, seen = [], []
    for first in range(FIRST, FIRST + updates * batch, batch):
        images, mpp, *_ = collate([patches[PatchKey(n, size)] for n in range(first, first + batch)])
        x = to_unit(images)
        both = judge(torch.cat([x, _drawn(upscaler, x, mpp, generator)]), torch.cat([mpp, mpp]))
        real, drawn = zip(*(s.chunk(2) for s in both.scores), strict=True)
        optimizer.zero_grad()
        discriminator_hinge(real, drawn).backward()
        optimizer.step()
        seen.append([(r.detach().flatten(), d.detach().flatten()) for r, d in zip(real, drawn, strict=True)])
        if len(seen) == AT_ONCE:
            rows.append(_row(seen))
            seen = []
    return rows


@torch.no_grad()
def _drawn(
    upscaler: Upscaler, x: torch.Tensor, mpp: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    y, k = F.avg_pool2d(x, upscaler.k**STAGES), upscaler.k
    for above in reversed(range(STAGES)):
        z = torch.randn(len(y), upscaler.noise_channels, *y.shape[2:], generator=generator)
        y = upscaler(y.clamp(-1, 1), z, mpp * k**above)
    return y


def _row(seen: list[list[tuple[torch.Tensor, torch.Tensor]]]) -> Row:
    row = Row([], [])
    for head in zip(*seen, strict=True):
        hinge = [float(F.relu(1 - r).mean() + F.relu(1 + d).mean()) for r, d in head]
        right = [float((r[:, None] > d[None, :]).float().mean()) for r, d in head]
        row.hinge.append(round(sum(hinge) / len(hinge), 2))
        row.ranked.append(round(sum(right) / len(right), 2))
    return row


if __name__ == "__main__":
    main()

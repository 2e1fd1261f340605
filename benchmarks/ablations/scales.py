"""Quality across µm/px (Harb et al. 2024, table 1): distance of generated patches to held-out real ones.

    python benchmarks/ablations/scales.py --mpp 0.5 1 2 4 16 --patches 64

Writes scales.md and scales.png; the last line is one JSON object with the table's rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.ablations.figure import draw_sheet
from benchmarks.ablations.options import Device, add_real, options
from benchmarks.ablations.page import Column, Page, Row
from benchmarks.ablations.real import Judge, RealSlides
from benchmarks.ablations.sampler import Clock, K, Sampler, middle
from wsigen.diffusion.schedule import karras_sigmas
from wsigen.diffusion.solvers import SOLVERS
from wsigen.diffusion.step import at_mpp, integrate
from wsigen.errors import InvalidValueError

CROP = 96
TEXT = """
At each µm/px, patches of two kinds against held-out real ones. *Alone*: patches from noise, without a
guide, as stage 0 makes them. *Guided*: the four patches of an image twice as wide whose guide was made
alone at twice the µm/px, as a cascade does. *Held-out*: real patches of cases that the model was not
trained on. The floor, *real*, is that of real patches of the training cases against the same held-out
ones: with few held-out cases it says mostly how cases differ. *Fréchet*: distance of features, biased by
the number of patches, which is the same in all columns. *Kernel*: kernel distance, unbiased. Neither
compares with published FID or KID unless the features are Inception's. *Precision*: share of the patches
whose features lie among those of the held-out ones; *recall*: share of the held-out ones that lie among
those of the patches (improved precision and recall, k = 3, Kynkäänniemi et al. 2019).
"""
COLUMNS = (
    Column("mpp", "µm/px", "g"),
    Column("count", "patches", "d"),
    *(
        Column(f"{key}_{kind}", f"{head}, {kind}", form)
        for key, head, form in (
            ("distance", "Fréchet", ".1f"),
            ("kernel", "kernel", ".3g"),
            ("precision", "precision", ".2f"),
            ("recall", "recall", ".2f"),
        )
        for kind in ("alone", "guided", "real")
    ),
    *(Column(f"octave0_{kind}", f"detail, {kind}", ".2f") for kind in ("alone", "guided", "real")),
    Column("seconds_alone", "seconds, alone", ".1f"),
    Column("seconds_guided", "seconds, guided", ".1f"),
)


def main(argv: Sequence[str] | None = None) -> Row:
    """Sample at every µm/px, compare, write."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    if args.patches < 16:
        raise InvalidValueError(f"--patches must be at least 16, got {args.patches}")
    where, real = Device.of(args), RealSlides.of(args)
    rows, sheet, notes = [], {}, []
    for mpp in args.mpp:
        row, crops, found = measure(args, where, real, mpp)
        rows.append(row)
        sheet[f"{mpp:g} µm/px"] = crops
        notes += found
    draw_sheet(sheet, args.out / "scales.png")
    page = Page(
        name="scales", title="Quality across µm/px", text=TEXT, columns=COLUMNS, rows=rows, notes=notes
    )
    return page.write(args.out, argv, where)


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    add_real(parser)
    parser.add_argument("--mpp", type=float, nargs="+", default=[0.5, 1, 2, 4, 16])
    parser.add_argument("--patches", type=int, default=64, help="of each kind, at each µm/px")
    parser.add_argument("--patch", type=int, default=128, help="side, px")
    parser.add_argument("--steps", type=int, default=20, help="of patches alone")
    parser.add_argument("--solver", default="dpmpp_2m", help="of patches alone")
    parser.add_argument("--preset", default="fast", help="of guided stages")
    parser.add_argument("--model", default="default")
    parser.add_argument("--batch-size", default="auto")
    return parser


def measure(
    args: argparse.Namespace, where: Device, real: RealSlides | None, mpp: float
) -> tuple[Row, dict[str, np.ndarray], list[str]]:
    """One µm/px: the row, crops to look at, and notes."""
    sets: dict[str, list[np.ndarray]] = {}
    row: Row = {"mpp": mpp, "count": args.patches}
    notes = []
    for kind, make in (("alone", alone), ("guided", guided)):
        asked = mpp if kind == "alone" else K * mpp
        sampler = _sampler(args, where, mpp)
        low, high = sampler.net.config["mpp_range"]
        if not low <= asked <= high:
            notes.append(
                f"no {kind} patches at {mpp:g} µm/px: the model was trained from {low:g} to {high:g}"
            )
            continue
        clock = Clock(where.device)
        sets[kind] = make(args, sampler)
        row[f"seconds_{kind}"] = clock.seconds()
    judge = real.judge(mpp=mpp, patch=args.patch, count=args.patches, split="val") if real else None
    if real and judge:
        sets["real"] = real.pictures(mpp=mpp, size=args.patch, count=args.patches, split="train")
        for kind, patches in sets.items():
            row |= _compared(judge, patches, kind)
        notes += judge.cautions
        sets["held-out"] = judge.examples
    else:
        notes.append(f"no held-out real patches at {mpp:g} µm/px: no distances")
    crops = {kind: middle(patches[0], CROP)[0] for kind, patches in sets.items()}
    return row, crops, notes


def _compared(judge: Judge, patches: list[np.ndarray], kind: str) -> Row:
    figures = judge.distance(patches) | judge.kernel_distance(patches) | judge.precision_recall(patches)
    figures["octave0"] = float(judge.spectrum(patches)[0])
    return {f"{key}_{kind}": value for key, value in figures.items()}


def _sampler(args: argparse.Namespace, where: Device, mpp: float) -> Sampler:
    shape = {"size": K * args.patch, "stages": 1, "mpp": mpp}
    return Sampler.of(argparse.Namespace(**vars(args) | shape), where)


@torch.inference_mode()
def from_noise(args: argparse.Namespace, sampler: Sampler, mpp: float, count: int) -> list[np.ndarray]:
    """Patches without a guide."""
    generator = torch.Generator().manual_seed(0)
    sigmas, solver = karras_sigmas(args.steps), SOLVERS[args.solver]
    estimate = at_mpp(sampler.denoise, mpp)
    patches: list[np.ndarray] = []
    for start in range(0, count, sampler.batch_size):
        number = min(sampler.batch_size, count - start)
        x = sigmas[0] * torch.randn(number, 3, args.patch, args.patch, generator=generator)
        x = integrate(estimate, x.to(sampler.where.device), sigmas, solver)
        pixels = ((x + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        patches += list(pixels)
    return patches


def alone(args: argparse.Namespace, sampler: Sampler) -> list[np.ndarray]:
    """Patches from noise."""
    return from_noise(args, sampler, sampler.mpp, args.patches)


def guided(args: argparse.Namespace, sampler: Sampler) -> list[np.ndarray]:
    """Patches of images whose guides were made alone."""
    guides = from_noise(args, sampler, K * sampler.mpp, -(-args.patches // K**2))
    patches = []
    for seed, guide in enumerate(guides):
        image = sampler.above(sampler.specs(seed)[-1], guide).image
        rows = (image[i : i + args.patch] for i in range(0, len(image), args.patch))
        patches += [
            np.ascontiguousarray(r[:, i : i + args.patch])
            for r in rows
            for i in range(0, len(image), args.patch)
        ]
    return patches[: args.patches]


if __name__ == "__main__":
    main()

"""How good a denoiser is on held-out slides, beside an untrained one and the mean colour.

python benchmarks/denoiser.py --model default --slides ../shared/data/he --table ../shared/data/SOURCES.csv

Prints a Markdown table for the model card; the last line is one JSON object: for "model", "untrained" and
"mean_colour" the EDM-weighted loss by µm/px band and noise level. Untrained is the linear filter that its
preconditioning is. With --sheet, draws a picture of samples.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

import torch
from torch import Tensor

from wsigen.data.index import SlideIndex
from wsigen.data.survey import build_index
from wsigen.diffusion.spectrum import combine
from wsigen.nn.denoiser import load_denoiser
from wsigen.pipeline.networks import InPrecision
from wsigen.runtime import choose_device, choose_dtype
from wsigen.training.validate import SIGMAS, Losses, held_out, mean_over, sample_sheet, validation_loss


def main() -> None:
    """Parse the command line, measure, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="default")
    parser.add_argument("--slides", type=Path, required=True, help="folder of slides, or an index")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--images", type=int, default=32, help="held-out patches per band")
    parser.add_argument("--size", type=int, help="side of the patches, px; default: the model's first")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sheet", type=Path, help="PNG of samples at several µm/px")
    parser.add_argument("--sheet-mpp", type=float, nargs="+", default=[0.5, 1, 2, 4, 8, 16, 32, 64])
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    device = choose_device(args.device)
    net = load_denoiser(args.model, device)
    sigma_data, size = net.config["sigma_data"], args.size or net.config["patch_sizes"][0]
    index = _index(args).split("val")
    bands = held_out(index, size=size, images=args.images, mpp_range=net.config["mpp_range"])
    background = torch.tensor([b.images.float().mean(dim=(0, 2, 3)).tolist() for b in bands]).mean(dim=0)
    mean = (background / 127.5 - 1)[None, :, None, None].to(device)

    def untrained(x: Tensor, sigma: Tensor, mpp: Tensor) -> Tensor:
        return combine(x, torch.zeros_like(x), sigma, net.octave_std(mpp))

    def mean_colour(x: Tensor, sigma: Tensor, mpp: Tensor) -> Tensor:
        return mean.expand_as(x)

    model = InPrecision(net, choose_dtype("auto", device))
    tables = {
        name: validation_loss(denoise, bands, sigma_data=sigma_data, device=device)
        for name, denoise in (("model", model), ("untrained", untrained), ("mean_colour", mean_colour))
    }
    for name, table in tables.items():
        sys.stdout.write(f"\n{name}: mean {mean_over(table):.3f}\n\n{markdown(table)}\n")
    if args.sheet:
        sample_sheet(net, args.sheet, mpps=args.sheet_mpp, size=size, seed=0)
    sys.stdout.write(json.dumps(tables) + "\n")


def _index(args: argparse.Namespace) -> SlideIndex:
    return (
        SlideIndex.load(args.slides)
        if args.slides.suffix == ".parquet"
        else build_index(args.slides, args.table)[0]
    )


def markdown(table: Losses) -> str:
    """Rows are bands of µm/px, columns noise levels."""
    lines = ["| µm/px | " + " | ".join(f"σ {s:g}" for s in SIGMAS) + " |", "|---" * (len(SIGMAS) + 1) + "|"]
    lines += [
        f"| {band} | " + " | ".join(f"{v:.3f}" for v in row.values()) + " |" for band, row in table.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""What the edge of a slide does to its outermost pixels, in stages that the upscaler makes.

    python benchmarks/edges.py

From each held-out case a picture of tissue at 8 µm/px is carried down three stages twice: cut off at the
edge of the slide, and as the middle of a larger picture, so that its surroundings are known. Prints one JSON
object: for each µm/px and distance to the edge in px, by how many grey levels the first differs from the
second in brightness, and its gradient energy over that of the second (1 = the edge does nothing); means of
the cases and their standard deviations.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.chains import GROUND, START, place, read
from benchmarks.held_out import SLIDES, TABLES, cases
from wsigen.geometry import Size
from wsigen.nn.snapshot import load_snapshot
from wsigen.nn.upscaler import Upscaler
from wsigen.sampling.lazy import LazyCascade
from wsigen.sampling.preset import Preset, UpscaledConfig
from wsigen.sampling.spec import stage_specs

STAGES = 3
DISTANCES = (0, 1, 2, 4, 8, 16)
BRIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32)


def main() -> None:
    """Carry pictures down, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--upscaler", type=Path, default=Path("wsigen/models/default/upscaler"))
    parser.add_argument("--slides", type=Path, nargs="+", default=list(SLIDES), help="folders of real slides")
    parser.add_argument("--tables", type=Path, nargs="+", default=list(TABLES), help="a table a folder")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures at 8 µm/px, px")
    args = parser.parse_args()
    torch.set_num_threads(1)
    net, found = load_snapshot(Upscaler, args.upscaler), []
    around = -(-net.radius // net.stride) * net.stride * 2  # reaches to the edge through all stages
    for seed, case in enumerate(cases(args.slides, args.tables)):
        side = args.size + 2 * around
        picture = read(case.overview, place(case, side), START, side)
        found.append(compare(net, picture, around, seed))
    rows = {name: np.array([values[name] for values in found]) for name in found[0]}
    spread = {name: {"mean": v.mean(axis=0), "std": v.std(axis=0)} for name, v in rows.items()}
    print(json.dumps({"cases": len(found), **{n: _plain(v) for n, v in spread.items()}}))


def compare(net: Upscaler, picture: np.ndarray, around: int, seed: int) -> dict[str, tuple[float, float]]:
    """Difference of brightness and ratio of gradient energy, by µm/px and distance to the edge.

    Args:
        net: the upscaler.
        picture: uint8 (h, w, 3) at 8 µm/px.
        around: pixels on each side of it that only the second slide has.
        seed: of the noise.
    """
    inner = np.ascontiguousarray(picture[around:-around, around:-around])
    found = {}
    for stage in range(1, STAGES + 1):
        shown = Size(*inner.shape[:2]).times(net.k**stage).region
        cut, within = (
            cascade(net, image, seed).read(shown.shift(offset, offset), stage)
            for image, offset in ((inner, 0), (picture, around * net.k**stage))
        )
        for (low, high), ours, theirs in zip(pairwise(DISTANCES), bands(cut), bands(within), strict=True):
            name = f"{START / net.k**stage:g} µm/px, {low} to {high} px"
            found[name] = ours[0] - theirs[0], ours[1] / theirs[1]
    return found


def cascade(net: Upscaler, picture: np.ndarray, seed: int) -> LazyCascade:
    """A slide that starts from a picture."""
    preset, size = Preset(upscaler=UpscaledConfig(from_mpp=float("inf"))), Size(*picture.shape[:2])
    how = {"k": net.k, "mpp": START / net.k**STAGES, "seed": seed, "given": True}
    specs = stage_specs(preset, size=size.times(net.k**STAGES), stages=STAGES, **how)
    return LazyCascade(specs, _never, net, background=GROUND, base=picture)


def bands(image: np.ndarray) -> list[tuple[float, float]]:
    """Mean brightness and gradient energy between neighbouring ``DISTANCES`` from the edge of an image."""
    grey = image @ BRIGHTNESS
    energy = np.square(np.diff(grey, axis=0, append=grey[-2:-1])) + np.square(
        np.diff(grey, axis=1, append=grey[:, -2:-1])
    )
    y, x = (np.minimum(np.arange(n), np.arange(n)[::-1]) for n in grey.shape)
    away = np.minimum(y[:, None], x[None])
    masks = [(away >= low) & (away < high) for low, high in pairwise(DISTANCES)]
    return [(float(grey[m].mean()), float(energy[m].mean())) for m in masks]


def _never(x: torch.Tensor, sigma: torch.Tensor, mpp: torch.Tensor) -> torch.Tensor:
    raise AssertionError("no stage is the denoiser's")


def _plain(values: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: [round(float(v), 2) for v in pair] for name, pair in values.items()}


if __name__ == "__main__":
    main()

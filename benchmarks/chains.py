"""Chains: real overviews at 8 µm/px, carried down to 0.5 µm/px by the upscaler, beside the real slides.

    python benchmarks/chains.py --upscaler runs/upscaler/snapshot

From each held-out case one region is read at 8 µm/px, around one of its crops; the upscaler makes 4, 2, 1 and
0.5 µm/px of it, each stage from the one before, passed on as 8-bit. Writes chains.jpg (real and made regions
side by side) and chains.md (figures over those of the real slides). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.held_out import SLIDES, TABLES, Case, Crop, cases
from benchmarks.over_real import ROWS, Figures, Ratios, figures, mean, ratios
from wsigen.evaluation.phase import tissue_of
from wsigen.files import write_bytes
from wsigen.geometry import Region, Size
from wsigen.nn.snapshot import load_snapshot
from wsigen.nn.upscaler import Upscaler
from wsigen.runtime import keep_freed_memory
from wsigen.sampling.spec import UpscaleSpec
from wsigen.sampling.upscale import UpscaledStage
from wsigen.slide.read import open_slide
from wsigen.slide.stains import mean_density

START = 8.0
"""µm/px from which chains start."""
STAGES = 4
PATCH = 128
PANEL = 320
"""Side of a picture of the sheet, px."""
GROUND = (243, 243, 243)

TEXT = """
The upscaler alone: each row starts from the real slide at 8 µm/px (left) and is carried to 0.5 µm/px in four
stages, one network evaluation each. None of the cases was trained on. Real regions are of the same place, or
of another place of the case where the picture says so; cases whose files were exported as lossy JPEG are
shown at 0.5 µm/px too, but only files that hold the slide's own detail enter the figures.

Every figure is that of the chains over that of the real slides, of the cases that have both; 1 is as real.
Cases count equally. Relief stands as it is, and beside it that of the real slides: it should be as small. So
does the pattern of 8 px: the share of the detail that repeats with the grid of the upscaler's resolutions.
"""


@dataclass(frozen=True)
class Chain:
    """What was made of one region.

    Attributes:
        case: where it is from.
        centre: (y, x) of the region on the slide, µm.
        images: µm/px to uint8 (h, w, 3); 8 µm/px is real.
    """

    case: Case
    centre: tuple[float, float]
    images: dict[float, np.ndarray]


def main(argv: Sequence[str] | None = None) -> None:
    """Make chains, measure, write."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    folder = args.upscaler or args.model / "upscaler"
    net = load_snapshot(Upscaler, folder, args.device)
    chains = [
        chain(net, case, args.size, args.seed + n) for n, case in enumerate(cases(args.slides, args.tables))
    ]
    found = compare(chains)
    write_bytes(args.out / "chains.jpg", sheet(chains))
    command = shlex.join(["python", "benchmarks/chains.py", *argv])
    write_bytes(args.out / "chains.md", markdown(found, command, args.size).encode())
    facts = {"command": command, "cases": [c.case.group for c in chains]}
    sys.stdout.write(json.dumps({**facts, **{f"{m:g}": r.as_dict() for m, r in found.items()}}) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--upscaler", type=Path, help="folder of an upscaler; default that of --model")
    parser.add_argument("--model", type=Path, default=Path("wsigen/models/default"))
    parser.add_argument("--slides", type=Path, nargs="+", default=list(SLIDES), help="folders of real slides")
    parser.add_argument("--tables", type=Path, nargs="+", default=list(TABLES), help="a table a folder")
    parser.add_argument("--size", type=int, default=96, help="side of the regions at 8 µm/px, px")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def chain(net: Upscaler, case: Case, size: int, seed: int) -> Chain:
    """Carry one region of a case down to 0.5 µm/px.

    Args:
        net: the upscaler.
        case: where the region is from.
        size: its side at 8 µm/px, px.
        seed: of the noise.
    """
    centre = place(case, size)
    image = read(case.overview, centre, START, size)
    images = {START: image}
    for stage in range(1, STAGES + 1):
        mpp, made = START / net.k**stage, Size.square(len(image) * net.k)
        spec = UpscaleSpec(stage=stage, size=made, k=net.k, mpp=mpp, seed=seed)
        drawn = UpscaledStage(spec, net, Picture(image), background=GROUND, device=net.device)
        images[mpp] = image = drawn.read(spec.bounds)
    return Chain(case, centre, images)


@dataclass(frozen=True)
class Picture:
    """An image as the stage above another: uint8 (h, w, 3)."""

    pixels: np.ndarray

    def read(self, region: Region) -> np.ndarray:
        """Pixels of a region inside it."""
        return self.pixels[region.y : region.y1, region.x : region.x1]


def place(case: Case, size: int) -> tuple[float, float]:
    """Where on the slide a region is taken, (y, x) in µm: around the crop that shows most tissue.

    Without a crop whose place is known it is the part of the overview with most tissue.
    """
    over = case.overview
    origin = over.corner or (0.0, 0.0)
    height, width = (int(n * over.mpp / START) for n in over.size)
    small = open_slide(over.path, over.mpp).read_region(Region(0, 0, height, width), START)
    share = cv2.blur(tissue_of(mean_density(small)).astype(np.float32), (size, size))
    half = size // 2
    rows, columns = (slice(half, max(n - half, half + 1)) for n in (height, width))
    around = [c.centre for c in case.crops if not c.overview and c.centre and over.corner]
    cells = [_clamped((c[0] - origin[0], c[1] - origin[1]), rows, columns) for c in around]
    if not cells:
        y, x = np.unravel_index(int(share[rows, columns].argmax()), share[rows, columns].shape)
        cells = [(int(y) + half, int(x) + half)]
    y, x = max(cells, key=lambda cell: share[cell])
    return y * START + origin[0], x * START + origin[1]


def _clamped(place_um: tuple[float, float], rows: slice, columns: slice) -> tuple[int, int]:
    """The pixel at 8 µm/px nearest to a place at which a region fits."""
    y, x = (round(v / START) for v in place_um)
    return min(max(y, rows.start), rows.stop - 1), min(max(x, columns.start), columns.stop - 1)


def read(crop: Crop, centre: tuple[float, float], mpp: float, size: int) -> np.ndarray:
    """A square of a file around a place of its slide, uint8 (size, size, 3)."""
    origin = crop.corner or (0.0, 0.0)
    at = centre[0] - origin[0], centre[1] - origin[1]
    return open_slide(crop.path, crop.mpp).read_patch(at, mpp, size, GROUND)


def compare(chains: Sequence[Chain]) -> dict[float, Ratios]:
    """At each µm/px, figures of the chains over those of the real slides that hold such detail."""
    found = {}
    for mpp in sorted({m for c in chains for m in c.images if m < START}):
        pairs = [(figures(cut(c.images[mpp]), mpp), _real(c.case, mpp)) for c in chains]
        both = [(ours, theirs) for ours, theirs in pairs if ours and theirs]
        if both:
            found[mpp] = ratios(mean([o for o, _ in both]), mean([t for _, t in both]), len(both))
    return found


def _real(case: Case, mpp: float) -> Figures | None:
    """Of all files of a case that hold such detail."""
    patches = []
    for crop in case.holding(mpp):
        height, width = (int(n * crop.mpp / mpp) for n in crop.size)
        patches += cut(open_slide(crop.path, crop.mpp).read_region(Region(0, 0, height, width), mpp, GROUND))
    return figures(patches, mpp)


def cut(image: np.ndarray, most: int = 128) -> list[np.ndarray]:
    """Patches side by side that are at least half tissue; at most so many, evenly over the image."""
    corners = [
        (y, x)
        for y in range(0, image.shape[0] - PATCH + 1, PATCH)
        for x in range(0, image.shape[1] - PATCH + 1, PATCH)
    ]
    patches = (np.ascontiguousarray(image[y : y + PATCH, x : x + PATCH]) for y, x in corners)
    full = [p for p in patches if tissue_of(mean_density(p)).mean() >= 0.5]
    return [full[i] for i in np.unique(np.linspace(0, len(full) - 1, min(most, len(full))).astype(int))]


def sheet(chains: Sequence[Chain], most: int = 1_500_000) -> bytes:
    """A row a case: real at 8, real and made at 2 and 0.5 µm/px. A JPEG of at most so many bytes."""
    rows = [np.concatenate([_panel(*p) for p in _panels(c)], axis=1) for c in chains]
    picture = np.concatenate(rows)[..., ::-1]
    data = b""
    for quality in range(92, 20, -6):
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= most:
            break
    return data


def _panels(one: Chain) -> list[tuple[np.ndarray, str]]:
    """Pictures of one case, and what stands on them."""
    case, middle = one.case, _middle
    start = cv2.resize(one.images[START], (PANEL, PANEL), interpolation=cv2.INTER_CUBIC)
    panels = [(start, f"{case.organ}, real, {START:g} um/px")]
    for mpp in (2.0, 0.5):
        crop, same = _shown(case, one.centre, mpp)
        at = one.centre if same else crop.centre or one.centre
        lossy = "" if crop.holds(mpp) else ", lossy"
        there = "" if same else ", elsewhere"
        panels.append((read(crop, at, mpp, PANEL), f"real, {mpp:g} um/px{there}{lossy}"))
        panels.append((middle(one.images[mpp], PANEL), f"made, {mpp:g} um/px"))
    return panels


def _shown(case: Case, centre: tuple[float, float], mpp: float) -> tuple[Crop, bool]:
    """The file that shows a place, or another place, with most detail; and whether it is that place."""
    fine = [c for c in case.crops if c.mpp <= mpp * 1.1] or [case.overview]
    ranked = sorted(fine, key=lambda c: (not _covers(c, centre, PANEL * mpp), not c.holds(mpp)))
    return ranked[0], _covers(ranked[0], centre, PANEL * mpp)


def _covers(crop: Crop, centre: tuple[float, float], extent: float) -> bool:
    if crop.corner is None:
        return False
    lows = [v - extent / 2 - o for v, o in zip(centre, crop.corner, strict=True)]
    highs = [
        o + n * crop.mpp - v - extent / 2 for v, o, n in zip(centre, crop.corner, crop.size, strict=True)
    ]
    return min(*lows, *highs) >= -2 * crop.mpp


def _middle(image: np.ndarray, side: int) -> np.ndarray:
    y, x = ((n - side) // 2 for n in image.shape[:2])
    return image[max(y, 0) : max(y, 0) + side, max(x, 0) : max(x, 0) + side]


def _panel(image: np.ndarray, text: str) -> np.ndarray:
    """With a caption below it and a margin around."""
    high, wide = image.shape[:2]
    out = np.full((PANEL + 22, PANEL + 6, 3), 255, np.uint8)
    out[3 : 3 + high, 3 : 3 + wide] = image
    cv2.putText(out, text, (5, PANEL + 17), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return out


def markdown(found: dict[float, Ratios], command: str, size: int) -> str:
    """The page."""
    head = " | ".join(f"{m:g} µm/px" for m in found)
    lines = [f"| | {head} |", "|---" * (len(found) + 1) + "|"]
    lines += [
        f"| {title} | {' | '.join(r.cell(key) for r in found.values())} |" for key, title in ROWS.items()
    ]
    cases_ = " | ".join(f"{r.cases}, {r.patches[0]:.0f} and {r.patches[1]:.0f}" for r in found.values())
    lines.append(f"| cases, patches of chains and of real slides | {cases_} |")
    parts = [
        "# Chains of the upscaler beside real slides",
        TEXT.strip(),
        "![A row a case: real at 8, real and made at 2, real and made at 0.5 µm/px](chains.jpg)",
        "\n".join(lines),
        f"Regions of {size * START / 1000:g} mm; patches of {PATCH} px. What the measures say: "
        "[evaluation.md](../evaluation.md).",
        f"`{command}`",
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()

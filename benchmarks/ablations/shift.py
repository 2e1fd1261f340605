"""Ways to hide the joints of patches: grid shifts, mask-shift (DDNM) and overlap averaging (MultiDiffusion).

    python benchmarks/ablations/shift.py --size 1024 --stages 3 --seeds 1

Writes shift.md and shift.png; the last line is one JSON object with the table's rows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch

from benchmarks.ablations.figure import draw_sheet
from benchmarks.ablations.options import Device, add_real, add_sampling, options
from benchmarks.ablations.page import Column, Page, Row
from benchmarks.ablations.real import Comparison, RealSlides
from benchmarks.ablations.references import Counted, mask_shift, overlap_average
from benchmarks.ablations.sampler import (
    Clock,
    Joints,
    K,
    Sampled,
    Sampler,
    cost,
    last_joints,
    middle,
    seams,
)
from wsigen.diffusion.step import at_mpp
from wsigen.sampling.spec import StageSpec

CROP = 160
GRIDS = {
    "no shift": {"shift": "none"},
    "half shift": {"shift": "half"},
    "random shift": {"shift": "random"},
    "drift": {"shift": "drift"},
}
TEXT = """
The last stage, sampled from one guide with the same noise and schedule; what differs is how patches come
together. The guide itself, enlarged, is scored at the joints of windows: what shows there is no seam.
*Evaluations*: network passes of one patch each. *step8* (1 = no seam) and its robust *z* are taken at the
joints of the last three grids, or where windows begin; *jump* is the largest one-pixel jump at any of
those joints (1 = none). *Detail*: power at wavelengths of up to 4 px over that of real patches (1 = as
real): averaging windows that disagree blurs. *Distance*: Fréchet distance of features to those of real
patches, for comparison within the table. Mask-shift and overlap averaging are plain reference samplers on
the whole canvas, with windows that overlap by half; mask-shift can only denoise one window at a time.
"""
COLUMNS = (
    Column("method", "method"),
    Column("evaluations", "evaluations", ",d"),
    Column("times", "of no shift", ".2f"),
    Column("seconds", "seconds", ".1f"),
    Column("step8", "step8", ".3f"),
    Column("z", "z", ".1f"),
    Column("jump", "jump", ".3f"),
    Column("octave0", "detail", ".2f"),
    Column("distance", "distance", ".1f"),
    Column("distance_95", "95 %"),
)
Method = Callable[[Sampler, int, np.ndarray], tuple[Sampled, Joints]]


def main(argv: Sequence[str] | None = None) -> Row:
    """Sample with every method, measure, write."""
    argv = sys.argv[1:] if argv is None else argv
    parser = options(__doc__)
    add_sampling(parser, size=1024, stages=3, seeds=1, preset="fast")
    add_real(parser)
    args = parser.parse_args(argv)
    where, real = Device.of(args), RealSlides.of(args)
    sampler = Sampler.of(args, where)
    guides = [sampler.guide(seed) for seed in range(args.seeds)]
    compared = Comparison(real, guides, overview_mpp=K * sampler.mpp, mpp=sampler.mpp, patch=sampler.patch)
    rows, crops = [control(sampler, guides, compared)], {}
    for name, method in methods(sampler.patch).items():
        done = [method(sampler, seed, guide) for seed, guide in enumerate(guides)]
        slides = [sampled for sampled, _ in done]
        images = [s.image for s in slides]
        seam = seams(images, sampler.patch, [joints for _, joints in done])
        figures: Row = {"method": name}
        figures |= cost(slides) | seam | compared.figures(images)
        first = rows[1] if len(rows) > 1 else figures
        rows.append(figures | {"times": figures["evaluations"] / first["evaluations"]})
        crops[name] = middle(images[0], CROP)[0]
    draw_sheet({"": crops}, args.out / "shift.png")
    page = Page(
        name="shift",
        title="Grid shift, mask-shift and overlap averaging",
        text=TEXT,
        columns=COLUMNS,
        rows=[*rows, *compared.floor("method")],
        notes=compared.notes,
    )
    return page.write(args.out, argv, where)


def control(sampler: Sampler, guides: Sequence[np.ndarray], compared: Comparison) -> Row:
    """The guide, enlarged, at the joints of windows: what shows there is no seam of this stage."""
    images = [cv2.resize(g, None, fx=K, fy=K, interpolation=cv2.INTER_CUBIC) for g in guides]
    at = [0, sampler.patch // 2]
    row: Row = {"method": "the guide, bicubic"}
    return row | seams(images, sampler.patch, [(at, at)] * len(images)) | compared.figures(images)


def methods(patch: int) -> dict[str, Method]:
    """All methods by name."""
    found: dict[str, Method] = {name: shifted(**changes) for name, changes in GRIDS.items()}
    found["random shift, halo at the last two steps"] = shifted(
        shift="random", halo=patch // 8 // K * K, halo_steps=2
    )
    return {**found, "overlap averaging": averaging, "mask-shift": masking}


def shifted(**changes: str | int) -> Method:
    """The sampler of wsigen with other options."""

    def sample(sampler: Sampler, seed: int, guide: np.ndarray) -> tuple[Sampled, Joints]:
        config = replace(sampler.preset.guided, **changes)  # pyright: ignore[reportArgumentType]
        spec = sampler.specs(seed, config)[-1]
        return sampler.above(spec, guide), last_joints(spec)

    return sample


def averaging(sampler: Sampler, seed: int, guide: np.ndarray) -> tuple[Sampled, Joints]:
    """Overlap averaging, with windows half a patch apart."""

    def run(estimate: Counted, spec: StageSpec, device: torch.device) -> np.ndarray:
        return overlap_average(
            estimate, spec, guide, spec.patch.width // 2, device=device, batch_size=sampler.batch_size
        )

    return _reference(sampler, seed, run)


def masking(sampler: Sampler, seed: int, guide: np.ndarray) -> tuple[Sampled, Joints]:
    """Mask-shift, with windows half a patch apart."""

    def run(estimate: Counted, spec: StageSpec, device: torch.device) -> np.ndarray:
        return mask_shift(estimate, spec, guide, spec.patch.width // 2, device=device)

    return _reference(sampler, seed, run)


def _reference(
    sampler: Sampler, seed: int, run: Callable[[Counted, StageSpec, torch.device], np.ndarray]
) -> tuple[Sampled, Joints]:
    spec, device = sampler.specs(seed)[-1], sampler.where.device
    clock, estimate = Clock(device), Counted(at_mpp(sampler.denoise, spec.mpp))
    image = run(estimate, spec, device)
    at = [0, spec.patch.width // 2]
    return Sampled(image, estimate.evaluations, clock.seconds()), (at, at)


if __name__ == "__main__":
    main()

"""The last stage of the cascade against plain super-resolution: replication, bicubic, unrelaxed r = N.

    python benchmarks/ablations/baselines.py --size 512 --stages 2 --seeds 4

Writes baselines.md and baselines.png; the last line is one JSON object with the table's rows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from benchmarks.ablations.figure import draw_sheet
from benchmarks.ablations.options import Device, add_real, add_sampling, options
from benchmarks.ablations.page import Column, Page, Row
from benchmarks.ablations.real import Comparison, RealSlides
from benchmarks.ablations.sampler import Clock, K, Sampled, Sampler, cost, middle
from wsigen.errors import InvalidValueError
from wsigen.evaluation.scales import scale_agreement

CROP = 128
TEXT = """
An image at twice the µm/px, enlarged twice: by replicating pixels, by bicubic interpolation, by the
diffusion stage with its guide enforced to the end (r = N, pure super-resolution), and as the preset has
it (relaxed). *Guide*: what is enlarged, either the cascade's own stage or real slides reduced by
averaging. *Octaves*: power over that of real patches, octave 0 up to wavelengths of 4 px, octave 1 up to
8 px and so on (1 = as real, below = blurred). *PSNR*: the result, reduced, against its guide. *Distance*:
Fréchet distance of the features of patches on tissue to those of real ones, for comparison within rows of
one guide.
"""
OCTAVES = 4
COLUMNS = (
    Column("guide", "guide"),
    Column("method", "method"),
    Column("psnr", "PSNR, dB", ".1f"),
    *(Column(f"octave{i}", f"octave {i}", ".2f") for i in range(OCTAVES)),
    Column("distance", "distance", ".1f"),
    Column("distance_95", "95 %"),
    Column("seconds", "seconds", ".1f"),
)
EXACT = 99.0
"""Stands for the PSNR of images that agree exactly, dB."""

Method = Callable[[Sampler, int, np.ndarray], Sampled]


@dataclass(frozen=True)
class Guide:
    """An image to enlarge.

    Args:
        image: uint8 (h, w, 3).
        original: what it was reduced from, if it is real.
    """

    image: np.ndarray
    original: np.ndarray | None = None


def main(argv: Sequence[str] | None = None) -> Row:
    """Enlarge with every method, measure, write."""
    argv = sys.argv[1:] if argv is None else argv
    parser = options(__doc__)
    add_sampling(parser, size=512, stages=2, seeds=4, preset="fast")
    add_real(parser)
    args = parser.parse_args(argv)
    where, real = Device.of(args), RealSlides.of(args)
    if args.stages < 1:
        raise InvalidValueError("--stages must be at least 1: there must be a stage to enlarge")
    sampler = Sampler.of(args, where)
    sets = {"stage above": [Guide(sampler.guide(seed)) for seed in range(args.seeds)]}
    if real:
        originals = real.pictures(mpp=sampler.mpp, size=sampler.size, count=args.seeds)
        sets["real, reduced"] = [Guide(reduced(original), original) for original in originals]
    rows: list[Row] = []
    crops, notes = {}, []
    for name, guides in sets.items():
        if not guides:
            notes.append(f"no real slide serves {sampler.size} px at {sampler.mpp:g} µm/px")
            continue
        found, crops[name], compared = measure(sampler, name, guides, real)
        rows += found
        notes += compared.notes
    draw_sheet(crops, args.out / "baselines.png")
    page = Page(
        name="baselines",
        title="Diffusion and plain super-resolution",
        text=TEXT,
        columns=COLUMNS,
        rows=rows,
        notes=notes,
    )
    return page.write(args.out, argv, where)


def measure(
    sampler: Sampler, name: str, guides: Sequence[Guide], real: RealSlides | None
) -> tuple[list[Row], dict[str, np.ndarray], Comparison]:
    """All methods on one set of guides: rows, crops to look at, and what they were compared with."""
    images = [g.image for g in guides]
    compared = Comparison(real, images, overview_mpp=K * sampler.mpp, mpp=sampler.mpp, patch=sampler.patch)
    results = {
        method: [enlarge(sampler, seed, image) for seed, image in enumerate(images)]
        for method, enlarge in METHODS.items()
    }
    rows: list[Row] = []
    for method, slides in results.items():
        agreements = [scale_agreement(s.image, image) for s, image in zip(slides, images, strict=True)]
        psnr = float(np.mean([min(a.psnr, EXACT) for a in agreements]))
        figures = compared.figures([s.image for s in slides])
        rows.append({"guide": name, "method": method, "psnr": psnr} | cost(slides) | figures)
    originals = [g.original for g in guides if g.original is not None]
    if originals:
        rows.append({"guide": name, "method": "the original"} | compared.figures(originals))
    else:
        rows += [{"guide": name} | row for row in compared.floor("method")]
    crops = {method: middle(slides[0].image, CROP)[0] for method, slides in results.items()}
    if originals:
        crops["the original"] = middle(originals[0], CROP)[0]
    return rows, crops, compared


def reduced(image: np.ndarray) -> np.ndarray:
    """An image of half the size, by averaging."""
    height, width = (n // K for n in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def diffused(sampler: Sampler, seed: int, guide: np.ndarray) -> Sampled:
    """The stage as the preset has it."""
    return sampler.above(sampler.specs(seed)[-1], guide)


def unrelaxed(sampler: Sampler, seed: int, guide: np.ndarray) -> Sampled:
    """The stage with its guide enforced to the end."""
    config = replace(sampler.preset.guided, relax_step=None, relax_sigma=0.0)
    return sampler.above(sampler.specs(seed, config)[-1], guide)


def interpolated(how: int) -> Method:
    """Plain interpolation, by OpenCV's number."""

    def enlarge(sampler: Sampler, seed: int, guide: np.ndarray) -> Sampled:
        clock = Clock(sampler.where.device)
        return Sampled(cv2.resize(guide, None, fx=K, fy=K, interpolation=how), 0, clock.seconds())

    return enlarge


METHODS: dict[str, Method] = {
    "replication": interpolated(cv2.INTER_NEAREST),
    "bicubic": interpolated(cv2.INTER_CUBIC),
    "diffusion, r = N": unrelaxed,
    "diffusion, relaxed": diffused,
}


if __name__ == "__main__":
    main()

"""How long the guide is enforced: relaxation step r (Harb et al. 2024, figure 7).

    python benchmarks/ablations/relaxation.py --size 512 --stages 2 --seeds 2

Writes relaxation.md and relaxation.png; the last line is one JSON object with the table's rows.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.ablations.figure import draw_sheet
from benchmarks.ablations.options import Device, add_real, add_sampling, options
from benchmarks.ablations.page import Column, Page, Row
from benchmarks.ablations.real import Comparison, RealSlides
from benchmarks.ablations.sampler import K, Sampled, Sampler, cost, last_joints, middle, seams
from wsigen.errors import InvalidValueError
from wsigen.evaluation.scales import scale_agreement
from wsigen.evaluation.seams import jump
from wsigen.sampling.preset import GuidedConfig
from wsigen.sampling.spec import StageSpec

CROP = 128
TEXT = """
The last stage, sampled from one guide with the guide enforced in the first r steps only (r = 0: never; r
= all: to the end). σ is the noise level at which it is let go. *PSNR*, *correlation* and *bias* compare
the reduced image with its guide (59 dB is the rounding to 8 bit). *Blocks* is the mean jump between
pixels across the edges of guide pixels over that within them (1 = the guide's pixels do not show).
*step8* (1 = no seam) is taken at the joints of the last three grids. *Octaves*: power over that of real
patches, octave 0 up to wavelengths of 4 px, octave 1 up to 8 px. *Distance*: Fréchet distance of features
to those of real patches, for comparison within the table.
"""
COLUMNS = (
    Column("relax", "r"),
    Column("sigma", "σ", ".3g"),
    Column("psnr", "PSNR, dB", ".1f"),
    Column("correlation", "correlation", ".4f"),
    Column("bias", "bias, grey levels", ".2f"),
    Column("blocks", "blocks", ".3f"),
    Column("step8", "step8", ".3f"),
    Column("z", "z", ".1f"),
    Column("octave0", "octave 0", ".2f"),
    Column("octave1", "octave 1", ".2f"),
    Column("distance", "distance", ".1f"),
    Column("distance_95", "95 %"),
    Column("seconds", "seconds", ".1f"),
)


def main(argv: Sequence[str] | None = None) -> Row:
    """Sample with every r, measure, write."""
    argv = sys.argv[1:] if argv is None else argv
    parser = options(__doc__)
    add_sampling(parser, size=512, stages=2, seeds=2, preset="paper")
    add_real(parser)
    parser.add_argument("--steps", type=int, default=20, help="instead of the preset's")
    parser.add_argument(
        "--relax",
        type=float,
        nargs="+",
        default=[0, 0.25, 0.5, 0.7, 0.85, 1],
        help="r over the number of steps",
    )
    args = parser.parse_args(argv)
    if not all(0 <= share <= 1 for share in args.relax):
        raise InvalidValueError(f"--relax must be shares of the steps in [0, 1], got {args.relax}")
    where, real = Device.of(args), RealSlides.of(args)
    sampler = Sampler.of(args, where)
    guides = [sampler.guide(seed) for seed in range(args.seeds)]
    compared = Comparison(real, guides, overview_mpp=K * sampler.mpp, mpp=sampler.mpp, patch=sampler.patch)
    rows, crops = [], {"guide": crop(guides[0].repeat(K, 0).repeat(K, 1))}
    for share in args.relax:
        config = relaxed(sampler.preset.guided, args.steps, share)
        slides = [sampler.above(sampler.specs(seed, config)[-1], guide) for seed, guide in enumerate(guides)]
        specs = [sampler.specs(seed, config)[-1] for seed in range(args.seeds)]
        rows.append(row(specs, slides, guides, compared))
        crops[f"r = {rows[-1]['relax']}"] = crop(slides[0].image)
    draw_sheet({"": crops}, args.out / "relaxation.png")
    page = Page(
        name="relaxation",
        title="Relaxation of the guide",
        text=TEXT,
        columns=COLUMNS,
        rows=[*rows, *compared.floor("relax")],
        notes=compared.notes,
    )
    return page.write(args.out, argv, where)


def relaxed(preset: GuidedConfig, steps: int, share: float) -> GuidedConfig:
    """The preset with so many steps, of which a share is guided."""
    return replace(preset, steps=steps, relax_sigma=None, relax_step=round(share * steps))


def row(
    specs: Sequence[StageSpec], slides: Sequence[Sampled], guides: Sequence[np.ndarray], compared: Comparison
) -> Row:
    """The figures of one r."""
    images, spec = [s.image for s in slides], specs[0]
    agreements = [scale_agreement(i, g) for i, g in zip(images, guides, strict=True)]
    figures: Row = {
        "relax": f"{spec.relax} of {spec.steps}",
        "sigma": spec.sigmas[spec.relax],
        "psnr": float(np.mean([a.psnr for a in agreements])),
        "correlation": float(np.mean([a.correlation for a in agreements])),
        "bias": float(np.mean([np.abs(a.bias).max() for a in agreements])),
        "blocks": float(np.mean([blocks(i, spec.k) for i in images])),
    }
    seam = seams(images, spec.patch.width, [last_joints(s) for s in specs])
    return figures | cost(slides) | seam | compared.figures(images)


def blocks(image: np.ndarray, k: int) -> float:
    """Jumps across the edges of k×k blocks over those within them; 1 = none."""
    energies = [jump(middle(image)[0], k, axis=axis).energy for axis in (0, 1)]
    return float(np.sqrt(np.mean([np.square(e[0] / max(np.mean(e[1:]), 1e-12)) for e in energies])))


def crop(image: np.ndarray) -> np.ndarray:
    """A piece from the middle, to look at."""
    return middle(image, CROP)[0]


if __name__ == "__main__":
    main()

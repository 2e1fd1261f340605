"""Number of solver steps, and Heun against Euler and DPM-Solver++(2M) (Harb et al. 2024, figure 5).

    python benchmarks/ablations/steps.py --size 512 --stages 2 --seeds 2

Writes steps.md and steps.png; the last line is one JSON object with the table's rows.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.ablations.figure import Panel, draw_panels
from benchmarks.ablations.options import Device, add_real, add_sampling, options
from benchmarks.ablations.page import Column, Page, Row
from benchmarks.ablations.real import Comparison, RealSlides
from benchmarks.ablations.sampler import K, Sampled, Sampler, cost, last_joints, seams
from wsigen.diffusion.solvers import SOLVERS
from wsigen.sampling.preset import GuidedConfig

TEXT = """
Slides that differ in nothing but the solver of their guided stages: same base image, same noise, guide
enforced down to the same noise level. *Apart*: root mean square difference, in grey levels, from the
slides with most Heun steps; it does not reach 0, since the patch grid moves with every step. *step8* (1 =
no seam) is taken at the joints of the last three grids. *Detail*: power at wavelengths of up to 4 px over
that of real patches (1 = as real). *Distance*: Fréchet distance of the features of patches on tissue to
those of real ones; it compares with itself only, and *real against real* is the least to be expected.
*Precision*: share of the patches whose features lie among those of real ones; *recall*: share of the real
ones that lie among those of the patches (improved precision and recall, k = 3, Kynkäänniemi et al. 2019).
"""
COLUMNS = (
    Column("solver", "solver"),
    Column("steps", "steps", "d"),
    Column("each", "evaluations of a patch", "d"),
    Column("evaluations", "evaluations", ",d"),
    Column("seconds", "seconds", ".1f"),
    Column("apart", "apart", ".2f"),
    Column("step8", "step8", ".3f"),
    Column("z", "z", ".1f"),
    Column("octave0", "detail", ".2f"),
    Column("distance", "distance", ".1f"),
    Column("distance_95", "95 %"),
    Column("precision", "precision", ".2f"),
    Column("recall", "recall", ".2f"),
)


@dataclass(frozen=True)
class Setting:
    """A solver and its number of steps."""

    solver: str
    steps: int

    def config(self, preset: GuidedConfig) -> GuidedConfig:
        """The preset with it, relaxed at the noise level at which the preset is."""
        level = preset.relax_sigma
        if level is None:
            level = preset.sigmas()[preset.relax()]
        return replace(preset, solver=self.solver, steps=self.steps, relax_step=None, relax_sigma=level)


def main(argv: Sequence[str] | None = None) -> Row:
    """Sample with every setting, measure, write."""
    argv = sys.argv[1:] if argv is None else argv
    parser = options(__doc__)
    add_sampling(parser, size=512, stages=2, seeds=2, preset="paper")
    add_real(parser)
    parser.add_argument("--heun", type=int, nargs="*", default=[5, 10, 20, 40])
    parser.add_argument("--euler", type=int, nargs="*", default=[9, 19, 39])
    parser.add_argument("--dpmpp-2m", type=int, nargs="*", default=[9, 19])
    args = parser.parse_args(argv)
    where, real = Device.of(args), RealSlides.of(args)
    sampler = Sampler.of(args, where)
    settings = [Setting(name, steps) for name in SOLVERS for steps in getattr(args, name)]
    bases = [sampler.base(seed) for seed in range(args.seeds)]
    done = {setting: _sample(sampler, setting, bases) for setting in settings}
    coarse = sampler.mpp * K**sampler.stages
    compared = Comparison(real, bases, overview_mpp=coarse, mpp=sampler.mpp, patch=sampler.patch)
    rows = _measure(sampler, done, compared)
    floor = compared.floor("solver")
    _draw(rows, floor, args.out / "steps.png")
    page = Page(
        name="steps",
        title="Number of steps and solver",
        text=TEXT,
        columns=COLUMNS,
        rows=rows + floor,
        notes=compared.notes,
    )
    return page.write(args.out, argv, where)


def _sample(sampler: Sampler, setting: Setting, bases: Sequence[np.ndarray]) -> list[Sampled]:
    config = setting.config(sampler.preset.guided)
    return [sampler.cascade(sampler.specs(seed, config)[1:], base) for seed, base in enumerate(bases)]


def _measure(sampler: Sampler, done: Mapping[Setting, list[Sampled]], compared: Comparison) -> list[Row]:
    longest = max((s for s in done if s.solver == "heun"), key=lambda s: s.steps, default=None)
    rows: list[Row] = []
    for setting, slides in done.items():
        images = [s.image for s in slides]
        config = setting.config(sampler.preset.guided)
        joints = [last_joints(sampler.specs(seed, config)[-1]) for seed in range(len(images))]
        row: Row = {"solver": setting.solver, "steps": setting.steps}
        row["each"] = SOLVERS[setting.solver].evaluations(setting.steps)
        if longest and setting != longest:
            row["apart"] = _apart(images, [s.image for s in done[longest]])
        rows.append(row | cost(slides) | seams(images, sampler.patch, joints) | compared.figures(images))
    return rows


def _apart(images: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    pairs = zip(images, others, strict=True)
    return float(np.sqrt(np.mean([np.square(a.astype(float) - b).mean() for a, b in pairs])))


def _draw(rows: Sequence[Row], floor: Sequence[Row], path: Path) -> None:
    keys = {"apart": "apart, grey levels", "octave0": "detail, 1 = as real", "distance": "distance"}
    keys |= {"precision": "precision", "recall": "recall"}
    panels = []
    for key, title in keys.items():
        lines = {}
        for solver in SOLVERS:
            points = [r for r in rows if r["solver"] == solver and key in r]
            lines[solver] = ([r["each"] for r in points], [r[key] for r in points])
        if any(x for x, _ in lines.values()):
            levels = {str(r["solver"]): r[key] for r in floor if key in r}
            panels.append(Panel(title=title, x="evaluations of a patch", lines=lines, levels=levels, log="x"))
    draw_panels(panels, path)


if __name__ == "__main__":
    main()

"""How good the bundled models are: slides and pairs that they make, beside held-out real slides.

    python benchmarks/bundled.py
    python benchmarks/bundled.py --compare default/fast
    python benchmarks/bundled.py --slides ../shared/data/he --tables ../shared/data/SOURCES.csv

Makes fine H&E and IHC slides (0.5 µm/px) and coarse ones (8 µm/px), has `wsigen evaluate` compare them
with the held-out slides, and writes bundled.md, bundled.jpg, bundled.json (all values) and bundled.html (the
report). Slides are kept in --work and made once. The last line is one JSON object that names what is worst.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.ablations.options import Device
from benchmarks.ablations.page import environment
from benchmarks.held_out import SLIDES, TABLES, listed, write_table
from wsigen.config import SampleConfig
from wsigen.config.evaluate import EvaluateConfig
from wsigen.errors import InvalidValueError
from wsigen.evaluation.estimate import Estimate
from wsigen.evaluation.inputs import PAGE, VALUES
from wsigen.evaluation.phase import pair_names
from wsigen.evaluation.report.page import interval, number, times
from wsigen.evaluation.results import Report, Result, SetReport, warned
from wsigen.evaluation.run import measure
from wsigen.evaluation.spectrum import band_names
from wsigen.evaluation.topics import METRICS, SECTIONS
from wsigen.files import write_bytes
from wsigen.nn.snapshot import weights_hash
from wsigen.pipeline.sample import sample

SCALES = (0.5, 1.0, 2.0, 8.0)
PARTS = (("fine", 0.5, 100), ("coarse", 8.0, 200))
"""Kinds of slides: name, µm/px, first seed."""
RATIOS = ("power", "checkerboard")
"""Measures whose values are over real already."""
BESIDE = ("relief", "fid", "auc")
"""Measures that stand beside those of real slides, not over them: they are 0, or a distance."""
OVER_REAL = (
    *(("power", name) for name in band_names()),
    ("checkerboard", ""),
    ("coherence", ""),
    *(("edges", name) for name in pair_names()),
    ("relief", ""),
    ("saturation", ""),
    ("haematoxylin_mean", ""),
    ("nuclei_density", ""),
    ("nuclei_area", ""),
    ("fid", ""),
    ("auc", ""),
)

TEXT = """
Slides made by the bundled models, beside real slides of cases that were not trained on. *Real* is the floor:
the same measure between halves of the real slides, which is what a perfect model would get. *Distance* from
it is in half-widths of both 95 % intervals together: up to 1 is within real-vs-real range, beyond 3 far
outside. *No verdict*: there are too few real cases, or they have too little in common, for this floor to tell
good from bad.
Features are weight-free: distances compare with one another only, never with published FIDs.

Part of the cases were exported as lossy JPEG, and hold no detail of their own below 1 µm/px: real values at
0.5 µm/px are of the other cases alone.
"""
IHC_NOTE = "The IHC slides are compared with the only real slide of their stain, which the stainer has seen."


@dataclass(frozen=True)
class Made:
    """A set of slides to make.

    Attributes:
        name: what the report calls it.
        model: as for `sample`.
        preset: as for `sample`.
        stain: marker of the IHC slides; None for none.
        folder: where the slides are kept; another one for other weights, so that none is taken for another's.
        count: slides of each kind.
    """

    name: str
    model: str
    preset: str
    stain: str | None
    folder: Path
    count: int


def main(argv: Sequence[str] | None = None) -> None:
    """Make slides, evaluate them, write."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    where = Device.of(args)
    sets = _sets(args)
    for one in sets:
        _make(args, one)
    config = _evaluation(args, sets)
    report = measure(config)
    report.save(config.out, overwrite=True)
    for name in (PAGE, VALUES):
        write_bytes(args.out / f"bundled{Path(name).suffix}", (args.work / "report" / name).read_bytes())
    write_bytes(args.out / "bundled.jpg", sheet(report))
    write_bytes(args.out / "bundled.md", markdown(report, sets, argv, where).encode())
    worst = {name: w and w.as_dict() for name, w in report.worst().items()}
    facts = {"command": _command(argv), "worst": worst["generated"], "worst_of_all_sets": worst}
    sys.stdout.write(json.dumps({**facts, "over_real": {s.name: over_real(s) for s in report.sets}}) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--preset", default="one-step")
    parser.add_argument("--compare", help="MODEL/PRESET, such as default/fast: judged in the same run")
    parser.add_argument("--stain", default="SYN", help="of the IHC slides; none for none")
    parser.add_argument("--size", type=int, default=2048, help="side of the fine slides, px")
    parser.add_argument("--stages", type=int, default=6, help="of the fine slides; coarse ones have two less")
    parser.add_argument("--slides-count", type=int, default=4, help="slides of each kind, fine and coarse")
    parser.add_argument("--compare-count", type=int, default=1, help="the same of --compare")
    parser.add_argument("--slides", type=Path, nargs="+", default=list(SLIDES), help="folders of real slides")
    parser.add_argument("--tables", type=Path, nargs="+", default=list(TABLES), help="a table a folder")
    parser.add_argument(
        "--ihc", default="../shared/data/ihc/bs25_*_SYN_*.tif", help="real slides of the stain"
    )
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--patches", type=int, default=1200)
    parser.add_argument("--joint-classifiers", type=int, default=100)
    parser.add_argument("--work", type=Path, default=Path("runs/bundled"), help="keeps the slides")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    return parser


def _sets(args: argparse.Namespace) -> list[Made]:
    """What is judged: the model, and what it is compared with."""
    stain = None if args.stain == "none" else args.stain
    folder = _folder(args, args.model, args.preset, stain)
    one = Made("generated", args.model, args.preset, stain, folder, args.slides_count)
    if args.compare is None:
        return [one]
    model, _, preset = args.compare.rpartition("/")
    if not model or not preset:
        raise InvalidValueError(f"--compare must be MODEL/PRESET, such as default/fast, got {args.compare!r}")
    other = Made(preset, model, preset, None, _folder(args, model, preset, None), args.compare_count)
    return [one, other]


def _folder(args: argparse.Namespace, model: str, preset: str, stain: str | None) -> Path:
    parts = (Path(preset).stem, *([Path(stain).name] if stain else ()), str(args.size), str(args.stages))
    return args.work / "-".join((*parts, weights_hash(model)[:8]))


def _make(args: argparse.Namespace, one: Made) -> None:
    """The slides that are not there yet."""
    prefix = "" if one.name == "generated" else f"{one.name}-"  # slides of one name are compared by pixels
    for kind, mpp, seed in PARTS:
        for number_ in range(seed, seed + one.count):
            name = f"{prefix}{kind}-{number_}"
            if (one.folder / f"{name}_HE.ome.tif").is_file():
                continue
            less = min(2, args.stages) if kind == "coarse" else 0
            config = SampleConfig(
                size=args.size // (2 if less else 1),
                stages=args.stages - less,
                seed=number_,
                mpp=mpp,
                model=one.model,
                preset=one.preset,
                stain=one.stain if kind == "fine" else None,
                out=one.folder,
                name=name,
                device=args.device,
                dtype=args.dtype,
            )
            sample(config)


def _evaluation(args: argparse.Namespace, sets: Sequence[Made]) -> EvaluateConfig:
    """The held-out slides are real, all others were trained on."""
    slides = listed(args.slides, args.tables)
    real, train = ([str(s.path) for s in slides if s.split == split] for split in ("val", "train"))
    first, others = sets[0], sets[1:]
    return EvaluateConfig(
        generated=str(first.folder / "*_HE.ome.tif"),
        compare=[f"{o.name}={o.folder / '*_HE.ome.tif'}" for o in others] or None,
        real=real,
        train=train or None,
        pairs=str(first.folder / "*_IHC-*.ome.tif") if first.stain else None,
        real_pairs=args.ihc if first.stain else None,
        table=write_table(slides, args.work / "table.csv"),
        mpp=list(SCALES),
        patch=args.patch,
        patches=args.patches,
        joint_classifiers=args.joint_classifiers,
        out=args.work / "report",
        overwrite=True,
        device=args.device,
    )


def markdown(report: Report, sets: Sequence[Made], argv: Sequence[str], where: Device) -> str:
    """The page: what is worst, what is over real, then every value beside its floor."""
    one = report.sets[0]
    shares = ", ".join(f"{count} at {mpp}" for mpp, count in report.counts.items())
    what = "; ".join(f"*{s.name}*: model `{s.model}`, preset `{s.preset}`" for s in sets)
    parts = [
        "# The bundled models beside held-out slides",
        TEXT.strip() + (f"\n\n{IHC_NOTE}" if sets[0].stain else ""),
        f"{what}. {len(one.slides)} generated slides; held-out cases: {_cases(report)}; patches of "
        f"{report.config['patch']} px a side, by µm/px: {shares}.",
        *(f"## What is worst{_of_set(s, report)}\n\n{_worst(s)}" for s in report.sets),
        *(f"## Over real{_of_set(s, report)}\n\n{_over_real(s, report.scales)}" for s in report.sets),
        "![Rows in turn: real and generated patches, finest µm/px first](bundled.jpg)",
        *(
            f"## {question}\n\n{_table(rows)}"
            for key, question in SECTIONS.items()
            if (rows := _of(one, key))
        ),
        f"## To be read with this in mind\n\n{_cautions(report)}",
        "All values: [bundled.json](bundled.json); the report as `wsigen evaluate` writes it: "
        "[bundled.html](bundled.html) (download it to look at it). Chains of the upscaler from real "
        "overviews: [chains.md](chains.md).",
        f"`{_command(argv)}`\n\n{environment(where)}",
    ]
    return "\n\n".join(parts) + "\n"


def _of_set(one: SetReport, report: Report) -> str:
    return "" if len(report.sets) == 1 else f": {one.name}"


def _cases(report: Report) -> str:
    """All held-out cases, and where there are fewer at a µm/px, which."""
    slides = report.references[0].slides
    every = sorted({s.group for s in slides})
    found = [", ".join(every)]
    for mpp in report.scales:
        some = sorted({s.group for s in slides if s.patches.get(f"{mpp:g}")})
        if some != every:
            found.append(f"at {mpp:g} µm/px {', '.join(some)} alone")
    return "; ".join(found)


def _worst(one: SetReport, most: int = 8) -> str:
    worst = one.worst()
    ranked = [r for r in one.ranked() if (r.excess or 0) > 1][:most]
    blind = [r for r in one.results if r.verdict.state == "none" and r.excess is not None]
    withheld = f"{len(blind)} more have a floor that cannot judge them."
    if worst is None:
        return f"No verdict: no floor can judge. {withheld}"
    good = [r for r in one.ranked() if r.verdict.state == "good"]
    within = f"{len(good)} are within real-vs-real range"
    counted = f"Of {worst.measures} values with a verdict, {within}. {withheld}"
    if not ranked:
        return f"Everything is within real-vs-real range.\n\n{counted}"
    said = f"{str(worst)[0].upper()}{str(worst)[1:]}. Good: {worst.result.metric.good}."
    return "\n\n".join([said, _table(ranked, name=True), counted])


def over_real(one: SetReport, scales: Iterable[float] = SCALES) -> dict[str, dict[str, float | None]]:
    """By µm/px and measure: values over those of real slides; of `BESIDE` the value itself."""
    return {
        f"{mpp:g}": {
            f"{key} {label}".strip(): None if r is None or not math.isfinite(r[0]) else r[0]
            for key, label in OVER_REAL
            for r in [_ratio(one.find(key, mpp, label))]
        }
        for mpp in scales
    }


def _ratio(result: Result | None) -> tuple[float, float | None] | None:
    """A value over real; or as it is, and that of real slides beside it."""
    if result is None or result.value is None:
        return None
    value, floor = result.value.value, result.floor
    if result.key in RATIOS:
        return value, None
    if result.key in BESIDE:
        return value, floor and floor.value
    return (value / floor.value, None) if floor is not None and floor.value > 0 else None


def _over_real(one: SetReport, scales: Sequence[float]) -> str:
    lines = [f"| | {' | '.join(f'{m:g} µm/px' for m in scales)} |", "|---" * (len(scales) + 1) + "|"]
    for key, label in OVER_REAL:
        found = [_ratio(one.find(key, mpp, label)) for mpp in scales]
        title = ", ".join(p for p in (METRICS[key].title, label) if p)
        lines.append(f"| {title} | {' | '.join(map(_over, found))} |")
    return "\n".join(
        [*lines, "", "Relief, Fréchet distance and AUC as they are, in brackets between real and real."]
    )


def _over(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return "–"
    value, real = found
    return number(value) if real is None else f"{number(value)} ({number(real)})"


def _of(one: SetReport, section: str) -> list[Result]:
    return [r for r in one.results if r.metric.section == section]


def _table(rows: Sequence[Result], *, name: bool = False) -> str:
    """Rows in the order of the catalogue, or as given where names are ``name``."""
    if not name:
        order = list(METRICS)
        rows = sorted(rows, key=lambda r: order.index(r.key))
    lines = ["| measure | where | value | real | distance | |", "|---|---|---|---|---|---|"]
    for row in rows:
        where = " · ".join(p for p in (row.label, "" if row.mpp is None else f"{row.mpp:g} µm/px") if p)
        cells = (row.metric.title, where, _cell(row.value), _cell(row.floor), times(row.excess))
        lines.append(f"| {' | '.join(cells)} | {row.verdict} |")
    return "\n".join(lines)


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return " ".join(p for p in (number(estimate.value), f"({interval(estimate)})".replace("()", "")) if p)


def _cautions(report: Report) -> str:
    lines = [*report.warnings, *warned(report.sets[0].results)]
    return "\n".join(f"- {line[0].upper()}{line[1:]}." for line in dict.fromkeys(lines)) or "Nothing."


def sheet(report: Report) -> bytes:
    """Strips of real and generated patches, one above the other, then pairs: a JPEG."""
    kinds = ("real", *(s.name for s in report.sets))
    names = {f"patches {kind} {mpp:g}": f"{kind}, {mpp:g} um/px" for mpp in report.scales for kind in kinds}
    names["pairs"] = "H&E, and its IHC below"
    found = [(report.pictures[n], text) for n, text in names.items() if n in report.pictures]
    strips = [_captioned(np.frombuffer(data, np.uint8), text) for data, text in found]
    width = max(s.shape[1] for s in strips)
    padded = [np.pad(s, ((0, 8), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    return cv2.imencode(".jpg", np.concatenate(padded), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def _captioned(data: np.ndarray, text: str) -> np.ndarray:
    """A picture below its caption."""
    picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    band = np.full((18, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(band, text, (2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([band, picture])


def _command(argv: Sequence[str]) -> str:
    return shlex.join(["python", "benchmarks/bundled.py", *argv])


if __name__ == "__main__":
    main()

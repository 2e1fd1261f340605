"""How good the bundled models are: slides and pairs that they make, beside held-out real slides.

    python benchmarks/bundled.py

Makes fine slides with their twins (0.5 µm/px) and coarse ones (8 µm/px), has `wsigen evaluate` compare them
with the held-out slides, and writes bundled.md, bundled.jpg, bundled.json (all values) and bundled.html (the
report). Slides are kept in --work and made once. The last line is one JSON object that names what is worst.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.ablations.options import REAL, TABLE, Device
from benchmarks.ablations.page import environment
from wsigen.config import SampleConfig
from wsigen.config.evaluate import EvaluateConfig
from wsigen.config.train import DataConfig
from wsigen.data.index import load_or_build_index
from wsigen.evaluate import evaluate
from wsigen.evaluate.catalogue import MEASURES, SECTIONS
from wsigen.evaluate.estimate import Estimate
from wsigen.evaluate.inputs import PAGE, VALUES
from wsigen.evaluate.report.words import VERDICTS, interval, number, times, verdict
from wsigen.evaluate.results import Report, Result, SetReport, warned
from wsigen.files import write_bytes
from wsigen.synthesis.slides import make_slides

TEXT = """
Slides made by the bundled models with the default preset, beside real slides of the cases that the denoiser
was not trained on. *Real* is the floor: the same measure between halves of the real slides, which is what a
perfect model would get. *Distance* from it is in half-widths of both 95 % intervals together: up to 1 is
chance, beyond 3 is far off. Features are weight-free: distances compare with one another only, never with
published FIDs.

There are two held-out cases, so a floor says how these two differ. Where they have nothing in common
(precision and recall of 0, a classifier that always tells), "as real" is no praise.

The twins are compared with the one real synaptophysin slide that there is, which the stainer has seen.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Make slides, evaluate them, write."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    where = Device.of(args)
    _make(args, args.work)
    report = evaluate(_evaluation(args, args.work))
    for name in (PAGE, VALUES):
        write_bytes(args.out / f"bundled{Path(name).suffix}", (args.work / "report" / name).read_bytes())
    write_bytes(args.out / "bundled.jpg", sheet(report))
    write_bytes(args.out / "bundled.md", markdown(report, argv, where).encode())
    worst = report.sets[0].worst()
    sys.stdout.write(json.dumps({"command": _command(argv), "worst": worst and worst.as_dict()}) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--stain", default="SYN")
    parser.add_argument("--size", type=int, default=2048, help="side of the slides, px")
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--fine", type=int, default=4, help="slides at 0.5 µm/px, with twins")
    parser.add_argument("--coarse", type=int, default=4, help="slides at 8 µm/px")
    parser.add_argument("--slides", type=Path, default=REAL, help="what the model was trained on, and more")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument(
        "--ihc", default="../shared/data/ihc/bs25_*_SYN_*.tif", help="real slides of the stain"
    )
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--patches", type=int, default=2000)
    parser.add_argument("--joint-classifiers", type=int, default=200)
    parser.add_argument("--work", type=Path, default=Path("runs/bundled"), help="keeps the slides")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    return parser


def _make(args: argparse.Namespace, work: Path) -> None:
    """The slides that are not there yet."""
    for kind, mpp, seed, count in (("fine", 0.5, 100, args.fine), ("coarse", 8.0, 200, args.coarse)):
        for number_ in range(seed, seed + count):
            stain = args.stain if kind == "fine" else None
            if (work / f"{kind}-{number_}_HE.ome.tif").is_file():
                continue
            config = SampleConfig(
                size=args.size,
                stages=args.stages,
                seed=number_,
                mpp=mpp,
                model=args.model,
                stain=stain,
                out=work,
                name=f"{kind}-{number_}",
                device=args.device,
                dtype=args.dtype,
            )
            make_slides(config)


def _evaluation(args: argparse.Namespace, work: Path) -> EvaluateConfig:
    """Held-out slides are those that training with the same table holds out."""
    data = DataConfig(slides=args.slides, table=args.table)
    index = load_or_build_index(args.slides, table=args.table, val_fraction=data.val_fraction)
    real, train = (
        [str(args.slides / e.slide) for e in index.split(split).entries] for split in ("val", "train")
    )
    return EvaluateConfig(
        generated=str(work / "*_HE.ome.tif"),
        real=real,
        train=train,
        pairs=str(work / "*_IHC-*.ome.tif"),
        real_pairs=args.ihc,
        table=args.table,
        mpp="0.5,1,2,8",
        patch=args.patch,
        patches=args.patches,
        joint_classifiers=args.joint_classifiers,
        out=work / "report",
        overwrite=True,
        device=args.device,
    )


def markdown(report: Report, argv: Sequence[str], where: Device) -> str:
    """The page: what is worst, then every value beside its floor."""
    one = report.sets[0]
    real = report.references[0]
    held_out = ", ".join(sorted({s.group for s in real.slides}))
    shares = ", ".join(f"{count} at {mpp}" for mpp, count in report.counts.items())
    parts = [
        "# The bundled models beside held-out slides",
        TEXT.strip(),
        f"{len(one.slides)} generated slides; held-out cases: {held_out}; patches of "
        f"{report.config['patch']} px a side, by µm/px: {shares}.",
        f"## What is worst\n\n{_worst(one)}",
        "![Rows in turn: real and generated patches, finest µm/px first](bundled.jpg)",
        *(
            f"## {question}\n\n{_table(rows)}"
            for key, question in SECTIONS.items()
            if (rows := _of(one, key))
        ),
        f"## To be read with this in mind\n\n{_cautions(report)}",
        "All values: [bundled.json](bundled.json); the report as `wsigen evaluate` writes it: "
        "[bundled.html](bundled.html) (download it to look at it).",
        f"`{_command(argv)}`\n\n{environment(where)}",
    ]
    return "\n\n".join(parts) + "\n"


def _worst(one: SetReport, most: int = 8) -> str:
    worst = one.worst()
    ranked = [r for r in one.ranked() if (r.excess or 0) > 1][:most]
    if worst is None or not ranked:
        return "Nothing is beyond chance."
    lines = [
        f"{str(worst)[0].upper()}{str(worst)[1:]}. {worst.result.measure.good}",
        _table(ranked, name=True),
    ]
    good = [r for r in one.ranked() if (r.excess or 0) <= 1]
    lines.append(f"Of {worst.measures} values with a floor, {len(good)} are as between real and real.")
    return "\n\n".join(lines)


def _of(one: SetReport, section: str) -> list[Result]:
    return [r for r in one.results if r.measure.section == section]


def _table(rows: Sequence[Result], *, name: bool = False) -> str:
    """Rows in the order of the catalogue, or as given where names are ``name``."""
    if not name:
        order = list(MEASURES)
        rows = sorted(rows, key=lambda r: order.index(r.key))
    lines = ["| measure | where | value | real | distance | |", "|---|---|---|---|---|---|"]
    for row in rows:
        where = " · ".join(p for p in (row.label, "" if row.mpp is None else f"{row.mpp:g} µm/px") if p)
        cells = (row.measure.title, where, _cell(row.value), _cell(row.floor), times(row.excess))
        lines.append(f"| {' | '.join(cells)} | {VERDICTS[verdict(row.excess)]} |")
    return "\n".join(lines)


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return " ".join(p for p in (number(estimate.value), f"({interval(estimate)})".replace("()", "")) if p)


def _cautions(report: Report) -> str:
    lines = [*report.warnings, *warned(report.sets[0].results)]
    return "\n".join(f"- {line[0].upper()}{line[1:]}." for line in dict.fromkeys(lines)) or "Nothing."


def sheet(report: Report) -> bytes:
    """Strips of real and generated patches, one above the other, then twins: a JPEG."""
    names = [f"patches {kind} {mpp:g}" for mpp in report.scales for kind in ("real", report.sets[0].name)]
    found = [report.pictures[n] for n in (*names, "pairs") if n in report.pictures]
    strips = [np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)) for data in found]
    width = max(s.shape[1] for s in strips)
    padded = [np.pad(s, ((0, 8), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    return cv2.imencode(".jpg", np.concatenate(padded), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def _command(argv: Sequence[str]) -> str:
    return shlex.join(["python", "benchmarks/bundled.py", *argv])


if __name__ == "__main__":
    main()

"""Whether slides are of the class that was asked for: a classifier of real patches judges samples.

    python benchmarks/classes.py --model runs/denoiser/snapshot --slides index.parquet

A logistic regression on weight-free features learns the classes from real patches of the training cases, at
the µm/px of stage 0 and at the finer ones that the upscaler makes of it. It judges real patches of other
cases, of held-out cases, and samples of each class. Writes classes.md and classes.jpg; the last line is one
JSON object. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.ablations.options import Device
from benchmarks.ablations.page import Column, Row, environment, table
from wsigen import Sampler
from wsigen.data.index import SlideEntry, SlideIndex
from wsigen.data.patches import PatchDataset, PatchKey
from wsigen.data.survey import load_or_build_index
from wsigen.errors import InvalidValueError
from wsigen.evaluation.descriptor import SMALLEST, WeightFree
from wsigen.files import write_bytes

TEXT = """
Each figure is the share of patches that a classifier takes for their class, in percent; *mean* is over the
classes, and chance {chance:.0f}. The classifier, a logistic regression on {dimensions} weight-free features,
learns from real patches of the training cases. *Other cases*: real patches of training cases that it has not
seen (cross-validation by case). *Held-out*: real patches of cases that neither it nor the denoiser has seen.
Where these are near chance, the cases of a class have too little in common for it to be told. *Samples*: what
the denoiser makes of a class, by weight of [guidance](../sampling.md#classes), and *no class* what it makes
without one, as the share that is taken for each class: a class shows where samples of it exceed that share.
Samples may exceed real patches of other cases, since the classifier has seen the denoiser's training cases.
"""


@dataclass(frozen=True)
class Patches:
    """Patches of one kind.

    Args:
        images: by side of the patches, uint8 (n, side, side, 3); of the same places at every side.
        labels: class of each, int64 (n,).
        groups: case of each.
    """

    images: dict[int, np.ndarray]
    labels: np.ndarray
    groups: np.ndarray


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Cut real patches, sample, judge, write."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    where = Device.of(args)
    sampler = Sampler.from_pretrained(
        args.model, upscaler=args.upscaler, device=str(where.device), dtype=args.dtype
    )
    classes = sampler.classes
    if len(classes) < 2:
        raise InvalidValueError(f"--model {args.model} has {len(classes)} classes, two are needed")
    index = load_or_build_index(args.slides, table=args.table, class_column=args.class_column)
    real, held_out = (real_patches(index.split(split), classes, args) for split in ("train", "val"))
    kinds = [None, *args.guidance]
    drawn = {guidance: samples(sampler, guidance, args) for guidance in kinds}
    rows = [row for side in sides(args) for row in judge(real, held_out, drawn, side, classes, args)]
    write_bytes(args.out / "classes.jpg", sheet(real, drawn, max(sides(args)), classes))
    text = markdown(rows, classes, argv, args, where)
    write_bytes(args.out / "classes.md", text.encode())
    result = {"command": _command(argv), "rows": rows}
    sys.stdout.write(json.dumps(result) + "\n")
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="default", help="with classes")
    parser.add_argument("--upscaler", default="default")
    parser.add_argument(
        "--slides", type=Path, required=True, help="folder of slides, or an index with classes"
    )
    parser.add_argument("--table", type=Path, help="with the classes, for a folder")
    parser.add_argument("--class-column", default="class")
    parser.add_argument("--mpp", type=float, default=32.0, help="µm/px of stage 0")
    parser.add_argument("--size", type=int, default=32, help="side of stage 0, px")
    parser.add_argument("--stages", type=int, default=2, help="upscalings before samples are judged again")
    parser.add_argument("--patches", type=int, default=180, help="real patches of each class")
    parser.add_argument("--samples", type=int, default=24, help="of each class and guidance")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    return parser


def sides(args: argparse.Namespace) -> list[int]:
    """Sides of the patches that are judged, px: of stage 0, and of the last."""
    return sorted({args.size, args.size * 2**args.stages})


def real_patches(index: SlideIndex, classes: Sequence[str], args: argparse.Namespace) -> Patches:
    """Patches of real slides, as many of each class, shared equally by its cases."""
    images: dict[int, list[np.ndarray]] = {side: [] for side in sides(args)}
    labels, groups = [], []
    for number, name in enumerate(classes):
        cases: dict[str, list[SlideEntry]] = {}
        for entry in index.entries:
            if entry.class_label == name and entry.serves(max(images), finest(args)):
                cases.setdefault(entry.group, []).append(entry)
        for group, entries in cases.items():
            count = math.ceil(args.patches / len(cases))
            dataset = PatchDataset(SlideIndex(tuple(entries)), anywhere_fraction=0.0)
            for side, found in images.items():
                mpp = args.mpp * args.size / side
                keys = (PatchKey(i, side, (mpp, mpp * 1.000001)) for i in range(count))
                found += [dataset[key].image.permute(1, 2, 0).numpy() for key in keys]
            labels += [number] * count
            groups += [group] * count
    stacked = {
        side: np.stack(found) if found else np.empty((0, side, side, 3)) for side, found in images.items()
    }
    return Patches(stacked, np.array(labels, dtype=np.int64), np.array(groups))


def finest(args: argparse.Namespace) -> float:
    """µm/px of the last stage."""
    return args.mpp / 2**args.stages


def samples(sampler: Sampler, guidance: float | None, args: argparse.Namespace) -> Patches:
    """Slides of each class, of the same seeds; without guidance twice as many of no class, labelled -1."""
    images: dict[int, list[np.ndarray]] = {side: [] for side in sides(args)}
    last, labels = max(images), []
    kinds = {-1: None} if guidance is None else dict(enumerate(sampler.classes))
    for number, name in kinds.items():
        of_class: dict[str, Any] = {} if name is None else {"class_label": name, "guidance": guidance}
        count = args.samples * (2 if name is None else 1)
        for seed in tqdm(range(count), f"{name or 'no class'} {guidance or ''}", disable=None):
            pair = sampler(size=last, stages=args.stages, seed=seed, mpp=finest(args), **of_class)
            for side, found in images.items():
                level = round(math.log2(last / side))
                found.append(np.asarray(pair.he.read_region((0, 0), level, (side, side)))[..., :3])
            labels.append(number)
    stacked = {side: np.stack(found) for side, found in images.items()}
    return Patches(stacked, np.array(labels, dtype=np.int64), np.array(["samples"] * len(labels)))


def judge(
    real: Patches,
    held_out: Patches,
    drawn: dict[float | None, Patches],
    side: int,
    classes: Sequence[str],
    args: argparse.Namespace,
) -> list[Row]:
    """Rows of the table at one side of the patches: one for each class, and their mean."""
    x, model = features(real.images[side]), classifier()
    folds = StratifiedGroupKFold(_least_cases(real), shuffle=True, random_state=0)
    other = np.asarray(cross_val_predict(model, x, real.labels, groups=real.groups, cv=folds))
    model.fit(x, real.labels)

    def predicted(patches: Patches) -> np.ndarray:
        return model.predict(features(patches.images[side])) if len(patches.labels) else patches.labels

    columns = {"other": shares(other, real.labels, len(classes))}
    columns["held_out"] = shares(predicted(held_out), held_out.labels, len(classes))
    for guidance, patches in drawn.items():
        found = predicted(patches)
        if guidance is None:
            columns["none"] = [float(np.mean(found == number)) * 100 for number in range(len(classes))]
        else:
            columns[f"w{guidance:g}"] = shares(found, patches.labels, len(classes))
    mpp = args.mpp * args.size / side
    rows: list[Row] = [
        {
            "mpp": mpp,
            "class": name,
            "cases": len(set(real.groups[real.labels == number])),
            **{key: values[number] for key, values in columns.items()},
        }
        for number, name in enumerate(classes)
    ]
    means = {key: float(np.nanmean(values)) for key, values in columns.items() if key != "none"}
    return [*rows, {"mpp": mpp, "class": "mean", "cases": len(set(real.groups)), **means}]


def _least_cases(real: Patches) -> int:
    """Folds: as many as the class of fewest cases has of them, and at most 5."""
    least = min(len(set(real.groups[real.labels == label])) for label in set(real.labels))
    if least < 2:
        raise InvalidValueError("--slides: each class needs two training cases to be judged by case")
    return min(5, least)


def classifier() -> Any:
    """A logistic regression on standardised features; classes count equally."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000))


def features(patches: np.ndarray) -> np.ndarray:
    """Weight-free features; patches that are too small for them are enlarged."""
    side = patches.shape[1]
    if side < SMALLEST:
        to = (SMALLEST, SMALLEST)
        patches = np.stack([cv2.resize(patch, to, interpolation=cv2.INTER_CUBIC) for patch in patches])
    return WeightFree()(np.ascontiguousarray(patches))


def shares(found: np.ndarray, labels: np.ndarray, count: int) -> list[float]:
    """Percent of the patches of each class that are taken for it; NaN for a class without patches."""
    right = [found[labels == number] == number for number in range(count)]
    return [float(np.mean(one)) * 100 if len(one) else math.nan for one in right]


def sheet(real: Patches, drawn: dict[float | None, Patches], side: int, classes: Sequence[str]) -> bytes:
    """A row a class: four real patches, then four samples by guidance. A JPEG."""
    four = 4
    rows = []
    for number in range(len(classes)):
        of_class = np.flatnonzero(real.labels == number)
        panels = [real.images[side][i] for i in of_class[:: max(1, len(of_class) // four)][:four]]
        for guidance, patches in drawn.items():
            if guidance is not None:
                panels += [patches.images[side][i] for i in np.flatnonzero(patches.labels == number)[:four]]
        framed = [cv2.copyMakeBorder(p, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255,) * 3) for p in panels]
        rows.append(np.concatenate(framed, axis=1))
    picture = np.concatenate(rows)[..., ::-1]
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


def markdown(
    rows: Sequence[Row], classes: Sequence[str], argv: Sequence[str], args: argparse.Namespace, where: Device
) -> str:
    """The page."""
    columns = [
        Column("mpp", "µm/px"),
        Column("class", "class"),
        Column("cases", "training cases"),
        Column("other", "other cases", ".0f"),
        Column("held_out", "held-out", ".0f"),
        *(Column(f"w{w:g}", f"samples, guidance {w:g}", ".0f") for w in args.guidance),
        Column("none", "no class", ".0f"),
    ]
    text = TEXT.format(chance=100 / len(classes), dimensions=WeightFree.dimensions).strip()
    order = ", ".join(f"of guidance {w:g}" for w in args.guidance)
    lines = [
        "# Samples by class",
        text,
        f"Of each class {args.patches} real patches and {args.samples} samples of {args.size} px at "
        f"{args.mpp:g} µm/px, and {2 * args.samples} of no class; the samples then upscaled to "
        f"{finest(args):g} µm/px.",
        table(columns, rows),
        f"A row a class ({', '.join(classes)}): four real patches, then four samples {order}, with the same "
        f"seeds in every row, at {finest(args):g} µm/px:",
        "![Real patches and samples of each class](classes.jpg)",
        f"`{_command(argv)}`",
        environment(where),
    ]
    return "\n\n".join(lines) + "\n"


def _command(argv: Sequence[str]) -> str:
    return shlex.join(["python", "benchmarks/classes.py", *argv])


if __name__ == "__main__":
    main()

"""Seconds and memory of ``wsigen evaluate``, on slides of several sizes made up for the purpose.

python benchmarks/evaluate.py --sizes 4096 16384 [--patches 2000] [--workers 2] [--keep FOLDER]
python benchmarks/evaluate.py --generated synth/ --real ../shared/data/he --table ../shared/data/SOURCES.csv

Each evaluation is the command itself, in a process of its own. Of each size there are as many slides as it
takes to have room for the patches, so that evaluations of all sizes have as many. The last line is one JSON
object: seconds and CPU seconds, most memory, and seconds of each stage, by size.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.synthetic import GLASS, he_image
from wsigen.evaluation.sets import FEWEST, STRIDES
from wsigen.geometry import Size
from wsigen.slide.write import final_journal, write_slide

MPP, CELL, FEWEST_SLIDES = 0.5, 1024, 4
COARSE = 64
"""Side of the picture, in px, that says where tissue is and how it is tinted."""

_STAGE = re.compile(r"^(.+?):\s+\d+%\|")


@dataclass(frozen=True)
class Ran:
    """One evaluation, from start to end of its process."""

    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    stages: dict[str, float]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse the command line, evaluate, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 16384], help="sides of slides, px")
    parser.add_argument("--patches", type=int, default=2000, help="of a side, over all µm/px")
    parser.add_argument("--patch", type=int, default=512, help="side of the patches, px")
    parser.add_argument("--mpp", default="0.5,1,4,16", help="µm/px, where slides can serve them")
    parser.add_argument("--features", default="weight-free")
    parser.add_argument("--workers", type=int, default=0, help="threads; 0 as many as there are cores")
    parser.add_argument("--generated", nargs="+", help="slides to judge, instead of made-up ones")
    parser.add_argument("--real", nargs="+", help="real slides, with --generated")
    parser.add_argument("--table", type=Path, help="of the real slides")
    parser.add_argument("--keep", type=Path, help="folder to keep slides in, to be used again")
    args = parser.parse_args(argv)
    if bool(args.generated) != bool(args.real):
        parser.error("--generated and --real are given together")
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        figures = [measure(args, sides, folder / "report") for sides in given(args, folder)]
    result = {"workers": args.workers or len(os.sched_getaffinity(0)), "evaluations": figures}
    print(json.dumps(result, ensure_ascii=False))
    return result


def given(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, list[str]]]:
    """The slides of each evaluation: those of the command line, or made-up ones."""
    if args.real:
        yield {"generated": args.generated, "real": args.real}
        return
    for size in args.sizes:
        count = slides_needed(args, size)
        sides = {side: folder / f"{size}" / side for side in ("generated", "real")}
        for side, place in sides.items():
            for number in range(count):
                make_slide(place / f"{side}{number}_HE.ome.tif", size, seed=2 * number + (side == "real"))
        yield {side: [str(place)] for side, place in sides.items()}


def slides_needed(args: argparse.Namespace, size: int) -> int:
    """How many slides of a side have room for the patches, and for twice as many real ones."""
    room = []
    for mpp in map(float, args.mpp.split(",")):
        extent = args.patch * mpp / MPP
        along = math.floor((size - extent) / extent * STRIDES + 1e-6) + 1 if extent <= size else 0
        room.append(along * along)
    most = max(room)
    if not most:
        sys.exit(f"patches of {args.patch} px are wider than slides of {size} px at {args.mpp} µm/px")
    count = FEWEST_SLIDES
    while sum(count * r for r in room if count * r >= 2 * FEWEST) < 2 * args.patches:
        count += 1
    return count


def make_slide(path: Path, size: int, seed: int) -> None:
    """Write a round piece of tissue, unlike any of another seed, a band at a time; unless it exists."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = final_journal(path.with_suffix(".journal"), Size(size, size), "linked-ome", f"{size}-{seed}")
    for band in bands(size, seed):
        journal.append(band)
    joints = {"name": "512 px patches", "pitch": 512, "rows": [0], "cols": [0]}
    write_slide(journal, path, mpp=MPP, layout="linked-ome", provenance={"seed": seed, "joints": [joints]})
    journal.delete()


def bands(size: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of a slide: one texture in cells, each moved and turned by chance, tinted and cut out smoothly."""
    rng, side = np.random.default_rng(seed), min(CELL, size)
    whole = he_image(5 * side // 2, seed=seed, mpp=MPP)  # tissue with a margin of glass, which is cut off
    texture, coarse = whole[3 * side // 4 :, 3 * side // 4 :][:side, :side], outline(rng)
    for y in range(0, size, side):
        cells = [cell(texture, coarse, rng, size, y, x) for x in range(0, size, side)]
        yield np.concatenate(cells, axis=1)


def outline(rng: np.random.Generator) -> np.ndarray:
    """How much tissue there is, and how its red and green are tinted, float32 (64, 64, 3)."""
    noise = [cv2.GaussianBlur(rng.standard_normal((COARSE, COARSE)), (0, 0), 4) for _ in range(3)]
    smooth = [n / n.std() for n in noise]
    y, x = np.mgrid[-1 : 1 : COARSE * 1j, -1 : 1 : COARSE * 1j]
    tissue = np.clip(20 * (0.85 + 0.04 * smooth[0] - np.hypot(y, x)), 0, 1)
    return np.stack([tissue, 8 * smooth[1], 8 * smooth[2]], axis=-1).astype(np.float32)


def cell(
    texture: np.ndarray, coarse: np.ndarray, rng: np.random.Generator, size: int, y: int, x: int
) -> np.ndarray:
    """One cell of a slide of ``size``², uint8; at the slide's edge it ends there."""
    moved = np.roll(texture, rng.integers(0, len(texture), 2), axis=(0, 1))
    turned = np.rot90(moved[:, ::-1] if rng.random() < 0.5 else moved, int(rng.integers(4)))
    height, width = min(len(texture), size - y), min(len(texture), size - x)
    scale = COARSE / size
    place = np.array([[scale, 0, x * scale], [0, scale, y * scale]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fields = cv2.warpAffine(coarse, place, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    tissue, tint = fields[..., :1], fields[..., [1, 2, 1]]
    image = GLASS + tissue * (turned[:height, :width] + tint - GLASS)
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


def measure(args: argparse.Namespace, sides: dict[str, list[str]], out: Path) -> dict[str, object]:
    """Evaluate, and say what it took and how many patches of a side were compared."""
    flags = ["--generated", *sides["generated"], "--real", *sides["real"], "--mpp", args.mpp]
    flags += ["--patch", str(args.patch), "--patches", str(args.patches), "--features", args.features]
    flags += ["--workers", str(args.workers), "--device", "cpu", "--out", str(out), "--overwrite"]
    ran = run(flags + (["--table", str(args.table)] if args.table else []))
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    slides = {s["name"]: len(s["slides"]) for s in (*report["sets"], *report["references"])}
    return {
        "size": None if args.real else int(Path(sides["real"][0]).parent.name),
        "slides": slides,
        "patches_a_side": report["patches_a_side"],
        "seconds": round(ran.seconds, 1),
        "cpu_seconds": round(ran.cpu_seconds, 1),
        "peak_rss_bytes": ran.peak_rss_bytes,
        "stages": {name: round(seconds, 1) for name, seconds in ran.stages.items()},
    }


def run(flags: Sequence[str]) -> Ran:
    """``wsigen evaluate`` in a process of its own; its stages are what its progress bar says."""
    entry = "from wsigen.cli.main import main; main()"
    begun = time.perf_counter()
    with Popen([sys.executable, "-c", entry, "evaluate", *flags], stderr=PIPE) as process:
        assert process.stderr is not None
        stages = timed(process.stderr, begun)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begun
    if process.returncode:
        sys.exit(process.returncode)
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Ran(seconds, used.ru_utime + used.ru_stime, peak, stages)


def timed(stream: IO[bytes], begun: float) -> dict[str, float]:
    """Seconds between changes of the progress bar's description; what is not the bar is passed on."""
    stage, since, stages = "start", begun, {}
    for text in lines(stream):
        found = _STAGE.match(text)
        if not found and text.strip() and "%|" not in text:
            print(text, file=sys.stderr, flush=True)
        following = found[1] if found else stage
        if following != stage:
            now = time.perf_counter()
            stages[stage] = stages.get(stage, 0.0) + now - since
            stage, since = following, now
    stages[stage] = stages.get(stage, 0.0) + time.perf_counter() - since
    return stages


def lines(stream: IO[bytes]) -> Iterator[str]:
    """What carriage returns and new lines part, as soon as it is there; a bar has its return in front."""
    waiting = b""
    while part := os.read(stream.fileno(), 1 << 16):
        *whole, waiting = re.split(rb"[\r\n]", waiting + part)
        shown = [*whole, waiting] if b"%|" in waiting else whole
        yield from (line.decode(errors="replace") for line in shown)
    yield waiting.decode(errors="replace")


if __name__ == "__main__":
    main()

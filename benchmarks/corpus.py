"""How much faster several workers make a corpus, and that its bytes do not depend on them.

    python benchmarks/corpus.py --count 8 --size 512 --stages 4 --workers 1 2 4 --out docs/results/corpus.md

Makes the same corpus with each engine and number of workers, and once more with two workers of which one is
killed (SIGKILL) when the second slide is written. The last line is one JSON object: seconds, speed-up and
whether all corpora are equal, byte by byte; --out writes it as a page. Each worker has one CPU thread, so the
speed-up ends at the number of cores.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wsigen.config.corpus import CorpusConfig
from wsigen.corpus import slides
from wsigen.corpus.engine import Made, Task
from wsigen.corpus.make import choose_engine, make_corpus
from wsigen.runtime import usable_cpus

KILLED = 2
"""Number of workers of the run in which one is killed."""

PAGE = """\
# Corpora with several workers

{slides} pairs of H&E and IHC ({stain}) of {size}² px, {stages} upscalings, with the bundled models in float32
on the CPU, one thread a worker. Seconds are those of the whole command, with the start of the workers and the
loading of the networks in each of them; speed-ups refer to one worker of the same engine. Ray's workers have
a niceness of 15: other processes go before them.

| engine | workers | seconds | speed-up | bytes |
|---|---|---|---|---|
{rows}

Machine: {cpus} CPUs, load average {load:.1f} when the benchmark began; PyTorch {torch}, Python {python}.
{note}

Command: `python benchmarks/corpus.py {command}`
"""


@dataclass(frozen=True, kw_only=True)
class Dying(Task):
    """A task whose worker is killed the first time, when its slide is written and not yet described.

    Args:
        mark: file that says it has happened.
    """

    mark: Path

    def __call__(self) -> Made:
        """Make the slide; the first time, die before its row is written."""
        if not self.mark.exists():
            self.mark.touch()
            slides.measure = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__()


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a corpus."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def timed(config: CorpusConfig, mark: Path | None) -> float:
    """Make a corpus; with ``mark``, kill the worker of its second slide once. Return the seconds."""

    def engine(tasks: Sequence[Task]) -> Iterator[Made]:
        second = [i == 1 and mark is not None for i in range(len(tasks))]
        listed = [
            Dying(**vars(task), mark=mark) if dies and mark else task
            for task, dies in zip(tasks, second, strict=True)
        ]
        return choose_engine(config, len(tasks))(listed)

    begin = time.perf_counter()
    make_corpus(config, engine)
    return time.perf_counter() - begin


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Make the same corpus with each engine and number of workers."""
    rows: list[dict[str, Any]] = []
    first = None
    runs = [(engine, n, False) for engine in args.engines for n in args.workers]
    runs += [(engine, KILLED, True) for engine in args.engines]
    for number, (engine, workers, killed) in enumerate(runs):
        config = CorpusConfig(
            out=folder / str(number),
            count=args.count,
            size=args.size,
            stages=args.stages,
            stain=args.stain,
            split="train=1",
            engine=engine,
            workers=workers,
            dtype="float32",
            device="cpu",
        )
        seconds = timed(config, folder / f"{number}.killed" if killed else None)
        found = contents(config.out)
        first = first or found
        same = found == first
        rows.append(
            {"engine": engine, "workers": workers, "killed": killed, "seconds": seconds, "same": same}
        )
    for row in rows:
        (alone,) = (r["seconds"] for r in rows if r["engine"] == row["engine"] and r["workers"] == 1)
        row |= {"speed_up": round(alone / row["seconds"], 2), "seconds": round(row["seconds"], 1)}
    return rows


def page(result: dict[str, Any], args: argparse.Namespace) -> str:
    """Return the result as Markdown."""
    lines = [
        f"| {row['engine']} | {row['workers']}{', one killed' if row['killed'] else ''} | {row['seconds']} | "
        f"{row['speed_up']} | {'equal' if row['same'] else 'differ'} |"
        for row in result["rows"]
    ]
    facts = {**result, "rows": "\n".join(lines), "note": args.note, "stain": args.stain}
    command = " ".join(word for word in sys.argv[1:] if word not in ("--note", args.note))
    return PAGE.format(**facts, torch=torch.__version__, python=platform.python_version(), command=command)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--stain", default="SYN")
    parser.add_argument("--engines", nargs="+", default=["local", "ray"], choices=["local", "ray"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--note", default="", help="what else the page should say of the machine")
    parser.add_argument("--out", type=Path, help="Markdown page to write")
    args = parser.parse_args()
    if 1 not in args.workers or args.count < 2:
        parser.error("--workers must include 1, which speed-ups refer to, and --count must be at least 2")
    logging.basicConfig(level=logging.WARNING)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args, Path(folder))
    result = {"slides": args.count, "size": args.size, "stages": args.stages, "cpus": usable_cpus()}
    result |= {"load": round(load, 1), "rows": rows}
    if args.out:
        args.out.write_text(page(result, args))
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""How much faster several workers make a corpus, and that its bytes do not depend on them.

    python benchmarks/corpus.py --count 8 --size 512 --stages 4 --workers 1 2 4

The last line is one JSON object: seconds and speed-up of each engine and number of workers, and whether all
corpora are equal, byte by byte. Each worker has one CPU thread, so the speed-up ends at the number of cores.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path

from wsigen.config.corpus import CorpusConfig
from wsigen.corpus.make import make_corpus
from wsigen.runtime import usable_cpus


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a corpus."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def main() -> None:
    """Make the same corpus with each engine and number of workers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--stain", default="SYN")
    parser.add_argument("--engines", nargs="+", default=["local", "ray"], choices=["local", "ray"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    rows, first = [], None
    with tempfile.TemporaryDirectory() as folder:
        for engine in args.engines:
            for workers in args.workers:
                out = Path(folder) / f"{engine}-{workers}"
                config = CorpusConfig(
                    out=out,
                    count=args.count,
                    size=args.size,
                    stages=args.stages,
                    stain=args.stain,
                    engine=engine,
                    workers=workers,
                    dtype="float32",
                    device="cpu",
                )
                begin = time.perf_counter()
                make_corpus(config)
                seconds = time.perf_counter() - begin
                found = contents(out)
                first = first or found
                rows.append(
                    {
                        "engine": engine,
                        "workers": workers,
                        "seconds": round(seconds, 1),
                        "same": found == first,
                    }
                )
    alone = {row["engine"]: row["seconds"] for row in rows if row["workers"] == args.workers[0]}
    for row in rows:
        row["speed_up"] = round(alone[row["engine"]] / row["seconds"], 2)
    print(json.dumps({"cpus": usable_cpus(), "slides": args.count, "size": args.size, "rows": rows}))


if __name__ == "__main__":
    main()

"""How many random tissue patches a second one process reads, by µm/px.

    python benchmarks/reader.py [--slides PATH] [--patch-size 256] [--seconds 3]

Without ``--slides`` it makes its own. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.synthetic import he_image, write_tiff
from wsigen.data.index import SlideIndex
from wsigen.data.patches import place
from wsigen.data.survey import load_or_build_index
from wsigen.errors import WsigenError
from wsigen.slide.handles import CACHE_BYTES, set_limits

MPPS = (0.25, 1.0, 4.0, 16.0, 64.0)


def make_slides(folder: Path, count: int = 4, size: int = 4096) -> Path:
    """Pyramids of ``size``² pixels at 0.25 µm/px."""
    for i in range(count):
        write_tiff(folder / f"{i}.tif", he_image(size, seed=i, mpp=0.25), 0.25, levels=3, factor=4)
    return folder


def patches_per_second(index: SlideIndex, mpp: float, patch_size: int, seconds: float) -> float | None:
    """Random tissue patches for about ``seconds``; None where no slide can serve them."""
    entries = index.usable(patch_size, mpp)
    if not entries:
        return None
    slides = [entry.open() for entry in entries]
    rng = np.random.default_rng(0)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        i = int(rng.integers(len(entries)))
        centre = place(entries[i], patch_size * mpp, rng)
        slides[i].read_patch(centre, mpp, patch_size, entries[i].background)
        done += 1
    return round(done / (time.perf_counter() - start), 1)


def measure(slides: Path, table: Path | None, patch_size: int, seconds: float, cache_bytes: int) -> dict:
    """Index the slides, then read from them at each of ``MPPS``, from an empty cache each time."""
    start = time.perf_counter()
    index = load_or_build_index(slides, table=table)
    indexing = time.perf_counter() - start
    rates = {}
    for mpp in MPPS:
        set_limits(cache_bytes=cache_bytes)
        rates[f"{mpp:g}"] = patches_per_second(index, mpp, patch_size, seconds)
    return {
        "patches_per_second": rates,
        "patch_size": patch_size,
        "slides": len(index.entries),
        "index_seconds": round(indexing, 2),
    }


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--slides", type=Path, help="a folder of slides, or an index; synthetic ones by default"
    )
    parser.add_argument("--table", type=Path, help="CSV with what the slides do not say")
    parser.add_argument("--patch-size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each µm/px")
    parser.add_argument("--cache-mib", type=int, default=CACHE_BYTES // 2**20)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        with tempfile.TemporaryDirectory() as folder:
            slides = options.slides or make_slides(Path(folder))
            cache = options.cache_mib * 2**20
            result = measure(slides, options.table, options.patch_size, options.seconds, cache)
    except WsigenError as error:
        parser.error(str(error))
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""What differs between the slides of ``sample --count``, the µm/px of each seed, and the table of them."""

from __future__ import annotations

import csv
import glob
import io
import logging
from pathlib import Path
from typing import Any

from wsigen.config import parse_mpp
from wsigen.files import write_bytes
from wsigen.sampling.shift import uniform_integer
from wsigen.slide.provenance import read_provenance

COLUMNS = ("slide", "seed", "mpp", "width", "height", "stages", "class", "fingerprint", "ihc")

_AXIS = 2  # of the random integers; grid shifts take 0 and 1
_DECIMALS = 4

log = logging.getLogger(__name__)


def slide_mpp(mpp: float | str, seed: int) -> float:
    """Return the µm/px of a slide: ``mpp``, or a uniform random value of the range that its seed determines.

    Args:
        mpp: µm/px, or LOW-HIGH.
        seed: of the slide.

    Returns:
        From a range, a value of four decimals: given as ``--mpp``, it makes the same slide.
    """
    low, high = parse_mpp(mpp)
    if low == high:
        return low
    share = uniform_integer(seed, 0, 0, _AXIS, 2**32) / 2**32
    return min(max(round(low + share * (high - low), _DECIMALS), low), high)


def write_table(out: Path, name: str) -> Path:
    """Write a table of the H&E slides OUT/NAME-SEED that exist, by seed, as their provenance states them.

    Args:
        out: folder of the slides.
        name: base name without seed.

    Returns:
        OUT/NAME.csv, with ``COLUMNS``; left alone where it is up to date. It can be passed as ``--table``.

    Raises:
        OutputError: the disk refuses.
    """
    rows: list[list[Any]] = []
    for file in out.glob(f"{glob.escape(name)}-*_HE.ome.tif"):
        facts = read_provenance(file)
        # "a-*" finds the slides of the name "a-b" too, and regions.
        if file.name == f"{name}-{facts.get('seed')}_HE.ome.tif":
            ihc = ";".join(facts.get("pair", ()))
            rows.append([file.name, *(facts.get(column, "") for column in COLUMNS[1:-1]), ihc])
    rows.sort(key=lambda row: row[1])  # by seed
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    path, table = out / f"{name}.csv", text.getvalue().encode()
    if not path.is_file() or path.read_bytes() != table:
        write_bytes(path, table)
    log.info("%s: %d slides", path, len(rows))
    return path

"""Memory and time of the normalisers against the size of the slide.

    python benchmarks/ablations/memory.py --sizes 512 1024 1536

(Ho et al. 2024, table 3; Ho et al. 2022, figure 2; Chen et al. 2022, table 1.) Writes memory.md and
memory.png; the last line is one JSON object with the table's rows.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks.ablations.figure import Panel, draw_panels
from benchmarks.ablations.options import Device, options
from benchmarks.ablations.page import Column, Page, Row
from benchmarks.ablations.picture import texture
from benchmarks.ablations.sampler import Clock
from benchmarks.ablations.translator import Translator
from wsigen.errors import InvalidValueError
from wsigen.stain.normalise.norm import Norm

WHOLE = "in, in one piece"
NORMS = ("in", "tin", "kin", "dn")
MIB = 2**20
TEXT = """
A made-up texture, translated with one normaliser after another, and by the network in one piece, each in a
process of its own. Tiles are as large as the patches that are normalised; statistics, thumbnail and halos are
part of the figures. *Peak*: the most memory that the process had, less what it had before the picture was
translated (Python, its libraries, the network and the picture). What grows with the picture is the result,
3 bytes a pixel, and where patches are normalised together, a band of it: the translator holds rows, not the
slide.
"""
COLUMNS = (
    Column("norm", "normaliser"),
    Column("size", "side, px", "d"),
    Column("peak", "peak, MiB", ".0f"),
    Column("seconds", "seconds", ".1f"),
    Column("seconds_per_megapixel", "seconds a megapixel", ".2f"),
    Column("over_in", "over IN", ".2f"),
)


def main(argv: Sequence[str] | None = None) -> Row:
    """Translate in a process of its own with every normaliser and size, measure, write."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    if any(size % args.patch for size in args.sizes):
        raise InvalidValueError(f"--sizes must be multiples of --patch {args.patch}, got {args.sizes}")
    rows = [apart(args, norm, size) for size in args.sizes for norm in (WHOLE, *NORMS)]
    alone = {row["size"]: row["seconds"] for row in rows if row["norm"] == "in"}
    for row in rows:
        row["over_in"] = row["seconds"] / alone[row["size"]]
    draw_panels(
        [_panel(rows, "peak", "peak, MiB"), _panel(rows, "seconds", "seconds")], args.out / "memory.png"
    )
    where = Device.of(args)
    name = Translator.of(args, where).name
    page = Page(
        name="memory",
        title="Memory and time of the normalisers",
        text=f"{TEXT.strip()}\n\nPatches of {args.patch} px, translated by {name}.",
        columns=COLUMNS,
        rows=rows,
    )
    return page.write(args.out, argv, where)


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.set_defaults(dtype="float32")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 1536], help="sides, px")
    parser.add_argument("--patch", type=int, default=512, help="side of the patches that are normalised, px")
    parser.add_argument("--stainer", help="marker, folder, or random; default a bundled one, or random")
    return parser


def _panel(rows: Sequence[Row], key: str, title: str) -> Panel:
    lines = {}
    for norm in (WHOLE, *NORMS):
        points = [(row["size"], row[key]) for row in rows if row["norm"] == norm]
        lines[norm] = tuple(zip(*points, strict=True))
    return Panel(title=title, x="side of the picture, px", lines=lines, log="x")


def apart(args: argparse.Namespace, norm: str, size: int) -> Row:
    """One row, measured in a process of its own, which begins without the memory of this one."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(translate, args, norm, size).result()


def translate(args: argparse.Namespace, norm: str, size: int) -> Row:
    """Translate once in this process.

    Args:
        args: of the command.
        norm: a normaliser, or `WHOLE`.
        size: side of the picture, px.
    """
    where, image = Device.of(args), texture(size)
    translator = Translator.of(args, where)
    # kernels are chosen when they are first used
    translator.built(image[: args.patch, : args.patch], Norm("in"), pitch=args.patch, tile=args.patch)
    before = resident_bytes()
    if norm == WHOLE:
        clock = Clock(where.device)
        with torch.inference_mode():
            translator.net(translator.tensor(image))
        seconds = clock.seconds()
    else:
        how = Norm.parse(norm)
        seconds = translator.built(image, how, pitch=args.patch, tile=args.patch).seconds
    row: Row = {"norm": norm, "size": size, "peak": (peak_bytes() - before) / MIB, "seconds": seconds}
    return row | {"seconds_per_megapixel": seconds * 1e6 / size**2}


def resident_bytes() -> int:
    """Memory that this process has; on Linux, `peak_bytes` counts from here on."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _status("VmRSS")
    except OSError:
        return peak_bytes()


def peak_bytes() -> int:
    """The most memory that this process has had.

    Unlike ru_maxrss, which a child begins with that of its parent, Linux's own counter is the process's.
    """
    try:
        return _status("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))


if __name__ == "__main__":
    main()

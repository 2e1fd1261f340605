"""A region of a real slide, translated from end to end: seconds, memory, and whether both files agree.

python benchmarks/translate.py --slide ../shared/data/he/bs25_duodenum_net_overview.tif --slide-mpp 1.0112 \
  --mpp 0.5056 --size 16384
python benchmarks/translate.py --slide ... --size 4096 --kill
OMP_NUM_THREADS=1 python benchmarks/translate.py --slide ... --size 2048x1536 --untrained urust-16 \
  --dtype float32

The region, from the slide's origin, is read at --mpp (interpolated where the slide is coarser), written as a
slide, and translated in a process of its own. With --kill a second translation is killed (SIGKILL) when half
of its time is over, and goes on. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from openslide import OpenSlide

from wsigen.config import parse_size
from wsigen.geometry import Region
from wsigen.slide.journal import BlockJournal
from wsigen.slide.read import open_slide
from wsigen.slide.write import final_journal, write_slide
from wsigen.stain.networks.blocks import initialise
from wsigen.stain.networks.generator import Generator
from wsigen.stain.stainer import save_stainer

STRIP = 256


def main() -> None:
    """Parse the command line, translate, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--slide-mpp", type=float, help="of a slide that does not say")
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--size", default="4096", help="N or WIDTHxHEIGHT, px")
    parser.add_argument("--stainer", default="SYN")
    parser.add_argument(
        "--untrained",
        help="in place of --stainer, a generator of such a family and width with random weights: urust-16",
    )
    parser.add_argument("--dtype", default="auto", help="precision of the network")
    parser.add_argument("--norm", default="dn")
    parser.add_argument("--kill", action="store_true", help="kill a second translation, and let it go on")
    parser.add_argument("--out", type=Path, help="folder to keep the slides in")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.out or Path(scratch)
        if args.untrained:
            args.stainer = str(untrained(args.untrained, args.mpp, folder / "stainer"))
        region = write_region(args, folder / "region_HE.ome.tif")
        whole = folder / "whole"
        seconds, peak = translate(args, region, whole)
        made = next(whole.glob("*_IHC-*.ome.tif"))
        found = {"seconds": round(seconds, 1), "peak_rss_bytes": peak, **compare(region, made)}
        if args.kill:
            killed = folder / "killed"
            translate(args, region, killed, stop_after=seconds / 2)
            translate(args, region, killed)
            found["same_bytes_after_kill"] = digest(made) == digest(killed / made.name)
    sys.stdout.write(json.dumps(found) + "\n")


def untrained(name: str, mpp: float, folder: Path) -> Path:
    """The folder of a stainer with random weights: time and memory do not depend on them."""
    family, _, width = name.rpartition("-")
    save_stainer(initialise(Generator(family, int(width), marker="untrained", mpp=mpp)), folder)
    return folder


def write_region(args: argparse.Namespace, path: Path) -> Path:
    """The region as a slide of its own."""
    slide, size = open_slide(args.slide, args.slide_mpp), parse_size(args.size)
    assert size is not None, "it has a default"
    journal: BlockJournal = final_journal(path.parent / "region", size, "linked-ome", "region")
    for y in range(journal.rows_done, size.height, STRIP):
        rows = Region(y, 0, min(STRIP, size.height - y), size.width)
        journal.append(slide.read_region(rows, args.mpp, upsample=True))
    facts = {"source": args.slide.name}
    write_slide(journal, path, mpp=args.mpp, layout="linked-ome", provenance=facts, overwrite=True)
    journal.delete()
    return path


def translate(
    args: argparse.Namespace, region: Path, out: Path, *, stop_after: float | None = None
) -> tuple[float, int]:
    """Seconds and peak memory of ``wsigen translate`` in a process of its own."""
    options = ["--stainer", args.stainer, "--norm", args.norm, "--out", str(out), "--name", "region"]
    options += ["--dtype", args.dtype]
    entry = "from wsigen.cli.main import main; main()"
    command = [sys.executable, "-c", entry, "translate", str(region), *options]
    start = time.perf_counter()
    with subprocess.Popen(command) as process:
        try:
            process.wait(stop_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
    if process.returncode and stop_after is None:
        sys.exit(process.returncode)
    return time.perf_counter() - start, 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def compare(he: Path, ihc: Path) -> dict[str, object]:
    """What OpenSlide sees of both."""
    with OpenSlide(he) as a, OpenSlide(ihc) as b:
        seen = [(s.level_dimensions, s.properties["openslide.mpp-x"]) for s in (a, b)]
        return {
            "size": list(a.dimensions),
            "mpp": float(seen[0][1]),
            "levels": a.level_count,
            "same_size_mpp_levels": seen[0] == seen[1],
            "ihc_megabytes": round(ihc.stat().st_size / 1e6, 1),
        }


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()

"""A pack of slides that travels: small JPEG TIFFs of real slides, for a machine with a GPU and no network.

    python benchmarks/gpu/pack.py --slides ../shared/data/he ../shared/data2/he \\
        --table ../shared/data/SOURCES.csv ../shared/data2/SOURCES.csv --out runs/gpu-pack --megabytes 20

Every slide that shows millimetres is kept whole at 8 µm/px. Then, as long as there is room, each case gives a
square for every octave of µm/px below that, the one fullest of tissue among those that show it finely enough,
and a second, and a third. Cases that a table holds out (or, where it says nothing, those of held_out.py) stay
held out, with one small square an octave. Writes OUT/slides/ and OUT/table.csv.

With them goes OUT/index.parquet, so that no GPU waits for a look at every slide. On the other machine

    python benchmarks/gpu/pack.py --unpack runs/gpu-pack --out FOLDER

writes the slides uncompressed, with pyramids, which are read twice as fast, and the index of them.

The last line is one JSON object: what was packed, what the checkout takes beside it, and under "wheels" the
command that fetches the Python packages which such a machine lacks, into runs/gpu-wheels.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import tifffile
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.gpu.wheels import command
from benchmarks.held_out import HELD_OUT, LOSSY, LOSSY_FINEST
from wsigen.data.find import find_slides
from wsigen.data.index import CLEAR_BORDER, SlideEntry, SlideIndex
from wsigen.data.survey import build_index, survey_slide
from wsigen.data.table import SlideTable
from wsigen.errors import InvalidValueError, OutputError
from wsigen.geometry import Region, Size
from wsigen.slide.tissue import border_fraction, mask_resolution, tissue_mask

ROOT = Path(__file__).resolve().parents[2]
OVERVIEW_MPP = 8.0
OVERVIEW_UM = 2000.0
"""A slide at least so large is an overview, to be kept whole."""
OCTAVES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The octaves [m, 2 m) of µm/px that squares are cut for."""
REACH = 1.45
"""A slide of at most this times m µm/px serves the octave from m; a coarser one would miss most of it."""
LEAST_SIDE = 256
HEADER = "slide,mpp,group,split,finest_mpp\n"
INDEX, INDEX_BYTES = "index.parquet", 3000
"""Name of the index, and about what a slide takes of it."""
LEAST_TISSUE = 0.4


@dataclass(frozen=True, kw_only=True)
class Square:
    """A square part of a slide.

    Attributes:
        entry: the slide.
        mpp: µm/px to store it at.
        side: px at that.
        corner: (y, x), in px at that.
        tissue: share of it.
    """

    entry: SlideEntry
    mpp: float
    side: int
    corner: tuple[int, int]
    tissue: float

    def overlaps(self, other: Square) -> bool:
        """Whether two squares of one octave show a place twice."""
        if self.entry.slide != other.entry.slide:
            return False
        near = zip(self.corner, other.corner, strict=True)
        return all(abs(a * self.mpp - b * other.mpp) < self.side * self.mpp for a, b in near)

    def read(self) -> np.ndarray:
        """Its pixels, uint8 (side, side, 3)."""
        region = Region(*self.corner, self.side, self.side)
        return self.entry.open().read_region(region, self.mpp, self.entry.background)


def main(argv: Sequence[str] | None = None) -> None:
    """Pack, or unpack; print one JSON object."""
    args = _parser().parse_args(argv)
    if args.unpack is not None:
        sys.stdout.write(json.dumps(unpack(args.unpack, args.out)) + "\n")
        return
    if not args.slides:
        raise InvalidValueError("--slides must name at least one folder of slides")
    entries = survey(args.slides, args.table)
    found = pack(entries, args.out, size=round(1e6 * args.megabytes), side=args.side, quality=args.quality)
    sys.stdout.write(json.dumps({**found, "checkout_bytes": checkout(), "wheels": command()}) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--slides", type=Path, nargs="+", default=[], help="folders of slides")
    parser.add_argument("--table", type=Path, nargs="+", default=[], help="tables of these slides")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-pack"), help="folder to be made")
    parser.add_argument("--megabytes", type=float, default=20.0, help="size of the pack, 10^6 bytes")
    parser.add_argument("--side", type=int, default=512, help="of the squares, px, a multiple of 16")
    parser.add_argument("--quality", type=int, default=82, help="of the JPEG tiles")
    parser.add_argument("--unpack", type=Path, help="instead: a pack to unpack into --out")
    return parser


def survey(slides: Sequence[Path], tables: Sequence[Path]) -> list[SlideEntry]:
    """Look at all slides: their tissue, and what tables say of them, or the lists of held_out.py.

    Args:
        slides: folders, or single slides.
        tables: with columns slide or file, and any of mpp, group, split, finest_mpp, encoding.

    Raises:
        SlideError: a slide cannot be used.
        InvalidValueError: two folders hold slides of one name.
    """
    files: dict[str, Path] = {}
    for folder in slides:
        for name, path in find_slides(folder).items():
            key = PurePosixPath(name).name
            if key in files:
                raise InvalidValueError(f"slide {key} is in two folders, {files[key]} and {path}; rename one")
            files[key] = path
    rows = [row for table in tables for row in SlideTable.load(table).rows.items()]
    said = SlideTable(dict(rows), tables[0] if tables else None).match(list(files))
    lossy = _lossy(tables)
    cases = {group.partition("/")[0] for group in HELD_OUT}
    entries = []
    for name, path in tqdm(files.items(), desc="survey", unit="slide"):
        row, entry = said[name], survey_slide(name, path, said[name]).entry
        finest = row.finest_mpp or (LOSSY_FINEST if name in lossy and entry.mpp < LOSSY_FINEST else 0.0)
        split = row.split or ("val" if entry.group in cases else "train")
        entries.append(SlideEntry(**{**entry.__dict__, "finest_mpp": finest, "split": split}))
    return entries


def _lossy(tables: Sequence[Path]) -> set[str]:
    """Names of the files that lost their finest detail before they came here."""
    found = set()
    for table in tables:
        with table.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.DictReader(file) if LOSSY in (line.get("encoding") or "")]
        found |= {PurePosixPath(line.get("file") or line["slide"]).name for line in lines}
    return found


def pack(
    entries: Sequence[SlideEntry], out: Path, *, size: int, side: int, quality: int
) -> dict[str, object]:
    """Write the pack.

    Args:
        entries: the slides, with split and finest µm/px.
        out: folder to be made.
        size: most bytes of all of it.
        side: of the squares, px.
        quality: of the JPEG tiles.

    Returns:
        Facts about it.

    Raises:
        InvalidValueError: the squares are too small, or no whole number of JPEG's blocks; or there is not
            even room for the overviews.
        OutputError: the folder exists.
    """
    if side < LEAST_SIDE or side % 16:
        raise InvalidValueError(f"--side must be a multiple of 16 and at least {LEAST_SIDE}, got {side}")
    if out.exists():
        raise OutputError(out, "exists already; remove it, or choose another --out")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "slides").mkdir(parents=True)
    packed = _Pack(part, size, quality)
    for entry in entries:
        if entry.mpp * min(entry.height, entry.width) >= OVERVIEW_UM and not packed.add_overview(entry):
            raise InvalidValueError(
                f"--megabytes {size / 1e6:g} has no room for the overviews alone; give more, or fewer slides"
            )
    for number, square in squares(entries, side):
        if frayed(square) and not packed.add(square, number):
            break
    packed.finish()
    part.rename(out)
    return {"pack": str(out), **packed.facts()}


class _Pack:
    """Files written so far, and their sizes."""

    def __init__(self, folder: Path, size: int, quality: int) -> None:
        self.folder, self.size, self.quality = folder, size, quality
        self.rows: list[tuple[str, str, str, str, str]] = []
        self.bytes, self.pixels, self.counts = 0, 0, defaultdict(int)

    def add_overview(self, entry: SlideEntry) -> bool:
        """The whole slide; False where there is no room for it."""
        mpp = max(OVERVIEW_MPP, entry.finest)
        height, width = (int(n * entry.mpp / mpp) for n in (entry.height, entry.width))
        image = entry.open().read_region(Region(0, 0, height, width), mpp, entry.background)
        return self._write(f"{_stem(entry)}-whole.tif", image, entry, mpp)

    def add(self, square: Square, number: int) -> bool:
        """A square of a slide; False where there is no room for it."""
        name = f"{_stem(square.entry)}-{square.mpp:.4g}-{number}.tif"
        return self._write(name, square.read(), square.entry, square.mpp)

    def _write(self, name: str, image: np.ndarray, entry: SlideEntry, mpp: float) -> bool:
        path = self.folder / "slides" / name
        row = (
            name,
            f"{mpp:.6g}",
            entry.group,
            entry.split,
            f"{entry.finest_mpp:g}" if entry.finest_mpp else "",
        )
        tifffile.imwrite(
            path,
            image,
            tile=(256, 256),
            photometric="rgb",
            compression="jpeg",
            compressionargs={"level": self.quality},
            subsampling=(2, 2),
            resolution=(1e4 / mpp, 1e4 / mpp),
            resolutionunit="CENTIMETER",
            metadata=None,
        )
        takes = path.stat().st_size + len(",".join(row)) + 1
        if self.bytes + takes + INDEX_BYTES * (len(self.rows) + 1) > self.size - len(HEADER):
            path.unlink()
            return False
        self.rows.append(row)
        self.bytes, self.pixels = self.bytes + takes, self.pixels + image.shape[0] * image.shape[1]
        self.counts[f"{mpp:.2g}", entry.split] += 1
        return True

    def finish(self) -> None:
        """Write the index, without the last squares where it needs their room, and what training is told.

        Raises:
            InvalidValueError: a slide of the pack cannot be learnt from.
        """
        table = self.folder / "table.csv"
        self._write_table(table)
        index, failures = build_index(self.folder / "slides", table)
        if failures:
            raise InvalidValueError(f"{failures[0].slide} cannot be learnt from: {failures[0].reason}")
        index.save(self.folder / INDEX)
        while self.bytes + len(HEADER) + (self.folder / INDEX).stat().st_size > self.size:
            self._drop_last()
            names = {row[0] for row in self.rows}
            index = SlideIndex(tuple(e for e in index.entries if e.slide in names))
            index.save(self.folder / INDEX)
        self._write_table(table)
        self.bytes += len(HEADER) + (self.folder / INDEX).stat().st_size

    def _write_table(self, path: Path) -> None:
        lines = [HEADER.strip(), *(",".join(row) for row in self.rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _drop_last(self) -> None:
        row, path = self.rows[-1], self.folder / "slides" / self.rows[-1][0]
        with tifffile.TiffFile(path) as tiff:
            height, width = tiff.pages.first.shape[:2]
        self.bytes -= path.stat().st_size + len(",".join(row)) + 1
        self.pixels -= height * width
        self.counts[f"{float(row[1]):.2g}", row[3]] -= 1
        path.unlink()
        self.rows.pop()

    def facts(self) -> dict[str, object]:
        """Sizes, and how many slides there are at each µm/px."""
        by_mpp: dict[str, dict[str, int]] = defaultdict(dict)
        for (mpp, split), count in sorted(self.counts.items(), key=lambda one: float(one[0][0])):
            by_mpp[mpp][split] = count
        cases = {split: len({row[2] for row in self.rows if row[3] == split}) for split in ("train", "val")}
        megapixels = round(self.pixels / 1e6, 1)
        return {"bytes": self.bytes, "megapixels": megapixels, "cases": cases, "slides": by_mpp}


def _stem(entry: SlideEntry) -> str:
    return entry.slide.partition(".")[0]


def squares(entries: Sequence[SlideEntry], side: int) -> Iterator[tuple[int, Square]]:
    """Squares in the order of packing, round by round; each with the number of its round.

    In a round each case gives one for every octave of µm/px, and held-out cases take part in the first alone,
    with squares of half the side: they serve validation, and the bytes are better spent on the others.

    Args:
        entries: the slides.
        side: of the squares, px.
    """
    cases: dict[str, list[SlideEntry]] = defaultdict(list)
    for entry in entries:
        cases[entry.group].append(entry)
    held = {group for group, some in cases.items() if some[0].split != "train"}
    picks = {
        (group, mpp): _pick(some, mpp, max(LEAST_SIDE, side // 2) if group in held else side)
        for group, some in sorted(cases.items())
        for mpp in OCTAVES
    }
    number = 0
    while picks:
        number += 1
        for key in list(picks):
            square = next(picks[key], None)
            if square is not None:
                yield number, square
            if square is None or key[0] in held:
                del picks[key]


def _pick(entries: Sequence[SlideEntry], octave: float, side: int) -> Iterator[Square]:
    """Squares of a case that do not overlap, by turns from its slides, those fullest of tissue first."""
    left = [one for entry in entries for one in _grid(entry, octave, side)]
    taken: list[Square] = []
    used: dict[str, int] = defaultdict(int)
    while left:
        best = min(left, key=lambda s: (used[s.entry.slide], -s.tissue, _mixed(s)))
        used[best.entry.slide] += 1
        taken.append(best)
        left = [s for s in left if not s.overlaps(best)]
        yield best


def _grid(entry: SlideEntry, octave: float, side: int) -> Iterator[Square]:
    """The squares of a slide that show enough tissue, half overlapping."""
    if entry.finest > REACH * octave:
        return
    mpp = max(octave, entry.finest)
    height, width = (int(n * entry.mpp / mpp) for n in (entry.height, entry.width))
    side = min(side, min(height, width) // 16 * 16)
    if side < LEAST_SIDE:
        return
    for y in _starts(height, side):
        for x in _starts(width, side):
            centre = ((y + side / 2) * mpp, (x + side / 2) * mpp)
            tissue = entry.tissue_share(centre, side * mpp)
            if tissue >= LEAST_TISSUE:
                yield Square(entry=entry, mpp=mpp, side=side, corner=(y, x), tissue=tissue)


def _starts(extent: int, side: int) -> list[int]:
    count = 1 + -(-(extent - side) // (side // 2))
    return sorted({round(v) for v in np.linspace(0, extent - side, count)})


def _mixed(square: Square) -> int:
    """An order of places that does not run along the slide."""
    y, x = square.corner
    return (y * 2654435761 + x * 40503) % 2**32


def frayed(square: Square) -> bool:
    """Whether tissue reaches the edge: what ends in glass would be taken for a whole slide, and padded."""
    mpp = mask_resolution(square.mpp, Size(square.side, square.side))
    small = max(1, round(square.side * square.mpp / mpp))
    image = cv2.resize(square.read(), (small, small), interpolation=cv2.INTER_AREA)
    return border_fraction(tissue_mask(image, mpp)) >= CLEAR_BORDER


def unpack(folder: Path, out: Path) -> dict[str, object]:
    """Write a pack's slides uncompressed, with pyramids, and their index; see the module.

    Args:
        folder: the pack.
        out: folder to be made.
    """
    (out / "slides").mkdir(parents=True)
    paths = sorted((folder / "slides").glob("*.tif"))
    with ThreadPoolExecutor() as pool:
        pixels = sum(pool.map(lambda path: _unpack_slide(path, out / "slides" / path.name), paths))
    SlideIndex.load(folder / INDEX, out / "slides").save(out / INDEX)
    return {"index": str(out / INDEX), "slides": len(paths), "megapixels": round(pixels / 1e6, 1)}


def _unpack_slide(path: Path, to: Path) -> int:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        image, per_cm = page.asarray(), page.get_resolution()[0]
    pixels, level = image.shape[0] * image.shape[1], 0
    with tifffile.TiffWriter(to) as tiff:
        while level == 0 or min(image.shape[:2]) >= LEAST_SIDE // 2:
            here = (per_cm / 2**level,) * 2
            tiff.write(
                image,
                photometric="rgb",
                resolution=here,
                resolutionunit="CENTIMETER",
                subfiletype=min(level, 1),
                metadata=None,
            )
            height, width = image.shape[0] // 2, image.shape[1] // 2
            image, level = (
                cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA),
                level + 1,
            )
    return pixels


def checkout() -> int:
    """Bytes of the tracked files, which travel as well; 0 outside a checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return sum(path.stat().st_size for path in paths if path.is_file())


if __name__ == "__main__":
    main()

"""The cases that nothing was trained on, and what their files show at which µm/px.

A folder of real slides has a table (SOURCES.csv) with columns `file`, `kind` (overview or roi), `group`,
`organ`, `mpp`, `encoding`, and where known `x0_native`, `y0_native`, `native_mpp`: where a file lies on its
slide, so that an overview and the crops of one slide can be laid over one another.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsigen.data.index import FINEST
from wsigen.errors import InvalidValueError

HELD_OUT = {
    "EAS22/HE": "skin",
    "pancreas-adenosquamous/HE": "pancreas",
    "BS11/HE": "colon",
    "BS17/HE": "liver",
    "EAS3/HE2": "kidney",
    "pilocytic-astrocytoma/HE": "glioma",
}
"""Groups of the tables, and what they show."""
SLIDES = (Path("../shared/data/he"), Path("../shared/data2/he"))
TABLES = (Path("../shared/data/SOURCES.csv"), Path("../shared/data2/SOURCES.csv"))
LOSSY, LOSSY_FINEST = "Q30", 1.0
"""A slide exported as JPEG Q30 has lost its finest detail; what it shows from 1 µm/px on is its own."""


@dataclass(frozen=True, kw_only=True)
class Crop:
    """One file of a case.

    Attributes:
        path: of the file.
        mpp: its µm/px.
        finest: smallest µm/px at which it holds the slide's own detail.
        overview: whether it shows the whole slide, or much of it.
        corner: (y, x) of its upper left corner on the slide, µm; None where the table does not say.
        size: (height, width), px.
    """

    path: Path
    mpp: float
    finest: float
    overview: bool
    corner: tuple[float, float] | None
    size: tuple[int, int]

    def holds(self, mpp: float) -> bool:
        """Whether it has the slide's own detail at a µm/px, to within a hundredth."""
        return self.finest <= 1.01 * mpp

    @property
    def centre(self) -> tuple[float, float] | None:
        """(y, x) of its middle on the slide, µm."""
        if self.corner is None:
            return None
        return tuple(c + n * self.mpp / 2 for c, n in zip(self.corner, self.size, strict=True))  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Case:
    """The files of one slide.

    Attributes:
        group: of the table.
        organ: in words.
        crops: overviews first, then by name.
    """

    group: str
    organ: str
    crops: tuple[Crop, ...]

    @property
    def overview(self) -> Crop:
        """The file that shows most of the slide."""
        return self.crops[0]

    def holding(self, mpp: float) -> list[Crop]:
        """The files that hold the slide's own detail at a µm/px."""
        return [c for c in self.crops if c.holds(mpp)]


def cases(
    slides: Sequence[Path] = SLIDES, tables: Sequence[Path] = TABLES, groups: Iterable[str] = HELD_OUT
) -> list[Case]:
    """The cases, in the order of ``groups``.

    Args:
        slides: folders of slides.
        tables: of each folder.
        groups: which cases.

    Raises:
        InvalidValueError: another number of tables than of folders, or a case without an overview.
    """
    _require_pairs(slides, tables)
    found: dict[str, list[Crop]] = {g: [] for g in groups}
    for folder, table in zip(slides, tables, strict=True):
        with table.open(newline="", encoding="utf-8-sig") as file:
            for line in csv.DictReader(file):
                path = folder / Path(line["file"]).name
                if line["group"] in found and path.is_file():
                    found[line["group"]].append(_crop(path, line))
    missing = [g for g, some in found.items() if not any(c.overview for c in some)]
    if missing:
        raise InvalidValueError(f"no overview of {', '.join(missing)} in {', '.join(map(str, slides))}")
    return [_case(group, some) for group, some in found.items()]


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What a table says of one slide, as `wsigen evaluate` reads it."""

    path: Path
    mpp: str
    group: str
    split: str
    finest_mpp: str


def listed(slides: Sequence[Path], tables: Sequence[Path]) -> list[Listed]:
    """The slides of folders that their tables name.

    Where a table has no column ``split``, the held-out cases are "val" and all others "train"; where it has
    no ``finest_mpp``, slides that were exported as JPEG Q30 have 1 µm/px.

    Args:
        slides: folders of slides.
        tables: of each folder; with a column ``file`` or ``slide``.

    Raises:
        InvalidValueError: another number of tables than of folders, or no slide.
    """
    _require_pairs(slides, tables)
    held = {group.partition("/")[0] for group in HELD_OUT}
    found = []
    for folder, table in zip(slides, tables, strict=True):
        files = {name: p for p in sorted(folder.iterdir()) for name in (p.name, p.name.partition(".")[0])}
        with table.open(newline="", encoding="utf-8-sig") as file:
            for line in csv.DictReader(file):
                path = files.get(Path(line.get("file") or line["slide"]).name)
                if path is not None:
                    found.append(_listed(path, line, held))
    if not found:
        raise InvalidValueError(
            f"{', '.join(map(str, tables))} name no slide of {', '.join(map(str, slides))}"
        )
    return found


def write_table(slides: Sequence[Listed], path: Path) -> Path:
    """One table of all of them, for `wsigen evaluate --table`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["slide", "mpp", "group", "split", "finest_mpp"])
        out.writerows([s.path.name, s.mpp, s.group, s.split, s.finest_mpp] for s in slides)
    return path


def _listed(path: Path, line: dict[str, str], held: set[str]) -> Listed:
    group = line.get("group") or path.name
    split = line.get("split") or ("val" if group.partition("/")[0] in held else "train")
    mpp = line.get("mpp") or ""
    finest = line.get("finest_mpp") or ""
    if not finest and mpp and _is_lossy(line, float(mpp)):
        finest = f"{LOSSY_FINEST:g}"
    return Listed(path=path, mpp=mpp, group=line.get("group") or "", split=split, finest_mpp=finest)


def _is_lossy(line: dict[str, str], mpp: float) -> bool:
    return LOSSY in (line.get("encoding") or "") and mpp < LOSSY_FINEST


def _require_pairs(slides: Sequence[Path], tables: Sequence[Path]) -> None:
    if len(slides) != len(tables):
        raise InvalidValueError(
            f"--tables must be as many as --slides, got {len(tables)} for {len(slides)} folders"
        )


def _case(group: str, some: list[Crop]) -> Case:
    crops = sorted(some, key=lambda c: (not c.overview, c.path.name))
    return Case(group=group, organ=HELD_OUT.get(group, group), crops=tuple(crops))


def _crop(path: Path, line: dict[str, str]) -> Crop:
    mpp, native = float(line["mpp"]), line.get("native_mpp") or ""
    place = [line.get(k) or "" for k in ("y0_native", "x0_native")]
    known = native and all(place)
    return Crop(
        path=path,
        mpp=mpp,
        finest=max(mpp * FINEST, LOSSY_FINEST if _is_lossy(line, mpp) else 0.0),
        overview=line.get("kind") == "overview",
        corner=(float(place[0]) * float(native), float(place[1]) * float(native)) if known else None,
        size=(int(line["height"]), int(line["width"])),
    )

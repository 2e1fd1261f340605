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

from wsigen.data.entry import FINEST
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
    if len(slides) != len(tables):
        raise InvalidValueError(
            f"--tables must be as many as --slides, got {len(tables)} for {len(slides)} folders"
        )
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


def sources(tables: Sequence[Path] = TABLES) -> dict[str, str]:
    """File name to group, of all tables."""
    found = {}
    for table in tables:
        with table.open(newline="", encoding="utf-8-sig") as file:
            found.update({Path(line["file"]).name: line["group"] for line in csv.DictReader(file)})
    return found


def _case(group: str, some: list[Crop]) -> Case:
    crops = sorted(some, key=lambda c: (not c.overview, c.path.name))
    return Case(group=group, organ=HELD_OUT.get(group, group), crops=tuple(crops))


def _crop(path: Path, line: dict[str, str]) -> Crop:
    mpp, native = float(line["mpp"]), line.get("native_mpp") or ""
    place = [line.get(k) or "" for k in ("y0_native", "x0_native")]
    known = native and all(place)
    lossy = LOSSY in (line.get("encoding") or "") and mpp < LOSSY_FINEST
    return Crop(
        path=path,
        mpp=mpp,
        finest=max(mpp * FINEST, LOSSY_FINEST if lossy else 0.0),
        overview=line.get("kind") == "overview",
        corner=(float(place[0]) * float(native), float(place[1]) * float(native)) if known else None,
        size=(int(line["height"]), int(line["width"])),
    )

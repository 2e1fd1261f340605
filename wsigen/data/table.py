"""The user's table: what files do not state: µm/px, group, split, finest µm/px, image and plane, class."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from wsigen.errors import InvalidValueError, PathError
from wsigen.slide.view import View

SPLITS = ("train", "val", "test")
COLUMNS = ("slide", "mpp", "group", "split", "finest_mpp", "series", "z")
CLASS_COLUMN = "class"
"""Name of the column of classes by default."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """Row of one slide; None where the table is empty.

    Attributes:
        mpp: µm/px.
        group: slides of one group are always in one split. Only the part before the first "/" counts, so that
            ``BS25/HE`` and ``BS25/CHR``, two stains of one case, stay together.
        split: "train", "val" or "test".
        finest_mpp: smallest µm/px to learn from the slide.
        series: number of the image, in a TIFF or OME-Zarr that holds several.
        z: number of the focus plane, in an OME-TIFF or OME-Zarr that holds several.
        class_label: name of the slide's class, such as its organ.
    """

    mpp: float | None = None
    group: str | None = None
    split: str | None = None
    finest_mpp: float | None = None
    series: int | None = None
    z: int | None = None
    class_label: str | None = None

    @property
    def view(self) -> View:
        """The image and plane of the file."""
        return View(self.series, self.z)


class SlideTable:
    """Rows by slide: path relative to the folder of slides, file name, or name without suffix; or, of DICOM,
    the folder.

    A row with another path (``he/a.svs`` for ``a.svs``) matches if its file name is unique.

    Args:
        rows: key to row.
        path: of the table, for messages.
    """

    def __init__(self, rows: dict[str, Row] | None = None, path: Path | None = None) -> None:
        self.rows, self.path = rows or {}, path
        by_file = Counter(map(_file, self.rows))
        self._elsewhere = {_file(key): key for key in self.rows if by_file[_file(key)] == 1}

    @classmethod
    def load(cls, path: Path, class_column: str | None = None) -> SlideTable:
        """Read a CSV with a column ``slide`` (or ``file``), and any of the other ``COLUMNS`` and a class.

        Args:
            path: of the table.
            class_column: name of the column of classes, which must be there; None: "class", if it is there.

        Raises:
            PathError: it cannot be read, lacks columns, or has an invalid value.
        """
        try:
            # Spreadsheet programs begin a file with a byte-order mark, hence utf-8-sig.
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, skipinitialspace=True)
                columns = [(c or "").strip().lower() for c in reader.fieldnames or ()]
                reader.fieldnames = columns
                labels = (class_column or CLASS_COLUMN).strip().lower()
                key = _check_columns(path, columns, labels, required=class_column is not None)
                rows = {}
                for line in reader:
                    where = f"line {reader.line_num}"
                    name = (line[key] or "").strip().replace("\\", "/")
                    if name in rows:
                        raise PathError(path, f"{where}: {name!r} comes twice; keep one row per slide")
                    rows[name] = _row(path, where, line, labels)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise PathError(path, f"not a readable CSV table ({error})") from error
        return cls(rows, path)

    def match(self, names: list[str]) -> dict[str, Row]:
        """Return the row of each slide.

        Args:
            names: paths relative to the folder of slides, with "/".

        Returns:
            A row for every name, empty where the table has none. Rows that match no slide cause a warning.
        """
        keys = {name: self._key(name) for name in names}
        used = set(keys.values())
        unused = [key for key in self.rows if key not in used]
        if unused:
            some = ", ".join(unused[:5]) + (" …" if len(unused) > 5 else "")
            log.warning("%s: %d rows match no slide: %s", self.path, len(unused), some)
        return {name: self.rows.get(key, Row()) for name, key in keys.items()}

    def find(self, name: str) -> Row:
        """Return the row of one slide, as `match` does; the table may hold many others."""
        return self.rows.get(self._key(name), Row())

    def _key(self, name: str) -> str:
        """Return the key of a slide's row; "" where it has none."""
        return next((key for key in _keys(name) if key in self.rows), self._elsewhere.get(_file(name), ""))


def _file(name: str) -> str:
    return name.rpartition("/")[2]


def _keys(name: str) -> list[str]:
    folder, _, file = name.rpartition("/")
    keys = [name, file, name.rpartition(".")[0], file.rpartition(".")[0], file.partition(".")[0]]
    # Files of a DICOM series often share their names with those of the next one.
    return [folder, *keys] if folder and file.lower().endswith(".dcm") else keys


def _check_columns(path: Path, columns: list[str], labels: str, *, required: bool) -> str:
    key = next((c for c in ("slide", "file") if c in columns), None)
    if key is None:
        got = ", ".join(columns) or "none"
        raise PathError(
            path, f"no column 'slide'; got {got}, expected {','.join(COLUMNS)} (all but slide optional)"
        )
    known = (*COLUMNS[1:], labels)
    if required and labels not in columns:
        raise PathError(
            path, f"no column {labels!r} for the classes; got {', '.join(columns)}; correct class_column"
        )
    if not set(columns) & set(known):
        raise PathError(path, f"none of the columns {', '.join(known)}; got {', '.join(columns)}")
    return key


def _row(path: Path, where: str, line: dict[str, str | None], labels: str) -> Row:
    mpp, group, split, finest, series, z, label = (
        (line.get(c) or "").strip() or None for c in (*COLUMNS[1:], labels)
    )
    if split is not None and split not in SPLITS:
        raise PathError(path, f"{where}: split must be one of {', '.join(SPLITS)}, got {split!r}")
    mpp, finest = (_mpp(path, where, *given) for given in (("mpp", mpp), ("finest_mpp", finest)))
    image, plane = (_number(path, where, *given) for given in (("series", series), ("z", z)))
    return Row(mpp, group, split, finest, image, plane, label)


def _number(path: Path, where: str, column: str, value: str | None) -> int | None:
    if value is None or value.isdecimal():
        return None if value is None else int(value)
    raise PathError(path, f"{where}: {column} must be a number from 0 on, got {value!r}")


def _mpp(path: Path, where: str, column: str, value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else None
        if number is not None and not 0 < number <= 1000:
            raise ValueError
    except ValueError:
        raise PathError(
            path, f"{where}: {column} must be a number in (0, 1000] µm/px, got {value!r}"
        ) from None
    return number


def group_splits(
    groups: dict[str, str | None], val_fraction: float, domains: Sequence[Collection[str]] = ()
) -> dict[str, str]:
    """Split groups into "train" and "val".

    Args:
        groups: group to its split if the table states it, else None.
        val_fraction: share of the undecided groups for "val", at least one of two or more; none if the table
            names validation groups.
        domains: sets of groups, each of which keeps at least one group in "train".

    Raises:
        InvalidValueError: ``val_fraction`` is not in [0, 1).

    Determinism:
        Depends on the names of the groups alone.
    """
    if not 0 <= val_fraction < 1:
        raise InvalidValueError(f"val_fraction must be in [0, 1), got {val_fraction}")
    said = {g: s for g, s in groups.items() if s is not None}
    free = sorted((g for g in groups if g not in said), key=_shuffle_key)
    count = round(len(free) * val_fraction)
    if len(free) >= 2 and val_fraction > 0 and "val" not in said.values():
        count = max(1, count)
    if "val" in said.values():
        count = 0
    # In the order of the hashes, unless a domain would lose its last training group.
    held: set[str] = set()
    train = {g for g in groups if said.get(g, "train") == "train"}
    for group in free:
        left = train - held - {group}
        if len(held) < count and all(left & set(d) for d in domains if group in d):
            held.add(group)
    return said | {g: "val" if g in held else "train" for g in free}


def _shuffle_key(group: str) -> str:
    return sha256(group.encode()).hexdigest()

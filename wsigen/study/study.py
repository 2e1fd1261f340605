"""A study as it lies on disk, and the order in which each reader sees its items.

| file | what | served |
|---|---|---|
| ``study.json`` | kind, texts, items and their images, all by random codes | by item |
| ``images/CODE.png`` | images | to the reader who is at their item |
| ``readers.csv`` | codes of the readers | no |
| ``key.json`` | which slide each image is from, and what is right | no |
| ``answers.sqlite`` | see `wsigen.study.store` | no |

Solutions of training items stand in ``study.json``, since readers are told them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wsigen.errors import InvalidValueError, PathError

VERSION = 1
STUDY, KEY, READERS, ANSWERS, IMAGES = "study.json", "key.json", "readers.csv", "answers.sqlite", "images"
REAL, SYNTHETIC = "real", "synthetic"
WITH_SOURCE = ("quality", "paired")  # kinds whose first image is the H&E source


class Item(NamedTuple):
    """What is judged at a time.

    Attributes:
        code: random.
        images: codes; of quality and paired the source first.
        solution: of training items, as in the key; None of others.
    """

    code: str
    images: tuple[str, ...]
    solution: Any = None


class Trial(NamedTuple):
    """An item as a reader sees it.

    Attributes:
        number: in the reader's order, from 0.
        item: that is judged.
        showing: 1, or 2 where the item is repeated.
        training: whether it does not count.
        choices: codes of the images to judge, as they stand on the screen from left to right.
    """

    number: int
    item: Item
    showing: int
    training: bool
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        folder: that it lies in.
        id: random; answers belong to the study of this id.
        kind: slider, 2afc, quality or paired.
        items: that count.
        training: items that are shown first.
        repeats: codes of items that are shown twice.
        readers: their codes.
        questions: that are asked of every item.
        seconds: that images are shown; 0 for no limit.
        mpp: µm/px of the images.
        size: their side, px.
        seed: of the order.
    """

    folder: Path
    id: str
    kind: str
    items: tuple[Item, ...]
    training: tuple[Item, ...]
    repeats: tuple[str, ...]
    readers: tuple[str, ...]
    questions: tuple[str, ...]
    seconds: int
    mpp: float
    size: int
    seed: int

    def trials(self, reader: str) -> list[Trial]:
        """Return what a reader sees, in order: training items, then all others, repeated ones among them.

        A repeated item comes again a quarter of the items later or more; less where nearly all are repeated.

        Args:
            reader: code.

        Determinism: a function of the study's seed and the reader's code; so are the sides of images.
        """
        rng = np.random.default_rng([self.seed, *sha256(reader.encode()).digest()[:8]])
        count, twice = len(self.items), len(self.repeats)
        gap = max(1, min(count // 4, count - twice))
        shuffled = [self.items[i] for i in rng.permutation(count)]
        # Early enough that they can come again.
        places = iter(rng.permutation(max(count - gap, twice))[:twice].tolist())
        early = {next(places): item for item in shuffled if item.code in self.repeats}
        others = iter([item for item in shuffled if item.code not in self.repeats])
        order = [(early.get(place) or next(others), 1) for place in range(count)]
        for code in self.repeats:
            at = next(k for k, (item, _) in enumerate(order) if item.code == code)
            order.insert(int(rng.integers(at + gap, len(order) + 1)), (order[at][0], 2))
        whole = [(item, 1, True) for item in self.training] + [(*one, False) for one in order]
        return [Trial(number, *one, choices=self._choices(one[0], rng)) for number, one in enumerate(whole)]

    def _choices(self, item: Item, rng: np.random.Generator) -> tuple[str, ...]:
        judged = item.images[1:] if self.kind in WITH_SOURCE else item.images
        return tuple(judged[i] for i in rng.permutation(len(judged)))

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``study.json``."""
        values = asdict(self)
        for left_out in ("folder", "readers"):
            del values[left_out]
        items = {name: [item._asdict() for item in getattr(self, name)] for name in ("items", "training")}
        return {"version": VERSION, **values, **items}

    def describe(self) -> str:
        """Return a line about its size."""
        parts = [
            f"{len(self.items)} items",
            f"{len(self.training)} for training",
            f"{len(self.repeats)} repeated",
        ]
        return f"{self.kind} study of {', '.join(parts)}, {len(self.readers)} readers"


def load_study(folder: Path) -> Study:
    """Load a study.

    Raises:
        PathError: there is none in the folder, it is damaged, or of another version.
    """
    path = folder / STUDY
    values = _read_json(path, f"no study here; make one: wsigen study make --out {folder}")
    version = values.pop("version", None)
    if version != VERSION:
        raise PathError(
            path,
            f"a study of version {version}, this wsigen reads {VERSION}; use the wsigen that made it",
        )
    try:
        with (folder / READERS).open(newline="", encoding="utf-8") as file:
            readers = tuple(row["code"] for row in csv.DictReader(file))
        items = {
            name: tuple(Item(i["code"], tuple(i["images"]), i["solution"]) for i in values.pop(name))
            for name in ("items", "training")
        }
        lists = {name: tuple(values.pop(name)) for name in ("repeats", "questions")}
        return Study(folder=folder, readers=readers, **items, **lists, **values)
    except OSError as error:
        raise PathError(
            folder / READERS, "cannot be read; it lists the codes of the readers, put it back"
        ) from error
    except (KeyError, TypeError) as error:
        raise PathError(path, f"damaged ({error}); make the study again") from error


def load_key(study: Study) -> dict[str, Any]:
    """Return the key: ``items`` with what is right, ``images`` with where they are from.

    Raises:
        PathError: it is missing, damaged or of another study.
    """
    path = study.folder / KEY
    key = _read_json(path, "the key is missing, without which answers are not right or wrong; put it back")
    if key.get("study") != study.id:
        raise PathError(
            path, f"the key of study {key.get('study')}, got study {study.id}; put its own key back"
        )
    return key


def _read_json(path: Path, missing: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise PathError(path, missing) from error
    except ValueError as error:
        raise PathError(path, f"damaged ({error}); make the study again") from error
    if not isinstance(values, dict):
        raise PathError(path, "damaged (no object); make the study again")
    return values


def check_answer(study: Study, item: Item, value: Any) -> None:
    """Raise unless a value answers an item: slider a number 0 to 100, 2afc the code of the image that is
    taken for real, quality a code for every question, paired true or false.

    Raises:
        InvalidValueError: names the value and what is expected.
    """
    judged: Sequence[str] = item.images[1:] if study.kind in WITH_SOURCE else item.images
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits, expected = {
        "slider": (number and 0 <= value <= 100, "a number between 0 and 100"),
        "2afc": (value in judged, "the code of an image of the item"),
        "quality": (
            isinstance(value, list)
            and len(value) == len(study.questions)
            and all(v in judged for v in value),
            f"{len(study.questions)} codes of images of the item",
        ),
        "paired": (isinstance(value, bool), "true or false"),
    }[study.kind]
    if not fits:
        raise InvalidValueError(f"the answer must be {expected}, got {str(value)[:60]}")

"""Automatic readers: a classifier or a vision model that answers a study as people do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from wsigen.errors import PathError
from wsigen.files import only_process
from wsigen.study.store import AnswerStore
from wsigen.study.study import IMAGES, WITH_SOURCE, Study, Trial, load_study


@dataclass(frozen=True)
class Task:
    """One item to judge.

    Attributes:
        kind: slider, 2afc, quality or paired.
        images: to judge, as on the screen from left to right: uint8 (size, size, 3).
        source: the H&E image, of quality and paired; else None.
        questions: that are asked.
        mpp: µm/px.
    """

    kind: str
    images: tuple[np.ndarray, ...]
    source: np.ndarray | None
    questions: tuple[str, ...]
    mpp: float


class Reader(Protocol):
    """Judges items.

    It returns, by kind: slider a number from 0 (certainly synthetic) to 100 (certainly real); 2afc the index
    of the image that is real; quality an index of an image for every question; paired True or False.
    """

    def __call__(self, task: Task) -> Any:
        """Return the answer to a task."""
        ...


def read_study(folder: Path, code: str, reader: Reader) -> int:
    """Let a reader answer what is left of a study for a code.

    Args:
        folder: of the study.
        code: of the reader.
        reader: judges.

    Returns:
        Number of answers that were given.

    Raises:
        PathError: there is no study, or an image of it is missing.
        InvalidValueError: unknown code, or what the reader returns is no answer.
        OutputError: the study is being served.
    """
    study = load_study(folder)
    with only_process(folder, SERVED):
        store, count = AnswerStore(study), 0
        try:
            while (trial := store.show(code)) is not None:
                task, start = _task(study, trial), time.monotonic()
                value = to_value(study.kind, trial.choices, reader(task))
                store.add(code, trial.number, value, time.monotonic() - start)
                count += 1
        finally:
            store.close()
    return count


SERVED = "this study is being served or read by another process; stop that one first"


def to_value(kind: str, choices: Sequence[str], answer: Any) -> Any:
    """Return what is stored for an answer that names images by their index on the screen."""
    if kind == "2afc":
        return choices[answer]
    if kind == "quality":
        return [choices[i] for i in answer]
    return answer


def read_image(study: Study, code: str) -> np.ndarray:
    """Return an image of a study, uint8 (size, size, 3).

    Raises:
        PathError: it is missing or damaged.
    """
    path = study.folder / IMAGES / f"{code}.png"
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise PathError(path, "an image of the study is missing or damaged; put it back")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _task(study: Study, trial: Trial) -> Task:
    source = read_image(study, trial.item.images[0]) if study.kind in WITH_SOURCE else None
    images = tuple(read_image(study, code) for code in trial.choices)
    return Task(study.kind, images, source, study.questions, study.mpp)

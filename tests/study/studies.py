"""Small studies for tests, and readers of known skill.

Blue is odd on real slides and even on synthetic ones: nobody sees it, and a reader that knows can tell.
An IHC image is the negative of its H&E image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.synthetic import he_image, write_tiff
from wsigen.config.study import StudyMakeConfig
from wsigen.study import make as module
from wsigen.study.automatic import Task
from wsigen.study.study import Study

MPP, SIDE, SIZE = 0.5, 1024, 64


def write_set(folder: Path, name: str, *, odd: bool, count: int = 2, side: int = SIDE) -> list[str]:
    """Slides of a set, lossless."""
    paths = []
    for i in range(count):
        image = he_image(side, seed=10 * odd + i, mpp=MPP)
        image[..., 2] = image[..., 2] // 2 * 2 + odd
        path = folder / f"{name}{i}.tif"
        paths.append(str(write_tiff(path, image, MPP, levels=1, compression="zstd")))
    return paths


def write_sources(folder: Path, *, methods: int = 1) -> tuple[list[str], dict[str, list[str]]]:
    """H&E slides, and their translations by method: "m0" the negative, "m1" that less 20, …"""
    sources, translated = [], {f"m{k}": [] for k in range(methods)}
    for i in range(2):
        image = he_image(SIDE, seed=i, mpp=MPP)
        how = {"levels": 1, "compression": "zstd"}
        sources.append(str(write_tiff(folder / f"s{i}_HE.ome.tif", image, MPP, **how)))
        for k, (name, paths) in enumerate(translated.items()):
            below = folder / name
            below.mkdir(exist_ok=True)
            negative = np.maximum(255 - image.astype(int) - 20 * k, 0).astype(np.uint8)
            paths.append(str(write_tiff(below / f"s{i}_IHC-X.ome.tif", negative, MPP, **how)))
    return sources, translated


def config(real: list[str], synthetic: list[str], out: Path, **changes) -> StudyMakeConfig:
    """Of a slider study of 8 small items."""
    values = {"mpp": MPP, "size": SIZE, "count": 8, "readers": 3} | changes
    return StudyMakeConfig(real=real, synthetic=synthetic, out=out, **values)


class _Secrets:
    """Random codes that are the same in every run of the tests."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def token_hex(self, count: int) -> str:
        return self._rng.bytes(count).hex()

    def choice(self, letters: str) -> str:
        return letters[self._rng.integers(len(letters))]


def make(config: StudyMakeConfig) -> Study:
    """A study whose codes, and so the order of its items, are the same in every run of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "secrets", _Secrets())
        return module.make_study(config)


def is_real(image: np.ndarray) -> bool:
    """Whether an image is of a real slide."""
    odd = image[..., 2] % 2
    assert odd.min() == odd.max()
    return bool(odd.min())


class Skilled:
    """A reader who is right with a probability; never the same way by chance.

    Args:
        skill: probability of a right answer.
        seed: of the errors.
    """

    def __init__(self, skill: float, seed: int = 0) -> None:
        self._skill, self._rng = skill, np.random.default_rng(seed)

    def __call__(self, task: Task):
        """Answer a task."""
        right = bool(self._rng.random() < self._skill)
        if task.kind == "slider":
            real = is_real(task.images[0]) == right
            return int(self._rng.integers(51, 101) if real else self._rng.integers(0, 50))
        if task.kind == "2afc":
            return [is_real(image) for image in task.images].index(right)
        if task.kind == "paired":
            return bool((task.images[0] == 255 - task.source).all()) == right
        best = int(np.argmax([image.mean() for image in task.images]))
        other = (best + 1) % len(task.images)
        return [best if right else other for _ in task.questions]

"""Places of patches on slides as a function of (seed, slide, µm/px, number), and reading them.

What a slide cannot give, because it is damaged there, is left out with a warning.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np

from wsigen.data.index import ROI_MARGIN, SlideEntry
from wsigen.data.patches import place
from wsigen.errors import SlideError
from wsigen.geometry import Size
from wsigen.slide.read import WholeSlide

log = logging.getLogger(__name__)

ATTEMPTS = 12
# Least share of tissue of a patch; where no attempt reaches it, the one with most tissue counts
TISSUE_SHARE = 0.5

Job = TypeVar("Job")
Output = TypeVar("Output")


@dataclass(frozen=True)
class Spot:
    """One patch to be read.

    Attributes:
        entry: the slide.
        mpp: µm/px.
        size: side, px.
        number: running number among the slide's patches at this µm/px.
    """

    entry: SlideEntry
    mpp: float
    size: int
    number: int

    def centre(self, seed: int) -> tuple[float, float]:
        """Return its place on tissue, (y, x) in µm.

        Determinism: a function of seed, the slide's name and mask, µm/px, size and number.
        """
        key = sha256(f"{self.entry.slide}|{self.mpp:.6g}|{self.size}|{self.number}".encode()).digest()
        rng = np.random.default_rng([seed, int.from_bytes(key[:8], "little")])
        extent, best, most = self.mpp * self.size, (0.0, 0.0), -1.0
        for _ in range(ATTEMPTS):
            found = place(self.entry, extent, rng, margin_um=self.mpp * ROI_MARGIN)
            share = tissue_share(self.entry, found, extent)
            if share > most:
                best, most = found, share
            if share >= TISSUE_SHARE:
                break
        return best


class Reader:
    """Reads patches; safe to be used by several threads.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._slides: dict[Path, WholeSlide] = {}

    def __call__(self, spot: Spot) -> np.ndarray:
        """Return its pixels, uint8 (size, size, 3).

        Raises:
            SlideError: the slide is gone, or damaged there.
        """
        return self.at(spot.entry, spot.centre(self._seed), spot.mpp, spot.size)

    def at(self, entry: SlideEntry, centre: tuple[float, float], mpp: float, size: int | Size) -> np.ndarray:
        """Return the pixels around a place in µm, uint8 (height, width, 3).

        Raises:
            SlideError: the slide is gone, or damaged there.
        """
        slide = self._slides.get(entry.path)
        if slide is None:
            # of two threads that open it, one keeps it
            slide = self._slides.setdefault(entry.path, entry.open())
        try:
            return slide.read_patch(centre, mpp, size, background=entry.background)
        except SlideError:
            self._slides.pop(entry.path, None)  # opened again: it may have been replaced by a good file
            raise


def tissue_share(entry: SlideEntry, centre: tuple[float, float], extent_um: float) -> float:
    """Return the share of tissue in a square, by the slide's mask; beyond the slide is background.

    Args:
        entry: the slide.
        centre: (y, x) of the square, µm.
        extent_um: its side, µm.
    """
    corner = [round((c - extent_um / 2) / entry.mask_mpp) for c in centre]
    side = max(1, round(extent_um / entry.mask_mpp))
    rows, cols = (slice(max(c, 0), max(c + side, 0)) for c in corner)
    return float(entry.mask[rows, cols].sum()) / side**2


def spots(entries: Sequence[SlideEntry], allotted: dict[str, int], mpp: float, size: int) -> list[Spot]:
    """Return the patches to read, slide by slide.

    Args:
        entries: the slides.
        allotted: slide to its number of patches.
        mpp: µm/px.
        size: side, px.
    """
    return [
        Spot(entry, mpp, size, number) for entry in entries for number in range(allotted.get(entry.slide, 0))
    ]


def ahead(work: Callable[[Job], Output], jobs: Iterable[Job], threads: int) -> Iterator[Output]:
    """Yield results in the order of the jobs, computed by threads that run a little ahead.

    Args:
        work: of one job.
        jobs: taken as they are needed.
        threads: number of threads.

    Memory: at most four results per thread are waiting.
    """
    waiting: deque[Future[Output]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(work, job))
                if len(waiting) >= 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def readable(
    read: Callable[[Job], Output],
    jobs: Iterable[Job],
    what: str = "patches",
    *,
    threads: int | None = None,
    warnings: list[str] | None = None,
) -> Iterator[tuple[Job, Output]]:
    """Read what can be read; in the end, log a warning for each slide that is damaged somewhere.

    Args:
        read: may raise a `SlideError`.
        jobs: of it.
        what: they are: "patches".
        threads: that read ahead; None: one job after the other, as they are needed.
        warnings: takes the warnings as well.

    Yields:
        A job and what was read.
    """
    errors: dict[Path, list[SlideError]] = {}

    def attempt(job: Job) -> Output | SlideError:
        try:
            return read(job)
        except SlideError as error:
            return error

    jobs = list(jobs)
    results = map(attempt, jobs) if threads is None else ahead(attempt, jobs, threads)
    for job, found in zip(jobs, results, strict=True):
        if isinstance(found, SlideError):
            errors.setdefault(found.path, []).append(found)
        else:
            yield job, found
    for path, failed in errors.items():
        first = failed[0].reason
        said = f"{path}: {what} that cannot be read, left out: {len(failed)}; the first: {first}"
        log.warning("%s", said)
        if warnings is not None:
            warnings.append(said)

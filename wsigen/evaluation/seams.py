"""Seams of whole slides: the step across the seams of every grid that a slide was made on, beside real ones.

For a pitch P, every line y ≡ φ (mod P) is a possible seam. E(φ) is the size of the step across all lines of
phase φ; most phases are no seams, so the null distribution is built in: ratio = E(seam) / median E, 1 for no
seam. `step8` compares strips, for seams of tiles; `jump` compares neighbouring lines, for hard edges and the
8-px grid of JPEG.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from wsigen.data.index import SlideEntry
from wsigen.errors import InvalidValueError
from wsigen.evaluation.estimate import Estimate, mean_over_groups
from wsigen.evaluation.results import Result
from wsigen.evaluation.sets import SlideSet
from wsigen.evaluation.spots import readable
from wsigen.evaluation.verdict import Metric
from wsigen.evaluation.windows import (
    WINDOW,
    SeamGrid,
    as_fine,
    grids_by_name,
    own_grid,
    some_slides,
    windows,
)

STRIP, SEGMENT, REACH = 8, 64, 32
LARGEST = 4096
BLOCKS = 8
_MAD_TO_SIGMA = 1.4826

_metric = partial(Metric, "seams", better="lower")
SEAM = _metric(
    "seam",
    "Step at seams",
    good="1, as on real slides where nothing is joined: the step at seams is that at any other line",
    source="step8: RMS over 64 px segments of the detrended difference of 8 px strips, E(seam) / median E",
)
EDGE = _metric(
    "edge",
    "Hard edge at seams",
    good="1, as on real slides: from pixel to pixel, too, seams differ no more than other lines",
    source="jump: RMS of the detrended difference of neighbouring pixels across a line, E(seam) / median E",
)
STRONGEST_LINE = _metric(
    "strongest_line",
    "Step at the strongest line",
    good="as low as on real slides: no line of that spacing stands out",
    source="step8, the largest E(φ) / median E over all phases φ",
)
JPEG = _metric(
    "jpeg",
    "JPEG blocks",
    good="no more than in real slides; 1 is none",
    source="jump across multiples of 8 px at the slide's own µm/px",
)


@dataclass(frozen=True)
class GridScore:
    """One slide on one grid, by `step8` or `jump`.

    Attributes:
        ratio: E(seam) / median E, both directions together; 1 = none.
        error: its standard error, from the phases that are no seams.
        group: of the slide.
        profile: E / median E around the seam, mean of both directions.
    """

    ratio: float
    error: float
    group: str
    profile: np.ndarray


def seam_rows(ours: SlideSet, real: SlideSet, *, seed: int) -> tuple[list[Result], dict[str, np.ndarray]]:
    """Score the seams of a set on the grids of its slides, and the same lines of real slides.

    Returns:
        Rows; and profiles by name of the grid, of the set and, with " (real)" after it, of the real slides.
    """
    chosen = some_slides(ours.entries)
    rows, profiles = [], {}
    for grid, entries in grids_by_name(chosen).items():
        mpp = entries[0].mpp
        own = [own_grid(e, grid) for e in entries]
        lines = _union(own)
        mine = _scores([(e, g, e.mpp) for e, g in zip(entries, own, strict=True)], seed)
        theirs = _scores([(e, lines, mpp) for e in some_slides(as_fine(real.entries, mpp))], seed)
        metrics = (SEAM, EDGE) if grid.rows is not None else (STRONGEST_LINE,)
        rows += [_row(metric, grid, mine, theirs, len(entries)) for metric in metrics]
        for name, found in ((grid.name, mine), (f"{grid.name} (real)", theirs)):
            if mine and found:  # without the set's own, that of real slides is compared with nothing
                profiles[name] = np.mean([soft.profile for soft, _ in found], axis=0)
    blocks = [_blockiness(entries, seed) for entries in (chosen, some_slides(real.entries))]
    rows.append(Result(JPEG, None, blocks[0], blocks[1], f"{len(chosen)} slides"))
    return rows, profiles


def score_slide(
    entry: SlideEntry, grid: SeamGrid, mpp: float, seed: int
) -> tuple[GridScore, GridScore] | None:
    """Score one slide on one grid, by `step8` and by `jump`; None where it is too small or damaged.

    Args:
        entry: the slide.
        grid: of seams; unknown ones count as where the step is largest.
        mpp: µm/px to read at; the grid is in pixels of it.
        seed: of the choice of windows.

    Memory: one window, at most 4096 px wide.
    """
    side = min(max(WINDOW, 4 * grid.pitch), LARGEST)
    slide = entry.open()
    places = windows(entry, mpp, side, seed=seed)
    if any(min(region.height, region.width) < grid.pitch + 64 for region in places):
        return None
    read = partial(slide.read_region, mpp=mpp, background=entry.background)
    # energies by window, measure, axis and phase
    energies = [
        [
            [step(image, grid.pitch, axis=axis, origin=(region.y, region.x)[axis]).energy for axis in (0, 1)]
            for step in (step8, jump)
        ]
        for region, image in readable(read, places, "windows for seams")
    ]
    if not energies:
        return None
    # root mean square over windows
    soft, hard = np.sqrt(np.square(energies).mean(axis=0))
    return _both(soft, grid, entry.group), _both(hard, grid, entry.group)


@dataclass(frozen=True)
class SeamScore:
    """The step across seams, beside that across all other lines.

    Args:
        ratio: E(seam) / median E; 1 = none.
        z: robust z of E(seam) among all phases (by the median absolute deviation).
        energy: E(φ) for φ = 0 … pitch - 1, in grey levels.
    """

    ratio: float
    z: float
    energy: np.ndarray


def step8(
    image: np.ndarray, pitch: int, *, phases: Sequence[int] = (0,), axis: int = 0, origin: int = 0
) -> SeamScore:
    """Return the seam score of one direction.

    E(φ) is the root mean square, over segments of 64 px along all lines of phase φ and over channels, of the
    detrended difference of the 8-px strips on either side: with four consecutive strips a, b | c, d it is
    (c - b) - ((b - a) + (d - c))/2, so that gradients do not count. (A one-pixel jump misses seams that
    later steps have smoothed.)

    Args:
        image: uint8 or float (height, width) or (height, width, channels).
        pitch: distance of seams in pixels, at least 2.
        phases: of the seams, in pixels of the canvas: the offsets of the patch grid. Several count together.
        axis: 0 for seams between rows, 1 between columns.
        origin: position of the image's first row (or column) on the canvas.

    Raises:
        InvalidValueError: the image is too small: it needs more than one pitch and a segment.
    """
    lines = _lines(image, axis, pitch, 4 * STRIP, SEGMENT)
    return _score(_energy(_steps(_segments(lines), STRIP), pitch, origin + 2 * STRIP), phases)


def seam_ratio(
    image: np.ndarray, pitch: int, *, rows: Sequence[int] = (0,), cols: Sequence[int] = (0,)
) -> float:
    """Return the root mean square of the ratios of `step8` in both directions; 1 = none.

    Args:
        image: uint8 or float (height, width) or (height, width, channels).
        pitch: distance of seams in pixels.
        rows: phases of the seams between rows.
        cols: phases of the seams between columns.
    """
    ratios = [step8(image, pitch, phases=p, axis=axis).ratio for axis, p in ((0, rows), (1, cols))]
    return float(np.sqrt(np.mean(np.square(ratios))))


def jump(
    image: np.ndarray, pitch: int, *, phases: Sequence[int] = (0,), axis: int = 0, origin: int = 0
) -> SeamScore:
    """Return the seam score of one direction from single pixels: it sees hard edges of one pixel.

    With four consecutive lines a, b | c, d the jump at a pixel is (c - b) - ((b - a) + (d - c))/2. Detail of
    the image counts too, so `step8` sees soft seams better.

    Args:
        image: uint8 or float (height, width) or (height, width, channels).
        pitch: distance of seams in pixels, at least 2.
        phases: of the seams on the canvas.
        axis: 0 for seams between rows, 1 between columns.
        origin: position of the image's first row (or column) on the canvas.

    Raises:
        InvalidValueError: the image is too small: it needs one pitch and four lines.
    """
    lines = _lines(image, axis, pitch, 4, 1).astype(np.float32).reshape(image.shape[axis], -1)
    return _score(_energy(_steps(lines, 1), pitch, origin + 2), phases)


def jpeg_grid(image: np.ndarray, *, origin: tuple[int, int] = (0, 0)) -> float:
    """Return the blockiness of JPEG: the `jump` at multiples of 8 px both ways, root mean square; 1 = none.

    Args:
        image: uint8 or float (height, width) or (height, width, channels).
        origin: (y, x) of the image on the grid of the blocks.
    """
    ratios = [jump(image, 8, axis=axis, origin=origin[axis]).ratio for axis in (0, 1)]
    return float(np.sqrt(np.mean(np.square(ratios))))


def seam_profile(energy: np.ndarray, phase: int = 0) -> np.ndarray:
    """Return E / median E on the lines around a seam: a peak in the middle, or flat at 1 where none shows.

    Args:
        energy: of a `SeamScore`.
        phase: of the seam.

    Returns:
        float64 (2·reach + 1,), for a reach of 32 lines on either side, at most half the pitch.
    """
    pitch = len(energy)
    reach = min(REACH, pitch // 2)
    around = (phase + np.arange(-reach, reach + 1)) % pitch
    return energy[around] / max(float(np.median(energy)), 1e-12)


def _lines(image: np.ndarray, axis: int, pitch: int, across: int, along: int) -> np.ndarray:
    """Return the image as (lines, positions, channels), checked."""
    lines = np.moveaxis(image, axis, 0).reshape(image.shape[axis], image.shape[1 - axis], -1)
    if pitch < 2 or len(lines) < pitch + across or lines.shape[1] < along:
        raise InvalidValueError(
            f"an image must be at least pitch + {across} px across seams and {along} px along them, got "
            f"{len(lines)} and {lines.shape[1]} for pitch {pitch}"
        )
    return lines


def _score(energy: np.ndarray, phases: Sequence[int]) -> SeamScore:
    pitch = len(energy)
    at_seams = float(np.sqrt(np.mean(energy[[p % pitch for p in phases]] ** 2)))
    median = float(np.median(energy))
    deviation = _MAD_TO_SIGMA * float(np.median(np.abs(energy - median)))
    if median == 0:
        return SeamScore(1.0 if at_seams == 0 else float("inf"), 0.0, energy)
    return SeamScore(at_seams / median, (at_seams - median) / max(deviation, 1e-12), energy)


def _segments(lines: np.ndarray) -> np.ndarray:
    """Average segments of 64 px along each line: (lines, segments · channels)."""
    count = lines.shape[1] // SEGMENT
    whole = lines[:, : count * SEGMENT].reshape(len(lines), count, SEGMENT, -1)
    return whole.mean(axis=2, dtype=np.float64).reshape(len(lines), -1)


def _steps(values: np.ndarray, strip: int) -> np.ndarray:
    """Return the detrended step at every line that has two strips on either side."""
    # means of strips from running sums
    sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)]) if strip > 1 else None
    strips = values if sums is None else (sums[strip:] - sums[:-strip]) / strip
    # (c - b) less the mean of (b - a) and (d - c)
    difference = strips[strip:] - strips[:-strip]
    return difference[strip:-strip] - (difference[: -2 * strip] + difference[2 * strip :]) / 2


def _energy(steps: np.ndarray, pitch: int, first: int) -> np.ndarray:
    """Return the root mean square of the steps by phase; ``first`` is the position of the first line."""
    # lines of one phase are a pitch apart: bincount sums them
    squares = np.square(steps).mean(axis=1)
    phase = (first + np.arange(len(squares))) % pitch
    return np.sqrt(np.bincount(phase, squares, pitch) / np.bincount(phase, minlength=pitch))


def _union(same: Sequence[SeamGrid]) -> SeamGrid:
    """Join grids of one name to one that has the seams of them all.

    Real slides are scored where ours have their seams: at multiples of 8 px they have edges of JPEG.
    """
    given = [[g.rows for g in same], [g.cols for g in same]]
    phases = [None if None in axis else tuple(sorted({p for g in axis for p in g or ()})) for axis in given]
    return SeamGrid(same[0].name, same[0].pitch, *phases)


def _both(energies: Sequence[np.ndarray], grid: SeamGrid, group: str) -> GridScore:
    """Score seams of rows and of columns together."""
    found = [_at_seams(e, phases) for e, phases in zip(energies, (grid.rows, grid.cols), strict=True)]
    return GridScore(
        math.sqrt(np.mean([ratio**2 for ratio, _, _ in found])),
        math.sqrt(sum(error**2 for _, error, _ in found)) / len(found),
        group,
        np.mean([profile for _, _, profile in found], axis=0),
    )


def _at_seams(energy: np.ndarray, phases: Sequence[int] | None) -> tuple[float, float, np.ndarray]:
    """Return ratio, standard error and profile of one direction."""
    # most phases are no seams: their median and its deviation are the null distribution
    median = max(float(np.median(energy)), 1e-12)
    deviation = _MAD_TO_SIGMA * float(np.median(np.abs(energy - median))) / median
    known = [int(np.argmax(energy))] if phases is None else [p % len(energy) for p in phases]
    ratio = math.sqrt(float(np.mean(energy[known] ** 2))) / median
    profile = np.mean([seam_profile(energy, p) for p in known], axis=0)
    return ratio, deviation / math.sqrt(len(known)), profile


def _scores(
    slides: Sequence[tuple[SlideEntry, SeamGrid, float]], seed: int
) -> list[tuple[GridScore, GridScore]]:
    found = [score_slide(entry, grid, mpp, seed) for entry, grid, mpp in slides]
    return [s for s in found if s is not None]


def _row(
    metric: Metric,
    grid: SeamGrid,
    mine: Sequence[tuple[GridScore, GridScore]],
    theirs: Sequence[tuple[GridScore, GridScore]],
    slides: int,
) -> Result:
    notes = []
    if len(mine) < slides:
        notes.append(f"{slides - len(mine)} slides are too small for seams {grid.pitch} px apart")
    if grid.rows is None and mine:
        notes.append("where the last seams lay is not in the provenance: the strongest line of all counts")
    if not theirs:
        notes.append(f"no real slide is fine and large enough for seams {grid.pitch} px apart")
    which = 1 if metric is EDGE else 0
    value, floor = (_mean([score[which] for score in scores]) for scores in (mine, theirs))
    return Result(
        metric, None, value, floor, f"{len(mine)} and {len(theirs)} slides", tuple(notes), grid.name
    )


def _mean(scores: Sequence[GridScore]) -> Estimate | None:
    """Average over slides; the interval covers phases and slides."""
    if not scores:
        return None
    ratios, errors = (np.array([getattr(s, name) for s in scores]) for name in ("ratio", "error"))
    return mean_over_groups(ratios, [s.group for s in scores], errors)[0]


def _blockiness(entries: Sequence[SlideEntry], seed: int) -> Estimate | None:
    ratios, groups = [], []
    for entry in entries:
        read = partial(entry.open().read_region, mpp=entry.mpp, background=entry.background)
        places = windows(entry, entry.mpp, WINDOW // 2, seed=seed, most=4)
        for region, image in readable(read, places, "windows for blocks"):
            if min(image.shape[:2]) >= 64:
                # JPEG's blocks begin at the slide's corner, not at the window's
                ratios.append(jpeg_grid(image, origin=(region.y % BLOCKS, region.x % BLOCKS)))
                groups.append(entry.group)
    return mean_over_groups(np.array(ratios), groups)[0] if ratios else None

"""Seams of whole slides: the step at the joints of every grid that a slide was made on, beside real ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wsigen.data.entry import SlideEntry
from wsigen.evaluate.estimate import Estimate
from wsigen.evaluate.results import Result
from wsigen.evaluate.seams import SeamScore, jpeg_grid, seam_profile, step8
from wsigen.evaluate.sets import SlideSet
from wsigen.evaluate.spread import mean_over_groups
from wsigen.evaluate.windows import WINDOW, Grid, as_fine, grids, some_slides, windows

LARGEST = 4096
BLOCKS = 8
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Scored:
    """One slide on one grid.

    Attributes:
        ratio: E(joint) / median E, both directions together; 1 = none.
        spread: its standard error, from the phases that are no joints.
        group: of the slide.
        profile: E / median E around the joint, mean of both directions.
    """

    ratio: float
    spread: float
    group: str
    profile: np.ndarray


def seam_rows(
    ours: SlideSet, real: SlideSet, *, seed: int, progress: Callable[[int], object] = lambda _: None
) -> tuple[list[Result], dict[str, np.ndarray]]:
    """Seam scores of a set on the grids of its slides, and what real slides have on the same grids.

    Returns:
        Rows; and profiles by name of the grid, of the set and, with " (real)" after it, of the real slides.
    """
    chosen = some_slides(ours.entries)
    by_grid: dict[Grid, list[SlideEntry]] = {}
    for entry in chosen:
        for grid in grids(entry):
            named = grid if grid.rows is None else Grid(grid.name, grid.pitch)
            by_grid.setdefault(named, []).append(entry)
    rows, profiles = [], {}
    for grid, entries in by_grid.items():
        mpp = entries[0].mpp
        mine = _scored([(e, _own(e, grid), e.mpp) for e in entries], seed)
        theirs = _scored([(e, grid, mpp) for e in some_slides(as_fine(real.entries, mpp))], seed)
        rows.append(_row(grid, mine, theirs, len(entries)))
        for name, found in ((grid.name, mine), (f"{grid.name} (real)", theirs)):
            if found:
                profiles[name] = np.mean([s.profile for s in found], axis=0)
        progress(1)
    blocks = [_blockiness(entries, seed) for entries in (chosen, some_slides(real.entries))]
    rows.append(Result("jpeg", None, blocks[0], blocks[1], f"{len(chosen)} slides"))
    return rows, profiles


def score_slide(entry: SlideEntry, grid: Grid, mpp: float, seed: int) -> Scored | None:
    """One slide on one grid; None where the slide is too small for it.

    Args:
        entry: the slide.
        grid: of joints; those that nobody knows count as where the step is largest.
        mpp: µm/px to read at; the grid is in pixels of it.
        seed: of the choice of windows.

    Memory: one window, at most 4096 px wide.
    """
    side = min(max(WINDOW, 4 * grid.pitch), LARGEST)
    slide, found = entry.open(), []
    scores: dict[int, list[np.ndarray]] = {0: [], 1: []}
    for region in windows(entry, mpp, side, seed=seed):
        if min(region.height, region.width) < grid.pitch + 64:
            return None
        image = slide.read_region(region, mpp, entry.background)
        for axis, origin in ((0, region.y), (1, region.x)):
            scores[axis].append(step8(image, grid.pitch, axis=axis, origin=origin).energy)
    for axis, joints in ((0, grid.rows), (1, grid.cols)):
        energy = np.sqrt(np.mean(np.square(scores[axis]), axis=0))
        found.append(_at_joints(energy, joints, entry.group))
    return Scored(
        math.sqrt(np.mean([f.ratio**2 for f in found])),
        math.sqrt(sum(f.spread**2 for f in found)) / len(found),
        entry.group,
        np.mean([f.profile for f in found], axis=0),
    )


def _at_joints(energy: np.ndarray, joints: Sequence[int] | None, group: str) -> Scored:
    median = max(float(np.median(energy)), 1e-12)
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(energy - median))) / median
    phases = [int(np.argmax(energy))] if joints is None else [j % len(energy) for j in joints]
    ratio = math.sqrt(float(np.mean(energy[phases] ** 2))) / median
    profile = np.mean([seam_profile(SeamScore(ratio, 0.0, energy), p) for p in phases], axis=0)
    return Scored(ratio, spread / math.sqrt(len(phases)), group, profile)


def _own(entry: SlideEntry, grid: Grid) -> Grid:
    """The grid of that name with the joints of this very slide."""
    return next(g for g in grids(entry) if (g.name, g.pitch) == (grid.name, grid.pitch))


def _scored(slides: Sequence[tuple[SlideEntry, Grid, float]], seed: int) -> list[Scored]:
    found = [score_slide(entry, grid, mpp, seed) for entry, grid, mpp in slides]
    return [s for s in found if s is not None]


def _row(grid: Grid, mine: list[Scored], theirs: list[Scored], slides: int) -> Result:
    key = "seam" if grid.rows is not None else "strongest_line"
    notes = []
    if len(mine) < slides:
        notes.append(f"{slides - len(mine)} slides are too small for joints {grid.pitch} px apart")
    if grid.rows is None and mine:
        notes.append("where the last joints lay is not in the provenance: the strongest line of all counts")
    if not theirs:
        notes.append(f"no real slide is as fine and as large as it takes for joints {grid.pitch} px apart")
    samples = f"{len(mine)} and {len(theirs)} slides"
    return Result(key, None, _mean(mine), _mean(theirs), samples, tuple(notes), grid.name)


def _mean(scores: Sequence[Scored]) -> Estimate | None:
    """Mean over slides, with what the phases and the slides spread."""
    if not scores:
        return None
    ratios, spread = (np.array([getattr(s, name) for s in scores]) for name in ("ratio", "spread"))
    return mean_over_groups(ratios, [s.group for s in scores], spread)[0]


def _blockiness(entries: Sequence[SlideEntry], seed: int) -> Estimate | None:
    ratios: list[float] = []
    groups: list[str] = []
    for entry in entries:
        slide = entry.open()
        for region in windows(entry, entry.mpp, WINDOW // 2, seed=seed, most=4):
            image = slide.read_region(region, entry.mpp, entry.background)
            if min(image.shape[:2]) >= 64:
                ratios.append(jpeg_grid(image, origin=(region.y % BLOCKS, region.x % BLOCKS)))
                groups.append(entry.group)
    return mean_over_groups(np.array(ratios), groups)[0] if ratios else None

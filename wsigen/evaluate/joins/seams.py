"""Seams of whole slides: the step at the joints of every grid that a slide was made on, beside real ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wsigen.data.index import SlideEntry
from wsigen.evaluate.estimate import Estimate
from wsigen.evaluate.results import Result
from wsigen.evaluate.seams import SeamScore, jpeg_grid, jump, seam_profile, step8
from wsigen.evaluate.sets import SlideSet
from wsigen.evaluate.spread import mean_over_groups
from wsigen.evaluate.windows import WINDOW, Grid, as_fine, by_name, own_grid, some_slides, windows

LARGEST = 4096
BLOCKS = 8
_MAD_TO_SIGMA = 1.4826


STEPS = {"seam": step8, "edge": jump}
"""What is looked at on every grid: soft joints, and hard edges."""


@dataclass(frozen=True)
class Scored:
    """One slide on one grid, by one of `STEPS`.

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
    by_grid = by_name(chosen)
    rows, profiles = [], {}
    for grid, entries in by_grid.items():
        mpp = entries[0].mpp
        mine = _scored([(e, own_grid(e, grid), e.mpp) for e in entries], seed)
        lines = _together([own_grid(e, grid) for e in entries])
        theirs = _scored([(e, lines, mpp) for e in some_slides(as_fine(real.entries, mpp))], seed)
        rows += [
            _row(key, grid, [s[key] for s in mine], [s[key] for s in theirs], len(entries))
            for key in (STEPS if grid.rows is not None else ("seam",))
        ]
        for name, found in ((grid.name, mine), (f"{grid.name} (real)", theirs)):
            if found:
                profiles[name] = np.mean([s["seam"].profile for s in found], axis=0)
        progress(1)
    blocks = [_blockiness(entries, seed) for entries in (chosen, some_slides(real.entries))]
    rows.append(Result("jpeg", None, blocks[0], blocks[1], f"{len(chosen)} slides"))
    return rows, profiles


def score_slide(entry: SlideEntry, grid: Grid, mpp: float, seed: int) -> dict[str, Scored] | None:
    """One slide on one grid, by each of `STEPS`; None where the slide is too small for it.

    Args:
        entry: the slide.
        grid: of joints; those that nobody knows count as where the step is largest.
        mpp: µm/px to read at; the grid is in pixels of it.
        seed: of the choice of windows.

    Memory: one window, at most 4096 px wide.
    """
    side = min(max(WINDOW, 4 * grid.pitch), LARGEST)
    slide = entry.open()
    energies: dict[tuple[str, int], list[np.ndarray]] = {(k, axis): [] for k in STEPS for axis in (0, 1)}
    for region in windows(entry, mpp, side, seed=seed):
        if min(region.height, region.width) < grid.pitch + 64:
            return None
        image = slide.read_region(region, mpp, entry.background)
        for (key, axis), found in energies.items():
            found.append(STEPS[key](image, grid.pitch, axis=axis, origin=(region.y, region.x)[axis]).energy)
    pooled = {of: np.sqrt(np.mean(np.square(found), axis=0)) for of, found in energies.items()}
    joints = (grid.rows, grid.cols)
    return {
        key: _both([_at_joints(pooled[key, axis], joints[axis], entry.group) for axis in (0, 1)])
        for key in STEPS
    }


def _together(same: Sequence[Grid]) -> Grid:
    """Grids of one name as one that has the joints of them all.

    Real slides are looked at where ours have their joints: at multiples of 8 px they have edges of JPEG.
    """
    rows, cols = ([getattr(g, axis) for g in same] for axis in ("rows", "cols"))
    joints = [
        None if None in given else tuple(sorted({j for g in given for j in g})) for given in (rows, cols)
    ]
    return Grid(same[0].name, same[0].pitch, *joints)


def _both(found: Sequence[Scored]) -> Scored:
    """Joints of rows and of columns as one."""
    return Scored(
        math.sqrt(np.mean([f.ratio**2 for f in found])),
        math.sqrt(sum(f.spread**2 for f in found)) / len(found),
        found[0].group,
        np.mean([f.profile for f in found], axis=0),
    )


def _at_joints(energy: np.ndarray, joints: Sequence[int] | None, group: str) -> Scored:
    median = max(float(np.median(energy)), 1e-12)
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(energy - median))) / median
    phases = [int(np.argmax(energy))] if joints is None else [j % len(energy) for j in joints]
    ratio = math.sqrt(float(np.mean(energy[phases] ** 2))) / median
    profile = np.mean([seam_profile(SeamScore(ratio, 0.0, energy), p) for p in phases], axis=0)
    return Scored(ratio, spread / math.sqrt(len(phases)), group, profile)


def _scored(slides: Sequence[tuple[SlideEntry, Grid, float]], seed: int) -> list[dict[str, Scored]]:
    found = [score_slide(entry, grid, mpp, seed) for entry, grid, mpp in slides]
    return [s for s in found if s is not None]


def _row(key: str, grid: Grid, mine: list[Scored], theirs: list[Scored], slides: int) -> Result:
    key = key if grid.rows is not None else "strongest_line"
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

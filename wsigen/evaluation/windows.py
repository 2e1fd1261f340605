"""Windows of whole slides in which seams and scales are measured, and the grids on which slides were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsigen.data.index import FINEST, SlideEntry
from wsigen.evaluation.comparison import turn_of_each
from wsigen.geometry import Region
from wsigen.slide.provenance import flatten, patch_grids, read_provenance

WINDOW = 1024  # Side, px; more where a pitch needs it
MOST_WINDOWS, MOST_SLIDES = 6, 8


@dataclass(frozen=True)
class SeamGrid:
    """Seams that a slide may have.

    Attributes:
        name: in the report.
        pitch: distance of seams, px of level 0.
        rows: phases of seams between rows; None where they are not known.
        cols: the same between columns.
    """

    name: str
    pitch: int
    rows: tuple[int, ...] | None = (0,)
    cols: tuple[int, ...] | None = (0,)


TILES = SeamGrid("256 px tiles", 256)


def known_grids(entry: SlideEntry) -> list[SeamGrid]:
    """Return the grids of a slide: of the sampler's patches, the translator's statistics, file tiles.

    The sampler's grid moves at every step, and where the last ones lay depends on the seed; unless the
    provenance says so (``joints``: ``rows`` and ``cols`` of a ``pitch``), only their distance is known.
    """
    facts, found = read_provenance(entry.path), [TILES]
    named = patch_grids(facts)
    found += [SeamGrid(g["name"], g["pitch"], tuple(g["rows"]), tuple(g["cols"])) for g in named]
    if all(isinstance(facts.get(key), int) for key in ("size", "k", "stages")):
        patch = facts["size"] // facts["k"] ** facts["stages"]
        if not named and patch >= 16:
            found.append(SeamGrid(f"{patch} px patches", patch, None, None))
    pitches = [v for k, v in flatten(facts).items() if k.rpartition(".")[2] == "stats_pitch" and v.isdigit()]
    found += [SeamGrid(f"{p} px statistics", int(p)) for p in dict.fromkeys(pitches) if int(p) >= 16]
    return found


def grids_by_name(entries: Sequence[SlideEntry]) -> dict[SeamGrid, list[SlideEntry]]:
    """Group slides by the name of their grids, whose seams may lie elsewhere on each slide.

    Returns:
        A grid with seams at 0, or at unknown places; and the slides that were made on one like it.
    """
    found: dict[SeamGrid, list[SlideEntry]] = {}
    for entry in entries:
        for grid in known_grids(entry):
            named = grid if grid.rows is None else SeamGrid(grid.name, grid.pitch)
            found.setdefault(named, []).append(entry)
    return found


def own_grid(entry: SlideEntry, grid: SeamGrid) -> SeamGrid:
    """Return the grid of that name with the seams of this slide; ``grid`` where the slide names none."""
    return next((g for g in known_grids(entry) if (g.name, g.pitch) == (grid.name, grid.pitch)), grid)


def windows(entry: SlideEntry, mpp: float, side: int, *, seed: int, most: int = MOST_WINDOWS) -> list[Region]:
    """Return square windows that do not overlap: those with most tissue, at random among equals.

    Args:
        entry: the slide.
        mpp: µm/px of the windows; not finer than the slide's own.
        side: px; less where the slide is smaller.
        seed: of the choice among windows that are tissue alike.
        most: largest number of windows.

    Returns:
        At least 1 window, in pixels of the slide at ``mpp``, in order from the top.
    """
    height, width = (max(1, round(s * entry.mpp / mpp)) for s in (entry.height, entry.width))
    tall, wide = min(side, height), min(side, width)
    rows, cols = range(0, height - tall + 1, tall), range(0, width - wide + 1, wide)
    every = [Region(y, x, tall, wide) for y in rows for x in cols]
    shares = np.array([_tissue(entry, region, mpp) for region in every])
    # windows that are all tissue are alike: noise chooses among them
    noise = np.random.default_rng([seed, 0x3EA]).random(len(every)) * 0.1
    best = np.argsort(-(np.minimum(shares, 0.9) + noise))[:most]
    return [every[i] for i in sorted(best.tolist())]


def as_fine(entries: Sequence[SlideEntry], mpp: float) -> list[SlideEntry]:
    """Return the slides that can be read at a µm/px without being enlarged."""
    return [e for e in entries if e.mpp * FINEST <= mpp]


def some_slides(entries: Sequence[SlideEntry], most: int = MOST_SLIDES) -> list[SlideEntry]:
    """Return at most ``most`` of the slides, of different groups first, evenly by name."""
    ordered = sorted(entries, key=lambda e: e.slide)
    turns = turn_of_each([e.group for e in ordered])
    chosen = sorted(range(len(ordered)), key=lambda i: (turns[i], i))
    # one slide of each group; evenly by name where there are too many groups
    first = [i for i in chosen if turns[i] == 0]
    if len(first) > most:
        chosen = [first[int(i)] for i in np.linspace(0, len(first) - 1, most)]  # spread over the names
    return [ordered[i] for i in chosen[:most]]


def _tissue(entry: SlideEntry, window: Region, mpp: float) -> float:
    factor = mpp / entry.mask_mpp
    # at least one cell of the mask, however small the window
    rows = slice(int(window.y * factor), max(int(window.y * factor) + 1, int(window.y1 * factor)))
    cols = slice(int(window.x * factor), max(int(window.x * factor) + 1, int(window.x1 * factor)))
    part = entry.mask[rows, cols]
    return float(part.mean()) if part.size else 0.0

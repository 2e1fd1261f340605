"""Sets of slides to compare, and which of their slides give how many patches at which µm/px."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from wsigen.data.domains import expand
from wsigen.data.index import SlideEntry, SlideIndex
from wsigen.data.summary import independent_patches
from wsigen.data.survey import Failure, entries_of, survey_slides
from wsigen.errors import SlideError

STRIDES = 2
"""Patches of one slide may overlap by half: so many places per side of a patch along either axis."""
FEWEST = 16
"""A µm/px at which fewer patches can be had on one side is left out."""
CROWDED = 2
"""From so many patches per independent one on, a warning is due."""


@dataclass(frozen=True)
class SlideSet:
    """Slides that are compared as one.

    Attributes:
        name: what the report calls it.
        entries: its slides; splits mean nothing here.
        failures: slides that were left out, and why.
    """

    name: str
    entries: tuple[SlideEntry, ...]
    failures: tuple[Failure, ...] = ()

    def groups(self, patch: int, mpp: float) -> dict[str, list[SlideEntry]]:
        """The slides that can serve patches of ``patch`` px at ``mpp``, by group, both ordered by name."""
        usable: dict[str, list[SlideEntry]] = {}
        for entry in sorted(SlideIndex(self.entries).usable(patch, mpp), key=lambda e: (e.group, e.slide)):
            usable.setdefault(entry.group, []).append(entry)
        return usable


def load_set(
    name: str, slides: str | Sequence[str], table: Path | None = None, *, progress: bool = False
) -> SlideSet:
    """Look at every slide of a set once: its µm/px and where its tissue is.

    Args:
        name: of the set.
        slides: folders, slides and patterns, as for `wsigen.data.domains.expand`; or one index (.parquet).
        table: CSV with what the files do not say.
        progress: show a bar.

    Raises:
        SlideError: there is no slide, or none that can be used.
    """
    given = [slides] if isinstance(slides, str) else list(slides)
    if len(given) == 1 and given[0].endswith(".parquet"):
        return SlideSet(name, SlideIndex.load(Path(given[0])).entries)
    surveys, failures = survey_slides(expand(given), table, folder=Path(given[0]), progress=progress)
    return SlideSet(name, tuple(entries_of(surveys)), tuple(failures))


def refuse_common(one: SlideSet, other: SlideSet, why: str) -> None:
    """Refuse two sets that share a slide.

    Raises:
        SlideError: they do.
    """
    common = {e.path for e in one.entries} & {e.path for e in other.entries}
    if common:
        raise SlideError(min(common), f"is in {one.name} and in {other.name}; {why}")


def capacity(entry: SlideEntry, patch: int, mpp: float) -> int:
    """How many patches a slide may give: places half a patch apart on its tissue, at least 1.

    Args:
        entry: a slide that can serve them.
        patch: side, px.
        mpp: µm/px.
    """
    extent = patch * mpp
    sides = (entry.height * entry.mpp, entry.width * entry.mpp)
    places = math.prod(math.floor(abs(side - extent) / extent * STRIDES + 1e-6) + 1 for side in sides)
    return max(1, math.floor(places * min(1.0, 2 * entry.tissue_fraction)))


def allot(groups: Mapping[str, Sequence[SlideEntry]], patch: int, mpp: float, count: int) -> dict[str, int]:
    """Share ``count`` patches out: every group as many, within it slides by their area of tissue.

    Args:
        groups: slides that can serve the patches, by group.
        patch: side, px.
        mpp: µm/px.
        count: how many are wanted; fewer are given where the slides have no more, see `capacity`.

    Returns:
        Slide to its number of patches, without those that give none.

    Determinism: depends on the slides and the numbers alone.
    """
    room = {group: sum(capacity(e, patch, mpp) for e in entries) for group, entries in groups.items()}
    shares = level(room, count)
    found: dict[str, int] = {}
    for group, entries in groups.items():
        areas = {e.slide: e.tissue_um2 for e in entries}
        rooms = {e.slide: capacity(e, patch, mpp) for e in entries}
        found |= _proportional(areas, rooms, shares[group])
    return {slide: number for slide, number in found.items() if number}


def independent(entries: Sequence[SlideEntry], patch: int, mpp: float) -> int:
    """The area of tissue of slides counted in patches."""
    return sum(independent_patches(e, patch, mpp) for e in entries)


def level(room: Mapping[str, int], count: int) -> dict[str, int]:
    """Equal shares of a number, none above its room; who gets one more follows from the names.

    Args:
        room: name to the most that it can take.
        count: what is shared out.
    """
    water = max((h for h in range(count + 1) if sum(min(r, h) for r in room.values()) <= count), default=0)
    shares = {name: min(most, water) for name, most in room.items()}
    left = count - sum(shares.values())
    for name in [n for n in sorted(room, key=_shuffle_key) if room[n] > water][:left]:
        shares[name] += 1
    return shares


def _proportional(weights: Mapping[str, float], room: Mapping[str, int], count: int) -> dict[str, int]:
    """``count`` by weight, none above its room: always the one that is furthest behind its share."""
    given = dict.fromkeys(weights, 0)
    for _ in range(count):
        behind = [n for n in given if given[n] < room[n]]
        best = min(behind, key=lambda n: ((given[n] + 0.5) / max(weights[n], 1e-9), n))
        given[best] += 1
    return given


def _shuffle_key(name: str) -> str:
    return sha256(name.encode()).hexdigest()

"""Sets of slides to compare, and the number of patches that each slide gives at each µm/px."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from wsigen.data.domains import expand
from wsigen.data.find import Failure
from wsigen.data.index import FINEST, SlideEntry, SlideIndex
from wsigen.data.summary import independent_patches
from wsigen.data.survey import TABLE_FIX, entries_of, survey_slides
from wsigen.errors import InvalidValueError
from wsigen.evaluation.comparison import few_groups
from wsigen.evaluation.spots import Spot, spots

# Patches of one slide may overlap by half: number of places per side of a patch along either axis
STRIDES = 2
FEWEST = 16  # A µm/px at which a side gives fewer patches is left out
CROWDED = 2  # Patches per independent one from which on a warning is due


@dataclass(frozen=True)
class SlideSet:
    """Slides that are compared as one.

    Attributes:
        name: in the report.
        entries: its slides; splits mean nothing here.
        failures: slides that were left out, and why.
    """

    name: str
    entries: tuple[SlideEntry, ...]
    failures: tuple[Failure, ...] = ()

    def groups(self, patch: int, mpp: float) -> dict[str, list[SlideEntry]]:
        """Return the slides that can serve patches of ``patch`` px at ``mpp``, by group, ordered by name."""
        usable: dict[str, list[SlideEntry]] = {}
        for entry in sorted(SlideIndex(self.entries).usable(patch, mpp), key=lambda e: (e.group, e.slide)):
            usable.setdefault(entry.group, []).append(entry)
        return usable

    def spots(self, patch: int, mpp: float, count: int) -> list[Spot]:
        """Return the places of at most ``count`` patches, shared out as `allot` does."""
        return spots(self.entries, allot(self.groups(patch, mpp), patch, mpp, count), mpp, patch)

    def room(self, patch: int, mpp: float) -> int:
        """Return how many different patches its slides may give."""
        return sum(capacity(e, patch, mpp) for group in self.groups(patch, mpp).values() for e in group)


@dataclass(frozen=True)
class ScalePlan:
    """Numbers of patches at one µm/px.

    Attributes:
        mpp: µm/px.
        count: patches of each set, and of the real slides, that are compared.
        allotted: set to slide to number; the real slides give twice as many where they have them, so that
            halves of them can be compared as the sets are.
        warnings: reasons why the numbers mean less.
    """

    mpp: float
    count: int
    allotted: dict[str, dict[str, int]]
    warnings: tuple[str, ...] = ()


def load_set(
    name: str,
    slides: str | Sequence[str],
    table: Path | None = None,
    *,
    mpp: float | None = None,
    progress: bool = False,
    mpp_fix: str = TABLE_FIX,
) -> SlideSet:
    """Survey every slide of a set once: its µm/px and where its tissue is.

    Args:
        name: of the set.
        slides: folders, slides and patterns, as for `wsigen.data.domains.expand`; or one index (.parquet).
        table: CSV with what the files do not say.
        mpp: µm/px of the slides for which neither their files nor the table state it.
        progress: show a bar.
        mpp_fix: what to do about slides whose µm/px are not known, for messages.

    Raises:
        SlideError: there is no slide, or none that can be used.
    """
    given = [slides] if isinstance(slides, str) else list(slides)
    if len(given) == 1 and given[0].endswith(".parquet"):
        return SlideSet(name, SlideIndex.load(Path(given[0])).entries)
    left_out: list[Failure] = []
    files = expand(given, left_out)
    surveys, failures = survey_slides(
        files, table, folder=Path(given[0]), progress=progress, mpp=mpp, mpp_fix=mpp_fix
    )
    return SlideSet(name, tuple(entries_of(surveys)), (*left_out, *failures))


def plan_scales(
    sets: Sequence[SlideSet],
    real: SlideSet,
    train: SlideSet | None,
    *,
    scales: Sequence[float],
    patch: int,
    patches: int,
) -> tuple[list[ScalePlan], list[str]]:
    """Share patches out: the same number of every set and of the real slides, at every µm/px all can serve.

    Args:
        sets: to be judged.
        real: to judge by.
        train: slides the model learnt from, which give patches as well.
        scales: the µm/px asked for.
        patch: side, px.
        patches: of a side, over all µm/px.

    Returns:
        A plan for each µm/px, and warnings about those that are left out.

    Raises:
        InvalidValueError: no µm/px is left.
    """
    reasons = {mpp: _unserved([*sets, real], patch, mpp) for mpp in scales}
    warnings = [f"{mpp:g} µm/px is left out: {reason}" for mpp, reason in reasons.items() if reason]
    served = [mpp for mpp, reason in reasons.items() if not reason]
    if not served:
        fixes = "use a smaller --patch, other --mpp, or larger slides; `wsigen index` shows what they offer"
        raise InvalidValueError(f"nothing can be compared: {'; '.join(warnings)}; {fixes}")
    # the real slides must fill two halves
    rooms = {m: min(real.room(patch, m) // 2, *(s.room(patch, m) for s in sets)) for m in served}
    counts = level({f"{m:g}": room for m, room in rooms.items()}, patches)
    if sum(counts.values()) < patches:
        warnings.append(
            f"{sum(counts.values())} patches a side instead of {patches}: the slides have no room for more "
            "that differ; give more or larger ones, or a smaller --patch"
        )
    drawn = [*sets, real, *([train] if train else [])]
    plans = [_plan(drawn, real, mpp, patch, counts[f"{mpp:g}"]) for mpp in served]
    return plans, [*warnings, *_crowded([*sets, real], plans, patch)]


def capacity(entry: SlideEntry, patch: int, mpp: float) -> int:
    """Return how many patches a slide may give: places half a patch apart on its tissue, at least 1."""
    extent = patch * mpp
    sides = (entry.height * entry.mpp, entry.width * entry.mpp)
    # a slide of exactly so many strides has a place at either end: 1e-6 guards against rounding
    places = math.prod(math.floor(abs(side - extent) / extent * STRIDES + 1e-6) + 1 for side in sides)
    # a patch is at least half tissue: twice as many places as tissue
    return max(1, math.floor(places * min(1.0, 2 * entry.tissue_fraction)))


def allot(groups: Mapping[str, Sequence[SlideEntry]], patch: int, mpp: float, count: int) -> dict[str, int]:
    """Share ``count`` patches out: equally over groups, within a group by the slides' area of tissue.

    Args:
        groups: slides that can serve the patches, by group.
        patch: side, px.
        mpp: µm/px.
        count: number of patches; fewer are given where the slides have no more, see `capacity`.

    Returns:
        Slide to its number of patches, without those that give none.
    """
    room = {group: sum(capacity(e, patch, mpp) for e in entries) for group, entries in groups.items()}
    shares = level(room, count)
    found: dict[str, int] = {}
    for group, entries in groups.items():
        areas = {e.slide: e.tissue_um2 for e in entries}
        rooms = {e.slide: capacity(e, patch, mpp) for e in entries}
        found |= _proportional(areas, rooms, shares[group])
    return {slide: number for slide, number in found.items() if number}


def level(room: Mapping[str, int], count: int) -> dict[str, int]:
    """Share a number out equally, none above its room; hashed names decide who gets one more.

    Args:
        room: name to its largest share.
        count: number to share out.
    """
    # the highest level to which all can be filled
    water = max((h for h in range(count + 1) if sum(min(r, h) for r in room.values()) <= count), default=0)
    shares = {name: min(most, water) for name, most in room.items()}
    left = count - sum(shares.values())
    # no name comes first because of its letters
    order = sorted(room, key=lambda name: sha256(name.encode()).hexdigest())
    for name in [n for n in order if room[n] > water][:left]:
        shares[name] += 1
    return shares


def describe(plans: Sequence[ScalePlan], warnings: Sequence[str], sets: Iterable[SlideSet]) -> str:
    """Format the plans as a table for people."""
    lines = [f"{'set':<12} {'slide':<44} {'µm/px':>6}  " + "".join(f"{p.mpp:>9g}" for p in plans)]
    for one in sets:
        for entry in {e.slide: e for e in one.entries}.values():
            counts = "".join(f"{p.allotted.get(one.name, {}).get(entry.slide, 0) or '·':>9}" for p in plans)
            lines.append(f"{one.name:<12} {entry.slide[-44:]:<44} {entry.mpp:>6.3g}  {counts}")
        totals = "".join(f"{sum(p.allotted.get(one.name, {}).values()):>9}" for p in plans)
        lines.append(f"{one.name:<12} {'together':<44} {'':>6}  {totals}")
    lines.append(f"{'compared, a side':<57} {'':>6}  " + "".join(f"{p.count:>9}" for p in plans))
    notes = [*warnings, *(w for p in plans for w in p.warnings)]
    return "\n".join([*lines, *(f"warning: {note}" for note in notes)])


def _unserved(sets: Sequence[SlideSet], patch: int, mpp: float) -> str | None:
    """Return why not all sets can be compared at a µm/px; the last of them are the real slides."""
    for one in sets:
        if not one.groups(patch, mpp):
            finest = min(e.mpp for e in one.entries)
            why = (
                f"the finest has {finest:g} µm/px, and nothing is enlarged"
                if finest * FINEST > mpp
                else f"{patch} px there are {patch * mpp:g} µm, wider than the slides"
            )
            return f"no slide of {one.name} serves {patch} px patches at it ({why})"
        room, least = one.room(patch, mpp), FEWEST * (2 if one is sets[-1] else 1)
        if room < least:
            return (
                f"the slides of {one.name} have room for {room} different patches of {patch} px "
                f"({patch * mpp:g} µm) only, {least} are the least"
            )
    return None


def _plan(sets: Sequence[SlideSet], real: SlideSet, mpp: float, patch: int, count: int) -> ScalePlan:
    groups = {s.name: s.groups(patch, mpp) for s in sets}
    allotted = {
        name: allot(g, patch, mpp, 2 * count if name == real.name else count) for name, g in groups.items()
    }
    cases = few_groups(list(groups[real.name]))
    return ScalePlan(mpp, count, allotted, (f"{mpp:g} µm/px: {cases}",) if cases else ())


def _crowded(sets: Sequence[SlideSet], plans: Sequence[ScalePlan], patch: int) -> list[str]:
    """Warn of each set whose patches overlap much, and at which µm/px."""
    found = []
    for one in sets:
        places = []
        for plan in plans:
            given = plan.allotted[one.name]
            drawn = sum(given.values())
            area = sum(independent_patches(e, patch, plan.mpp) for e in one.entries if e.slide in given)
            if drawn > CROWDED * area:
                places.append(f"{drawn} at {plan.mpp:g} µm/px, where {area} fit side by side")
        if places:
            found.append(f"patches of {one.name} overlap and say less than their number: {'; '.join(places)}")
    return found


def _proportional(weights: Mapping[str, float], room: Mapping[str, int], count: int) -> dict[str, int]:
    """Share ``count`` out by weight, none above its room: always to the one furthest below its share."""
    given = dict.fromkeys(weights, 0)
    for _ in range(count):
        waiting = [n for n in given if given[n] < room[n]]
        # Webster's rule: the half makes shares round to the nearest number
        best = min(waiting, key=lambda n: ((given[n] + 0.5) / max(weights[n], 1e-9), n))
        given[best] += 1
    return given

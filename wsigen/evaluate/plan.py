"""How many patches of which slides are compared at which µm/px, before any is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wsigen.data.index import SlideEntry
from wsigen.errors import InvalidValueError
from wsigen.evaluate.sets import CROWDED, FEWEST, SlideSet, allot, capacity, independent, level
from wsigen.evaluate.splits import shared_groups


@dataclass(frozen=True)
class ScalePlan:
    """What is drawn at one µm/px.

    Attributes:
        mpp: µm/px.
        count: patches of each set, and of the real slides, that are compared.
        allotted: set to slide to number; the real ones are twice as many where they have them, so that
            halves of them can be compared as the sets are.
        warnings: what the numbers mean less for.
    """

    mpp: float
    count: int
    allotted: dict[str, dict[str, int]]
    warnings: tuple[str, ...] = ()


def plan_scales(
    sets: Sequence[SlideSet],
    real: SlideSet,
    train: SlideSet | None,
    *,
    scales: Sequence[float],
    patch: int,
    patches: int,
) -> tuple[list[ScalePlan], list[str]]:
    """Decide on numbers: the same of every set and of the real slides, at every µm/px that all can serve.

    Args:
        sets: to be judged.
        real: to judge by.
        train: what the model learnt from, drawn as well.
        scales: µm/px that are wanted.
        patch: side, px.
        patches: of a side, over all µm/px.

    Returns:
        A plan for each µm/px, and warnings about those that are left out.

    Raises:
        InvalidValueError: no µm/px is left.
    """
    served, warnings = [], []
    for mpp in scales:
        reason = _unserved([*sets, real], patch, mpp)
        if reason:
            warnings.append(f"{mpp:g} µm/px is left out: {reason}")
        else:
            served.append(mpp)
    if not served:
        fixes = "use a smaller --patch, other --mpp, or larger slides; `wsigen index` shows what they offer"
        raise InvalidValueError(f"nothing can be compared: {'; '.join(warnings)}; {fixes}")
    rooms = {f"{mpp:g}": _common_room(sets, real, patch, mpp) for mpp in served}
    counts = level(rooms, patches)
    if sum(counts.values()) < patches:
        warnings.append(
            f"{sum(counts.values())} patches a side instead of {patches}: the slides have no room for more "
            "that differ; give more or larger ones, or a smaller --patch"
        )
    plans = [_plan(sets, real, train, mpp, patch, counts[f"{mpp:g}"]) for mpp in served]
    return plans, [*warnings, *_crowded(sets, real, plans, patch)]


def describe(plans: Sequence[ScalePlan], warnings: Sequence[str], sets: Sequence[SlideSet]) -> str:
    """The plan as a table for people."""
    slides = {s.name: {e.slide: e for e in s.entries} for s in sets}
    lines = [f"{'set':<12} {'slide':<44} {'µm/px':>6}  " + "".join(f"{p.mpp:>9g}" for p in plans)]
    for name, entries in slides.items():
        for slide, entry in entries.items():
            counts = "".join(f"{p.allotted.get(name, {}).get(slide, 0) or '·':>9}" for p in plans)
            lines.append(f"{name:<12} {slide[-44:]:<44} {entry.mpp:>6.3g}  {counts}")
        totals = "".join(f"{sum(p.allotted.get(name, {}).values()):>9}" for p in plans)
        lines.append(f"{name:<12} {'together':<44} {'':>6}  {totals}")
    lines.append(f"{'compared, a side':<57} {'':>6}  " + "".join(f"{p.count:>9}" for p in plans))
    notes = [*warnings, *(w for p in plans for w in p.warnings)]
    return "\n".join([*lines, *(f"warning: {note}" for note in notes)])


def _unserved(sets: Sequence[SlideSet], patch: int, mpp: float) -> str | None:
    """Why not all sets can be compared at a µm/px; the last of them are the real slides."""
    for one in sets:
        groups = one.groups(patch, mpp)
        if not groups:
            finest = min(e.mpp for e in one.entries)
            why = (
                f"the finest has {finest:g} µm/px, and nothing is enlarged"
                if finest * 0.95 > mpp
                else f"{patch} px there are {patch * mpp:g} µm, wider than the slides"
            )
            return f"no slide of {one.name} serves {patch} px patches at it ({why})"
        room, least = _room(groups, patch, mpp), FEWEST * (2 if one is sets[-1] else 1)
        if room < least:
            return (
                f"the slides of {one.name} have room for {room} different patches of {patch} px "
                f"({patch * mpp:g} µm) only, {least} are the least"
            )
    return None


def _plan(
    sets: Sequence[SlideSet],
    real: SlideSet,
    train: SlideSet | None,
    mpp: float,
    patch: int,
    count: int,
) -> ScalePlan:
    groups = {s.name: s.groups(patch, mpp) for s in (*sets, real, *([train] if train else []))}
    allotted = {
        name: allot(g, patch, mpp, 2 * count if name == real.name else count) for name, g in groups.items()
    }
    cases = shared_groups(list(groups[real.name]))
    warnings = (f"{mpp:g} µm/px: {cases}",) if cases else ()
    return ScalePlan(mpp, count, allotted, warnings)


def _common_room(sets: Sequence[SlideSet], real: SlideSet, patch: int, mpp: float) -> int:
    """How many patches every set can give, and either half of the real slides."""
    halves = _room(real.groups(patch, mpp), patch, mpp) // 2
    return min(halves, *(_room(s.groups(patch, mpp), patch, mpp) for s in sets))


def _room(groups: dict[str, list[SlideEntry]], patch: int, mpp: float) -> int:
    return sum(capacity(e, patch, mpp) for entries in groups.values() for e in entries)


def _crowded(sets: Sequence[SlideSet], real: SlideSet, plans: Sequence[ScalePlan], patch: int) -> list[str]:
    """Of each set at which µm/px its patches overlap much."""
    found = []
    for one in (*sets, real):
        places = []
        for plan in plans:
            given = plan.allotted[one.name]
            drawn = sum(given.values())
            area = independent([e for e in one.entries if e.slide in given], patch, plan.mpp)
            if drawn > CROWDED * area:
                places.append(f"{drawn} at {plan.mpp:g} µm/px, where {area} fit side by side")
        if places:
            found.append(f"patches of {one.name} overlap and say less than their number: {'; '.join(places)}")
    return found

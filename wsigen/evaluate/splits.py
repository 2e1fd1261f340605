"""Real against real: splits of the real patches into halves that share no slide, and floors from them.

The floor of a measure is what a perfect generator would get: the measure between one half of the real slides
and the other, with as many patches a side as are compared elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wsigen.errors import InvalidValueError
from wsigen.evaluate.estimate import MIN_GROUPS, Estimate, jackknife

SPLITS = 10


@dataclass(frozen=True)
class Split:
    """Indices of the patches of two halves, of equal number within every stratum."""

    one: np.ndarray
    other: np.ndarray


def group_splits(
    groups: Sequence[str],
    strata: Sequence[float],
    counts: Mapping[float, int],
    *,
    seed: int,
    draws: int = SPLITS,
) -> list[Split]:
    """Random halves of the groups (slides, cases); of a single group, halves of its patches.

    Args:
        groups: of each patch.
        strata: µm/px of each patch: both halves get equally many of each.
        counts: µm/px to the most patches per half.
        seed: of the draws.
        draws: how many splits; no more than there are different ones.

    Returns:
        Splits with at least 2 patches a side in every stratum; none where that cannot be.

    Determinism: same arguments, same splits.
    """
    rng = np.random.default_rng([seed, 0x5911])
    labels, values = np.asarray(groups), np.asarray(strata, np.float64)
    names = np.unique(labels)
    draws = min(draws, max(1, 2 ** (len(names) - 1) - 1)) if len(names) > 1 else draws
    found: dict[bytes, Split] = {}
    for _ in range(20 * draws):
        first = _half_of(labels, rng)
        split = _matched(first, values, counts, rng)
        key = np.packbits(first if first[0] else ~first).tobytes()
        if split is not None and key not in found:
            found[key] = split
        if len(found) == draws:
            break
    return list(found.values())


def shared_groups(groups: Sequence[str]) -> str | None:
    """Why halves are not those of different slides, or say little; None if all is well."""
    number = len(set(groups))
    if number == 1:
        return (
            "one real slide (or case) only: the floor compares halves of its own patches, and is too low; "
            "give more real slides"
        )
    if number < MIN_GROUPS:
        return (
            f"{number} real slides (or cases) only: the floor's interval is that of their patches, and "
            "says little about other slides"
        )
    return None


def floor(
    measure: Callable[[np.ndarray, np.ndarray], Sequence[float] | np.ndarray],
    splits: Sequence[Split],
    groups: Sequence[str],
    *,
    seed: int = 0,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> list[Estimate]:
    """Floors of a measure that returns one or more numbers: mean and 95 % range over the splits.

    With fewer than 4 groups there are too few splits; the interval is then that of halves of the patches of
    one split.

    Args:
        measure: given the indices of two halves.
        splits: from `group_splits`.
        groups: of each patch.
        seed: of draws within a split.
        bounds: the range of the measure.

    Raises:
        InvalidValueError: no splits.
    """
    if not splits:
        raise InvalidValueError("no floor: the real slides are too few, or give too few patches; give more")
    values = np.stack([np.atleast_1d(np.asarray(measure(s.one, s.other), np.float64)) for s in splits])
    centre = values.mean(axis=0)
    if len(set(groups)) >= MIN_GROUPS:
        low, high = np.percentile(values, [2.5, 97.5], axis=0)
        method = f"{len(splits)} splits of the real slides"
        rows = zip(centre, low, high, strict=True)
        return [Estimate(float(v), float(a), float(b), method) for v, a, b in rows]
    first = splits[0]
    return jackknife(
        lambda i, j: measure(first.one[i], first.other[j]),
        (len(first.one), len(first.other)),
        values=list(centre),
        draws=20,
        seed=seed,
        bounds=bounds,
    )


def reference(groups: Sequence[str], count: int, *, seed: int) -> np.ndarray:
    """Sorted indices of ``count`` patches to compare with, as evenly over the groups as can be.

    Args:
        groups: of each patch.
        count: how many; all of them where there are no more.
        seed: of the draw.
    """
    rng = np.random.default_rng([seed, 0x4EF])
    order = rng.permutation(len(groups))
    seen: dict[str, int] = {}
    turn = np.empty(len(groups), np.int64)
    for i in order:
        group = groups[int(i)]
        turn[i] = seen.get(group, 0)
        seen[group] = int(turn[i]) + 1
    return np.sort(order[np.argsort(turn[order], kind="stable")][:count])


def _half_of(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which patches are in the first half: whole groups, the halves as even as a greedy choice makes them."""
    names, member = np.unique(labels, return_inverse=True)
    first = np.zeros(len(labels), bool)
    if len(names) == 1:
        first[rng.choice(len(labels), len(labels) // 2, replace=False)] = True
        return first
    sizes, totals, chosen = np.bincount(member), [0, 0], np.zeros(len(names), bool)
    for group in np.argsort(-sizes * rng.uniform(0.7, 1.0, len(names))):  # large ones first, or they tip it
        side = int(totals[1] < totals[0])
        totals[side] += int(sizes[group])
        chosen[group] = side == 0
    return chosen[member]


def _matched(
    first: np.ndarray, strata: np.ndarray, counts: Mapping[float, int], rng: np.random.Generator
) -> Split | None:
    sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for stratum in np.unique(strata):
        halves = [np.flatnonzero((first == side) & (strata == stratum)) for side in (True, False)]
        number = min(counts[float(stratum)], *map(len, halves))
        if number < 2:
            return None
        for side, half in zip(sides, halves, strict=True):
            side.append(rng.choice(half, number, replace=False))
    return Split(*(np.sort(np.concatenate(side)) for side in sides))

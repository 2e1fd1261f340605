"""A set beside the real slides, and the real slides beside themselves: halves and floors.

The floor of a measure is what a perfect generator would get: the measure between one half of the real slides
and the other, with as many patches a side as are compared elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from wsigen.errors import InvalidValueError
from wsigen.evaluation.estimate import MIN_GROUPS, Estimate, jackknife, run_measure
from wsigen.evaluation.results import Floors, Result, make_rows
from wsigen.evaluation.verdict import ANY, Metric

if TYPE_CHECKING:
    from wsigen.evaluation.patches import Patches
    from wsigen.evaluation.samples import Samples
    from wsigen.evaluation.stains import Stains

SPLITS = 10
EVEN = 0.8  # Below this share of the compared patches, a floor of fewer patches comes with a warning

Numbers = Sequence[float] | np.ndarray
Statistic = Callable[[np.ndarray, np.ndarray], Numbers]  # Of the indices of two halves
# Samples of a set, with the slide or case of each in ``groups``
Data = TypeVar("Data", bound="Patches | Samples | Stains")
Level = Callable[[Data, np.ndarray], Numbers]  # Of samples and the indices of those that count
Distance = Callable[[Data, np.ndarray, Data, np.ndarray], Numbers]  # The same of two sides


@dataclass(frozen=True)
class Halves:
    """Indices of the patches of two halves, of equal number within every stratum."""

    one: np.ndarray
    other: np.ndarray


def split_halves(
    groups: Sequence[str],
    strata: Sequence[float],
    counts: Mapping[float, int],
    *,
    seed: int,
) -> list[Halves]:
    """Split the groups (slides, cases) into random halves; of a single group, its patches.

    Args:
        groups: of each patch.
        strata: µm/px of each patch: both halves get equally many of each.
        counts: µm/px to the most patches per half.
        seed: of the draws.

    Returns:
        10 splits, or fewer where there are not so many different ones; at least 2 patches a side in every
        stratum; none where that is impossible.
    """
    rng = np.random.default_rng([seed, 0x5911])
    labels, values = np.asarray(groups), np.asarray(strata, np.float64)
    names = np.unique(labels)
    # n groups have 2ⁿ⁻¹ - 1 splits into two halves that are not empty
    draws = min(SPLITS, max(1, 2 ** (len(names) - 1) - 1)) if len(names) > 1 else SPLITS
    found: dict[bytes, Halves] = {}
    # a draw may repeat another or be too uneven: hence more attempts than splits
    for _ in range(20 * draws):
        first = _half_of(labels, rng)
        split = _matched(first, values, counts, rng)
        # the same halves in either order have one key
        key = np.packbits(first if first[0] else ~first).tobytes()
        if split is not None and key not in found:
            found[key] = split
        if len(found) == draws:
            break
    return list(found.values())


def few_groups(groups: Sequence[str]) -> str | None:
    """Return a warning where halves are not of different slides, or of too few; None if all is well."""
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
    measure: Statistic,
    splits: Sequence[Halves],
    groups: Sequence[str],
    *,
    seed: int = 0,
    bounds: tuple[float, float] = ANY,
) -> list[Estimate]:
    """Return the mean and the 95 % range of a measure over splits of the real slides.

    With fewer than 4 groups there are too few splits; the interval is then that of halves of the patches of
    one split.

    Args:
        measure: given the indices of two halves.
        splits: from `split_halves`.
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
    # too few splits for a range
    first = splits[0]
    return jackknife(
        lambda i, j: measure(first.one[i], first.other[j]),
        (len(first.one), len(first.other)),
        values=list(centre),
        draws=20,
        seed=seed,
        bounds=bounds,
    )


def evenly_over_groups(groups: Sequence[str], count: int, *, seed: int) -> np.ndarray:
    """Return sorted indices of ``count`` random patches, as evenly over the groups as can be."""
    rng = np.random.default_rng([seed, 0x4EF])
    order = rng.permutation(len(groups))
    turns = np.empty(len(groups), np.int64)
    # first of every group, then the second of every group, in random order
    turns[order] = turn_of_each([groups[int(i)] for i in order])
    return np.sort(order[np.argsort(turns[order], kind="stable")][:count])


def turn_of_each(groups: Sequence[str]) -> list[int]:
    """Return how many items of the same group come before each: the first of every group have turn 0."""
    seen: dict[str, int] = {}
    turns = []
    for group in groups:
        turns.append(seen.get(group, 0))
        seen[group] = turns[-1] + 1
    return turns


class RealSide(Generic[Data]):
    """Real samples and their halves; floors are computed once for all sets.

    Args:
        every: all real samples.
        strata: µm/px of each.
        counts: µm/px to the most samples per half.
        seed: of draws.
        compared: those that sets are compared with; halves that are much smaller are warned of. None: all.
    """

    def __init__(
        self,
        every: Data,
        strata: Sequence[float],
        counts: Mapping[float, int],
        seed: int,
        compared: Data | None = None,
    ) -> None:
        self.every, self.strata, self.counts, self.seed = every, strata, counts, seed
        self.compared = every if compared is None else compared
        self._floors: dict[str, Floors] = {}

    @property
    def groups(self) -> Sequence[str]:
        """Slide or case of each sample."""
        return self.every.groups

    @property
    def cases(self) -> int:
        """Number of real slides or cases."""
        return len(set(self.groups))

    @cached_property
    def splits(self) -> list[Halves]:
        """Halves that share no slide."""
        return split_halves(self.groups, self.strata, self.counts, seed=self.seed)

    def floor(
        self,
        name: str,
        measure: Statistic,
        bounds: tuple[float, float] = ANY,
        splits: Sequence[Halves] | None = None,
    ) -> Floors:
        """Return floors and warnings; None for the floors where there are no halves.

        Args:
            name: under which the floors are kept for the next set.
            measure: given the indices of two halves.
            bounds: its range.
            splits: other halves than ``self.splits``.
        """
        if name not in self._floors:
            halves = self.splits if splits is None else splits
            floors, notes = run_measure(
                lambda: floor(measure, halves, self.groups, seed=self.seed, bounds=bounds)
            )
            self._floors[name] = floors, (*notes, *self._uneven(halves))
        return self._floors[name]

    def level(self, name: str, measure: Callable[[np.ndarray], Numbers]) -> Floors:
        """Return the level of all real samples, with the range that halves of their slides have.

        Args:
            name: under which the floors are kept for the next set.
            measure: given the indices of some samples.
        """
        whole, notes = self.floor(name, lambda i, j: measure(np.concatenate([i, j])))
        return centred(whole, self.halves(name, measure)), notes

    def halves(self, name: str, measure: Callable[[np.ndarray], Numbers]) -> Sequence[Estimate] | None:
        """Return the floors of a measure of single halves; None where there are no halves."""
        return self.floor(f"{name} of halves", lambda i, _: measure(i))[0]

    def _uneven(self, halves: Sequence[Halves]) -> tuple[str, ...]:
        compared = len(self.compared.groups)
        # all samples are compared on purpose: their halves are always smaller
        if not halves or self.compared is self.every:
            return ()
        fewest = min(len(h.one) for h in halves)
        if fewest >= EVEN * compared:
            return ()
        return (f"the floor is of {fewest} patches a side, what stands beside it of {compared}",)


def real_patches(patches: Patches, counts: Mapping[float, int], seed: int) -> RealSide[Patches]:
    """Take the real patches at one µm/px, or at several together.

    As many are compared as of a set, evenly over the slides.

    Args:
        patches: twice as many as are compared, where there are so many.
        counts: µm/px to the number of patches compared.
        seed: of draws.
    """
    chosen = []
    # by µm/px, so that each has its share in a comparison of all together
    for mpp in np.unique(patches.mpp):
        at = np.flatnonzero(patches.mpp == mpp)
        groups = [patches.groups[i] for i in at]
        chosen.append(at[evenly_over_groups(groups, counts[float(mpp)], seed=seed)])
    compared = patches.take(np.concatenate(chosen))
    return RealSide(patches, patches.mpp.tolist(), counts, seed, compared)


@dataclass(frozen=True)
class Comparison(Generic[Data]):
    """One set against the real slides.

    Attributes:
        ours: samples of the set.
        reals: the real ones.
        mpp: µm/px; None for all together.
    """

    ours: Data
    reals: RealSide[Data]
    mpp: float | None

    @property
    def seed(self) -> int:
        """Seed of draws."""
        return self.reals.seed

    @property
    def theirs(self) -> Data:
        """The real samples that are compared."""
        return self.reals.compared

    @property
    def samples(self) -> str:
        """Numbers of patches, in words."""
        ours, theirs = len(self.ours.groups), len(self.theirs.groups)
        return f"{ours} patches a side" if ours == theirs else f"{ours} and {theirs} patches"

    def rows(
        self,
        metrics: Sequence[Metric],
        measure: Callable[[], Sequence[Estimate]],
        floors: Floors,
        labels: Sequence[str] | None = None,
    ) -> list[Result]:
        """Run a measure; return a row of the report for each metric, all with its warnings.

        Args:
            metrics: of the measure's numbers.
            measure: may warn or fail, as for `run_measure`.
            floors: of `RealSide`.
            labels: of the rows.
        """
        values, notes = run_measure(measure)
        return make_rows(
            metrics,
            self.mpp,
            values,
            floors,
            notes,
            samples=self.samples,
            labels=labels,
            cases=self.reals.cases,
        )

    def level_rows(self, metrics: Sequence[Metric], name: str, measure: Level[Data]) -> list[Result]:
        """Compare numbers that each side has by itself, beside those of all real samples."""
        floors = self.reals.level(name, lambda i: measure(self.reals.every, i))
        return self.rows(metrics, lambda: self.levels(measure), floors)

    def distance_rows(
        self,
        metrics: Sequence[Metric],
        name: str,
        measure: Distance[Data],
        *,
        draws: int = 20,
        bounds: tuple[float, float] = ANY,
        labels: Sequence[str] | None = None,
    ) -> list[Result]:
        """Compare numbers between two sides, beside those between halves of the real samples."""
        every = self.reals.every
        floors = self.reals.floor(name, lambda i, j: measure(every, i, every, j), bounds)
        return self.rows(metrics, lambda: self.distances(measure, draws, bounds), floors, labels)

    def levels(self, measure: Level[Data]) -> list[Estimate]:
        """Return numbers that the set has by itself, with intervals."""
        return jackknife(lambda i: measure(self.ours, i), (self.ours.groups,), seed=self.seed)

    def distances(
        self, measure: Distance[Data], draws: int = 20, bounds: tuple[float, float] = ANY
    ) -> list[Estimate]:
        """Return numbers between the set and the real samples, with intervals."""
        return jackknife(
            lambda i, j: measure(self.ours, i, self.theirs, j),
            (self.ours.groups, self.theirs.groups),
            draws=draws,
            seed=self.seed,
            bounds=bounds,
        )


def centred(values: Sequence[Estimate] | None, halves: Sequence[Estimate] | None) -> list[Estimate] | None:
    """Give levels of all real samples the range that halves of their slides have around their mean."""
    if values is None or halves is None:
        return None
    return [
        Estimate(v.value, v.value + h.low - h.value, v.value + h.high - h.value, h.method)
        for v, h in zip(values, halves, strict=True)
    ]


def _half_of(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return which patches are in the first half: whole groups, as evenly as a greedy choice can."""
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
) -> Halves | None:
    """Draw equally many patches of each stratum from both halves; None where one has fewer than 2."""
    sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for stratum in np.unique(strata):
        halves = [np.flatnonzero((first == side) & (strata == stratum)) for side in (True, False)]
        number = min(counts[float(stratum)], *map(len, halves))
        if number < 2:
            return None
        for side, half in zip(sides, halves, strict=True):
            side.append(rng.choice(half, number, replace=False))
    return Halves(*(np.sort(np.concatenate(side)) for side in sides))

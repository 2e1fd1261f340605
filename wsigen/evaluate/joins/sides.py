"""What a join is given: the patches of one set, and the real ones with their halves and floors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from wsigen.evaluate.collect import different, heeding
from wsigen.evaluate.estimate import Estimate
from wsigen.evaluate.observe import Patches
from wsigen.evaluate.results import Result
from wsigen.evaluate.splits import Split, floor, group_splits, reference

EVEN = 0.8
"""Below this share of the patches a floor is of fewer ones, and says so."""

Pair = Callable[[np.ndarray, np.ndarray], Sequence[float] | np.ndarray]
Floors = tuple[list[Estimate] | None, tuple[str, ...]]


@dataclass
class Reals:
    """The real patches at one µm/px, or at several together; floors are computed once for all sets.

    Attributes:
        patches: twice as many as are compared, where there are so many.
        counts: µm/px to how many are compared.
        seed: of draws.
    """

    patches: Patches
    counts: dict[float, int]
    seed: int
    _floors: dict[str, Floors] = field(default_factory=dict)

    @cached_property
    def splits(self) -> list[Split]:
        """Halves that share no slide."""
        return group_splits(self.patches.groups, self.patches.mpp.tolist(), self.counts, seed=self.seed)

    @cached_property
    def compared(self) -> Patches:
        """As many as of a set, evenly over the slides."""
        indices = []
        for mpp in np.unique(self.patches.mpp):
            at = np.flatnonzero(self.patches.mpp == mpp)
            groups = [self.patches.groups[i] for i in at]
            indices.append(at[reference(groups, self.counts[float(mpp)], seed=self.seed)])
        return self.patches.take(np.concatenate(indices))

    def _uneven(self, halves: list[Split]) -> tuple[str, ...]:
        fewest, compared = min((len(h.one) for h in halves), default=0), len(self.compared)
        if not halves or fewest >= EVEN * compared:
            return ()
        return (f"the floor is of {fewest} patches a side, what stands beside it of {compared}",)

    def floor(
        self,
        name: str,
        measure: Pair,
        bounds: tuple[float, float] = (-np.inf, np.inf),
        splits: list[Split] | None = None,
    ) -> Floors:
        """What a measure gives between halves, and warnings; None where there are no halves.

        Args:
            name: under which it is remembered.
            measure: given the indices of two halves of ``patches``.
            bounds: its range.
            splits: other halves than ``self.splits``.
        """
        if name not in self._floors:
            halves = self.splits if splits is None else splits
            found = heeding(
                lambda: floor(measure, halves, self.patches.groups, seed=self.seed, bounds=bounds)
            )
            self._floors[name] = found[0], (*found[1], *self._uneven(halves))
        return self._floors[name]


@dataclass(frozen=True)
class Comparison:
    """One set against the real slides.

    Attributes:
        ours: patches of the set.
        reals: the real ones.
        mpp: µm/px; None for all together.
        stains: "h-e" or "h-dab".
    """

    ours: Patches
    reals: Reals
    mpp: float | None
    stains: str = "h-e"

    @property
    def seed(self) -> int:
        """Of draws."""
        return self.reals.seed

    @property
    def theirs(self) -> Patches:
        """The real patches that are compared."""
        return self.reals.compared

    @property
    def samples(self) -> str:
        """How many patches are compared, in words."""
        ours, theirs = len(self.ours), len(self.theirs)
        return f"{ours} patches a side" if ours == theirs else f"{ours} and {theirs} patches"

    def rows(
        self,
        keys: Sequence[str],
        values: Sequence[Estimate] | None,
        floors: Floors,
        warnings: tuple[str, ...] = (),
        *,
        labels: Sequence[str] | None = None,
        samples: str | None = None,
    ) -> list[Result]:
        """Rows of the report, one for each value."""
        notes = different((*warnings, *floors[1]))
        return [
            Result(
                key=key,
                mpp=self.mpp,
                value=values[i] if values is not None else None,
                floor=floors[0][i] if floors[0] is not None else None,
                samples=self.samples if samples is None else samples,
                warnings=notes,
                label=labels[i] if labels else "",
                cases=len(set(self.reals.patches.groups)),
            )
            for i, key in enumerate(keys)
        ]

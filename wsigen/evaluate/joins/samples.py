"""Quality and nuclei, from the patches that are looked at closely."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from wsigen.evaluate.closely import Closely
from wsigen.evaluate.collect import different, heeding
from wsigen.evaluate.estimate import Estimate, jackknife
from wsigen.evaluate.joins.colour import centred
from wsigen.evaluate.joins.sides import Floors
from wsigen.evaluate.nuclei import compare_nuclei
from wsigen.evaluate.quality import Niqe
from wsigen.evaluate.results import Result
from wsigen.evaluate.splits import Split, floor, group_splits
from wsigen.slide.nuclei import Nuclei

FITS = 4
NUCLEI = ("nuclei_density", "nuclei_area", "nuclei_sizes")


@dataclass
class RealSamples:
    """The real samples at one µm/px, and what is the same for all sets.

    Attributes:
        seen: twice as many as of a set.
        mpp: µm/px.
        seed: of draws.
    """

    seen: Closely
    mpp: float
    seed: int
    _floors: dict[str, Floors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        groups, strata, counts = self.seen.groups, [self.mpp] * len(self.seen), {self.mpp: len(self.seen)}
        self.splits: list[Split] = group_splits(groups, strata, counts, seed=self.seed)

    def floor(
        self, name: str, measure: Callable[[np.ndarray, np.ndarray], Sequence[float]], splits: int = 10
    ) -> Floors:
        """What a measure gives between halves of the samples, remembered by name."""
        if name not in self._floors:
            self._floors[name] = heeding(
                lambda: floor(measure, self.splits[:splits], self.seen.groups, seed=self.seed)
            )
        return self._floors[name]

    @cached_property
    def fits(self) -> list[Niqe]:
        """NIQE's Gaussians of some halves."""
        return [Niqe.fit_blocks([self.seen.blocks[i] for i in s.one]) for s in self.splits[:FITS]]


def sample_rows(ours: Closely, real: RealSamples) -> list[Result]:
    """Quality, and nuclei where µm/px show them."""
    return [*_quality_rows(ours, real), *(_nuclei_rows(ours, real) if ours.nuclei else [])]


def _quality_rows(ours: Closely, real: RealSamples) -> list[Result]:
    seen = real.seen
    values, cautions = heeding(
        lambda: jackknife(
            lambda i: [float(ours.piqe[i].mean()), float(ours.sobel[i].mean())],
            (ours.groups,),
            seed=real.seed,
        )
    )

    def levels(i: np.ndarray) -> list[float]:
        return [float(seen.piqe[i].mean()), float(seen.sobel[i].mean())]

    floors = real.floor("quality", lambda i, j: levels(np.concatenate([i, j])))
    halves = real.floor("quality of halves", lambda i, _: levels(i))
    rows = _rows(
        ("piqe", "sobel"), values, centred(floors[0], halves[0]), (*cautions, *floors[1]), ours, real
    )
    if not ours.blocks or not seen.blocks or not real.splits:
        return rows
    score, cautions = heeding(lambda: _niqe(ours, real))
    return [*_rows(("niqe",), score, _niqe_floor(real), cautions, ours, real), *rows]


def _levels(seen: Closely, indices: np.ndarray) -> list[float]:
    return [float(seen.piqe[indices].mean()), float(seen.sobel[indices].mean())]


def _niqe(ours: Closely, real: RealSamples) -> list[Estimate]:
    fits = real.fits
    value = float(np.mean([fit.score_blocks(ours.blocks) for fit in fits]))
    return jackknife(
        lambda i: [fits[0].score_blocks([ours.blocks[k] for k in i])],
        (ours.groups,),
        values=[value],
        draws=20,
        seed=real.seed,
        bounds=(0, np.inf),
    )


def _niqe_floor(real: RealSamples) -> Floors:
    blocks = real.seen.blocks

    def between(i: np.ndarray, j: np.ndarray) -> list[float]:
        return [Niqe.fit_blocks([blocks[k] for k in i]).score_blocks([blocks[k] for k in j])]

    return real.floor("niqe", between, FITS)


def _nuclei_rows(ours: Closely, real: RealSamples) -> list[Result]:
    seen = real.seen
    everything = np.arange(len(seen))

    def numbers(i: np.ndarray, j: np.ndarray) -> list[float]:
        found = compare_nuclei([seen.nuclei[k] for k in i], [seen.nuclei[k] for k in j], draws=2)
        return [found.density[0].value, found.median_area[0].value, found.size_distance.value]

    found, cautions = heeding(
        lambda: compare_nuclei(
            ours.nuclei,
            seen.nuclei,
            generated_slides=ours.groups,
            real_slides=seen.groups,
            draws=20,
            seed=real.seed,
        )
    )
    halves, notes = real.floor("nuclei", numbers)
    if halves is None:
        return _rows(NUCLEI, None, (None, ()), (*cautions, *notes), ours, real)
    whole = numbers(everything, everything)
    floors = [Estimate(v, v, v) for v in whole[:2]]
    centre, _ = centred(floors, halves[:2])
    values = found and [found.density[0], found.median_area[0], found.size_distance]
    notes = (*cautions, *notes, *_few(ours.nuclei))
    return _rows(NUCLEI, values, ([*(centre or []), halves[2]], ()), notes, ours, real)


def _few(nuclei: Sequence[Nuclei]) -> tuple[str, ...]:
    found = sum(len(n.areas) for n in nuclei)
    if found >= 100:
        return ()
    return (f"{found} whole nuclei were found in {len(nuclei)} patches: their sizes say little",)


def _rows(
    keys: Sequence[str],
    values: Sequence[Estimate] | None,
    floors: Floors,
    warnings: tuple[str, ...],
    ours: Closely,
    real: RealSamples,
) -> list[Result]:
    notes = different((*warnings, *floors[1]))
    samples = f"{len(ours)} and {len(real.seen)} patches"
    return [
        Result(
            key=key,
            mpp=real.mpp,
            value=values[i] if values else None,
            floor=floors[0][i] if floors[0] else None,
            samples=samples,
            warnings=notes,
            cases=len(set(real.seen.groups)),
        )
        for i, key in enumerate(keys)
    ]

"""Coherence, edges and relief: levels of a set beside those of the real slides."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from wsigen.evaluate.collect import heeding
from wsigen.evaluate.estimate import Estimate, jackknife
from wsigen.evaluate.joins.colour import centred, octave_names
from wsigen.evaluate.joins.sides import Comparison, Floors
from wsigen.evaluate.phase import PAIRS, relief
from wsigen.evaluate.results import Result

KEYS = ("coherence", *("edges",) * PAIRS, "relief")


def pair_names() -> list[str]:
    """The pairs of octaves in words: wavelengths in px."""
    names = [name.removesuffix(" px") for name in octave_names()]
    return [f"{fine} and {coarse} px" for fine, coarse in pairwise(names[: PAIRS + 1])]


def phase_rows(c: Comparison) -> list[Result]:
    """Mean coherence and edges of the patches, and the relief that they have in common.

    Relief is that of all patches together: of each alone it is the largest over directions, which chance
    makes large, and tissue that happens to lie one way. Its floor is therefore that of as many real patches.
    """
    ours, every = c.ours.phases, c.reals.patches.phases
    values, cautions = heeding(lambda: jackknife(lambda i: levels(ours[i]), (c.ours.groups,), seed=c.seed))
    whole = c.reals.floor("phase", lambda i, j: levels(every[np.concatenate([i, j])]))
    halves = c.reals.floor("phase of halves", lambda i, _: levels(every[i]))
    centre, _ = centred(whole[0], halves[0])
    floors: Floors = (_with_relief(centre, halves[0]), whole[1])
    return c.rows(KEYS, values, floors, cautions, labels=["", *pair_names(), ""])


def levels(phases: np.ndarray) -> list[float]:
    """Of some patches, (n, 12) of `Phase.as_row`: coherence, three edges, relief; NaN without tissue."""
    known = phases[np.isfinite(phases[:, : 1 + PAIRS]).all(axis=1)]
    if not len(known):
        return [np.nan] * (2 + PAIRS)
    return [*map(float, known[:, : 1 + PAIRS].mean(axis=0)), relief(known[:, 1 + PAIRS :].sum(axis=0))]


def _with_relief(centre: list[Estimate] | None, halves: list[Estimate] | None) -> list[Estimate] | None:
    return None if centre is None or halves is None else [*centre[:-1], halves[-1]]

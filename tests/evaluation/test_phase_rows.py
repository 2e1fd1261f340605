"""Rows of phase: levels beside those of real patches, and relief that patches have in common."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation.slides import patches
from wsigen.evaluation.comparison import Comparison, real_patches
from wsigen.evaluation.phase import levels, pair_names, phase_rows, relief_moments

N = 48


def a_side(rise: float, seed: int, coherence: float = 0.3, turned: bool = False):
    """Patches on ramps of some steepness, all one way or every other the other way."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(N):
        x = (np.arange(64) + rng.integers(16)) % 16 / 16
        ramp = np.tile(np.where(x < rise, x / rise, (1 - x) / (1 - rise)), (64, 1)).astype(np.float32)
        ramp += 0.1 * rng.standard_normal(ramp.shape).astype(np.float32)
        moments = relief_moments(np.ascontiguousarray(ramp[:, ::-1]) if turned and i % 2 else ramp)
        rows.append([coherence + rng.normal(0, 0.02), *rng.normal(0.4, 0.02, 3), *moments])
    groups = [f"case {i % 6}" for i in range(N)]
    return replace(patches(np.zeros((N, 2)), groups, seed=seed), phases=np.array(rows))


def found(ours):
    real = a_side(0.5, 0)
    return phase_rows(Comparison(ours, real_patches(real, {1.0: N // 2}, 0), 1.0))


def test_a_row_for_each_with_the_wavelengths_of_edges():
    rows = found(a_side(0.5, 3))
    assert [r.key for r in rows] == ["coherence", "edges", "edges", "edges", "relief"]
    assert [r.label for r in rows] == ["", *pair_names(), ""]
    assert pair_names()[0] == "1.4–4 and 4–8 px"
    assert max(r.excess or 0.0 for r in rows) < 3
    assert rows[0].floor.value == pytest.approx(0.3, abs=0.01)
    assert {r.cases for r in rows} == {6}


def test_grain_and_embossing_are_far_off():
    rows = {r.key: r for r in found(a_side(0.125, 1, coherence=0.15))}
    assert rows["coherence"].verdict.state == "far"
    assert rows["coherence"].value.value == pytest.approx(0.15, abs=0.01)
    assert rows["relief"].verdict.state == "far"
    assert rows["relief"].value.value > 0.5


def test_relief_that_patches_have_from_either_side_is_none():
    relief = found(a_side(0.125, 1, turned=True))[-1]
    assert relief.value.value < 0.1
    assert relief.verdict.state != "far"


def test_patches_without_tissue_do_not_count():
    some = a_side(0.5, 2).phases
    with_glass = np.concatenate([some, np.full((3, 12), np.nan)])
    with_glass[-3:, 4:] = 0
    assert levels(with_glass) == levels(some)
    assert np.isnan(levels(with_glass[-3:])).all()

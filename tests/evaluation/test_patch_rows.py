"""Fidelity, diversity, realism, spectrum and stain of patches with a known answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation.slides import patches
from wsigen.evaluation.comparison import Comparison, RealSide, real_patches
from wsigen.evaluation.fidelity import fidelity_rows, frechet_distance
from wsigen.evaluation.patches import join
from wsigen.evaluation.realism import realism_rows
from wsigen.evaluation.results import Result
from wsigen.evaluation.spectrum import band_names, spectrum_rows
from wsigen.evaluation.stains import DENSITY_CENTRES, density_curves, percentile, stain_rows
from wsigen.slide.stains import kl_divergence

GROUPS = [name for name in "abcdef" for _ in range(20)]
KEYS = ["fid", "kid", "precision", "density", "recall", "coverage", "auc"]


def features(seed: int, shift: float = 0.0, n: int = 120, d: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (n, d))


def reals(mpp: float = 1.0) -> RealSide:
    return real_patches(patches(features(0), GROUPS, mpp=mpp), {mpp: 60}, seed=0)


def ours(shift: float = 0.0, **more):
    return patches(features(1, shift, 60), [g for g in "uvwxyz" for _ in range(10)], seed=9, **more)


def feature_rows(c: Comparison) -> list[Result]:
    return [*fidelity_rows(c), *realism_rows(c)]


def by_key(rows):
    return {(r.key, r.label): r for r in rows}


def test_as_many_are_compared_as_a_half_has():
    r = reals()
    assert len(r.compared) == 60
    assert [r.compared.groups.count(g) for g in "abcdef"] == [10] * 6
    assert all(len(s.one) == len(s.other) == 60 for s in r.splits)


def test_equal_distributions_are_at_the_floor():
    rows = feature_rows(Comparison(ours(), reals(), 1.0))
    assert [r.key for r in rows] == KEYS
    for row in rows:
        assert row.excess is not None
        assert row.excess < 1.5, row.name
        assert row.samples == "60 patches a side"
        assert row.value is not None
        assert row.value.low <= row.value.value <= row.value.high


def test_shifted_ones_are_far_from_it_and_in_numbers():
    r = reals()
    found = by_key(feature_rows(Comparison(ours(3.0), r, 1.0)))
    fid = found["fid", ""]
    assert fid.value is not None
    assert fid.value.value == frechet_distance(features(1, 3.0, 60).astype(np.float32), r.compared.features)
    assert fid.value.value == pytest.approx(6 * 9, rel=0.2)
    assert found["precision", ""].value.value < 0.05
    assert found["auc", ""].value.value > 0.99
    for key in KEYS:
        assert found[key, ""].excess > 2, key


def test_floors_are_computed_once_for_all_sets():
    r = reals()
    first, second = (by_key(feature_rows(Comparison(ours(s), r, 1.0))) for s in (0.0, 3.0))
    for key in KEYS:
        assert first[key, ""].floor is second[key, ""].floor


def test_fewer_patches_than_dimensions_are_said_once():
    small = real_patches(patches(features(0, n=120, d=80), GROUPS), {1.0: 60}, seed=0)
    mine = patches(features(1, n=60, d=80), [*"uvwxyz"] * 10)
    fid = by_key(feature_rows(Comparison(mine, small, 1.0)))["fid", ""]
    assert len(fid.warnings) == 1
    assert fid.warnings[0].startswith("Fréchet distance from 60 samples in 80 dimensions is biased upwards")


def test_too_few_patches_are_not_measured():
    few = real_patches(patches(features(0, n=12), [*"abcdef"] * 2), {1.0: 6}, seed=0)
    found = by_key(feature_rows(Comparison(patches(features(1, n=6), [*"uvwxyz"]), few, 1.0)))
    assert found["recall", ""].value is None
    assert found["recall", ""].floor is None
    assert found["recall", ""].warnings[0].startswith("not measured: k = 3, 5 neighbours need at least 12")
    assert found["fid", ""].value is not None


def test_a_floor_of_fewer_patches_says_so():
    uneven = patches(features(0, n=100), ["large"] * 90 + ["b"] * 5 + ["c"] * 3 + ["d"] * 2)
    fid = feature_rows(Comparison(ours(), real_patches(uneven, {1.0: 60}, seed=0), 1.0))[0]
    assert "the floor is of 10 patches a side, what stands beside it of 60" in fid.warnings


def test_scales_are_pooled_with_equal_shares():
    pooled = real_patches(join([reals().every, reals(4.0).every]), {1.0: 60, 4.0: 30}, seed=0)
    assert [int((pooled.compared.mpp == m).sum()) for m in (1.0, 4.0)] == [60, 30]
    for split in pooled.splits:
        assert [int((pooled.every.mpp[split.one] == m).sum()) for m in (1.0, 4.0)] == [60, 30]
    rows = feature_rows(Comparison(join([ours(), ours(mpp=4.0)]), pooled, None))
    assert rows[0].mpp is None
    assert rows[0].samples == "120 and 90 patches"


def test_spectrum_in_octaves():
    r = reals()
    twice = ours()
    twice.powers[:] = r.compared.powers * [2, 1, 1, 1, 1, 0.5, 8]
    rows = spectrum_rows(Comparison(twice, r, 1.0))
    assert [row.label for row in rows] == [*band_names(), ""]
    assert band_names()[0] == "1.4–4 px"
    assert band_names()[-1] == "64–128 px"
    assert [row.value.value for row in rows] == pytest.approx([2, 1, 1, 1, 1, 0.5, 4])
    assert all(0.9 < row.floor.value < 1.1 for row in rows)
    far = [row.excess > 2 for row in rows]
    assert far == [True, False, False, False, False, True, True]


def test_stain_levels_and_distances():
    r = reals()
    same = replace(ours(), densities=r.compared.densities, amounts=r.compared.amounts, hues=r.compared.hues)
    found = by_key(stain_rows(Comparison(same, r, 1.0)))
    assert found["haematoxylin_kl", ""].value.value == pytest.approx(0, abs=1e-12)
    assert found["hue", ""].value.value == pytest.approx(1)
    mean = found["haematoxylin_mean", ""]
    assert mean.value.value == pytest.approx(r.compared.amounts[:, 0].mean())
    assert mean.floor.value == pytest.approx(r.every.amounts[:, 0].mean())
    darker = replace(
        same, amounts=same.amounts + np.array([0, 0.3]), densities=np.roll(same.densities, 30, axis=2)
    )
    darker = replace(darker, densities=darker.densities * (np.arange(256) < 60))
    found = by_key(stain_rows(Comparison(darker, r, 1.0)))
    assert found["eosin_mean", ""].value.value == pytest.approx(r.compared.amounts[:, 1].mean() + 0.3)
    assert found["eosin_mean", ""].excess > 3
    expected = kl_divergence(r.compared.densities[:, 1].sum(axis=0), darker.densities[:, 1].sum(axis=0))
    assert found["eosin_kl", ""].value.value == pytest.approx(expected)
    assert found["eosin_kl", ""].excess > 3


def test_ihc_has_dab_in_the_place_of_eosin():
    keys = [row.key for row in stain_rows(Comparison(ours(), reals(), 1.0), "h-dab")]
    assert keys == [
        "haematoxylin_mean",
        "haematoxylin_p90",
        "brown_mean",
        "brown_p90",
        "saturation",
        "haematoxylin_kl",
        "brown_kl",
        "hue",
    ]


def test_percentile_and_curves():
    counts = np.zeros(256)
    counts[10:20] = 1
    assert percentile(counts) == pytest.approx(0.19)
    assert percentile(counts, 0.5) == pytest.approx(0.15)
    assert DENSITY_CENTRES[:2] == pytest.approx([0.005, 0.015])
    np.testing.assert_allclose(density_curves(ours()).sum(axis=1), 1)

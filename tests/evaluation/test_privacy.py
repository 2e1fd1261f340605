"""Planted copies are caught by every measure; honest generators are not accused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from tests.evaluation.slides import signatures_of
from tests.evaluation.test_signatures import DISGUISES
from tests.synthetic import he_image
from wsigen.errors import InvalidValueError
from wsigen.evaluation.copies import find_copies
from wsigen.evaluation.estimate import MeasureWarning
from wsigen.evaluation.fidelity import pairwise_distances
from wsigen.evaluation.gallery import feature_distances
from wsigen.evaluation.privacy import authenticity, copying_test, is_authentic, membership
from wsigen.evaluation.realism import mann_whitney_z
from wsigen.evaluation.signatures import nearest_signatures


def normal(n: int, seed: int, d: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def copies_of(features: np.ndarray, seed: int, noise: float = 0.05) -> np.ndarray:
    return features + noise * normal(len(features), seed, features.shape[1])


def patches(seed: int, count: int, size: int = 96) -> np.ndarray:
    slide = he_image(640, seed=seed)[130:510, 130:510]
    corners = np.random.default_rng(seed).integers(0, 380 - size, (count, 2))
    return np.stack([slide[y : y + size, x : x + size] for y, x in corners])


def test_planted_copies_are_found_in_every_disguise_and_nothing_else():
    training = np.concatenate([patches(s, 20) for s in (1, 2)])
    unrelated, honest = patches(3, 30), patches(4, 30)
    planted = [np.ascontiguousarray(DISGUISES[name](training[i])) for i, name in enumerate(DISGUISES)]
    gallery = signatures_of(training)
    distance, null = (
        nearest_signatures(signatures_of(p), gallery).distance for p in ([*honest, *planted], unrelated)
    )
    threshold, found = find_copies(distance, null)
    assert set(found) == set(range(30, 30 + len(DISGUISES)))
    assert distance[found[0]] == distance.min()
    assert distance[found].max() < threshold <= 0.3


def test_copies_in_feature_space():
    training, scale = normal(200, 1), np.ones(6)
    generated = np.concatenate([normal(50, 2), copies_of(training[:5], 3, 0.01)])
    near, null = (feature_distances(x, training, scale) for x in (generated, normal(300, 4)))
    _, found = find_copies(near.min(axis=1), null.min(axis=1), largest=np.inf)
    assert set(range(50, 55)) <= set(found)
    assert len(found) <= 7
    np.testing.assert_array_equal(near[50:].argmin(axis=1), range(5))


def test_held_out_patches_that_are_not_held_out_are_suspicious():
    null = np.concatenate([np.full(90, 0.6), np.full(10, 0.02)])
    with pytest.warns(MeasureWarning, match="one slide on both sides"):
        find_copies(np.array([0.5]), null)
    with pytest.raises(InvalidValueError, match="at least 10"):
        find_copies(np.array([0.5]), null[:9])


def test_feature_distances_are_in_deviations():
    x, y = np.array([[0.0, 0, 5], [1, 1, 5]]), np.array([[3.0, 8, 5], [0, 0, 5]])
    distances = feature_distances(x, y, np.array([1.0, 2, 0]))
    np.testing.assert_allclose(distances[0], [np.sqrt((9 + 16) / 2), 0], atol=1e-4)


def test_authenticity_by_hand():
    """Real patches at 0, 1, 10 on a line: generated at 0.4 lies within the gap between two."""
    real, generated = np.array([[0.0], [1], [10]]), np.array([[0.4], [3.5], [10], [0]])
    between, within = pairwise_distances(generated, real), pairwise_distances(real, real)
    np.testing.assert_array_equal(is_authentic(between, within), [False, True, False, False])
    assert authenticity(between, within).value == 25
    with pytest.raises(InvalidValueError, match=r"\(real, real\)"):
        is_authentic(between, within[:2])


def test_authenticity_falls_with_copies():
    real = normal(300, 5)
    within = pairwise_distances(real, real)
    honest = authenticity(pairwise_distances(normal(200, 6), real), within)
    half = np.concatenate([normal(100, 7), copies_of(real[:100], 8, 0.01)])
    copying = authenticity(pairwise_distances(half, real), within)
    assert copying.value == pytest.approx(honest.value / 2, abs=8)
    assert copying.high < honest.low
    assert 40 < honest.value < 75


def test_copying_test_is_a_standard_score_for_honest_generators():
    scores = [
        copying_test(normal(150, s), normal(300, 100 + s), normal(150, 200 + s)).cells for s in range(12)
    ]
    every = np.concatenate(scores)
    assert abs(every.mean()) < 0.4
    assert every.std() == pytest.approx(1, abs=0.3)


def test_copying_test_accuses_copies_and_sees_what_does_not_fit():
    training, held_out = normal(300, 20), normal(200, 21)
    assert copying_test(copies_of(training[:200], 22, 0.2), training, held_out).statistic < -5
    assert copying_test(2 * normal(200, 23), training, held_out).statistic > 3


def test_copying_in_one_mode_only_is_seen_in_its_cell():
    """What a test over all patches at once would average away."""
    modes = np.repeat([[0.0] * 6, [12.0] * 6], 150, axis=0)
    training, held_out = modes + normal(300, 24), modes + normal(300, 25)
    generated = np.concatenate([copies_of(training[:150], 26, 0.1), 12 + 1.3 * normal(150, 27)])
    result = copying_test(generated, training, held_out, cells=2)
    assert min(result.cells) < -5
    assert max(result.cells) > 2


def test_mann_whitney_is_scipys():
    a, b = normal(40, 28)[:, 0], normal(60, 29)[:, 0] + 0.3
    expected = mannwhitneyu(a, b, use_continuity=False, method="asymptotic")
    z = mann_whitney_z(a, b)
    assert z == pytest.approx((expected.statistic - 1200) / np.sqrt(40 * 60 * 101 / 12))
    assert mann_whitney_z(b, a) == pytest.approx(-z)
    assert z < 0


def test_membership_shows_what_was_memorised():
    training, held_out, honest = normal(150, 30), normal(150, 31), normal(300, 32)

    def distances(generated: np.ndarray) -> list[np.ndarray]:
        return [pairwise_distances(real, generated).min(axis=1) for real in (training, held_out)]

    fair = membership(*distances(honest))
    assert fair.low < 0.5 < fair.high
    leaking = membership(*distances(np.concatenate([honest, copies_of(training, 33)])))
    assert leaking.low > 0.9
    assert membership(
        *distances(np.concatenate([honest, copies_of(training[:75], 34)]))
    ).value == pytest.approx(0.75, abs=0.07)


def test_too_few_patches_for_any_cell_are_refused():
    with pytest.raises(InvalidValueError, match="no cell has 10"):
        copying_test(normal(8, 35), normal(50, 36), normal(50, 37), cells=2)


def test_the_more_is_copied_the_more_every_measure_says_so():
    training, held_out = normal(240, 40), normal(240, 41)
    within = pairwise_distances(training, training)
    statistics, authentic, leaks = [], [], []
    for copied in (0, 60, 120, 240):
        generated = np.concatenate([copies_of(training[:copied], 42), normal(240 - copied, 43)])
        statistics.append(copying_test(generated, training, held_out, cells=3).statistic)
        authentic.append(authenticity(pairwise_distances(generated, training), within).value)
        near = [pairwise_distances(real, generated).min(axis=1) for real in (training, held_out)]
        leaks.append(membership(*near).value)
    assert statistics == sorted(statistics, reverse=True)
    assert authentic == sorted(authentic, reverse=True)
    assert leaks == sorted(leaks)


def test_cells_without_enough_patches_are_left_out():
    training = np.concatenate([normal(100, 44), 50 + normal(100, 45)])
    result = copying_test(normal(60, 46), training, normal(60, 47), cells=2)
    assert len(result.cells) == 1
    assert result.statistic == pytest.approx(result.cells[0])


def test_slides_widen_the_interval_of_membership():
    slides = np.arange(160) % 8
    looks = normal(16, 48, 1)[:, 0]
    training, held_out = (
        np.abs(normal(160, s, 1)[:, 0] + 2 * looks[o + slides]) for s, o in ((49, 0), (50, 8))
    )
    by_patch = membership(training, held_out)
    by_slide = membership(training, held_out, training_slides=slides, held_out_slides=slides)
    assert by_slide.value == by_patch.value
    assert by_slide.high - by_slide.low > by_patch.high - by_patch.low

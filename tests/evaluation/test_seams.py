"""The seam score sees planted seams of either direction and phase, and nothing where there is none."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from wsigen.errors import InvalidValueError
from wsigen.evaluation.seams import jpeg_grid, jump, seam_profile, seam_ratio, step8
from wsigen.evaluation.tilings import difference


@lru_cache
def texture(seed: int = 0, size: int = 512) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.standard_normal((size, size, 3)), (6, 6, 0))
    return 128 + 400 * smooth + 4 * rng.standard_normal((size, size, 3))


def with_seams(image: np.ndarray, pitch: int, phase: int, jump: float, axis: int) -> np.ndarray:
    """Every cell of the grid gets its own colour."""
    rng = np.random.default_rng(5)
    cells = (np.arange(image.shape[axis]) - phase) // pitch
    colours = jump * rng.standard_normal((int(cells.max() - cells.min()) + 1, 3))
    offset = colours[cells - cells.min()]
    return image + (offset[:, None] if axis == 0 else offset[None])


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), phase=st.integers(0, 63), axis=st.integers(0, 1))
def test_planted_seams_are_seen_at_their_phase_alone(seed, phase, axis):
    image = with_seams(texture(seed), 64, phase, 8.0, axis)
    there = step8(image, 64, phases=[phase], axis=axis)
    assert there.ratio > 1.2
    assert there.z > 3
    distance = np.abs((np.arange(64) - phase + 32) % 64 - 32)
    assert distance[np.argmax(there.energy)] <= 2
    elsewhere = step8(image, 64, phases=[phase + 32], axis=axis)
    assert elsewhere.ratio < there.ratio - 0.1


def test_no_seams_score_one():
    ratios = [
        step8(texture(seed), 64, phases=[j], axis=j % 2).ratio for seed in range(4) for j in range(0, 64, 7)
    ]
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)
    assert 0.6 < min(ratios) < max(ratios) < 1.5


def test_smooth_gradients_are_no_seams():
    ramp = np.add.outer(np.linspace(0, 200, 256), np.linspace(0, 50, 256))
    assert step8(ramp, 64).energy.max() < 1e-9
    assert step8(ramp[..., None] + 0 * texture(size=256), 64, axis=1).energy.max() < 1e-9


def test_a_smoothed_joint_is_still_seen():
    image = gaussian_filter(with_seams(texture(1), 64, 10, 12.0, 0), (2, 2, 0))
    assert step8(image, 64, phases=[10]).ratio > 1.3


def test_step_of_one_line_is_measured_in_grey_levels():
    image = np.zeros((128, 128))
    image[64:] = 10
    score = step8(image, 64, phases=[0])
    assert score.energy[0] == pytest.approx(10)  # the only line of phase 0 inside
    assert score.energy[32] == 0


def test_origin_moves_the_phase_with_the_crop():
    image = with_seams(texture(2), 64, 20, 10.0, 0)
    whole, crop = step8(image, 64, phases=[20]), step8(image[37:], 64, phases=[20], origin=37)
    assert crop.ratio == pytest.approx(whole.ratio, rel=0.2)
    assert crop.ratio > 1.3


def test_one_number_for_both_directions():
    image = with_seams(texture(3), 64, 0, 10.0, 1)
    rows, cols = step8(image, 64, axis=0).ratio, step8(image, 64, axis=1).ratio
    assert seam_ratio(image, 64) == pytest.approx(np.sqrt((rows**2 + cols**2) / 2))
    assert cols > 1.3 > rows


def test_uint8_and_grey_images_are_accepted():
    image = texture(4).clip(0, 255)
    assert step8(image.astype(np.uint8), 64).ratio == pytest.approx(step8(image, 64).ratio, rel=0.05)
    assert step8(np.full((256, 256), 7, np.uint8), 64).ratio == 1


def test_an_image_smaller_than_the_pitch_is_refused():
    with pytest.raises(InvalidValueError, match="at least pitch"):
        step8(texture(size=128), 128)


@pytest.mark.parametrize("axis", [0, 1])
def test_jump_is_that_of_the_edge(axis):
    image = np.zeros((64, 80))
    image[np.arange(64) >= 32] = 10
    image = image if axis == 0 else image.T
    score = jump(image, 16, phases=[0], axis=axis)
    assert score.energy[0] == pytest.approx(10 / np.sqrt(3))  # one of the three lines of phase 0
    assert score.energy[1] == pytest.approx(5 / np.sqrt(3))  # detrending halves it into the next lines
    assert score.energy[2] == 0


def test_jump_sees_hard_edges_better_and_soft_ones_worse_than_step8():
    image = texture(5)
    hard = with_seams(image, 64, 10, 10.0, 0)
    soft = image + gaussian_filter(hard - image, (3, 0, 0))
    assert jump(hard, 64, phases=[10]).ratio > 1.25
    assert jump(soft, 64, phases=[10]).ratio == pytest.approx(1, abs=0.1)
    assert step8(soft, 64, phases=[10]).ratio > 1.25


def test_jpeg_shows_on_its_own_grid_alone():
    image = gaussian_filter(texture(6), (1, 1, 0)).clip(0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert jpeg_grid(image) == pytest.approx(1, abs=0.05)
    assert jpeg_grid(decoded) > 1.5
    assert jpeg_grid(decoded[3:, 5:]) < 1.1
    assert jpeg_grid(decoded[3:, 5:], origin=(3, 5)) == pytest.approx(jpeg_grid(decoded), rel=0.05)


def test_profile_peaks_at_the_seam():
    profile = seam_profile(step8(with_seams(texture(7), 64, 20, 15.0, 0), 64).energy, phase=20)
    assert len(profile) == 65
    assert abs(np.argmax(profile) - 32) <= 1
    assert profile[[0, 64]] == pytest.approx([1, 1], abs=0.4)
    assert seam_profile(step8(np.zeros((128, 128)), 64).energy).max() == 0


def test_difference_of_tilings_by_hand():
    a = np.zeros((4, 5, 3), np.uint8)
    b = a.copy()
    b[2, 3] = (0, 7, 250)
    found = difference(a, b)
    assert (found.largest, found.at, found.share) == (250.0, (2, 3), 1 / 20)
    assert found.mean == pytest.approx(257 / 60)
    assert difference(b, a) == found
    assert difference(a, a).largest == 0
    assert difference(np.array([[0.25]]), np.array([[0.75]])).largest == 0.5
    with pytest.raises(InvalidValueError, match="one image"):
        difference(a, a[:, 1:])


@settings(max_examples=8, deadline=None)
@given(gain=st.floats(0.2, 3), offset=st.floats(-40, 40))
def test_scores_do_not_know_brightness_or_contrast(gain, offset):
    image = with_seams(texture(8, 256), 64, 5, 10.0, 0)
    for score in (step8, jump):
        plain, changed = (score(im, 64, phases=[5]) for im in (image, gain * image + offset))
        assert changed.ratio == pytest.approx(plain.ratio, rel=1e-3)
        np.testing.assert_allclose(changed.energy, gain * plain.energy, rtol=2e-3)


def test_stronger_seams_score_higher():
    for score in (step8, jump):
        ratios = [
            score(with_seams(texture(9, 256), 64, 9, j, 1), 64, phases=[9], axis=1).ratio
            for j in (0, 5, 10, 20)
        ]
        assert ratios == sorted(ratios)
        assert ratios[-1] > 2


@given(seed=st.integers(0, 99), height=st.integers(1, 40), where=st.integers(0, 10**6), by=st.integers(1, 60))
def test_a_difference_of_one_value_is_found_where_it_is(seed, height, where, by):
    image = np.random.default_rng(seed).integers(60, 190, (height, 12, 3), dtype=np.uint8)
    y, x, c = np.unravel_index(where % image.size, image.shape)
    other = image.copy()
    other[y, x, c] += by
    for a, b in ((image, other), (other, image)):
        found = difference(a, b)
        assert (found.largest, found.at) == (by, (y, x))
        assert found.mean == pytest.approx(by / image.size)
        assert found.share == pytest.approx(1 / (height * 12))

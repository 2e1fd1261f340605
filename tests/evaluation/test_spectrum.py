"""Power where it is known: white noise, one wave, twice the contrast, a planted checkerboard, blur."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from wsigen.errors import InvalidValueError
from wsigen.evaluation.spectrum import BANDS, band_powers, power_ratios


def grey(density: np.ndarray) -> np.ndarray:
    return np.repeat(np.round(255 * 10**-density).astype(np.uint8)[..., None], 3, axis=-1)


def noises(count: int, amplitude: float = 0.02, seed: int = 0, blur: float = 0.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    fields = (gaussian_filter(rng.standard_normal((128, 128)), blur) for _ in range(count))
    return [0.3 + amplitude * field for field in fields]


def powers(fields: list[np.ndarray]) -> list[np.ndarray]:
    return [band_powers(grey(field)) for field in fields]


def test_white_noise_has_its_variance_at_every_frequency():
    mean = np.mean(powers(noises(20)), axis=0)
    np.testing.assert_allclose(mean[:3], 0.02**2, rtol=0.03)
    np.testing.assert_allclose(mean[3:], 0.02**2, rtol=0.4)  # few frequencies, and the mean is taken out


@pytest.mark.parametrize(("wavelength", "octave"), [(3, 0), (6, 1), (12, 2), (24, 3), (48, 4), (96, 5)])
def test_a_wave_lies_in_its_octave_in_any_direction(wavelength, octave):
    y, x = np.mgrid[:256, :256]
    for angle in (0, 0.6, np.pi / 2):
        wave = 0.3 + 0.1 * np.sin(2 * np.pi * (y * np.sin(angle) + x * np.cos(angle)) / wavelength)
        found = band_powers(grey(wave))
        assert np.argmax(found[:BANDS]) == octave
        np.testing.assert_allclose(band_powers(grey(wave).transpose(1, 0, 2)), found, rtol=1e-3, atol=1e-9)


def ratios(ours: list[np.ndarray], theirs: list[np.ndarray]) -> np.ndarray:
    return power_ratios(np.asarray(powers(ours)), np.asarray(powers(theirs)))


def test_twice_the_contrast_is_four_times_the_power():
    ratio = ratios(noises(30, 0.04, seed=1), noises(30, 0.02, seed=2))
    np.testing.assert_allclose(ratio[:BANDS], 4, rtol=0.25)
    assert ratio[BANDS] == pytest.approx(1, abs=0.05)


def test_a_checkerboard_and_a_blur_show_where_they_are():
    real = noises(12, seed=3)
    board = 0.02 * (-1.0) ** np.arange(128)
    planted = ratios([f + board for f in noises(12, seed=4)], real)
    assert planted[BANDS] > 3
    assert planted[2] == pytest.approx(1, abs=0.15)
    blurred = ratios([0.3 + gaussian_filter(f - 0.3, 0.8) for f in noises(12, seed=5)], real)
    assert blurred[0] < 0.2
    assert blurred[4] == pytest.approx(1, abs=0.3)
    assert blurred[0] < blurred[1] < blurred[2]


def test_brightness_alone_changes_nothing():
    field = noises(1, seed=6)[0]
    np.testing.assert_allclose(band_powers(grey(field + 0.1)), band_powers(grey(field)), rtol=0.05)
    assert band_powers(np.full((64, 64, 3), 200, np.uint8)).max() < 1e-10


def test_small_patches_are_refused():
    with pytest.raises(InvalidValueError, match="at least 64"):
        band_powers(np.zeros((63, 64, 3), np.uint8))


def test_turning_a_patch_changes_nothing():
    rng = np.random.default_rng(7)
    field = 0.3 + 0.05 * gaussian_filter(rng.standard_normal((96, 96)), (0.5, 3))
    np.testing.assert_allclose(band_powers(grey(field.T)), band_powers(grey(field)), rtol=1e-3)
    np.testing.assert_allclose(band_powers(grey(field[::-1])), band_powers(grey(field)), rtol=0.05)


def test_a_set_against_itself_is_one():
    fields = noises(4, seed=8)
    np.testing.assert_array_equal(ratios(fields, fields), 1)

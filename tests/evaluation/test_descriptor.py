"""The weight-free features on patches whose colour, stains and scale of texture are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from benchmarks.ablations.real import real_floor
from tests.slide.test_stains import stained
from tests.synthetic import he_image
from wsigen.errors import InvalidValueError
from wsigen.evaluation.descriptor import BANDS, WeightFree, describe
from wsigen.evaluation.fidelity import frechet_distance
from wsigen.slide.stains import EOSIN, HAEMATOXYLIN

ENERGY = [30 + 13 * octave for octave in range(BANDS)]
"""Where each octave's luminance energy is."""


def patches(count: int, seed: int, size: int = 96) -> np.ndarray:
    big = he_image(1024, seed=seed)
    rng = np.random.default_rng(seed)
    corners = rng.integers(200, 824 - size, (count, 2))
    return np.stack([big[y : y + size, x : x + size] for y, x in corners])


def test_glass_is_nothing_with_the_books_stains():
    features = describe(np.full((64, 64, 3), 255, np.uint8))
    assert features.shape == (WeightFree.dimensions,)
    np.testing.assert_allclose(features[:3], 0, atol=1e-6)
    np.testing.assert_allclose(features[9:24], 0, atol=1e-6)
    np.testing.assert_allclose(features[24:30] / 8, [*HAEMATOXYLIN, *EOSIN], rtol=1e-6)
    np.testing.assert_allclose(features[ENERGY], np.log2(0.004), rtol=1e-6)


def test_mean_and_quantiles_of_a_known_stain():
    density = np.zeros((64, 64))
    density[:, 28:] = 0.4
    features = describe(stained(density, 0, 0))
    od = 0.4 * np.asarray(HAEMATOXYLIN) / np.linalg.norm(HAEMATOXYLIN) * 36 / 64
    assert features[0] / 4 == pytest.approx(od.sum() / np.sqrt(3), rel=0.02)
    assert features[1] / 4 == pytest.approx((od[0] - od[2]) / np.sqrt(2), rel=0.05)
    np.testing.assert_allclose(features[9:24:3] / 4, [0, 0, 0.4, 0.4, 0.4], atol=0.02)  # H
    np.testing.assert_allclose(features[10:24:3], 0, atol=0.1)  # no eosin


def test_stain_vectors_are_recovered():
    rng = np.random.default_rng(0)
    first, second = np.array([0.55, 0.76, 0.35]), np.array([0.15, 0.95, 0.25])
    amounts = np.kron(rng.choice([0.05, 0.8], (2, 8, 8)) * rng.uniform(0.7, 1, (2, 8, 8)), np.ones((16, 16)))
    rows = np.stack([first / np.linalg.norm(first), second / np.linalg.norm(second)])
    image = np.round(255 * 10 ** -np.tensordot(amounts, rows, (0, 0))).astype(np.uint8)
    found = describe(image)[24:30].reshape(2, 3) / 8
    cosines = (found / np.linalg.norm(found, axis=1, keepdims=True) * rows).sum(axis=1)
    assert np.all(cosines > np.cos(np.radians(4)))


@pytest.mark.parametrize("octave", range(BANDS))
def test_a_wave_has_its_energy_in_its_octave(octave):
    x = np.arange(256)
    wave = 0.3 + 0.2 * np.sin(2 * np.pi * x / (4 * 2**octave))
    features = describe(stained(np.broadcast_to(wave, (256, 256)), 0, 0))
    assert np.argmax(features[ENERGY]) == octave
    anisotropy = features[30 + 13 * octave + 12]
    assert anisotropy == pytest.approx(4, rel=0.02)  # one direction only


def test_blur_and_noise_show_in_the_finest_octave():
    patch = patches(1, seed=1)[0]
    rng = np.random.default_rng(0)
    noisy = np.clip(patch + rng.normal(0, 20, patch.shape), 0, 255).astype(np.uint8)
    sharp, blurred, grainy = (describe(p)[ENERGY] for p in (patch, cv2.GaussianBlur(patch, (0, 0), 1), noisy))
    assert blurred[0] < sharp[0] - 0.5
    assert grainy[0] > sharp[0] + 0.5
    assert abs(blurred[4] - sharp[4]) < 0.1
    assert abs(grainy[4] - sharp[4]) < 0.2


def test_flips_and_turns_do_not_matter():
    patch = patches(1, seed=2, size=128)[0]
    features = describe(patch)
    for turned in (patch[::-1], patch[:, ::-1], np.rot90(patch), patch.transpose(1, 0, 2)):
        np.testing.assert_allclose(describe(np.ascontiguousarray(turned)), features, atol=2e-3)


def test_sets_are_told_apart_by_blur_stain_and_nothing_else():
    first, second = patches(130, seed=4, size=64), patches(130, seed=4, size=64)[::-1]
    extractor = WeightFree()
    real, blurred = extractor(first), extractor(np.stack([cv2.blur(p, (3, 3)) for p in second]))
    faded = extractor(128 + second // 2)
    floor = real_floor(lambda a, b: frechet_distance(a[:, :60], b[:, :60]), real, draws=5)
    for changed in (blurred, faded):
        assert frechet_distance(real[:65, :60], changed[:65, :60]) > 2 * floor.high


def test_threads_and_batches_do_not_matter():
    batch = patches(5, seed=5)
    together = WeightFree(threads=3)(batch)
    np.testing.assert_array_equal(together, np.stack([describe(p) for p in batch]))
    assert together.dtype == np.float32
    assert not WeightFree.comparable


def test_any_size_from_64_up_and_nothing_else():
    assert np.isfinite(describe(he_image((67, 101), seed=6))).all()
    with pytest.raises(InvalidValueError, match="at least 64"):
        WeightFree()(np.zeros((1, 63, 64, 3), np.uint8))
    with pytest.raises(InvalidValueError, match="uint8"):
        WeightFree()(np.zeros((1, 64, 64, 3), np.float32))


def test_every_patch_has_finite_features():
    rng = np.random.default_rng(0)
    black, noise = np.zeros((64, 64, 3), np.uint8), rng.integers(0, 256, (64, 64, 3), np.uint8)
    one_pixel = np.full((64, 64, 3), 255, np.uint8)
    one_pixel[0, 0] = 0
    assert np.isfinite(WeightFree()(np.stack([black, noise, one_pixel]))).all()

"""Phase: known answers, what turns and flips must not change, and rows beside those of real patches."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy import signal

from tests.evaluation.slides import patches
from wsigen.errors import InvalidValueError
from wsigen.evaluation.comparison import Comparison, real_patches
from wsigen.evaluation.phase import (
    MOMENTS,
    coherence,
    edge_agreement,
    levels,
    pair_names,
    phase,
    phase_rows,
    relief,
    relief_moments,
    tissue_of,
)

SIDE = 256


def noise(seed: int = 0, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((side, side)).astype(np.float32)


def blobs(seed: int = 0, side: int = SIDE, count: int = 150) -> np.ndarray:
    """Round nuclei with sharp outlines, anywhere."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side), 0.2, np.float32)
    for y, x in rng.uniform(0, side, (count, 2)):
        cv2.circle(
            image, (round(x * 16), round(y * 16)), round(rng.uniform(4, 8) * 16), 0.8, -1, cv2.LINE_AA, 4
        )
    return cv2.GaussianBlur(image, (0, 0), 1.0)


def sawtooth(rise: float, side: int = SIDE, period: int = 16) -> np.ndarray:
    """Ramps along x that rise over a share of their period and fall over the rest."""
    x = np.arange(side) % period / period
    return np.tile(np.where(x < rise, x / rise, (1 - x) / (1 - rise)), (side, 1)).astype(np.float32)


def stripes(angle: float) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / 12).astype(np.float32)


def same_spectrum(image: np.ndarray, seed: int = 1) -> np.ndarray:
    """Noise with the power of an image at every frequency: the phase alone is another."""
    spectrum = np.fft.rfft2(image - image.mean())
    random = np.fft.rfft2(noise(seed, image.shape[0]))
    turned = np.fft.irfft2(np.abs(spectrum) * random / np.abs(random), s=image.shape)
    return (image.mean() + turned).astype(np.float32)


def turned(image: np.ndarray) -> list[np.ndarray]:
    quarters = [np.rot90(image, n) for n in range(4)]
    return [np.ascontiguousarray(t) for q in quarters for t in (q, q[:, ::-1])]


def expected_coherence(sigma: float) -> float:
    """Of white noise: 2 Σ W ρ², from the filters alone."""
    smooth, step = np.array([3.0, 10.0, 3.0]), np.array([-1.0, 0.0, 1.0])
    along_x = np.outer(smooth, step)
    correlated = sum(signal.convolve2d(k, k[::-1, ::-1]) for k in (along_x, along_x.T))
    rho = correlated / correlated[2, 2]
    d = np.arange(-2, 3)
    w = np.exp(-(d**2) / (4 * sigma**2)) / np.sqrt(4 * np.pi * sigma**2)
    return float(2 * (np.outer(w, w) * rho**2).sum())


@pytest.mark.parametrize("sigma", [3.0, 4.0, 6.0])
def test_coherence_of_white_noise_is_what_its_filters_say(sigma):
    found = np.mean([coherence(noise(n), sigma) for n in range(4)])
    assert found == pytest.approx(expected_coherence(sigma), rel=0.1)
    assert found < 0.1


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 4, np.pi / 2])
def test_coherence_of_stripes_is_1(angle):
    assert coherence(stripes(angle), 4.0) == pytest.approx(1.0, abs=0.005)


def test_coherence_counts_where_the_mask_says():
    half = np.concatenate([stripes(0.0)[:, : SIDE // 2], noise()[:, SIDE // 2 :]], axis=1)
    left = np.zeros((SIDE, SIDE), bool)
    left[:, : SIDE // 2 - 20] = True
    assert coherence(half, 4.0, left) == pytest.approx(1.0, abs=0.001)
    assert coherence(half, 4.0, np.flip(left, 1)) < 0.1


def test_edges_of_white_noise_do_not_agree():
    found = np.mean([edge_agreement(noise(n)) for n in range(8)], axis=0)
    np.testing.assert_allclose(found, 0, atol=0.04)


def test_edges_of_outlines_agree_and_those_of_noise_with_their_spectrum_do_not():
    real, other = edge_agreement(blobs()), edge_agreement(same_spectrum(blobs()))
    assert min(real[:2]) > 0.4
    assert max(np.abs(other)) < 0.1
    assert coherence(blobs(), 4.0) > 2 * coherence(same_spectrum(blobs()), 4.0)


def test_relief_of_ramps_is_their_skewness():
    """A slope of a in 1 - r of the pixels and -b in r of them, with r = 1/8: skewness (7 - 1) / sqrt(7)."""
    assert relief(relief_moments(sawtooth(0.125))) == pytest.approx(6 / np.sqrt(7), rel=0.1)


def test_relief_of_symmetric_ramps_is_0():
    assert relief(relief_moments(sawtooth(0.5))) == pytest.approx(0, abs=0.01)


def test_relief_finds_nuclei_lit_from_one_side():
    image = blobs()
    lit = image - 2 * np.roll(image, (2, 2), (0, 1)) + image * 1.0  # darker where it falls off to one side
    lit = np.where(lit > 0, 2 * lit, lit)
    assert relief(relief_moments(image)) < 0.1
    assert relief(relief_moments(lit)) > 0.3


def test_relief_from_either_side_cancels():
    image = sawtooth(0.125)
    both = relief_moments(image) + relief_moments(np.ascontiguousarray(image[:, ::-1]))
    assert relief(both) == pytest.approx(0, abs=1e-6)


def test_relief_of_noise_is_near_0():
    assert relief(relief_moments(noise())) < 0.05


def test_nothing_changes_by_turns_and_flips():
    image = blobs() + 0.1 * sawtooth(0.2)
    first = (coherence(image, 4.0), *edge_agreement(image), relief(relief_moments(image)))
    for other in turned(image)[1:]:
        again = (coherence(other, 4.0), *edge_agreement(other), relief(relief_moments(other)))
        np.testing.assert_allclose(again, first, rtol=1e-4, atol=1e-5)


def test_phase_of_a_patch():
    """Absorption 0.2 to 0.8 OD: all of it is tissue, and its measures are those of the optical density."""
    density = blobs()
    patch = np.repeat(np.rint(255 * 10.0 ** -density[..., None]).astype(np.uint8), 3, axis=2)
    found = phase(patch, 0.5)
    assert found.coherence == pytest.approx(coherence(density, 4.0), rel=0.05)
    assert found.edges == pytest.approx(edge_agreement(density), rel=0.05)
    assert found.relief == pytest.approx(relief(relief_moments(density)), abs=0.02)
    assert found.as_row().shape == (4 + MOMENTS,)
    np.testing.assert_array_equal(found.as_row()[4:], found.moments)


def test_the_tensor_is_integrated_over_micrometres():
    patch = np.repeat(np.rint(255 * 10.0 ** -blobs()[..., None]).astype(np.uint8), 3, axis=2)
    assert phase(patch, 0.25).coherence < phase(patch, 0.5).coherence < phase(patch, 1.0).coherence
    assert phase(patch, 1.0).coherence == phase(patch, 8.0).coherence


def test_glass_says_nothing():
    found = phase(np.full((128, 128, 3), 243, np.uint8), 0.5)
    assert np.isnan([found.coherence, *found.edges, found.relief]).all()
    assert found.moments.sum() == 0


def test_glass_beside_tissue_does_not_count():
    patch = np.repeat(np.rint(255 * 10.0 ** -blobs()[..., None]).astype(np.uint8), 3, axis=2)
    specks = np.random.default_rng(0).integers(238, 248, patch.shape, np.uint8)
    beside = np.concatenate([patch, specks])
    assert phase(beside, 0.5).coherence == pytest.approx(phase(patch, 0.5).coherence, rel=0.1)
    assert tissue_of(np.zeros((64, 64), np.float32)).sum() == 0


@pytest.mark.parametrize("image", [np.zeros((32, 128), np.float32), np.zeros((64, 64, 3), np.float32)])
def test_images_that_are_too_small_or_not_grey(image):
    for measure in (lambda i: coherence(i, 2.0), edge_agreement, relief_moments):
        with pytest.raises(InvalidValueError, match="at least 64 px"):
            measure(image)


def test_patches_must_be_uint8():
    with pytest.raises(InvalidValueError, match="uint8"):
        phase(np.zeros((64, 64, 3), np.float32), 0.5)


N = 48


def a_side(rise: float, seed: int, mean: float = 0.3, either: bool = False):
    """Patches on ramps of some steepness, all one way or every other the other way."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(N):
        x = (np.arange(64) + rng.integers(16)) % 16 / 16
        ramp = np.tile(np.where(x < rise, x / rise, (1 - x) / (1 - rise)), (64, 1)).astype(np.float32)
        ramp += 0.1 * rng.standard_normal(ramp.shape).astype(np.float32)
        moments = relief_moments(np.ascontiguousarray(ramp[:, ::-1]) if either and i % 2 else ramp)
        rows.append([mean + rng.normal(0, 0.02), *rng.normal(0.4, 0.02, 3), *moments])
    groups = [f"case {i % 6}" for i in range(N)]
    return replace(patches(np.zeros((N, 2)), groups, seed=seed), phases=np.array(rows))


def rows_of(ours):
    real = a_side(0.5, 0)
    return phase_rows(Comparison(ours, real_patches(real, {1.0: N // 2}, 0), 1.0))


def test_a_row_for_each_with_the_wavelengths_of_edges():
    rows = rows_of(a_side(0.5, 3))
    assert [r.key for r in rows] == ["coherence", "edges", "edges", "edges", "relief"]
    assert [r.label for r in rows] == ["", *pair_names(), ""]
    assert pair_names()[0] == "1.4–4 and 4–8 px"
    assert max(r.excess or 0.0 for r in rows) < 3
    assert rows[0].floor.value == pytest.approx(0.3, abs=0.01)
    assert {r.cases for r in rows} == {6}


def test_grain_and_embossing_are_far_off():
    rows = {r.key: r for r in rows_of(a_side(0.125, 1, mean=0.15))}
    assert rows["coherence"].verdict.state == "far"
    assert rows["coherence"].value.value == pytest.approx(0.15, abs=0.01)
    assert rows["relief"].verdict.state == "far"
    assert rows["relief"].value.value > 0.5


def test_relief_that_patches_have_from_either_side_is_none():
    common = rows_of(a_side(0.125, 1, either=True))[-1]
    assert common.value.value < 0.1
    assert common.verdict.state != "far"


def test_patches_without_tissue_do_not_count():
    some = a_side(0.5, 2).phases
    with_glass = np.concatenate([some, np.full((3, 12), np.nan)])
    with_glass[-3:, 4:] = 0
    assert levels(with_glass) == levels(some)
    assert np.isnan(levels(with_glass[-3:])).all()

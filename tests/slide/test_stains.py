"""Stain measures on synthetic stains of known density, and on histograms computed by hand."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import separate_stains

from tests.synthetic import he_image
from wsigen.errors import InvalidValueError
from wsigen.slide.stains import (
    DAB,
    EOSIN,
    HAEMATOXYLIN,
    dab_summary,
    density_summary,
    haematoxylin_correlation,
    hue_correlation,
    hue_histogram,
    kl_divergence,
    mean_density,
    optical_density,
    saturation,
    stain_densities,
)


def stained(*amounts, background=(255.0, 255.0, 255.0)) -> np.ndarray:
    """Glass with known densities of H, E, DAB: I = I_0 10^(-C M)."""
    rows = np.stack([np.asarray(v) / np.linalg.norm(v) for v in (HAEMATOXYLIN, EOSIN, DAB)])
    planes = np.stack(np.broadcast_arrays(*amounts), axis=-1).astype(np.float64)
    return np.round(np.asarray(background) * 10 ** -(planes @ rows)).astype(np.uint8)


@given(h=st.floats(0, 0.5), e=st.floats(0, 0.3), d=st.floats(0, 0.4))
def test_known_densities_come_back(h, e, d):
    densities = stain_densities(stained(np.full((2, 2), h), e, d))
    np.testing.assert_allclose(
        densities, np.broadcast_to((h, e, d), (2, 2, 3)), atol=0.03
    )  # rounding to 8 bit


def test_two_stains_leave_no_residual():
    h, d = np.meshgrid(np.linspace(0, 0.6, 16), np.linspace(0, 0.6, 16))
    ihc = stain_densities(stained(h, 0, d), stains="h-dab")
    np.testing.assert_allclose(ihc, np.stack([h, 0 * h, d], -1), atol=0.02)
    he = stain_densities(stained(h, d, 0), stains="h-e")
    np.testing.assert_allclose(he, np.stack([h, d, 0 * h], -1), atol=0.02)


def test_agrees_with_scikit_image_where_both_are_defined():
    image = np.maximum(he_image(64, seed=1), 1)
    rows = np.stack([HAEMATOXYLIN, EOSIN, DAB])
    ours = stain_densities(image) / np.linalg.norm(rows, axis=1)  # it does not normalise the vectors
    ours *= np.log(10) / -np.log(1e-6)  # its unit of density is a factor of 1e-6
    np.testing.assert_allclose(np.maximum(ours, 0), separate_stains(image, np.linalg.inv(rows)), atol=1e-5)


def test_background_has_no_density():
    glass = np.full((4, 4, 3), (243, 240, 238), np.uint8)
    assert np.all(stain_densities(glass, (243, 240, 238)) == 0)
    assert np.all(optical_density(np.full((1, 3), 255, np.uint8), (240, 240, 240)) == 0)
    assert optical_density(np.zeros((1, 3), np.uint8)) == pytest.approx(np.full((1, 3), math.log10(255)))


def test_summary_of_a_known_distribution():
    density = np.concatenate([np.full(80, 0.105), np.full(15, 0.505), np.full(5, 3.0)])
    summary = density_summary(density, threshold=0.5)
    assert summary.mean == pytest.approx((80 * 0.105 + 15 * 0.505 + 15) / 100)
    assert summary.p90 == pytest.approx(0.50 + 0.01 * 10 / 15)
    assert summary.positive_ratio == 0.20
    assert (summary.counts[10], summary.counts[50], summary.counts[255]) == (80, 15, 5)
    assert summary.histogram.sum() == 1


@given(seed=st.integers(0, 999))
def test_p90_is_the_percentile_and_summaries_add_up(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.gamma(2, 0.1, 700), rng.gamma(4, 0.1, 300)
    whole, both = density_summary(a) + density_summary(b), np.concatenate([a, b])
    assert whole.p90 == pytest.approx(np.percentile(both, 90), abs=0.02)
    assert whole.mean == pytest.approx(both.mean(), rel=1e-6)
    assert whole.positive_ratio == np.mean(both >= 0.2)
    assert whole.pixels == 1000


def test_dab_summary_measures_the_stained_half_within_the_mask():
    dab = np.zeros((32, 32))
    dab[:, 16:] = 0.5
    image = stained(0.2, 0, dab)
    assert dab_summary(image).positive_ratio == 0.5
    assert dab_summary(image).mean == pytest.approx(0.25, abs=0.01)
    mask = dab > 0
    assert dab_summary(image, mask=mask).positive_ratio == 1
    assert dab_summary(image, mask=mask).p90 == pytest.approx(0.5, abs=0.02)
    with pytest.raises(InvalidValueError, match="no pixels"):
        dab_summary(image, mask=np.zeros((32, 32), bool))


def test_kl_by_hand():
    p, q = [3, 1], [1, 1]
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kl_divergence(p, q, smoothing=1e-9) == pytest.approx(expected, abs=1e-6)
    assert kl_divergence([1, 2, 3], [10, 20, 30]) == pytest.approx(0, abs=1e-15)


def test_kl_of_disjoint_histograms_is_finite_and_bounded():
    value = kl_divergence([1] * 8 + [0] * 8, [0] * 8 + [1] * 8)
    assert 5 < value < math.log(16 / 1e-3)
    with pytest.raises(InvalidValueError, match="same bins"):
        kl_divergence([1, 2], [1, 2, 3])
    with pytest.raises(InvalidValueError, match="counts"):
        kl_divergence([0, 0], [1, 1])


def test_hue_histogram_is_opencvs():
    image = he_image(64, seed=3)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    theirs = cv2.calcHist([hsv], [0], None, [10], [0, 256]).ravel()
    np.testing.assert_allclose(hue_histogram(image), theirs / np.linalg.norm(theirs), rtol=1e-6)
    red_and_blue = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)  # hue 0 and 120 half degrees
    expected = np.zeros(10)
    expected[[0, 4]] = math.sqrt(0.5)
    np.testing.assert_allclose(hue_histogram(red_and_blue), expected)


def test_hue_correlation_falls_with_a_change_of_stain():
    brown, blue = stained(np.full((8, 8), 0.05), 0, 0.6), stained(np.full((8, 8), 0.6), 0, 0.02)
    assert hue_correlation(brown, brown) == pytest.approx(1)
    assert hue_correlation(brown, blue) < 0


def test_nuclei_that_stay_and_nuclei_that_move():
    rng = np.random.default_rng(0)
    nuclei = cv2.GaussianBlur((rng.random((128, 128)) < 0.01).astype(np.float32), (0, 0), 3)
    nuclei *= 0.6 / nuclei.max()
    he = stained(nuclei, 0.15, 0)
    staying = stained(nuclei * 0.7, 0, 0.2 * rng.random((128, 128)))
    moved = stained(np.roll(nuclei, 20, 1) * 0.7, 0, 0.2 * rng.random((128, 128)))
    assert haematoxylin_correlation(he, staying) > 0.97
    assert abs(haematoxylin_correlation(he, moved)) < 0.3
    assert math.isnan(haematoxylin_correlation(he, np.full_like(he, 255)))
    half = np.zeros((128, 128), bool)
    half[:64] = True
    mixed = np.concatenate([staying[:64], moved[64:]])
    assert haematoxylin_correlation(he, mixed, mask=half, blur=0) > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rgb": np.zeros((4, 4), np.uint8)}, "uint8"),
        ({"rgb": np.zeros((4, 4, 3), np.float32)}, "uint8"),
        ({"stains": "hex"}, "one of h-e-dab, h-e, h-dab"),
        ({"background": (0, 255, 255)}, "background"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"rgb": np.zeros((4, 4, 3), np.uint8)} | change
    with pytest.raises(InvalidValueError, match=message):
        stain_densities(**arguments)


def test_sizes_and_thresholds_must_match():
    a, b = np.full((8, 8, 3), 200, np.uint8), np.full((8, 9, 3), 200, np.uint8)
    with pytest.raises(InvalidValueError, match="one grid"):
        haematoxylin_correlation(a, b)
    with pytest.raises(InvalidValueError, match="thresholds"):
        _ = density_summary(np.ones(4), 0.1) + density_summary(np.ones(4), 0.2)


histograms = st.lists(st.integers(0, 1000), min_size=6, max_size=6).filter(any)


@given(p=histograms, q=histograms)
def test_kl_is_a_divergence(p, q):
    assert kl_divergence(p, q) >= -1e-12
    assert kl_divergence(p, p) == pytest.approx(0, abs=1e-12)


@given(h=st.floats(0.05, 0.3), d=st.floats(0.05, 0.3))
def test_twice_the_stain_is_twice_the_density_on_any_glass(h, d):
    glass = (240.0, 236.0, 232.0)
    once, twice = (
        stain_densities(stained(np.full((2, 2), k * h), 0, k * d, background=glass), glass, "h-dab")
        for k in (1, 2)
    )
    np.testing.assert_allclose(twice[..., [0, 2]], 2 * once[..., [0, 2]], atol=0.04)


def test_density_shifts_show_in_kl_and_p90_in_proportion():
    rng = np.random.default_rng(3)
    amounts = rng.gamma(2, 0.08, (64, 64))
    real = dab_summary(stained(0.1, 0, amounts))
    divergences = []
    for factor in (1.0, 1.2, 1.6):
        generated = dab_summary(stained(0.1, 0, factor * amounts))
        assert generated.p90 == pytest.approx(factor * real.p90, rel=0.05)
        divergences.append(kl_divergence(real.counts, generated.counts))
    assert divergences[0] < 1e-3 < divergences[1] < divergences[2]


def test_stacks_of_patches_are_one_image():
    stack = np.stack([he_image(32, seed=s) for s in range(3)])
    densities = stain_densities(stack)
    np.testing.assert_allclose(densities[1], stain_densities(stack[1]), atol=1e-6)
    total = sum((dab_summary(p) for p in stack[1:]), dab_summary(stack[0]))
    whole = dab_summary(stack)
    np.testing.assert_array_equal(total.counts, whole.counts)
    assert total.mean == pytest.approx(whole.mean)


def test_hues_are_counted_as_a_histogram_of_all_pixels_counts_them():
    image = np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    hue = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 0]
    counts, _ = np.histogram(hue, 10, (0, 256))
    np.testing.assert_allclose(hue_histogram(image), counts / np.linalg.norm(counts))


def test_mean_density_is_the_mean_of_the_channels():
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    found = mean_density(rgb)
    assert found.dtype == np.float32
    assert np.array_equal(found, optical_density(rgb).mean(axis=-1))
    grey = np.full((2, 3, 3), 51, np.uint8)  # a fifth of 255
    assert mean_density(grey) == pytest.approx(np.full((2, 3), np.log10(5)), abs=1e-6)


def test_hue_is_counted_in_ten_bins_whatever_the_shape():
    rgb = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    hue = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[..., 0]
    counts = np.array([((hue >= 25.6 * k) & (hue < 25.6 * (k + 1))).sum() for k in range(10)])
    assert hue_histogram(rgb) == pytest.approx(counts / np.linalg.norm(counts), abs=1e-12)
    assert np.array_equal(hue_histogram(rgb), hue_histogram(rgb.reshape(-1, 3)))


def test_saturation_of_known_colours():
    """(largest - smallest) / largest: 0 of grey, 1 of a pure colour, a quarter of (200, 150, 175)."""
    colours = np.array([[[90, 90, 90]], [[0, 255, 0]], [[200, 150, 175]]], np.uint8)
    assert [saturation(c) for c in colours] == pytest.approx([0, 1, 0.25], abs=0.003)
    assert saturation(colours) == pytest.approx(1.25 / 3, abs=0.003)

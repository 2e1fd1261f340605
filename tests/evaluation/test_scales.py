"""Agreement across scales of images whose overview is known, drifted, moved or blurred."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from tests.synthetic import he_image, reduce_by
from wsigen.errors import InvalidValueError
from wsigen.evaluation.estimate import MeasureWarning
from wsigen.evaluation.scales import scale_agreement


@pytest.fixture(scope="module")
def fine() -> np.ndarray:
    return he_image(512, seed=1)


def test_an_image_agrees_with_its_own_overview(fine):
    agreement = scale_agreement(fine, reduce_by(fine, 4))
    assert agreement.psnr == pytest.approx(10 * math.log10(255**2 * 12), abs=0.5)  # rounding alone
    assert agreement.correlation > 0.9999
    assert agreement.bias == pytest.approx((0, 0, 0), abs=0.1)
    assert agreement.detail == pytest.approx(1, abs=0.01)
    constant = np.full((64, 64, 3), 40, np.uint8)
    with pytest.warns(MeasureWarning, match="no correlation"):
        assert scale_agreement(constant, constant[::4, ::4]).psnr == math.inf


def test_a_drift_of_colour_is_the_bias_and_sets_the_psnr(fine):
    dim = np.clip(fine.astype(int) - (6, 0, 10), 0, 255).astype(np.uint8)
    agreement = scale_agreement(dim, reduce_by(fine, 4))
    assert agreement.bias == pytest.approx((-6, 0, -10), abs=0.1)
    assert agreement.psnr == pytest.approx(10 * math.log10(255**2 / ((36 + 100) / 3)), abs=0.1)


def test_other_content_at_the_same_place_does_not_correlate(fine):
    inside, other = fine[128:384, 128:384], he_image(512, seed=2)[128:384, 128:384]
    assert scale_agreement(inside, reduce_by(other, 4)).correlation < 0.5
    moved = np.roll(inside, 16, axis=1)
    assert scale_agreement(moved, reduce_by(inside, 4)).correlation < 0.6


def test_blur_beyond_the_overviews_pixel_costs_detail(fine):
    coarse = reduce_by(fine, 4)
    assert scale_agreement(cv2.GaussianBlur(fine, (0, 0), 8), coarse).detail < 0.6
    assert scale_agreement(cv2.GaussianBlur(fine, (0, 0), 1), coarse).detail > 0.9


def test_fractional_factors_and_odd_sizes_are_one_region(fine):
    coarse = cv2.resize(fine[:511], (103, 102), interpolation=cv2.INTER_AREA)
    assert scale_agreement(fine[:511], coarse).correlation > 0.999


@pytest.mark.parametrize("coarse", [(512, 512), (128, 64), (430, 430)])
def test_other_regions_are_refused(fine, coarse):
    with pytest.raises(InvalidValueError, match="same region"):
        scale_agreement(fine, np.zeros((*coarse, 3), np.uint8))


def test_agreement_falls_with_the_error():
    image = he_image(256, seed=3)
    coarse, rng = reduce_by(image, 4), np.random.default_rng(0)
    noise = rng.normal(0, 1, coarse.shape)
    agreements = [
        scale_agreement(image, np.clip(np.round(coarse + level * noise), 0, 255).astype(np.uint8))
        for level in (2, 8, 24)
    ]
    psnrs, correlations = ([getattr(a, name) for a in agreements] for name in ("psnr", "correlation"))
    assert psnrs == sorted(psnrs, reverse=True)
    assert correlations == sorted(correlations, reverse=True)
    assert psnrs[0] == pytest.approx(20 * np.log10(255 / 2), abs=1)

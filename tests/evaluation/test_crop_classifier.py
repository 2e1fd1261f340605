"""A small network learns what tells crops apart, and nothing where nothing does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsigen.errors import InvalidValueError
from wsigen.evaluation.seam_classifier import CropClassifier, Training

SIDE = 24


def noise(n: int, seed: int, level: float = 128) -> np.ndarray:
    return np.random.default_rng(seed).normal(level, 20, (n, SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)


def with_line(crops: np.ndarray, seed: int) -> np.ndarray:
    """A dark row in each crop, anywhere."""
    out = crops.copy()
    out[np.arange(len(out)), np.random.default_rng(seed).integers(4, SIDE - 4, len(out))] = 10
    return out


def trained(positive, negative, updates=60, **more):
    return Training(updates, batch=16, width=4, **more).fit(positive, negative)


def test_a_line_of_one_pixel_is_learnt():
    net = trained(with_line(noise(60, 0), 1), noise(60, 2))
    joined, whole = net.classify(with_line(noise(40, 3), 4)), net.classify(noise(40, 5))
    assert (joined > 0).mean() > 0.9
    assert (whole <= 0).mean() > 0.9


def test_turned_crops_are_learnt_along():
    """It was shown rows, and knows columns."""
    net = trained(with_line(noise(60, 0), 1), noise(60, 2), updates=100)
    columns = np.ascontiguousarray(with_line(noise(40, 3), 4).swapaxes(1, 2))
    assert (net.classify(columns) > 0).mean() > 0.9


def test_equal_sets_are_not_told_apart():
    net = trained(noise(60, 0), noise(60, 1))
    apart = net.classify(noise(80, 2)).mean() - net.classify(noise(80, 3)).mean()
    assert abs(apart) < 0.5


def test_same_seed_same_network_and_torch_s_own_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    crops = noise(20, 0), noise(20, 1, 90)
    one, same, other = (trained(*crops, updates=4, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    test = noise(10, 2)
    np.testing.assert_array_equal(one.classify(test), same.classify(test))
    assert not np.array_equal(one.classify(test), other.classify(test))


def test_verdicts_do_not_depend_on_the_batch():
    net = CropClassifier(4).eval()
    crops = noise(7, 0)
    np.testing.assert_allclose(net.classify(crops, batch=3), net.classify(crops), rtol=1e-4, atol=1e-5)
    assert net.classify(crops).shape == (7,)


def test_crops_of_any_size_are_judged():
    net = CropClassifier(4).eval()
    assert net.classify(np.zeros((2, 40, 24, 3), np.uint8)).shape == (2,)


@pytest.mark.parametrize(
    "crops", [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3)), np.zeros((2, 8, 8), np.uint8)]
)
def test_what_is_no_crop(crops):
    with pytest.raises(InvalidValueError, match=r"crops must be uint8 \(n ≥ 1, h, w, 3\)"):
        CropClassifier(4).classify(crops)
    with pytest.raises(InvalidValueError, match="crops must be uint8"):
        Training(1).fit(noise(2, 0), crops)


def test_crops_of_two_sizes_are_refused():
    with pytest.raises(InvalidValueError, match="crops must be of one size"):
        Training(1).fit(noise(2, 0), noise(2, 0)[:, :16, :16])

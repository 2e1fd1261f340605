"""A small network learns what tells crops apart, planted seams and domains, and nothing elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.test_seams import texture, with_seams
from wsigen.errors import InvalidValueError
from wsigen.evaluation.estimate import MeasureWarning
from wsigen.evaluation.pairs import domain_differentiation
from wsigen.evaluation.seam_classifier import CropClassifier, Training, seam_crops, seam_visibility
from wsigen.evaluation.windows import SeamGrid

SMALL, SIDE = Training(50, width=8), 24


def coordinates(side: int = 256) -> np.ndarray:
    """An image that says where each of its pixels is."""
    y, x = np.mgrid[:side, :side]
    return np.stack([y, x, 0 * y], axis=-1).astype(np.uint8)


@given(seed=st.integers(0, 99), row=st.integers(0, 99), col=st.integers(0, 99))
def test_crops_straddle_seams_or_keep_away(seed, row, col):
    over, inside = seam_crops(coordinates(), SeamGrid("", 100, (row,), (col,)), 10, size=32, seed=seed)
    for i, crop in enumerate(over):
        axis, phase = i % 2, (row, col)[i % 2]
        offsets = (int(crop[0, 0, axis]) + np.arange(32) - phase) % 100
        assert 8 <= int(np.flatnonzero(offsets == 0)[0]) <= 24
    for crop in inside:
        for axis, phase in ((0, row), (1, col)):
            start = int(crop[0, 0, axis])
            assert all(p <= start - 8 or p >= start + 32 + 8 for p in range(phase, 256, 100))


@pytest.mark.parametrize(
    ("pitch", "size", "message"),
    [(64, 64, "8 px away from seams with pitch 64"), (200, 128, "no seam with pitch 200")],
)
def test_places_that_do_not_exist_are_refused(pitch, size, message):
    with pytest.raises(InvalidValueError, match=message):
        seam_crops(coordinates(), SeamGrid("", pitch, (10,), (10,)), 1, size=size)


def crops_of(images: list[np.ndarray], pitch: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    grid = SeamGrid("", pitch, (20,), (20,))
    found = [seam_crops(image, grid, count, size=32, seed=i) for i, image in enumerate(images)]
    over, inside = (np.concatenate(kind) for kind in zip(*found, strict=True))
    return over, inside, np.repeat(np.arange(len(images)), count)


def test_planted_seams_are_visible_and_none_are_not():
    plain = [texture(seed, 256).clip(0, 255).astype(np.uint8) for seed in range(6)]
    seamed = [
        with_seams(with_seams(t.astype(float), 64, 20, 25.0, 0), 64, 20, 25.0, 1)
        .clip(0, 255)
        .astype(np.uint8)
        for t in plain
    ]
    over, inner, slides = crops_of(seamed, 64, 40)
    seen = seam_visibility(over, inner, slides, SMALL)
    assert seen.low > 0.7
    over, inner, slides = crops_of(plain, 64, 40)
    unseen = seam_visibility(over, inner, slides, SMALL)
    assert unseen.value == pytest.approx(0.5, abs=0.1)
    assert unseen.high < seen.low


def coloured(seed: int, count: int, tint: tuple[int, int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    crops = rng.normal(0, 25, (count, 32, 32, 1)) + np.asarray(tint)
    return crops.clip(0, 255).astype(np.uint8)


def test_domains_are_differentiated_and_seams_of_the_wrong_domain_found():
    pink, brown = (210, 140, 190), (160, 120, 80)
    source, target = coloured(0, 80, pink), coloured(1, 80, brown)
    inside, over = coloured(2, 60, brown), coloured(3, 60, brown)
    difference, share = domain_differentiation(source, target, over, inside, SMALL)
    assert (difference.value, share.value) == (0, 1)
    over[:30] = coloured(4, 30, pink)
    difference, share = domain_differentiation(source, target, over, inside, SMALL)
    assert share.value == 0.5
    assert difference.high < -0.3


def test_domains_that_do_not_differ_give_a_warning():
    same = [coloured(seed, 60, (180, 130, 150)) for seed in range(4)]
    with pytest.warns(MeasureWarning, match="right on only"):
        domain_differentiation(*same, Training(5, width=4))


def test_too_few_regions_are_refused():
    a = coloured(8, 4, (150, 150, 150))
    with pytest.raises(InvalidValueError, match="crops of at least 4 regions, got 2"):
        seam_visibility(a, a, [1, 1, 2, 2], SMALL)


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


@pytest.mark.parametrize(
    "crops", [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3)), np.zeros((2, 8, 8), np.uint8)]
)
def test_what_is_no_crop(crops):
    with pytest.raises(InvalidValueError, match=r"crops must be uint8 \(n, h, w, 3\)"):
        CropClassifier(4).classify(crops)
    with pytest.raises(InvalidValueError, match="crops must be uint8"):
        Training(1).fit(noise(2, 0), crops)


def test_crops_of_two_sizes_are_refused():
    with pytest.raises(InvalidValueError, match="crops must be of one size"):
        Training(1).fit(noise(2, 0), noise(2, 0)[:, :16, :16])

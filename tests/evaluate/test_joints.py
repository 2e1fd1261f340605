"""A classifier sees planted joints and domains, and does not see what is not there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluate.test_seams import texture, with_seams
from wsigen.errors import InvalidValueError
from wsigen.evaluate.classifier import CropClassifier, classify, train_classifier
from wsigen.evaluate.estimate import MeasureWarning
from wsigen.evaluate.joints import domain_differentiation, inner_crops, joint_visibility, straddling_crops

SMALL = {"updates": 50, "width": 8}


def coordinates(side: int = 256) -> np.ndarray:
    """An image that says where each of its pixels is."""
    y, x = np.mgrid[:side, :side]
    return np.stack([y, x, 0 * y], axis=-1).astype(np.uint8)


@given(seed=st.integers(0, 99), row=st.integers(0, 99), col=st.integers(0, 99))
def test_crops_straddle_joints_or_keep_away(seed, row, col):
    image = coordinates()
    over = straddling_crops(image, 100, 10, size=32, rows=[row], cols=[col], seed=seed)
    for i, crop in enumerate(over):
        axis, phase = i % 2, (row, col)[i % 2]
        start = int(crop[0, 0, axis])
        offsets = (start + np.arange(32) - phase) % 100
        middle = int(np.flatnonzero(offsets == 0)[0])
        assert 8 <= middle <= 24
    for crop in inner_crops(image, 100, 10, size=32, rows=[row], cols=[col], seed=seed):
        for axis, phase in ((0, row), (1, col)):
            start = int(crop[0, 0, axis])
            joints = list(range(phase, 256, 100))
            assert all(p <= start - 8 or p >= start + 32 + 8 for p in joints)


def test_places_that_do_not_exist_are_refused():
    with pytest.raises(InvalidValueError, match="8 px away from joints with pitch 64"):
        inner_crops(coordinates(), 64, 1, size=64)
    with pytest.raises(InvalidValueError, match="no joint with pitch 200"):
        straddling_crops(coordinates(), 200, 1, size=128, rows=[10], cols=[10])


def crops_of(images: list[np.ndarray], pitch: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    over = [
        straddling_crops(im, pitch, count, size=32, rows=[20], cols=[20], seed=i)
        for i, im in enumerate(images)
    ]
    inner = [
        inner_crops(im, pitch, count, size=32, rows=[20], cols=[20], seed=i) for i, im in enumerate(images)
    ]
    return np.concatenate(over), np.concatenate(inner), np.repeat(np.arange(len(images)), count)


def test_planted_joints_are_visible_and_none_are_not():
    plain = [texture(seed, 256).clip(0, 255).astype(np.uint8) for seed in range(6)]
    seamed = [
        with_seams(with_seams(t.astype(float), 64, 20, 25.0, 0), 64, 20, 25.0, 1)
        .clip(0, 255)
        .astype(np.uint8)
        for t in plain
    ]
    over, inner, slides = crops_of(seamed, 64, 40)
    seen = joint_visibility(over, inner, straddling_regions=slides, inside_regions=slides, **SMALL)
    assert seen.low > 0.7
    over, inner, slides = crops_of(plain, 64, 40)
    unseen = joint_visibility(over, inner, straddling_regions=slides, inside_regions=slides, **SMALL)
    assert unseen.value == pytest.approx(0.5, abs=0.1)
    assert unseen.high < seen.low


def coloured(seed: int, count: int, tint: tuple[int, int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    crops = rng.normal(0, 25, (count, 32, 32, 1)) + np.asarray(tint)
    return crops.clip(0, 255).astype(np.uint8)


def test_domains_are_differentiated_and_joints_of_the_wrong_domain_found():
    pink, brown = (210, 140, 190), (160, 120, 80)
    source, target = coloured(0, 80, pink), coloured(1, 80, brown)
    inside, straddling = coloured(2, 60, brown), coloured(3, 60, brown)
    fine = domain_differentiation(source, target, straddling, inside, **SMALL)
    assert fine.accuracy == 1
    assert fine.inside.value == fine.straddling.value == 1
    assert fine.difference.value == 0
    straddling[:30] = coloured(4, 30, pink)
    half = domain_differentiation(source, target, straddling, inside, **SMALL)
    assert half.straddling.value == 0.5
    assert half.difference.high < -0.3


def test_domains_that_do_not_differ_give_a_warning():
    same = [coloured(seed, 60, (180, 130, 150)) for seed in range(4)]
    with pytest.warns(MeasureWarning, match="right on only"):
        domain_differentiation(*same, updates=5, width=4)


def test_training_is_deterministic_and_leaves_torchs_generator_alone():
    a, b = coloured(5, 8, (200, 100, 100)), coloured(6, 8, (100, 100, 200))
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, second = (classify(train_classifier(a, b, updates=3, width=4), a) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not np.array_equal(classify(train_classifier(a, b, updates=3, width=4, seed=1), a), first)


def test_classification_does_not_depend_on_the_batch():
    crops = coloured(7, 10, (150, 150, 150))
    net = CropClassifier(width=4).eval()
    np.testing.assert_allclose(classify(net, crops, batch=3), classify(net, crops), atol=1e-5)


def test_bad_crops_are_named():
    a = coloured(8, 4, (150, 150, 150))
    with pytest.raises(InvalidValueError, match="one size"):
        train_classifier(a, a[:, :16], updates=1)
    with pytest.raises(InvalidValueError, match="uint8"):
        train_classifier(a.astype(np.float32), a, updates=1)
    for regions in ([1, 1, 2, 2], [1, 2, 3, 5]):
        with pytest.raises(InvalidValueError, match="at least 4 regions with crops of both kinds"):
            joint_visibility(a, a, straddling_regions=regions, inside_regions=[1, 2, 3, 4])

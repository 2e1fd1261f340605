"""A classifier sees planted seams and domains, and does not see what is not there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.test_seams import texture, with_seams
from wsigen.errors import InvalidValueError
from wsigen.evaluation.estimate import MeasureWarning
from wsigen.evaluation.seam_classifier import (
    Training,
    crops_over_seams,
    domain_differentiation,
    inner_crops,
    seam_visibility,
)

SMALL = Training(50, width=8)


def coordinates(side: int = 256) -> np.ndarray:
    """An image that says where each of its pixels is."""
    y, x = np.mgrid[:side, :side]
    return np.stack([y, x, 0 * y], axis=-1).astype(np.uint8)


@given(seed=st.integers(0, 99), row=st.integers(0, 99), col=st.integers(0, 99))
def test_crops_straddle_seams_or_keep_away(seed, row, col):
    image = coordinates()
    over = crops_over_seams(image, 100, 10, size=32, rows=[row], cols=[col], seed=seed)
    for i, crop in enumerate(over):
        axis, phase = i % 2, (row, col)[i % 2]
        start = int(crop[0, 0, axis])
        offsets = (start + np.arange(32) - phase) % 100
        middle = int(np.flatnonzero(offsets == 0)[0])
        assert 8 <= middle <= 24
    for crop in inner_crops(image, 100, 10, size=32, rows=[row], cols=[col], seed=seed):
        for axis, phase in ((0, row), (1, col)):
            start = int(crop[0, 0, axis])
            seams = list(range(phase, 256, 100))
            assert all(p <= start - 8 or p >= start + 32 + 8 for p in seams)


def test_places_that_do_not_exist_are_refused():
    with pytest.raises(InvalidValueError, match="8 px away from seams with pitch 64"):
        inner_crops(coordinates(), 64, 1, size=64)
    with pytest.raises(InvalidValueError, match="no seam with pitch 200"):
        crops_over_seams(coordinates(), 200, 1, size=128, rows=[10], cols=[10])


def crops_of(images: list[np.ndarray], pitch: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    over = [
        crops_over_seams(im, pitch, count, size=32, rows=[20], cols=[20], seed=i)
        for i, im in enumerate(images)
    ]
    inner = [
        inner_crops(im, pitch, count, size=32, rows=[20], cols=[20], seed=i) for i, im in enumerate(images)
    ]
    return np.concatenate(over), np.concatenate(inner), np.repeat(np.arange(len(images)), count)


def test_planted_seams_are_visible_and_none_are_not():
    plain = [texture(seed, 256).clip(0, 255).astype(np.uint8) for seed in range(6)]
    seamed = [
        with_seams(with_seams(t.astype(float), 64, 20, 25.0, 0), 64, 20, 25.0, 1)
        .clip(0, 255)
        .astype(np.uint8)
        for t in plain
    ]
    over, inner, slides = crops_of(seamed, 64, 40)
    seen = seam_visibility(over, inner, SMALL, over_regions=slides, inside_regions=slides)
    assert seen.low > 0.7
    over, inner, slides = crops_of(plain, 64, 40)
    unseen = seam_visibility(over, inner, SMALL, over_regions=slides, inside_regions=slides)
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
    for regions in ([1, 1, 2, 2], [1, 2, 3, 5]):
        with pytest.raises(InvalidValueError, match="at least 4 regions with crops of both kinds"):
            seam_visibility(a, a, SMALL, over_regions=regions, inside_regions=[1, 2, 3, 4])

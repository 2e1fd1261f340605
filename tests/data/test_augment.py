"""What is done to patches against what it must leave as it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.synthetic import write_tiff
from wsigen.config import AugmentConfig
from wsigen.data.augment import FINER, STAINS, Variation, draw_variation
from wsigen.data.index import SlideIndex
from wsigen.data.patches import PatchDataset, PatchKey
from wsigen.data.survey import build_index
from wsigen.diffusion.spectrum import image_std
from wsigen.errors import InvalidValueError

ALL = AugmentConfig(rotate=1.0, stretch=0.2, stain=0.1)
GLASS = (244, 243, 246)


def plane(size: int, along_x: float, along_y: float) -> np.ndarray:
    """Brightness that rises evenly; the middle of the picture has 128."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.repeat((128 + along_x * x + along_y * y)[..., None], 3, axis=2).round().astype(np.uint8)


@given(angle=st.floats(0, 2 * math.pi), stretch=st.floats(-0.2, 0.2), size=st.sampled_from([16, 33, 64]))
def test_an_even_slope_turns_and_steepens_as_geometry_says(angle, stretch, size):
    variation = Variation(angle=angle, stretch=stretch)
    source = plane(variation.source_size(size), 0.4, 0.2)
    found = variation.warp(source, size)[..., 0].astype(float)
    along_x = FINER * math.exp(-stretch) * (0.4 * math.cos(angle) + 0.2 * math.sin(angle))
    along_y = FINER * math.exp(stretch) * (-0.4 * math.sin(angle) + 0.2 * math.cos(angle))
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    np.testing.assert_allclose(found, 128 + along_x * x + along_y * y, atol=1.5)


@given(angle=st.floats(0, 2 * math.pi), stretch=st.floats(-0.2, 0.2))
def test_no_pixel_is_missing_from_what_is_read(angle, stretch):
    """A frame as wide as the margin, in another colour, is not seen."""
    variation = Variation(angle=angle, stretch=stretch)
    source = np.zeros((variation.source_size(32),) * 2 + (3,), np.uint8)
    source[0], source[-1], source[:, 0], source[:, -1] = 255, 255, 255, 255
    assert variation.warp(source, 32).max() == 0


def test_a_stain_is_multiplied_and_the_others_are_not():
    glass = np.array(GLASS) + 1.0
    tissue = np.rint(glass * np.exp(-np.array([[0.5], [1.0]]) * STAINS) - 1)[None].astype(np.uint8)
    stronger = Variation(gains=(math.log(1.5), 0.0)).stain(tissue, GLASS)
    expected = glass * np.exp(-np.array([[0.75], [1.0]]) * STAINS) - 1  # haematoxylin, then eosin
    np.testing.assert_allclose(stronger[0], expected, atol=1.5)


@given(gains=st.tuples(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4)))
def test_glass_keeps_its_colour(gains):
    glass = np.array([[GLASS, (255, 255, 255), (244, 255, 250)]], np.uint8)
    assert (Variation(gains=gains).stain(glass, GLASS) == glass).all()


def test_drawn_variations_are_as_wide_as_they_are_said_to_be():
    rng = np.random.default_rng(0)
    drawn = [draw_variation(AugmentConfig(rotate=0.5, stretch=0.2, stain=0.1), rng) for _ in range(4000)]
    turned = np.array([v.angle for v in drawn if v.angle])
    assert len(turned) / 4000 == pytest.approx(0.5, abs=0.03)
    assert np.histogram(turned, 4, (0, 2 * math.pi))[0] / len(turned) == pytest.approx([0.25] * 4, abs=0.03)
    assert max(math.exp(abs(2 * v.stretch)) for v in drawn) == pytest.approx(1.2, abs=0.002)
    assert np.std([v.gains for v in drawn], axis=0) == pytest.approx([0.1, 0.1], rel=0.1)
    assert np.abs([v.gains for v in drawn]).max() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [("rotate", 1.1, r"in \[0, 1\]"), ("stretch", -0.1, r"in \[0, 0.5\]"), ("stain", 0.6, r"in \[0, 0.5\]")],
)
def test_impossible_values_are_refused(flag, value, expected):
    with pytest.raises(InvalidValueError, match=rf"data.augment.{flag} must be {expected}, got {value}"):
        AugmentConfig(**{flag: value})


@pytest.fixture(scope="module")
def crop(tmp_path_factory) -> SlideIndex:
    """Fine, even texture from border to border, and padding that would be seen."""
    rng = np.random.default_rng(3)
    texture = np.array([170, 90, 150]) + rng.normal(0, 40, (1024, 1024, 1))
    folder = tmp_path_factory.mktemp("slides")
    write_tiff(folder / "crop.tif", np.clip(texture, 0, 200).astype(np.uint8), 0.5, compression="zstd")
    index = build_index(folder, progress=False)[0]
    assert index.entries[0].border_tissue == 1.0
    return index


def test_nothing_is_drawn_otherwise_where_nothing_is_varied(crop):
    plain = PatchDataset(crop, seed=1, mpp_range=(0.5, 8.0))
    none = PatchDataset(crop, seed=1, mpp_range=(0.5, 8.0), vary=AugmentConfig())
    still = PatchDataset(crop, seed=1, mpp_range=(0.5, 8.0), augment=False, vary=ALL)
    bare = PatchDataset(crop, seed=1, mpp_range=(0.5, 8.0), augment=False)
    for number in range(12):
        key = PatchKey(number, 32)
        assert torch.equal(plain[key].image, none[key].image)
        assert torch.equal(still[key].image, bare[key].image)


def test_varied_patches_depend_on_their_key_alone_and_have_the_same_scale(crop):
    plain = PatchDataset(crop, seed=1, mpp_range=(0.5, 8.0))
    one, other = (PatchDataset(crop, seed=1, mpp_range=(0.5, 8.0), vary=ALL) for _ in range(2))
    keys = [PatchKey(number, 32) for number in range(12)]
    forward, backward = [one[k] for k in keys], [other[k] for k in reversed(keys)][::-1]
    for key, a, b in zip(keys, forward, backward, strict=True):
        assert torch.equal(a.image, b.image)
        assert a.mpp == plain[key].mpp
        assert not torch.equal(a.image, plain[key].image)


def test_no_corner_is_empty(crop):
    """Neither where a turned patch just fits into the slide, nor where it does not and is left as it is."""
    dataset = PatchDataset(crop, mpp_range=(1.0, 8.0), anywhere_fraction=0.5, vary=ALL)
    assert max(int(dataset[PatchKey(n, 64)].image.max()) for n in range(60)) < 225


def test_detail_is_as_strong_as_in_patches_that_are_not_turned(crop):
    def detail(vary: AugmentConfig | None) -> float:
        dataset = PatchDataset(crop, mpp_range=(1.0, 1.0), vary=vary)
        images = torch.stack([dataset[PatchKey(n, 64)].image for n in range(40)]).float() / 127.5 - 1
        return float(image_std(images, 2)[0, 0])

    assert detail(AugmentConfig(rotate=1.0)) == pytest.approx(detail(None), rel=0.06)

"""Tissue and glass."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.synthetic import GLASS, he_image
from wsigen.geometry import Size
from wsigen.slide.tissue import background_colour, border_fraction, mask_resolution, tissue_mask

MPP = 8.0
PINK = (225, 160, 195)


def glass(height: int = 200, width: int = 250, level: int = GLASS, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 2, (height, width, 3))
    return np.clip(level + noise, 0, 255).astype(np.uint8)


def with_tissue(colour: tuple[int, int, int] = PINK) -> tuple[np.ndarray, np.ndarray]:
    """Glass with a round piece of tissue of 1.2 mm²; and where it is."""
    image = glass()
    truth = np.zeros(image.shape[:2], np.uint8)
    cv2.ellipse(truth, (110, 100), (90, 65), 0, 0, 360, 1, -1)
    image[truth > 0] = np.clip(np.random.default_rng(1).normal(colour, 6, (int(truth.sum()), 3)), 0, 255)
    return image, truth.astype(bool)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize(
    "colour",
    [PINK, (150, 90, 160), (236, 215, 229), (120, 70, 45), (190, 195, 220), (160, 30, 60)],
    ids=["eosin", "haematoxylin", "pale stroma", "DAB", "counterstain", "blood"],
)
def test_tissue_of_any_stain_is_found(colour):
    image, truth = with_tissue(colour)
    assert overlap(tissue_mask(image, MPP), truth) > 0.93


@pytest.mark.parametrize("level", [225, 235, GLASS, 250, 255])
def test_a_blank_slide_has_no_tissue(level):
    """Otsu alone would split the noise in halves."""
    assert not tissue_mask(glass(level=level), MPP).any()
    assert not tissue_mask(np.full((50, 60, 3), level, np.uint8), MPP).any()


def test_a_blank_slide_with_shading_and_dust_has_no_tissue():
    image = glass().astype(float)
    image *= np.linspace(0.78, 1.0, 250)[None, :, None]  # the edge of the slide casts a shadow
    image[50:56, 50:56] = (90, 60, 60)
    assert not tissue_mask(image.astype(np.uint8), MPP).any()


@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_a_crop_full_of_tissue_is_all_tissue(share):
    """There Otsu would tell nuclei from stroma."""
    rng = np.random.default_rng(0)
    nuclei = rng.random((64, 64)) < share * 0.4
    image = np.where(nuclei[..., None], (110, 70, 150), (228, 176, 205)).astype(np.uint8)
    assert tissue_mask(image, MPP).mean() > 0.99


def test_the_synthetic_slide(he_picture):
    small = cv2.resize(he_picture, (128, 128), interpolation=cv2.INTER_AREA)
    mask = tissue_mask(small, 4.0)
    pink = small[..., 1] < 215
    assert overlap(mask, pink) > 0.9
    assert border_fraction(mask) == 0
    assert background_colour(small, mask) == pytest.approx((GLASS - 0.5,) * 3, abs=1)


@pytest.mark.parametrize(
    "ink", [(20, 90, 190), (10, 140, 60), (0, 120, 130), (15, 15, 18)], ids=["blue", "green", "teal", "black"]
)
def test_pen_is_no_tissue(ink):
    image, truth = with_tissue()
    image[150:172, 40:240] = ink
    mask = tissue_mask(image, MPP)
    assert not mask[150:172, 60:220].any()
    truth[145:177] = mask[145:177] = False
    assert overlap(mask, truth) > 0.93


def test_black_surroundings_are_no_tissue():
    """Some scanners leave black what they did not scan."""
    image, truth = with_tissue()
    framed = np.zeros((300, 400, 3), np.uint8)
    framed[50:250, 70:320] = image
    mask = tissue_mask(framed, MPP)
    assert overlap(mask[55:245, 75:315], truth[5:-5, 5:-5]) > 0.9
    assert mask[:50].sum() + mask[250:].sum() == 0
    assert not tissue_mask(np.zeros((80, 80, 3), np.uint8), MPP).any()


def test_specks_and_holes_go_by_area():
    image, _ = with_tissue()
    image[5:9, 230:234] = PINK  # 32 µm a side
    image[95:105, 95:105] = GLASS  # a lumen of 80 µm
    image[70:110, 120:160] = GLASS  # one of 320 µm
    mask = tissue_mask(image, MPP)
    assert not mask[:15, 220:].any()
    assert mask[95:105, 95:105].all()
    assert not mask[80:100, 130:150].any()


@given(size=st.integers(8, 64), mpp=st.floats(0.5, 8.0), seed=st.integers(0, 50))
def test_small_slides_are_not_specks(size, mpp, seed):
    """An image of a few micrometres has tissue too; and bare glass of any size has none."""
    image = glass(size, size, seed=seed)
    assert not tissue_mask(image, mpp).any()
    quarter = size // 2
    image[: quarter + 2, : quarter + 2] = PINK
    assert tissue_mask(image, mpp)[: quarter // 2, : quarter // 2].any()


def test_scale_does_not_matter():
    picture = he_image(800, seed=3, mpp=2.0)
    masks = []
    for factor in (2, 4, 8):
        small = cv2.resize(picture, (800 // factor,) * 2, interpolation=cv2.INTER_AREA)
        mask = tissue_mask(small, 2.0 * factor).astype(np.uint8)
        masks.append(cv2.resize(mask, (800, 800), interpolation=cv2.INTER_NEAREST).astype(bool))
    assert overlap(masks[0], masks[1]) > 0.95
    assert overlap(masks[1], masks[2]) > 0.95


@pytest.mark.parametrize(
    ("mpp", "size", "expected"),
    [
        (0.25, Size(100_000, 80_000), 8.0),
        (0.25, Size(2048, 2048), 8.0),
        (0.5, Size(1024, 256), 2.0),
        (0.5, Size(40, 40), 0.5),
        (20.0, Size(900, 900), 20.0),
    ],
)
def test_mask_resolution(mpp, size, expected):
    assert mask_resolution(mpp, size) == expected


def test_glass_is_measured_away_from_tissue():
    image, truth = with_tissue()
    image[~truth] = (246, 244, 239)
    assert background_colour(image, truth) == (246, 244, 239)
    assert background_colour(image[60:130, 60:150], truth[60:130, 60:150]) is None


@pytest.mark.parametrize(
    ("region", "share"), [((slice(0, 5), slice(None)), 1 / 3), ((slice(3, 6), slice(3, 6)), 0.0)]
)
def test_border_fraction(region, share):
    mask = np.zeros((10, 10), bool)
    mask[region] = True
    expected = share and (10 + 2 * 4) / 36
    assert border_fraction(mask) == pytest.approx(expected)
    assert border_fraction(np.ones((1, 4), bool)) == 1.0

"""Statistics of a whole slide: thumbnails by area, and means over nodes, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from tests.stain.translations import OneNorm, crop, texture
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size
from wsigen.stain.engine.background import BackgroundMap
from wsigen.stain.engine.statistics import prepare_constant, read_thumbnail, tissue_like
from wsigen.stain.normalise import Field
from wsigen.stain.normalise.norm import Norm


def reader(image: np.ndarray, seen: list[Region] | None = None):
    def read(region: Region) -> np.ndarray:
        assert region.intersect(Size(*image.shape[:2]).region) == region
        if seen is not None:
            seen.append(region)
        return crop(image, region)

    return read


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_thumbnail_is_the_mean_over_areas(monkeypatch):
    image = noise(1024, 512)
    expected = image.reshape(512, 2, 256, 2, 3).mean((1, 3))
    for strip in (1 << 22, 100 * 512):  # whole, and strips that do not end with an average
        monkeypatch.setattr("wsigen.stain.engine.statistics._STRIP_PIXELS", strip)
        seen: list[Region] = []
        small = read_thumbnail(reader(image, seen), Size(1024, 512))
        assert np.abs(small - expected).max() <= 0.5 + 1e-4
        assert sum(r.size.area for r in seen) == image.shape[0] * image.shape[1]  # every pixel once


def test_areas_that_are_no_whole_pixels_keep_the_mean():
    image = noise(1000, 700)
    small = read_thumbnail(reader(image), Size(1000, 700))
    assert small.shape == (512, 360, 3)
    np.testing.assert_allclose(small.mean((0, 1)), image.mean((0, 1)), atol=0.3)
    rows = np.arange(1000) * 0.2
    ramp = np.repeat(rows[:, None, None], 700, 1).repeat(3, 2).round().astype(np.uint8)
    expected = (np.arange(512) + 0.5) * (1000 / 512) * 0.2 - 0.1
    np.testing.assert_allclose(read_thumbnail(reader(ramp), Size(1000, 700))[:, 5, 0], expected, atol=1.05)


@pytest.mark.parametrize(
    ("size", "shape"),
    [((300, 200), (300, 200)), ((302, 201), (304, 200)), ((4000, 100), (512, 16)), ((3, 3), (16, 16))],
)
def test_sides_of_thumbnails(size, shape):
    image = np.full((*size, 3), 77, np.uint8)
    small = read_thumbnail(reader(image), Size(*size))
    assert small.shape == (*shape, 3)
    assert (small == 77).all()


def test_tin_takes_the_statistics_of_the_thumbnail():
    image = noise(512, 512)
    (fields,) = prepare_constant([OneNorm()], reader(image), Size(512, 512), Norm("tin"))
    (field,) = fields
    assert isinstance(field, Field)
    values = image.reshape(-1, 3) / 127.5 - 1
    np.testing.assert_allclose(field.mean[0, 0], values.mean(0), atol=1e-5)
    np.testing.assert_allclose(field.inv_std[0, 0], 1 / np.sqrt(values.var(0) + 1e-5), rtol=1e-4)


def patches(image: np.ndarray, side: int) -> np.ndarray:
    """(nodes, pixels, 3) in [-1, 1]."""
    rows, cols = image.shape[0] // side, image.shape[1] // side
    cut = image.reshape(rows, side, cols, side, 3).transpose(0, 2, 1, 3, 4)
    return cut.reshape(rows * cols, -1, 3) / 127.5 - 1


@pytest.mark.parametrize("glass", [False, True])
def test_an_infinite_kernel_averages_mean_and_deviation_of_tissue(glass):
    image = texture(256, 384)
    occupied = np.ones((16, 24), bool)
    occupied[:, :8] = False  # the first two columns of nodes … of which there are six
    weights = np.ones((4, 6))
    if glass:
        weights[:, :2] = 0
    found = prepare_constant(
        [OneNorm(), OneNorm()],
        reader(image),
        Size(256, 384),
        Norm("kin", size="inf"),
        background=BackgroundMap(occupied, 16) if glass else None,
        pitch=64,
    )
    values, weights = patches(image, 64), weights.reshape(-1, 1)
    std = np.sqrt(values.var(1) + 1e-5)
    for (field,) in found:
        assert isinstance(field, Field)
        np.testing.assert_allclose(
            field.mean[0, 0], (weights * values.mean(1)).sum(0) / weights.sum(), atol=1e-5
        )
        np.testing.assert_allclose(1 / field.inv_std[0, 0], (weights * std).sum(0) / weights.sum(), rtol=1e-4)


def test_a_slide_without_tissue_has_what_is_usual():
    image = np.full((128, 128, 3), 243, np.uint8)
    ((field,),) = prepare_constant(
        [OneNorm()], reader(image), Size(128, 128), Norm.parse("kin-inf"), pitch=64
    )
    assert isinstance(field, Field)
    usual = tissue_like().reshape(-1, 3) / 127.5 - 1
    np.testing.assert_allclose(field.mean[0, 0], usual.mean(0), atol=1e-5)
    np.testing.assert_allclose(1 / field.inv_std[0, 0], usual.std(0), rtol=1e-3)


def test_a_norm_that_differs_over_the_slide_is_refused():
    with pytest.raises(InvalidValueError, match="not the same"):
        prepare_constant([OneNorm()], reader(texture(64)), Size(64, 64), Norm())


def test_a_network_without_norm_layers_is_refused():
    with pytest.raises(InvalidValueError, match="InstanceNorm2d"):
        prepare_constant([nn.Conv2d(3, 3, 1)], reader(texture(64)), Size(64, 64), Norm("tin"))

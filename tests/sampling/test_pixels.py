"""Pixels and values in [-1, 1], what lies around a held region, and enlarging in whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region
from wsigen.sampling.pixels import bilinear, crop, to_pixels, to_unit

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)


def test_pixels_survive_the_way_to_values_and_back():
    values = torch.arange(256, dtype=torch.uint8)
    unit = to_unit(values)
    assert unit[0] == -1
    assert unit[255] == 1
    assert torch.equal(to_pixels(unit, 1, 0.5), values)


def test_values_beyond_the_range_are_clipped_and_no_numbers_are_refused():
    assert to_pixels(torch.tensor([-9.0, 1.4]), 1, 0.5).tolist() == [0, 255]
    with pytest.raises(InvalidValueError, match=r"not numbers, in stage 3 at 0\.25 µm/px"):
        to_pixels(torch.tensor([0.0, float("nan")]), 3, 0.25)


def test_a_crop_goes_on_with_the_nearest_pixel():
    held = Region(10, 20, 9, 7)
    around = crop(PIXELS, held, held.pad(2))
    assert np.array_equal(around, np.pad(PIXELS, ((2, 2), (2, 2), (0, 0)), mode="edge"))
    assert np.array_equal(crop(PIXELS, held, Region(12, 21, 3, 4)), PIXELS[2:5, 1:5])


@pytest.mark.parametrize("k", [2, 3, 4, 8])
def test_bilinear_is_that_of_the_network(k):
    own = bilinear(np.pad(PIXELS, ((1, 1), (1, 1), (0, 0)), mode="edge"), k)
    values = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)[None].double()
    exact = F.interpolate(values, scale_factor=k, mode="bilinear", align_corners=False)
    assert np.abs(own - exact[0].permute(1, 2, 0).numpy()).max() <= 0.5 + 1e-9
    assert own.shape == (9 * k, 7 * k, 3)

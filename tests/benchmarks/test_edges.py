"""The edge of a slide is measured against the same tissue in the middle of another one."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.edges import bands, compare
from tests.benchmarks.test_chains import small_upscaler
from tests.synthetic import he_image


def test_bands_are_those_of_their_distance():
    image = np.full((64, 64, 3), 200, np.uint8)
    image[1:-1, 1:-1] = 100
    image[8:-8, 8:-8] = 40
    brightness, energy = np.array(bands(image)).T
    np.testing.assert_allclose(brightness, [200, 100, 100, 100, 40], atol=1e-3)
    # Of the two pixels of a step it counts for the upper or left one: at two sides that of the second ring.
    assert energy[1] == pytest.approx(100**2 * 124 / 244)
    assert energy[2] == 0


def test_an_upscaler_without_detail_sees_no_more_than_the_repeated_edge():
    net = small_upscaler()
    net.out.weight.data.zero_()
    found = compare(net, he_image(112, seed=0, mpp=8.0), 40, seed=0)
    assert list(found)[:2] == ["4 µm/px, 0 to 1 px", "4 µm/px, 1 to 2 px"]
    assert found["4 µm/px, 0 to 1 px"] != (0, 1)
    inside = [values for name, values in found.items() if "4 µm/px" in name and "0 to 1" not in name]
    np.testing.assert_allclose(inside, [(0, 1)] * 4, atol=0.02)

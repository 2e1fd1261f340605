import math

import numpy as np
import pytest
import torch

from wsigen.errors import InvalidValueError
from wsigen.stain.losses.lsesim import colour_map, photometric


def images(b=3):
    return torch.rand(b, 3, 6, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_no_change_is_the_identity():
    np.testing.assert_allclose(colour_map(1, 1, 0), np.eye(3), atol=1e-15)
    torch.testing.assert_close(photometric(images(), seed=0, image_numbers=[0, 1, 2], strength=0), images())


def test_a_third_of_a_turn_changes_red_to_green():
    np.testing.assert_allclose(colour_map(1, 1, 2 * math.pi / 3) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


@pytest.mark.parametrize("hue", [0.0, 1.0, -2.5])
def test_greys_stay_grey_and_contrast_scales_them(hue):
    np.testing.assert_allclose(colour_map(1.5, 0.7, hue) @ [0.4, 0.4, 0.4], [0.6, 0.6, 0.6])


def test_without_saturation_all_is_grey():
    np.testing.assert_allclose(colour_map(2, 0, 0.3) @ [0.3, 0.6, 0.9], [1.2, 1.2, 1.2])


def test_turning_keeps_the_saturation():
    colour = np.array([0.9, -0.2, 0.1])
    turned = colour_map(1, 1, 0.8) @ colour
    assert turned.mean() == pytest.approx(colour.mean())
    assert turned.std() == pytest.approx(colour.std())


def test_every_pixel_of_an_image_gets_the_same_map():
    x = images(1) * 0.3  # far from the clamp at this strength
    y = photometric(x, seed=1, image_numbers=[5], strength=0.2)
    pixels = torch.cat([x.flatten(2)[0], torch.ones(1, 30)]).T.double()
    solution = torch.linalg.lstsq(pixels, y.flatten(2)[0].T.double()).solution
    torch.testing.assert_close((pixels @ solution).T.float(), y.flatten(2)[0], atol=1e-5, rtol=0)
    assert solution[3].std() < 1e-6  # brightness is the same for all channels


def test_colours_depend_on_the_image_number_alone():
    x = images(1).expand(3, -1, -1, -1)
    together = photometric(x, seed=1, image_numbers=[4, 5, 6])
    assert torch.equal(photometric(x[:1], seed=1, image_numbers=[6])[0], together[2])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(photometric(x, seed=2, image_numbers=[4, 5, 6]), together)


def test_values_stay_in_range():
    y = photometric(images().sign(), seed=0, image_numbers=[0, 1, 2], strength=0.9)
    assert y.abs().max() == 1


@pytest.mark.parametrize("strength", [-0.1, 1.0])
def test_strength_out_of_range(strength):
    with pytest.raises(InvalidValueError, match=r"in \[0, 1\)"):
        photometric(images(1), seed=0, image_numbers=[0], strength=strength)

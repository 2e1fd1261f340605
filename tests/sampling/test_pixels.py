"""Pixels and values in [-1, 1], cropping and enlarging, and what counts as background and is skipped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.stores import (
    GLASS,
    BlurDenoiser,
    ImageSource,
    guide_image,
    guided_spec,
    run_stage,
)
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region
from wsigen.nn.images import to_unit
from wsigen.sampling.pixels import SkipRule, background_of, bilinear, crop, to_pixels

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)


def test_pixels_survive_the_way_to_values_and_back():
    values = torch.arange(256, dtype=torch.uint8)
    unit = to_unit(values)
    assert unit[0] == -1
    assert unit[255] == 1
    assert torch.equal(to_pixels(unit, 1, 0.5), values)


def test_values_beyond_the_range_are_clipped_and_no_numbers_are_refused():
    assert to_pixels(torch.tensor([-9.0, 1.4]), 1, 0.5).tolist() == [0, 255]
    with pytest.raises(InvalidValueError, match=r"NaN or infinity in stage 3 at 0\.25 µm/px"):
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


RULE = SkipRule(tolerance=8, margin=4)


def test_glass_colour_is_the_median_of_bright_grey_pixels():
    image = np.full((64, 64, 3), (200, 120, 170), np.uint8)
    image[:8] = (240, 238, 241)
    assert background_of(image, (1, 2, 3)) == (240, 238, 241)


def test_without_enough_glass_the_models_colour_counts():
    image = np.full((64, 64, 3), (200, 120, 170), np.uint8)
    image[0, :40] = 240  # 40 of 4096 pixels: less than 1 %
    assert background_of(image, (1, 2, 3)) == (1, 2, 3)
    image[0, :41] = 240
    assert background_of(image, (1, 2, 3)) == (240, 240, 240)


def test_bright_but_coloured_pixels_are_not_glass():
    assert background_of(np.full((32, 32, 3), (250, 222, 240), np.uint8), (9, 9, 9)) == (9, 9, 9)


def test_occupied_is_any_channel_out_of_tolerance():
    row = np.array([[GLASS, (251, 243, 243), (252, 243, 243), (243, 234, 243), (0, 0, 0)]], np.uint8)
    assert RULE.occupied(row, GLASS).tolist() == [[False, False, True, True, True]]


def test_tolerance_does_not_wrap_around_at_the_ends():
    ends = np.array([[(255, 255, 255), (0, 0, 0)]], np.uint8)
    assert RULE.occupied(ends, (255, 255, 255)).tolist() == [[False, True]]
    assert RULE.occupied(ends, (0, 0, 0)).tolist() == [[True, False]]


@pytest.mark.parametrize("bad", [{"tolerance": -1}, {"tolerance": 256}, {"margin": -1}])
def test_rules_out_of_range_are_refused(bad):
    with pytest.raises(InvalidValueError, match="skip_tolerance"):
        SkipRule(**bad)


@settings(max_examples=12, deadline=None)
@given(y=st.integers(0, 63), x=st.integers(0, 63), seed=st.integers(0, 50))
def test_a_single_speck_is_never_lost(y, x, seed):
    """One guide pixel of tissue on glass: its block comes out as its guide says, from the network."""
    image = np.full((64, 64, 3), GLASS, np.uint8)
    image[y, x] = (150, 60, 130)
    spec = guided_spec(stages=3, seed=seed, background_skip=True, relax_sigma=0.0)
    denoiser = BlurDenoiser()
    result = run_stage(spec, denoiser, ImageSource(image)).astype(float)
    means = result.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(means[y, x] - image[y, x]).max() <= 1
    assert 0 < denoiser.images < spec.patches() / 2


def test_every_patch_near_tissue_is_as_without_skipping():
    spec, source = guided_spec(stages=4, background_skip=True, skip_margin=4), guide_image(128)
    skipped = run_stage(spec, BlurDenoiser(), source).astype(int)
    full = run_stage(guided_spec(stages=4), BlurDenoiser(), source).astype(int)
    tissue = SkipRule().occupied(source.image, GLASS).repeat(2, axis=0).repeat(2, axis=1)
    assert 0.1 < tissue.mean() < 0.95
    assert np.array_equal(skipped[tissue], full[tissue])


def test_glass_comes_out_as_the_guide_and_costs_nothing():
    image = np.random.default_rng(0).integers(240, 247, (64, 64, 3)).astype(np.uint8)
    denoiser = BlurDenoiser()
    result = run_stage(guided_spec(stages=3, background_skip=True), denoiser, ImageSource(image))
    assert denoiser.images == 0
    assert np.array_equal(result, image.repeat(2, axis=0).repeat(2, axis=1))


def test_the_off_switch():
    image = np.full((64, 64, 3), GLASS, np.uint8)
    spec, denoiser = guided_spec(stages=3, background_skip=False), BlurDenoiser()
    run_stage(spec, denoiser, ImageSource(image))
    assert denoiser.images == spec.patches()


def test_the_decision_does_not_depend_on_batches_or_order():
    spec, source = guided_spec(stages=4, background_skip=True), guide_image(128, seed=3)
    counts, images = [], []
    for order, batch in (("wavefront", 1), ("wavefront", 8), ("steps", 4)):
        denoiser = BlurDenoiser()
        images.append(run_stage(spec, denoiser, source, order=order, batch_size=batch))
        counts.append(denoiser.images)
    assert len(set(counts)) == 1
    assert all(np.array_equal(images[0], image) for image in images)

"""Any region of any stage alone is, bit for bit, what the whole cascade makes of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.stores import GLASS, SMALL, BlurDenoiser, MemoryStore
from tests.sampling.upscalers import small_upscaler
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size
from wsigen.sampling.cascade import run_cascade
from wsigen.sampling.lazy import TILE, LazyCascade
from wsigen.sampling.preset import UpscaledConfig
from wsigen.sampling.spec import stage_specs

NET = small_upscaler()
ONE_STEP = replace(SMALL, upscaler=UpscaledConfig(from_mpp=float("inf")))
# Stages of 64, 128, 256 and 512 px at 4, 2, 1 and 0.5 µm/px.
MIXED = replace(SMALL, upscaler=UpscaledConfig(from_mpp=1.0))


class Islands(BlurDenoiser):
    """Draws tissue in a corner and background elsewhere, so that both are read."""

    def __call__(self, x, sigma, mpp):
        drawn = super().__call__(x, sigma, mpp)
        if x.shape[-1] == 64:
            shown = x.new_full(x.shape, 0.9)
            shown[:, :, 7:20, 8:20] = drawn[:, :, 7:20, 8:20]
            return shown
        return drawn


def specs(preset=ONE_STEP, *, seed=5, stages=3, size=None, **changes):
    size = size or Size.square(64 * 2**stages)
    return stage_specs(preset, size=size, stages=stages, k=2, mpp=0.5, seed=seed, **changes)


def whole(preset=ONE_STEP, **changes):
    stores: list[MemoryStore] = []

    def store(stage):
        stores.append(MemoryStore(made[stage].size))
        return stores[-1]

    made = specs(preset, **changes)
    run_cascade(Islands(), made, store, background=GLASS, upscaler=NET)
    return [store.rows for store in stores]


def lazy(preset=ONE_STEP, *, cache=1 << 20, denoiser=None, **changes):
    return LazyCascade(specs(preset, **changes), denoiser or Islands(), NET, background=GLASS, cache=cache)


@pytest.fixture(scope="module")
def stages():
    return whole()


def crop(image, region):
    return image[region.y : region.y1, region.x : region.x1]


def test_the_slide_has_tissue_and_background(stages):
    contrast = np.ptp(stages[3].reshape(64, 8, 64, 8, 3).astype(int), axis=(1, 3)).max(axis=2)
    assert 0.2 < (contrast > 8).mean() < 0.9


@pytest.fixture(scope="module")
def used():
    """One cascade for all reads, with a cache of a few tiles: what was read before must not show."""
    return lazy(cache=10 * 3 * TILE**2)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@settings(max_examples=10)
@given(y=st.floats(0, 1), x=st.floats(0, 1), h=st.integers(1, 150), w=st.integers(1, 150), keep=st.booleans())
def test_any_region_of_any_stage_is_a_part_of_the_whole(stages, used, stage, y, x, h, w, keep):
    side = 64 * 2**stage
    region = Region(int(y * (side - 1)), int(x * (side - 1)), h, w).intersect(Region(0, 0, side, side))
    assert np.array_equal(used.read(region, stage, keep=keep), crop(stages[stage], region))
    assert used.cached_bytes <= 10 * 3 * TILE**2


@pytest.mark.parametrize("cache", [1, 3 * TILE**2, 1 << 30])
def test_the_cache_cannot_be_seen(stages, cache):
    of = lazy(cache=cache)
    for region in (Region(100, 250, 180, 30), Region(500, 500, 12, 12), Region(100, 250, 180, 30)):
        assert np.array_equal(of.read(region, 3), crop(stages[3], region))
        assert of.cached_bytes <= cache
    assert cache < 1 << 30 or of.cached_bytes > 0


def test_all_of_each_stage_at_once_from_the_finest_to_the_coarsest(stages):
    of = lazy()
    for stage in (3, 2, 1, 0):
        side = 64 * 2**stage
        assert np.array_equal(of.read(Region(0, 0, side, side), stage), stages[stage])


def test_stage_0_is_drawn_once_and_only_when_it_is_needed():
    denoiser = Islands()
    of = lazy(denoiser=denoiser)
    assert denoiser.images == 0
    assert of.background == (242, 242, 242)
    drawn = denoiser.images
    assert drawn > 0
    of.read(Region(0, 0, 40, 40), 3)
    assert denoiser.images == drawn


def test_what_was_read_is_not_computed_again(stages):
    of = lazy()
    of.read(Region(200, 200, 60, 60), 3, keep=True)
    kept = of.cached_bytes
    assert kept > 0
    assert np.array_equal(of.source(3).read(Region(210, 205, 30, 30)), stages[3][210:240, 205:235])
    assert of.cached_bytes == kept


def test_threads_read_the_same(stages):
    of, rng = lazy(cache=5 * 3 * TILE**2), np.random.default_rng(0)
    regions = [Region(int(y), int(x), 50, 70) for y, x in rng.integers(0, 440, (12, 2))]
    with ThreadPoolExecutor(4) as pool:
        for region, pixels in zip(regions, pool.map(lambda r: of.read(r, 3), regions), strict=True):
            assert np.array_equal(pixels, crop(stages[3], region))


def test_coarse_stages_may_be_diffused_if_they_are_small():
    expected = whole(MIXED)
    of = lazy(MIXED)
    for stage, region in (
        (1, Region(20, 70, 90, 50)),
        (2, Region(3, 5, 250, 60)),
        (3, Region(300, 9, 99, 99)),
    ):
        assert np.array_equal(of.read(region, stage), crop(expected[stage], region))
    assert not np.array_equal(expected[3], whole()[3])


@pytest.mark.parametrize("preset", [ONE_STEP, MIXED], ids=["upscaled", "mixed"])
def test_a_cropped_slide_is_read_as_it_is_made(preset):
    how = {"size": Size(333, 700), "multiple": 16}
    expected, of = whole(preset, **how), lazy(preset, **how)
    assert [image.shape[:2] for image in expected] == [(48, 96), (96, 192), (192, 384), (333, 700)]
    for stage, region in (
        (3, Region(300, 650, 33, 50)),
        (2, Region(0, 200, 192, 184)),
        (0, Region(0, 0, 48, 96)),
    ):
        assert np.array_equal(of.read(region, stage), crop(expected[stage], region))
    with pytest.raises(InvalidValueError, match="reaches outside stage 3, which is 700x333 pixels"):
        of.read(Region(300, 650, 34, 50), 3)


def test_stages_that_cannot_be_read_in_parts_are_refused():
    with pytest.raises(InvalidValueError, match=r"diffuses stage 3 of 3, 512 px at 0\.5 µm/px"):
        lazy(SMALL)
    sides = stage_specs(
        replace(SMALL, upscaler=UpscaledConfig(from_mpp=0.5)),
        size=Size.square(16384),
        stages=8,
        k=2,
        mpp=0.5,
        seed=1,
    )
    with pytest.raises(InvalidValueError, match=r"diffuses stage 7 of 8, 8192 px at 1 µm/px.*one-step"):
        LazyCascade(sides, Islands(), NET, background=GLASS)
    with pytest.raises(
        InvalidValueError, match="no upscaler, which the preset needs; choose another --model"
    ):
        LazyCascade(specs(), Islands(), None, background=GLASS)
    with pytest.raises(InvalidValueError, match="enlarges 3 times, the stages grow 2 times"):
        LazyCascade(specs(), Islands(), small_upscaler(k=3), background=GLASS)

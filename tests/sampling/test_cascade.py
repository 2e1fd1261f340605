"""The whole cascade: stages guided by the one above, and a killed slide that goes on to the same bytes."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.stores import GLASS, SMALL, BlurDenoiser, ImageSource, Killed, MemoryStore
from tests.sampling.upscalers import small_upscaler
from wsigen.diffusion.gaussian import GaussianDenoiser
from wsigen.errors import InvalidValueError
from wsigen.geometry import Size
from wsigen.sampling.cascade import run_cascade
from wsigen.sampling.pixels import SkipRule
from wsigen.sampling.preset import GuidedConfig, Preset, ScheduleConfig, UpscaledConfig
from wsigen.sampling.spec import Execution, StageProgress, UpscaleSpec, stage_specs
from wsigen.sampling.upscale import UpscaledStage, UpscaleRun

ALWAYS = Preset(base=ScheduleConfig(steps=6), guided=GuidedConfig(steps=4, sigma_start=2.0, relax_step=4))


def cascade(
    preset=SMALL,
    *,
    denoiser=None,
    stores=None,
    seed=0,
    stages=2,
    patch=16,
    k=2,
    background=GLASS,
    upscaler=None,
    size=None,
    **machine,
):
    """The images of all stages."""
    multiple, size = (8, size) if size else (1, Size.square(patch * k**stages))
    specs = stage_specs(preset, size=size, stages=stages, k=k, mpp=0.5, seed=seed, multiple=multiple)
    stores = {} if stores is None else stores
    run_cascade(
        denoiser or BlurDenoiser(),
        specs,
        lambda stage: stores.setdefault(stage, MemoryStore(specs[stage].size)),
        background=background,
        upscaler=upscaler,
        execution=Execution(threads=1, **machine),
    )
    return [stores[stage].rows for stage in range(stages + 1)]


@pytest.mark.parametrize(("k", "stages"), [(2, 3), (3, 2), (4, 1)])
def test_every_stage_agrees_with_the_one_above(k, stages):
    images = cascade(ALWAYS, denoiser=GaussianDenoiser(sigma_data=0.05), k=k, patch=12, stages=stages)
    for above, image in itertools.pairwise(images):
        side = len(above)
        assert image.shape == (side * k, side * k, 3)
        means = image.reshape(side, k, side, k, 3).mean(axis=(1, 3))
        assert 0 < image.min() < image.max() < 255, "clipping would move the means"
        assert np.abs(means - above).max() <= 0.5


def test_no_stages_is_one_patch():
    (image,) = cascade(stages=0)
    assert image.shape == (16, 16, 3)
    assert image.std() > 1


def test_stages_are_told_their_pixel_size():
    told = set()

    def denoiser(x, sigma, mpp):
        told.update((x.shape[-1], float(m)) for m in mpp)
        return x * 0.5

    cascade(denoiser=denoiser, stages=3)
    assert told == {(16, 4.0), (16, 2.0), (16, 1.0), (16, 0.5)}


def test_order_and_batch_do_not_matter():
    images = [
        cascade(order=o, batch_size=b)[-1] for o, b in (("wavefront", 1), ("wavefront", 8), ("steps", 3))
    ]
    assert all(np.array_equal(images[0], image) for image in images[1:])


def test_seeds_give_different_slides():
    assert not np.array_equal(cascade(seed=0)[0], cascade(seed=1)[0])


@settings(max_examples=6, deadline=None)
@given(stage=st.integers(0, 3), share=st.floats(0, 0.99), again=st.floats(0, 0.99), k=st.integers(2, 3))
def test_killed_anywhere_and_twice_the_slide_is_the_same(stage, share, again, k):
    patch = 12
    stores = {}
    for part in (share, again):
        store = stores.setdefault(stage, MemoryStore(patch * k**stage))
        store.dies_at = int(store.rows_done + part * (store.size.height - store.rows_done))
        try:
            cascade(stores=stores, stages=3, patch=patch, k=k)
        except Killed:
            continue
    assert all(
        np.array_equal(a, b)
        for a, b in zip(
            cascade(stores=stores, stages=3, patch=patch, k=k),
            cascade(stages=3, patch=patch, k=k),
            strict=True,
        )
    )


def test_complete_stages_are_not_run_again():
    stores, first, second = {}, BlurDenoiser(), BlurDenoiser()
    cascade(stores=stores, denoiser=first)
    cascade(stores=stores, denoiser=second)
    assert first.images > 0
    assert second.images == 0


class Bright(BlurDenoiser):
    """Makes images of glass, grey and bright."""

    def __call__(self, x, sigma, mpp):
        return super().__call__(x, sigma, mpp) * 0.2 + 0.82


def test_what_sticks_out_of_the_canvas_goes_on_with_its_edge_whatever_the_colour_of_glass():
    images = [cascade(background=b) for b in (GLASS, (100, 100, 100))]
    assert np.array_equal(images[0][-1], images[1][-1])


def test_tissue_does_not_fade_at_the_edge_of_the_slide():
    rows = np.full((16, 16, 3), 90, np.uint8)
    stores = {0: MemoryStore(16)}
    stores[0].append(rows)
    image = cascade(denoiser=BlurDenoiser(), stores=stores, stages=1)[-1].astype(float)
    edge = np.concatenate(
        [image[:2].ravel(), image[-2:].ravel(), image[:, :2].ravel(), image[:, -2:].ravel()]
    )
    assert abs(edge.mean() - image[8:-8, 8:-8].mean()) < 3


SKIPPING = dataclasses.replace(SMALL, guided=dataclasses.replace(SMALL.guided, background_skip=True))


def test_glass_has_the_colour_of_the_base_image():
    images = [cascade(SKIPPING, denoiser=Bright(), background=b) for b in (GLASS, (100, 100, 100))]
    assert images[0][0].min() > 215
    assert np.array_equal(images[0][-1], images[1][-1])


def test_the_glass_colour_is_found_again_when_a_slide_goes_on():
    stores = {}
    whole = cascade(SKIPPING, stores=stores, denoiser=Bright(), background=(100, 100, 100))
    gone_on = cascade(SKIPPING, stores={0: stores[0]}, denoiser=Bright(), background=(90, 90, 90))
    assert np.array_equal(whole[-1], gone_on[-1])


NET = small_upscaler()
ONE_STEP = dataclasses.replace(SMALL, upscaler=UpscaledConfig(from_mpp=float("inf")))
MIXED = dataclasses.replace(SMALL, upscaler=UpscaledConfig(from_mpp=0.5, background_skip=False))


def upscaled(preset=ONE_STEP, **how):
    return cascade(preset, upscaler=NET, **({"patch": 32, "denoiser": BlurDenoiser()} | how))


def test_a_mixed_cascade_is_diffused_down_to_a_pixel_size_and_upscaled_from_there():
    diffused, mixed = cascade(SMALL, patch=32), upscaled(MIXED)
    assert np.array_equal(mixed[0], diffused[0])
    assert np.array_equal(mixed[1], diffused[1])
    spec = UpscaleSpec(stage=2, size=Size.square(128), k=2, mpp=0.5, seed=0)
    last = UpscaledStage(spec, NET, ImageSource(mixed[1]), background=GLASS)
    assert np.array_equal(mixed[2], last.read(spec.bounds))


def test_tiles_batch_and_order_do_not_matter_to_the_upscaler():
    images = [
        upscaled(tile=t, order=o)[-1] for t, o in ((32, "wavefront"), (64, "steps"), (None, "wavefront"))
    ]
    assert all(np.array_equal(images[0], image) for image in images[1:])
    assert np.array_equal(images[0], upscaled(tile=32, prefetch=True)[-1])


def test_only_stage_0_asks_the_denoiser():
    denoiser = BlurDenoiser()
    upscaled(denoiser=denoiser)
    assert denoiser.images == 2 * SMALL.base.steps - 1


@settings(max_examples=4, deadline=None)
@given(stage=st.integers(0, 2), share=st.floats(0, 0.99), again=st.floats(0, 0.99), mixed=st.booleans())
def test_an_upscaled_slide_that_was_killed_twice_is_the_same(stage, share, again, mixed):
    preset, stores = MIXED if mixed else ONE_STEP, {}
    for part in (share, again):
        store = stores.setdefault(stage, MemoryStore(32 * 2**stage))
        store.dies_at = int(store.rows_done + part * (store.size.height - store.rows_done))
        try:
            upscaled(preset, stores=stores, tile=32)
        except Killed:
            continue
    whole = upscaled(preset)
    assert all(np.array_equal(a, b) for a, b in zip(upscaled(preset, stores=stores), whole, strict=True))


def test_progress_counts_tiles_and_those_that_are_evaluated():
    seen: list[StageProgress] = []
    source = np.full((128, 128, 3), GLASS, np.uint8)
    source[10:50, 10:50] = 120
    spec = UpscaleSpec(stage=1, size=Size.square(256), k=2, mpp=0.5, seed=0, skip=SkipRule())
    store = MemoryStore(256)
    store.append(np.zeros((128, 256, 3), np.uint8))
    for rows, evaluations in ((store, 0), (MemoryStore(256), 1)):
        seen.clear()
        UpscaleRun(
            spec, NET, ImageSource(source), rows, background=GLASS, execution=Execution(tile=64),
            progress=seen.append,
        ).run()  # fmt: skip
        assert seen[-1].patches == seen[-1].patches_total == len(seen)
        assert (seen[-1].evaluations, seen[-1].rows) == (evaluations, 128)
        assert rows.rows_done == 256


def test_a_picture_is_gone_on_from_and_not_sampled():
    stores, picture = (
        {0: MemoryStore(50)},
        np.random.default_rng(0).integers(0, 255, (50, 50, 3)).astype(np.uint8),
    )
    stores[0].append(picture)
    specs = stage_specs(
        ONE_STEP, size=Size.square(200), stages=2, k=2, mpp=0.5, seed=0, multiple=16, given=True
    )

    def never(*_):
        raise AssertionError

    run_cascade(
        never, specs, lambda s: stores.setdefault(s, MemoryStore(50 * 2**s)), background=GLASS, upscaler=NET
    )
    spec = UpscaleSpec(stage=1, size=Size.square(100), k=2, mpp=1.0, seed=0, skip=ONE_STEP.upscaler.skip())
    first = UpscaledStage(spec, NET, ImageSource(picture), background=GLASS)
    assert np.array_equal(stores[1].rows, first.read(spec.bounds))
    assert len(stores[2].rows) == 200


@pytest.mark.parametrize("preset", [SMALL, MIXED, ONE_STEP], ids=["diffused", "mixed", "upscaled"])
@pytest.mark.parametrize("size", [Size(64, 192), Size(157, 75), Size(33, 128)], ids=str)
def test_a_size_that_does_not_fit_is_cropped_from_the_next_that_fits(preset, size):
    larger = size.over(32).times(32)
    made, cropped = (upscaled(preset, size=s, tile=32) for s in (larger, size))
    assert [image.shape[:2] for image in made] == [larger.over(k).sides for k in (4, 2, 1)]
    assert all(np.array_equal(a, b) for a, b in zip(cropped[:-1], made[:-1], strict=True))
    assert np.array_equal(cropped[-1], made[-1][: size.height, : size.width])


def test_with_a_pointwise_denoiser_a_wide_slide_is_the_upper_half_of_a_square_one():
    square, wide = (
        cascade(denoiser=GaussianDenoiser(0.3), patch=32, size=size)
        for size in (Size(128, 128), Size(64, 128))
    )
    for above, whole in zip(wide, square, strict=True):
        assert np.array_equal(above, whole[: len(whole) // 2])


@settings(max_examples=4, deadline=None)
@given(stage=st.integers(0, 2), share=st.floats(0, 0.99), mixed=st.booleans())
def test_a_cropped_slide_that_was_killed_is_the_same(stage, share, mixed):
    preset, size = MIXED if mixed else SMALL, Size(90, 150)
    specs, stores = stage_specs(preset, size=size, stages=2, k=2, mpp=0.5, seed=0, multiple=8), {}
    stores[stage] = MemoryStore(specs[stage].size, dies_at=int(share * specs[stage].size.height))
    with pytest.raises(Killed):
        upscaled(preset, stores=stores, size=size, tile=32)
    again = upscaled(preset, stores=stores, size=size, tile=32)
    assert all(np.array_equal(a, b) for a, b in zip(again, upscaled(preset, size=size), strict=True))


def test_an_upscaler_that_lacks_is_named():
    with pytest.raises(InvalidValueError, match="but there is no upscaler"):
        cascade(ONE_STEP)


def test_a_large_stage_0_is_a_canvas_of_patches():
    preset = dataclasses.replace(SMALL, base=dataclasses.replace(SMALL.base, patch=16))
    images = [
        cascade(preset, patch=64, stages=0, order=o, batch_size=b)[0]
        for o, b in (("wavefront", 1), ("steps", 5))
    ]
    assert np.array_equal(images[0], images[1])
    whole = cascade(SMALL, denoiser=GaussianDenoiser(0.3), patch=64, stages=0)[0]
    assert np.array_equal(cascade(preset, denoiser=GaussianDenoiser(0.3), patch=64, stages=0)[0], whole)
    stores = {0: MemoryStore(64, dies_at=30)}
    with pytest.raises(Killed):
        cascade(preset, patch=64, stages=0, stores=stores)
    assert np.array_equal(cascade(preset, patch=64, stages=0, stores=stores)[0], images[0])

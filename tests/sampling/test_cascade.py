"""The whole cascade: stages guided by the one above, and a killed slide that goes on to the same bytes."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.stores import GLASS, SMALL, BlurDenoiser, Killed, MemoryStore
from wsigen.diffusion.gaussian import GaussianDenoiser
from wsigen.sampling.cascade import run_cascade
from wsigen.sampling.plan import stage_specs
from wsigen.sampling.preset import GuidedConfig, Preset, ScheduleConfig
from wsigen.sampling.stage import Machine

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
    **machine,
):
    """The images of all stages."""
    specs = stage_specs(preset, size=patch * k**stages, stages=stages, k=k, mpp=0.5, seed=seed)
    stores = {} if stores is None else stores
    run_cascade(
        denoiser or BlurDenoiser(),
        specs,
        lambda stage: stores.setdefault(stage, MemoryStore(specs[stage].extent)),
        background=background,
        machine=Machine(threads=1, **machine),
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


@settings(max_examples=15, deadline=None)
@given(stage=st.integers(0, 3), share=st.floats(0, 0.99), again=st.floats(0, 0.99), k=st.integers(2, 3))
def test_killed_anywhere_and_twice_the_slide_is_the_same(stage, share, again, k):
    patch = 12
    stores = {}
    for part in (share, again):
        store = stores.setdefault(stage, MemoryStore(patch * k**stage))
        store.dies_at = int(store.rows_done + part * (store.extent - store.rows_done))
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

"""Plans say beforehand what a run then does, and sizes that cannot be are refused with ones that can."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.stores import GLASS, SMALL, BlurDenoiser, MemoryStore, guided_spec, noise_image, run_stage
from wsigen.errors import InvalidValueError
from wsigen.geometry import Size
from wsigen.nn.upscaler import Upscaler
from wsigen.sampling.plan import plan_given, plan_stage, plan_upscale
from wsigen.sampling.preset import Preset
from wsigen.sampling.spec import Execution, GivenSpec, UpscaleSpec, first_size, stage_specs
from wsigen.sampling.stage import StageRun
from wsigen.sampling.upscale import UpscaleRun


@pytest.mark.parametrize("solver", ["heun", "euler", "dpmpp_2m"])
@pytest.mark.parametrize("shift", ["none", "drift"])
def test_planned_evaluations_are_those_that_happen(solver, shift):
    spec, denoiser = guided_spec(stages=3, solver=solver, shift=shift, halo=2, halo_steps=2), BlurDenoiser()
    run_stage(spec, denoiser, noise_image(64))
    plan = plan_stage(spec)
    assert plan.evaluations == denoiser.images
    assert plan.patches == spec.patches()


@pytest.mark.parametrize("order", ["wavefront", "steps"])
@pytest.mark.parametrize("skip", [False, True])
def test_planned_memory_is_what_a_run_holds(order, skip):
    spec = guided_spec(stages=6, background_skip=skip, halo=2, halo_steps=1)
    run = StageRun(
        spec,
        BlurDenoiser(),
        noise_image(512),
        MemoryStore(spec.size),
        background=GLASS,
        execution=Execution(order=order),
    )
    assert plan_stage(spec, order).band_bytes == run.band_bytes


@pytest.mark.parametrize("size", [Size(100, 700), Size(700, 100)], ids=str)
def test_planned_memory_of_a_slide_that_is_not_square(size):
    spec = stage_specs(SMALL, size=size, stages=2, k=2, mpp=0.5, seed=0, multiple=8)[-1]
    source, store = noise_image(spec.canvas.over(2)), MemoryStore(size)
    run = StageRun(spec, BlurDenoiser(), source, store, background=GLASS)
    assert plan_stage(spec).band_bytes == run.band_bytes
    assert run.run().patches == plan_stage(spec).patches == spec.patches()
    assert store.rows.shape == (*size.sides, 3)


def test_the_paper_takes_79_evaluations_for_each_of_its_patches():
    specs = stage_specs(Preset(), size=Size.square(65536), stages=7, k=2, mpp=0.5, seed=0)
    plans = [plan_stage(spec) for spec in specs]
    assert [p.mpp for p in plans] == [64, 32, 16, 8, 4, 2, 1, 0.5]
    assert [p.size for p in plans] == [Size.square(512 * 2**i) for i in range(8)]
    assert plans[0].evaluations == 79
    assert plans[0].patch_rows == plans[0].patch_cols == 1
    # One more row and column of patches than the canvas holds, as the grid is shifted.
    assert plans[-1].patch_rows == plans[-1].patch_cols == 129
    assert plans[-1].evaluations == pytest.approx(79 * 129**2, rel=0.01)


def test_memory_of_the_widest_stage_is_a_few_thousand_rows():
    spec = stage_specs(Preset(), size=Size.square(65536), stages=7, k=2, mpp=0.5, seed=0)[-1]
    wave, steps = plan_stage(spec), plan_stage(spec, "steps")
    assert 7000 < wave.rows_alive < 14000
    assert steps.rows_alive == 65536
    assert wave.band_bytes < steps.band_bytes / 4
    assert steps.band_bytes == pytest.approx(51.5e9 + 3.2e9, rel=0.01)


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    stages=st.integers(0, 4),
    k=st.integers(2, 4),
    multiple=st.integers(1, 16),
)
def test_stage_0_is_the_smallest_that_a_slide_can_be_cropped_from(height, width, stages, k, multiple):
    first = first_size(Size(height, width), stages, k, multiple=multiple)
    step = math.lcm(multiple, k) if stages else multiple
    for side, wanted in zip(first.sides, (height, width), strict=True):
        assert side % step == 0
        assert (side - step) * k**stages < wanted <= side * k**stages


def test_a_size_that_fits_is_not_cropped():
    assert first_size(Size(4096, 8192), 5, multiple=16) == Size(128, 256)
    assert first_size(Size(37, 53), 0) == Size(37, 53)
    assert first_size(Size.square(65000), 7, multiple=32) == Size.square(512)


@pytest.mark.parametrize("bad", [{"stages": -1}, {"k": 1}, {"size": Size(0, 512)}])
def test_impossible_numbers_are_refused(bad):
    with pytest.raises(InvalidValueError, match="at least"):
        first_size(**{"size": Size.square(512), "stages": 1, "k": 2, **bad})


@pytest.mark.parametrize("mpp", [0, -1, float("nan")])
def test_pixel_sizes_must_be_positive(mpp):
    with pytest.raises(InvalidValueError, match="mpp must be a positive number"):
        stage_specs(Preset(), size=Size.square(64), stages=1, k=2, mpp=mpp, seed=0)


@pytest.mark.parametrize(
    ("size", "tile"),
    [
        (Size(640, 640), 64),
        (Size(640, 640), 512),
        (Size(2048, 2048), 256),
        (Size(150, 900), 64),
        (Size(901, 77), 128),
    ],
    ids=str,
)
def test_planned_tiles_are_those_that_are_computed(size, tile):
    class Counted:
        k, noise_channels, stride, radius = 2, 1, 4, 20
        pixels = 0

        def __call__(self, y, z, mpp):
            Counted.pixels += 4 * len(y) * y.shape[2] * y.shape[3]
            return torch.zeros(len(y), 3, 2 * y.shape[2], 2 * y.shape[3])

    Counted.pixels = 0
    spec = UpscaleSpec(stage=1, size=size, k=2, mpp=1.0, seed=0)
    machine, store = Execution(tile=tile), MemoryStore(size)
    plan = plan_upscale(spec, Counted(), machine)
    run = UpscaleRun(spec, Counted(), noise_image(size.over(2)), store, background=GLASS, execution=machine)
    done = run.run()
    assert (done.patches, done.evaluations) == (plan.patches, plan.evaluations)
    assert plan.patches == plan.patch_rows * plan.patch_cols
    assert plan.work == pytest.approx(Counted.pixels, rel=0.01)
    assert max(store.appends) == plan.rows_alive


def test_memory_of_the_widest_stage_by_the_upscaler_is_a_row_of_tiles():
    spec = UpscaleSpec(stage=7, size=Size.square(65536), k=2, mpp=0.5, seed=0)
    plan = plan_upscale(spec, Upscaler(), Execution())
    assert plan.patches == 64**2
    assert plan.rows_alive == 1024
    assert plan.band_bytes < 0.35e9
    assert plan.feature_bytes < 1e9
    assert plan.work < 1.45 * 65536**2


def test_a_picture_takes_nothing():
    plan = plan_given(GivenSpec(size=Size(300, 200), mpp=8.0, k=2))
    assert (plan.size, plan.mpp, plan.work, plan.patches, plan.band_bytes) == (Size(300, 200), 8.0, 0, 0, 0)

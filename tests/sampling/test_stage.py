"""One stage: tiling, order, batches, threads and interruptions cannot be seen in the result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.stores import (
    GLASS,
    BlurDenoiser,
    ImageSource,
    Killed,
    MemoryStore,
    different,
    guide_image,
    guided_spec,
    noise_image,
    run_stage,
)
from wsigen.diffusion.gaussian import GaussianDenoiser
from wsigen.diffusion.guide import replicate
from wsigen.diffusion.solvers import SOLVERS
from wsigen.diffusion.step import at_mpp, integrate
from wsigen.errors import InvalidValueError
from wsigen.nn.images import to_unit
from wsigen.sampling.noise import Noise
from wsigen.sampling.shift import SHIFTS
from wsigen.sampling.spec import Execution, StageProgress, StageSpec
from wsigen.sampling.stage import StageRun

GAUSSIAN = GaussianDenoiser(sigma_data=0.3, mean=0.2)


def untiled(spec: StageSpec, source: ImageSource) -> np.ndarray:
    """The stage in one piece, without patches, bands or tasks."""
    whole = spec.size.region
    x = torch.from_numpy(Noise(spec.seed, spec.stage).region(whole))[None] * np.float32(spec.sigmas[0])
    y = to_unit(torch.from_numpy(source.image.copy())).permute(2, 0, 1)[None].contiguous()
    if spec.from_guide:
        x += replicate(y, spec.k)
    x = integrate(
        at_mpp(GAUSSIAN, spec.mpp), x, spec.sigmas, spec.solver, guide=y, k=spec.k, relax=spec.relax
    )
    return ((x[0] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


@settings(max_examples=25, deadline=None)
@given(
    k=st.integers(2, 4),
    cells=st.integers(2, 5),
    solver=st.sampled_from(list(SOLVERS)),
    shift=st.sampled_from(SHIFTS),
    halo_steps=st.integers(0, 2),
    seed=st.integers(0, 1000),
    start=st.sampled_from([2.0, None]),
    data=st.data(),
)
def test_tiled_is_untiled_with_a_pointwise_denoiser(k, cells, solver, shift, halo_steps, seed, start, data):
    spec = guided_spec(
        patch=4 * k * cells // 2, stages=1, k=k, seed=seed, solver=solver, shift=shift,
        halo=k if cells > 2 else 0, halo_steps=halo_steps, sigma_start=start,
    )  # fmt: skip
    source = noise_image(spec.size.height // k, seed)
    order = data.draw(st.sampled_from(["wavefront", "steps"]))
    tiled = run_stage(spec, GAUSSIAN, source, order=order, batch_size=data.draw(st.integers(1, 5)))
    assert np.array_equal(tiled, untiled(spec, source))


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("solver", list(SOLVERS))
def test_wavefront_is_step_by_step_bit_for_bit(solver, shift):
    spec = guided_spec(stages=3, solver=solver, shift=shift)
    for denoiser in (GAUSSIAN, BlurDenoiser()):
        orders = [run_stage(spec, denoiser, guide_image(64), order=o) for o in ("wavefront", "steps")]
        assert different(orders) == 0


@pytest.mark.parametrize("halo_steps", [1, 3, 5])
def test_wavefront_is_step_by_step_with_halos_too(halo_steps):
    spec = guided_spec(stages=3, halo=4, halo_steps=halo_steps)
    orders = [run_stage(spec, BlurDenoiser(), noise_image(64), order=o) for o in ("wavefront", "steps")]
    assert different(orders) == 0


def test_a_halo_wider_than_the_denoiser_looks_makes_tiles_invisible():
    """With a halo at every step no kept pixel sees its patch's edge, so no grid can be told from another.

    True up to the canvas's border, where patches are padded and another tiling pads elsewhere.
    """
    one, other = (
        guided_spec(stages=3, patch=p, halo=4, halo_steps=5, shift=shift, seed=4)
        for p, shift in ((16, "drift"), (16, "none"))
    )
    a, b = (run_stage(spec, BlurDenoiser(), noise_image(64)).astype(int) for spec in (one, other))
    inside = slice(12, -12)
    assert np.array_equal(a[inside, inside], b[inside, inside])
    without = [guided_spec(stages=3, shift=shift, seed=4) for shift in ("drift", "none")]
    c, d = (run_stage(spec, BlurDenoiser(), noise_image(64)).astype(int) for spec in without)
    assert np.abs(c - d)[inside, inside].max() > 5, "without a halo the grid shows"


def test_batches_of_one_and_eight_are_the_same():
    spec = guided_spec(stages=4)
    batches = [run_stage(spec, GAUSSIAN, guide_image(128), batch_size=b) for b in (1, 3, 8)]
    assert different(batches) == 0
    blurred = [run_stage(spec, BlurDenoiser(), guide_image(128), batch_size=b) for b in (1, 8)]
    assert different(blurred) == 0


def test_threads_and_prefetching_cannot_be_seen():
    spec = guided_spec(stages=4)
    assert different([run_stage(spec, GAUSSIAN, guide_image(128), threads=n) for n in (1, 4)]) == 0
    machine = Execution(threads=2, prefetch=True)
    store = MemoryStore(spec.size)
    StageRun(spec, GAUSSIAN, guide_image(128), store, background=GLASS, execution=machine).run()
    assert np.array_equal(store.rows, run_stage(spec, GAUSSIAN, guide_image(128)))


@settings(max_examples=12, deadline=None)
@given(
    solver=st.sampled_from(["heun", "dpmpp_2m"]),
    shift=st.sampled_from(SHIFTS),
    order=st.sampled_from(["wavefront", "steps"]),
    halo_steps=st.integers(0, 5),
    skip=st.booleans(),
    row=st.integers(1, 127),
    block=st.sampled_from([1, 16]),
)
def test_a_killed_stage_goes_on_to_the_same_bytes(solver, shift, order, halo_steps, skip, row, block):
    spec = guided_spec(
        stages=3, solver=solver, shift=shift, halo=4, halo_steps=halo_steps, background_skip=skip
    )
    source = guide_image(64)
    store = MemoryStore(spec.size, dies_at=row, block=block)
    with pytest.raises(Killed):
        run_stage(spec, BlurDenoiser(), source, store=store, order=order)
    assert store.rows_done == row // block * block
    resumed = run_stage(spec, BlurDenoiser(), source, store=store, order=order, batch_size=3)
    assert np.array_equal(resumed, run_stage(spec, BlurDenoiser(), source))


def test_going_on_repeats_a_wedge_and_not_the_canvas():
    spec = guided_spec(patch=16, stages=5)
    store = MemoryStore(spec.size, dies_at=400)
    with pytest.raises(Killed):
        run_stage(spec, GAUSSIAN, noise_image(256), store=store)
    rest = spec.patches(400)
    assert rest < spec.patches() * (112 / 512 + 5 * 16 / 512)
    assert spec.patches(spec.size.height) == 0


def test_a_finished_stage_does_nothing():
    spec = guided_spec()
    store = MemoryStore(spec.size)
    run_stage(spec, GAUSSIAN, noise_image(32), store=store)
    denoiser = BlurDenoiser()
    run_stage(spec, denoiser, noise_image(32), store=store)
    assert denoiser.images == 0
    assert store.rows_done == spec.size.height


def test_interrupts_pass_through_between_batches_and_leave_finished_rows():
    spec = guided_spec(stages=3)
    store = MemoryStore(spec.size)

    def interrupt(state: StageProgress) -> None:
        if state.patches > spec.patches() // 2:
            raise KeyboardInterrupt

    run = StageRun(spec, GAUSSIAN, noise_image(64), store, background=GLASS, progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert 0 < store.rows_done < spec.size.height
    whole = run_stage(spec, GAUSSIAN, noise_image(64))
    assert np.array_equal(run_stage(spec, GAUSSIAN, noise_image(64), store=store), whole)


def test_rows_leave_in_order_while_the_stage_runs():
    spec = guided_spec(patch=16, stages=5, shift="drift", drift=0.125)
    store, states = MemoryStore(spec.size), []
    StageRun(spec, GAUSSIAN, noise_image(256), store, background=GLASS, progress=states.append).run()
    assert sum(store.appends) == spec.size.height
    assert max(store.appends) <= 16, "a row of patches at a time"
    halfway = states[len(states) // 2]
    assert 0.3 < halfway.rows / halfway.height < 0.6, "finished rows do not wait for the whole canvas"
    assert states[-1].patches == states[-1].patches_total == spec.patches()
    assert [s.patches for s in states] == sorted(s.patches for s in states)


@pytest.mark.parametrize("order", ["wavefront", "steps"])
def test_progress_counts_evaluations_as_the_denoiser_does(order):
    denoiser, states = BlurDenoiser(), []
    spec = guided_spec(stages=3, solver="heun")
    StageRun(
        spec,
        denoiser,
        noise_image(64),
        MemoryStore(spec.size),
        background=GLASS,
        progress=states.append,
        execution=Execution(order=order, batch_size=3),
    ).run()
    assert states[-1].evaluations == denoiser.images


def test_memory_is_a_band_that_grows_with_width_alone():
    def band(stages: int, order: str) -> int:
        spec = guided_spec(patch=16, stages=stages, shift="drift", drift=0.125)
        source = noise_image(spec.size.height // 2)
        machine = Execution(order=order)
        run = StageRun(spec, GAUSSIAN, source, MemoryStore(spec.size), background=GLASS, execution=machine)
        return run.band_bytes

    assert band(7, "wavefront") == pytest.approx(2 * band(6, "wavefront"), rel=0.05)
    assert band(7, "steps") > 3.9 * band(6, "steps")


def test_guided_to_the_end_means_the_guides_colours():
    spec = guided_spec(stages=3, relax_sigma=0.0)
    source = ImageSource(np.random.default_rng(0).integers(110, 140, (64, 64, 3)).astype(np.uint8))
    result = run_stage(spec, BlurDenoiser(), source)
    assert 0 < result.min() < result.max() < 255, "clipping to 8 bits would move the means"
    means = result.astype(float).reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(means - source.image).max() <= 0.5, "up to rounding to 8 bits of four pixels"


def test_relaxed_from_the_start_ignores_the_guide():
    spec = guided_spec(stages=2, relax_sigma=None, relax_step=0, sigma_start=None)
    results = [run_stage(spec, GAUSSIAN, noise_image(32, seed)) for seed in (0, 1)]
    assert different(results) == 0


def test_padding_carries_noise_of_the_current_level_over_the_guides_edge():
    """A denoiser that looks at what sticks out of the canvas at every step."""
    seen = {}

    def denoiser(x: torch.Tensor, sigma: torch.Tensor, mpp: torch.Tensor) -> torch.Tensor:
        seen.setdefault(sigma[0].item(), []).append(x.clone())
        return torch.zeros_like(x)

    spec = guided_spec(patch=64, stages=1, shift="random", seed=2)
    source = ImageSource(np.full((64, 64, 3), (240, 230, 220), np.uint8))
    run_stage(spec, denoiser, source, batch_size=1)
    colour = np.array([240, 230, 220]) / 127.5 - 1
    checked = 0
    for step, grid in enumerate(spec.grids):
        height = -grid.rows.first
        if height < 16:
            continue
        sigma = spec.sigmas[step]
        top = seen[float(np.float32(sigma))][0][0, :, :height].numpy()
        expected = Noise(2, 1).region(grid.read(0, 0))[:, :height] * np.float32(sigma)
        np.testing.assert_allclose(top, expected + colour[:, None, None], atol=1e-5)
        checked += 1
    assert checked >= 3


def test_seeds_and_pixel_sizes_reach_the_result():
    source = noise_image(32)
    assert different([run_stage(guided_spec(seed=s), GAUSSIAN, source) for s in (1, 2)]) == 1
    told = []

    def denoiser(x: torch.Tensor, sigma: torch.Tensor, mpp: torch.Tensor) -> torch.Tensor:
        told.extend(mpp.tolist())
        return torch.zeros_like(x)

    run_stage(guided_spec(mpp=0.37), denoiser, source)
    assert np.unique(told) == pytest.approx([0.37])


def test_half_precision_history_stays_below_eight_bit_rounding():
    results = [
        run_stage(guided_spec(stages=3, history_dtype=d), GAUSSIAN, noise_image(64)).astype(int)
        for d in ("float16", "float32")
    ]
    assert np.abs(results[0] - results[1]).max() <= 1


def test_values_that_are_not_numbers_are_an_error_that_says_where():
    with pytest.raises(InvalidValueError, match=r"NaN or infinity in stage 2 at 0.5 µm/px"):
        run_stage(guided_spec(), lambda x, sigma, mpp: x * float("nan"), noise_image(32))


def test_batches_must_hold_something():
    with pytest.raises(InvalidValueError, match="batch size must be at least 1, got 0"):
        Execution(batch_size=0)

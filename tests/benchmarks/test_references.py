"""Mask-shift and overlap averaging against cases whose result is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.ablations.references import (
    Counted,
    averaged,
    first_canvas,
    mask_shift,
    overlap_average,
    windows,
)
from tests.sampling.stores import BlurDenoiser, guided_spec, noise_image, run_stage
from wsigen.diffusion.gaussian import GaussianDenoiser
from wsigen.diffusion.solvers import SOLVERS
from wsigen.diffusion.step import DenoiserFunction, at_mpp
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size
from wsigen.sampling.shift import ShiftPlan
from wsigen.sampling.spec import StageSpec

CPU = torch.device("cpu")
GUIDE = noise_image(32)


def spec_of(solver: str = "dpmpp_2m", *, patch: int = 16, **changes: object) -> StageSpec:
    return guided_spec(patch=patch, stages=2, solver=solver, shift="none", **changes)


def overlapped(spec: StageSpec, denoiser: DenoiserFunction, stride: int) -> np.ndarray:
    estimate = at_mpp(denoiser, spec.mpp)
    return overlap_average(estimate, spec, GUIDE.image, stride, device=CPU, batch_size=3)


def masked(spec: StageSpec, denoiser: DenoiserFunction, stride: int) -> np.ndarray:
    return mask_shift(at_mpp(denoiser, spec.mpp), spec, GUIDE.image, stride, device=CPU)


def test_windows_cover_the_canvas_and_overlap() -> None:
    regions = windows(64, 16, 8)
    count = np.zeros((64, 64), int)
    for r in regions:
        count[r.y : r.y1, r.x : r.x1] += 1
    assert len(regions) == 7 * 7
    assert regions[:2] == [Region(0, 0, 16, 16), Region(0, 8, 16, 16)]
    assert (count[:8, :8] == 1).all()
    assert (count[8:56, 8:56] == 4).all()


@pytest.mark.parametrize(("extent", "patch", "stride"), [(64, 16, 24), (60, 16, 8), (8, 16, 8), (64, 16, 0)])
def test_windows_that_leave_a_gap_or_a_rest_are_refused(extent: int, patch: int, stride: int) -> None:
    with pytest.raises(InvalidValueError, match=f"{extent} px"):
        windows(extent, patch, stride)


@pytest.mark.parametrize("start", [None, 2.0])
@pytest.mark.parametrize("solver", list(SOLVERS))
def test_pointwise_denoiser_gives_the_untiled_image(solver: str, start: float | None) -> None:
    spec, denoiser = spec_of(solver, sigma_start=start), GaussianDenoiser(0.4, 0.1)
    grids = ShiftPlan(mode="none").grids(
        seed=1, stage=2, steps=spec.steps, canvas=Size.square(64), patch=Size.square(64), k=2
    )
    untiled = run_stage(replace(spec, patch=Size.square(64), grids=grids), denoiser, GUIDE)
    assert untiled.std() > 10
    for stride in (8, 16):
        assert np.array_equal(overlapped(spec, denoiser, stride), untiled)
        assert np.array_equal(masked(spec, denoiser, stride), untiled)


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_without_overlap_both_are_patches_without_shift(solver: str) -> None:
    spec = spec_of(solver)
    tiled = run_stage(spec, BlurDenoiser(), GUIDE)
    assert np.array_equal(overlapped(spec, BlurDenoiser(), 16), tiled)
    assert np.array_equal(masked(spec, BlurDenoiser(), 16), tiled)


def test_mask_shift_keeps_what_is_finished_and_changes_the_rest() -> None:
    spec = spec_of()
    tiled, shifted = run_stage(spec, BlurDenoiser(), GUIDE), masked(spec, BlurDenoiser(), 8)
    assert np.array_equal(shifted[:16, :16], tiled[:16, :16])
    assert not np.array_equal(shifted[:16, 16:32], tiled[:16, 16:32])


def test_mask_shift_imposes_its_neighbour_on_every_estimate() -> None:
    # D = mean of the patch, two Euler steps with ratio r: the first window ends at its mean m0, the second at
    # the mean of (1 - r) D + r x, where D is m0 on the left half, which is known, and m1 on the right
    def mean(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return x.mean(dim=(2, 3), keepdim=True).expand_as(x).clone()

    spec = spec_of("euler", steps=2, sigma_min=0.5, relax_sigma=None, relax_step=0)
    r = spec.sigmas[1] / spec.sigmas[0]
    y = torch.from_numpy(GUIDE.image).permute(2, 0, 1)[None] / 127.5 - 1
    m0, m1 = (first_canvas(spec, y)[0, :, :16, x : x + 16].mean(dim=(1, 2)) for x in (0, 8))
    image = mask_shift(mean, spec, GUIDE.image, 8, device=CPU)
    assert r == 0.25
    for values, at in ((m0, 0), ((1 - r) * (m0 + m1) / 2 + r * m1, 16)):
        expected = ((values + 1) * 127.5).numpy()
        assert np.abs(image[:16, at : at + 8] - expected).max() <= 0.51


def test_the_average_is_that_of_the_windows_that_show_a_pixel() -> None:
    seen: list[int] = []

    def numbered(x: torch.Tensor, sigma: float) -> torch.Tensor:
        first = len(seen)
        seen.extend(range(first, first + len(x)))
        return torch.arange(first, first + len(x)).float().view(-1, 1, 1, 1).expand_as(x)

    whole = averaged(numbered, 16, 8, batch_size=4)(torch.zeros(1, 3, 32, 32), 1.0)[0, 0]
    assert seen == list(range(9))
    corners = [whole[y, x].item() for y in (0, 12, 31) for x in (0, 12, 31)]
    assert corners == [0, 0.5, 2, 1.5, 2, 3.5, 6, 6.5, 8]


def test_evaluations_are_counted() -> None:
    spec = spec_of("heun")
    each = SOLVERS["heun"].evaluations(spec.steps)
    for run in (overlap_average, mask_shift):
        counted = Counted(at_mpp(GaussianDenoiser(), 1.0))
        run(counted, spec, GUIDE.image, 8, device=CPU)
        assert counted.evaluations == 49 * each


def test_averaging_leaves_weaker_joints_than_no_shift() -> None:
    spec = spec_of()
    joints = np.arange(1, 64) % 16 == 0

    def joint(image: np.ndarray) -> float:
        jumps = np.square(np.diff(image.astype(float), axis=0)).mean(axis=(1, 2))
        return jumps[joints].mean() / jumps[~joints].mean()

    assert joint(overlapped(spec, BlurDenoiser(), 8)) < joint(run_stage(spec, BlurDenoiser(), GUIDE))

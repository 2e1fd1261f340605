import math

import pytest
import torch
import torch.nn.functional as F

from wsigen.training.upscaler.update import (
    LEAST_ENERGY,
    _bins,
    discriminator_hinge,
    energy_difference,
    guide_error,
    relief_difference,
    spectrum_difference,
    turned,
    upscaler_hinge,
)


def scores(*values: float):
    return [torch.full((2, 1, 3, 3), v) for v in values]


def test_hinge_is_two_a_head_where_nothing_is_known_and_zero_beyond_the_margin():
    assert discriminator_hinge(scores(0, 0), scores(0, 0)) == 4
    assert discriminator_hinge(scores(1.5, 2), scores(-1, -3)) == 0
    assert discriminator_hinge(scores(0.5), scores(0.25)) == pytest.approx(0.5 + 1.25)
    assert upscaler_hinge(scores(0.5, -2)) == pytest.approx(1.5)


def test_guide_error_is_of_the_means_alone():
    torch.manual_seed(0)
    y = torch.rand(1, 3, 8, 8)
    detail = torch.randn(1, 3, 16, 16)
    detail -= F.interpolate(F.avg_pool2d(detail, 2), scale_factor=2, mode="nearest")
    x = F.interpolate(y, scale_factor=2, mode="nearest") + detail
    assert guide_error(x, y, 2) < 1e-6
    assert guide_error(x + 0.25, y, 2) == pytest.approx(0.25, abs=1e-6)


def test_energy_difference_is_the_logarithm_of_the_ratio_and_blind_to_phase():
    torch.manual_seed(0)
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2.0 - 1).expand(1, 3, 64, 64)
    assert energy_difference(board, board) == 0
    assert energy_difference(-board, board) == 0
    expected = math.log((4 + LEAST_ENERGY) / (1 + LEAST_ENERGY))
    assert energy_difference(2 * board, board, octaves=1) == pytest.approx(expected, rel=1e-5)
    # Detail far below a grey level is not asked for.
    assert energy_difference(1e-3 * board, torch.zeros_like(board), octaves=1) < 0.01


def test_turned_are_the_eight_symmetries_of_the_square():
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    images = {tuple(turned(x, n, flip=f).flatten().tolist()) for n in range(4) for f in (False, True)}
    assert len(images) == 8
    assert torch.equal(turned(x, 1, flip=False), torch.rot90(x, 1, (2, 3)))


def emboss(turns: int) -> torch.Tensor:
    """Steep flanks on one side, gentle ones on the other: a sawtooth."""
    ramp = (torch.arange(64) % 8 / 8.0).expand(1, 3, 64, 64)
    return torch.rot90(ramp, turns, (2, 3)).contiguous()


def test_relief_is_seen_from_either_side_and_at_no_symmetric_texture():
    stripes = ((torch.arange(64) + 2) // 4 % 2 * 1.0).expand(1, 3, 64, 64).contiguous()
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 1.0).expand(1, 3, 64, 64).contiguous()
    flat = torch.zeros(1, 3, 64, 64)
    assert relief_difference(stripes, flat) < 0.1
    assert relief_difference(board, flat) < 0.1
    for turns in range(4):
        assert relief_difference(emboss(turns), flat) > 1
    assert relief_difference(emboss(0), emboss(0)) == 0
    assert relief_difference(emboss(0), emboss(2)) > 2


def test_the_spectrum_term_is_the_difference_of_log_power_and_sees_the_direction_of_rows():
    torch.manual_seed(0)
    noise = torch.randn(4, 3, 64, 64)
    assert spectrum_difference(noise, noise) == 0
    assert spectrum_difference(2 * noise, noise) == pytest.approx(math.log(4), abs=2e-2)
    rows = torch.sin(torch.arange(64) * 2 * math.pi * 0.2)[:, None].expand(1, 3, 64, 64)
    rising = spectrum_difference(0.2 * noise[:1] + rows, 0.2 * noise[:1])
    assert rising > 0.1
    # The same rows along the other axis: as much power in each ring, yet not in the same direction.
    assert spectrum_difference(
        0.2 * noise[:1] + rows, 0.2 * noise[:1] + rows.transpose(2, 3)
    ) == pytest.approx(2 * float(rising), rel=0.1)
    # Detail of less than a grey level is not seen.
    assert spectrum_difference(0.002 * noise, torch.zeros_like(noise)) < 0.02


def test_every_ring_of_the_spectrum_has_coefficients_at_the_smallest_patches():
    for size in (32, 64, 96):
        assert _bins(size, size, torch.device("cpu")).sum(1) == pytest.approx(torch.ones(24))

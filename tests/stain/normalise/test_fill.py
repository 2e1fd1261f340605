"""Nodes on glass take the statistics of the tissue beside them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsigen.stain.normalise.tables import FLOOR, fill_nodes

GLASS = 316.0  # 1/σ of a blank patch: 1 / sqrt(1e-5)


def tables(rows: int, cols: int, channels: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    mean = torch.randn(rows, cols, channels, generator=generator)
    return mean, torch.rand(rows, cols, channels, generator=generator) + 0.5


def test_sure_nodes_keep_their_bits():
    mean, inv_std = tables(4, 5)
    centre, inverse = fill_nodes(mean, inv_std, torch.ones(4, 5))
    assert torch.equal(centre, mean)
    assert torch.equal(inverse, inv_std)


@pytest.mark.parametrize("confidence", [0.0, 0.3, 1.0])
def test_a_node_alone_is_left_as_it_is(confidence):
    mean, inv_std = tables(1, 1)
    centre, inverse = fill_nodes(mean, inv_std, torch.full((1, 1), confidence))
    assert torch.equal(centre, mean)
    assert torch.equal(inverse, inv_std)


def test_a_hand_computed_node():
    mean = torch.tensor([[1.0, 2.0, 3.0], [4.0, 50.0, 6.0], [7.0, 8.0, 9.0]])[:, :, None]
    std = torch.tensor([[1.0, 2.0, 1.0], [2.0, 1e-3, 2.0], [1.0, 2.0, 4.0]])[:, :, None]
    confidence = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.25, 0.0], [0.0, 0.0, 1.0]])
    centre, inverse = fill_nodes(mean, 1 / std, confidence)
    # neighbours with confidence: (0, 1) of weight 2, (1, 0) of 2·½, (2, 2) of 1
    average = (2 * 2.0 + 1 * 4.0 + 1 * 9.0) / 4
    spread = (2 * 2.0 + 1 * 2.0 + 1 * 4.0) / 4
    assert centre[1, 1, 0].item() == pytest.approx(0.25 * 50 + 0.75 * average)
    assert 1 / inverse[1, 1, 0].item() == pytest.approx(0.25 * 1e-3 + 0.75 * spread, rel=1e-5)
    # a corner on glass sees (0, 1) of weight 2 and (1, 0) of weight 1, but (1, 1) of weight ¼ too
    assert centre[0, 0, 0].item() == pytest.approx((2 * 2.0 + 1 * 4.0 + 0.25 * 50) / 3.25)


def test_an_island_on_glass_lends_its_statistics_to_all_around():
    mean, inv_std = torch.full((5, 5, 2), 9.0), torch.full((5, 5, 2), GLASS)
    mean[2, 2], inv_std[2, 2] = torch.tensor([0.5, -0.25]), torch.tensor([2.0, 4.0])
    confidence = torch.zeros(5, 5)
    confidence[2, 2] = 0.6
    centre, inverse = fill_nodes(mean, inv_std, confidence)
    torch.testing.assert_close(centre[1:4, 1:4], mean[2, 2].expand(3, 3, 2))
    torch.testing.assert_close(inverse[1:4, 1:4], inv_std[2, 2].expand(3, 3, 2))
    assert torch.equal(centre[2, 2], mean[2, 2])
    for edge in (0, 4):  # no neighbour knows anything, so these stay
        assert torch.equal(centre[edge], mean[edge])
        assert torch.equal(inverse[:, edge], inv_std[:, edge])


def test_a_slide_of_glass_stays_and_is_finite():
    mean, inv_std = torch.full((3, 4, 2), 0.9), torch.full((3, 4, 2), GLASS)
    centre, inverse = fill_nodes(mean, inv_std, torch.zeros(3, 4))
    assert torch.equal(centre, mean)
    assert torch.equal(inverse, inv_std)


def test_what_glass_measured_never_spreads():
    mean, inv_std = tables(4, 4)
    confidence = torch.ones(4, 4)
    confidence[1, 1] = 0
    expected = fill_nodes(mean, inv_std, confidence)
    mean[1, 1], inv_std[1, 1] = torch.nan, torch.inf
    found = fill_nodes(mean, inv_std, confidence)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(torch.isfinite(t).all() for t in found)


def test_sigma_has_a_floor_by_channel():
    mean = torch.zeros(1, 4, 2)
    std = torch.tensor([[[2.0, 2.0], [0.01, 1.0], [1.0, 1.0], [1e-3, 1.0]]])
    _, inverse = fill_nodes(mean, 1 / std, torch.ones(1, 4))
    floored = 1 / inverse
    assert floored[0, 1].tolist() == pytest.approx([2 * FLOOR, 1.0])
    assert floored[0, 3].tolist() == pytest.approx([1 * FLOOR, 1.0])
    assert torch.equal(inverse[0, ::2], (1 / std)[0, ::2])


def test_only_nodes_with_confidence_raise_the_floor():
    std = torch.tensor([[[100.0], [1.0]]])
    _, inverse = fill_nodes(torch.zeros(1, 2, 1), 1 / std, torch.tensor([[0.0, 1.0]]))
    assert inverse[0, 1].item() == 1.0


def test_rows_depend_on_their_neighbours_alone():
    mean, inv_std = tables(9, 6)
    confidence = torch.rand(9, 6, generator=torch.Generator().manual_seed(0))
    confidence[confidence < 0.4] = 0
    whole = fill_nodes(mean, inv_std, confidence)
    for row in range(9):
        low, high = max(0, row - 1), min(9, row + 2)
        part = fill_nodes(mean[low:high], inv_std[low:high], confidence[low:high])
        for a, b in zip(part, whole, strict=True):
            assert torch.equal(a[row - low], b[row])

"""Tables of nodes: those on glass take the statistics of the tissue beside them; KIN's kernels."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsigen.errors import InvalidValueError
from wsigen.stain.normalise.tables import FLOOR, fill_nodes, kernel_average, kernel_weights

GLASS = 316.0  # 1/σ of a blank patch: 1 / sqrt(1e-5)


def measured(rows: int, cols: int, channels: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    mean = torch.randn(rows, cols, channels, generator=generator)
    return mean, torch.rand(rows, cols, channels, generator=generator) + 0.5


def test_sure_nodes_keep_their_bits():
    mean, inv_std = measured(4, 5)
    centre, inverse = fill_nodes(mean, inv_std, torch.ones(4, 5))
    assert torch.equal(centre, mean)
    assert torch.equal(inverse, inv_std)


@pytest.mark.parametrize("confidence", [0.0, 0.3, 1.0])
def test_a_node_alone_is_left_as_it_is(confidence):
    mean, inv_std = measured(1, 1)
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
    mean, inv_std = measured(4, 4)
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
    mean, inv_std = measured(9, 6)
    confidence = torch.rand(9, 6, generator=torch.Generator().manual_seed(0))
    confidence[confidence < 0.4] = 0
    whole = fill_nodes(mean, inv_std, confidence)
    for row in range(9):
        low, high = max(0, row - 1), min(9, row + 2)
        part = fill_nodes(mean[low:high], inv_std[low:high], confidence[low:high])
        for a, b in zip(part, whole, strict=True):
            assert torch.equal(a[row - low], b[row])


def tables(rows: int = 9, cols: int = 14, channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    mean = torch.randn(rows, cols, channels, generator=generator)
    return mean, torch.rand(rows, cols, channels, generator=generator) + 0.2


def padded(table: Tensor, reach: int) -> Tensor:
    return F.pad(table.double().permute(2, 0, 1)[None], [reach] * 4, mode="replicate")


@pytest.mark.parametrize("size", [3, 5, 7, 11])
def test_a_constant_kernel_is_average_pooling(size):
    mean, inv_std = tables()
    centre, inverse = kernel_average(mean, inv_std, kind="constant", size=size)
    for found, table in ((centre, mean), (1 / inverse, 1 / inv_std)):
        expected = F.avg_pool2d(padded(table, size // 2), size, stride=1)[0].permute(1, 2, 0)
        torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("size", [3, 5, 7, 11])
def test_a_gaussian_kernel_is_a_convolution(size):
    mean, inv_std = tables()
    centre, inverse = kernel_average(mean, inv_std, kind="gaussian", size=size)
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float64) - size // 2] * 2, indexing="ij")
    kernel = torch.exp(-(y**2 + x**2) / (2 * 3**2))
    kernel = (kernel / kernel.sum())[None, None]
    for found, table in ((centre, mean), (1 / inverse, 1 / inv_std)):
        expected = F.conv2d(padded(table, size // 2).permute(1, 0, 2, 3), kernel)[:, 0].permute(1, 2, 0)
        torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=1e-6)


def test_size_one_is_instance_normalisation():
    mean, inv_std = tables()
    centre, inverse = kernel_average(mean, inv_std, size=1)
    assert torch.equal(centre, mean)
    assert torch.equal(inverse, inv_std)


@pytest.mark.parametrize("kind", ["constant", "gaussian"])
def test_an_infinite_kernel_averages_all_nodes(kind):
    mean, inv_std = tables()
    centre, inverse = kernel_average(mean, inv_std, kind=kind, size=math.inf)
    assert centre.shape == inverse.shape == mean.shape
    torch.testing.assert_close(centre, mean.mean((0, 1)).expand_as(mean), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(inverse, (1 / (1 / inv_std).mean((0, 1))).expand_as(mean))


@pytest.mark.parametrize("size", [3, 5])
def test_a_window_of_rows_gives_the_bits_of_the_whole(size):
    mean, inv_std = tables(rows=12)
    whole = kernel_average(mean, inv_std, kind="gaussian", size=size)
    reach = size // 2
    for row in range(12):
        low, high = max(0, row - reach), min(12, row + reach + 1)
        part = kernel_average(mean[low:high], inv_std[low:high], kind="gaussian", size=size)
        for a, b in zip(part, whole, strict=True):
            assert torch.equal(a[row - low], b[row])


@pytest.mark.parametrize("kind", ["constant", "gaussian"])
def test_weights_are_symmetric_and_sum_to_one(kind):
    for size in (1, 3, 5, 7, 11):
        weights = kernel_weights(kind, int(size))
        assert sum(weights) == pytest.approx(1)
        assert weights == weights[::-1]
    assert kernel_weights("gaussian", 3)[1] == pytest.approx(1 / (1 + 2 * math.exp(-1 / 18)))
    assert kernel_weights("gaussian", 11)[0] == pytest.approx(
        kernel_weights("gaussian", 11)[5] * math.exp(-25 / 18)
    )


@pytest.mark.parametrize("size", [0, 2, -1, 2.5])
def test_sizes_must_be_odd(size):
    with pytest.raises(InvalidValueError, match="odd"):
        kernel_average(*tables(), size=size)

"""KIN's kernels against convolution with replicated edges."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsigen.errors import InvalidValueError
from wsigen.stain.normalise.tables import kernel_average, kernel_weights


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


def test_kinds_are_two():
    with pytest.raises(InvalidValueError, match="constant or gaussian"):
        kernel_average(*tables(), kind="box")  # pyright: ignore

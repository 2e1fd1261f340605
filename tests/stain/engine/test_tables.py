"""A window of the table makes the fields that the whole table makes; glass is filled before kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsigen.geometry import Size
from wsigen.stain.engine.nodes import NodeGrid, NodeRow, TableWindow, side_by_side
from wsigen.stain.normalise import LayerStats
from wsigen.stain.normalise.norm import Norm
from wsigen.stain.normalise.tables import fill_nodes, kernel_average

CHANNELS = (2, 3)
GRID = NodeGrid.of(Size(9 * 128, 6 * 128), 128)


def node_rows(seed: int = 0, glass: float = 0.4) -> list[NodeRow]:
    rng = torch.Generator().manual_seed(seed)
    shape, rows = (GRID.cols.count, sum(CHANNELS)), []
    for _ in range(GRID.rows.count):
        confidence = torch.rand(shape[0], generator=rng)
        known = (torch.rand(shape[0], generator=rng) > glass).float()
        mean, inv_std = torch.randn(shape, generator=rng), 0.5 + torch.rand(shape, generator=rng)
        rows.append(NodeRow(mean, inv_std, confidence * known))
    return rows


def table(norm: Norm, rows: list[NodeRow], first: int, stop: int) -> TableWindow:
    window = TableWindow(GRID, norm, CHANNELS)
    for i in range(first, stop):
        window.put(i, rows[i])
    return window


@pytest.mark.parametrize("norm", ["dn", "kin", "kin-1", "kin-5", "kin-gaussian-5"])
def test_fields_of_a_window_are_rows_of_those_of_the_whole_table(norm):
    norm, rows = Norm.parse(norm), node_rows()
    whole = table(norm, rows, 0, 9).fields(0, 9)
    for first, stop in ((0, 2), (3, 5), (4, 6), (7, 9)):
        held = max(0, first - norm.normaliser.reach), min(9, stop + norm.normaliser.reach)
        part = table(norm, rows, *held).fields(first, stop)
        for one, other in zip(part, whole, strict=True):
            assert torch.equal(one.mean, other.mean[first:stop])
            assert torch.equal(one.inv_std, other.inv_std[first:stop])
            assert one.rows.centres == other.rows.centres[first:stop]
            assert one.cols == other.cols


def test_fields_go_to_the_layers_they_were_measured_at():
    rows = [NodeRow(r.mean, r.inv_std, torch.ones(6)) for r in node_rows()]
    first, second = table(Norm(granularity=4), rows, 0, 9).fields(0, 9)
    assert torch.equal(torch.cat([first.mean, second.mean], 2), torch.stack([r.mean for r in rows]))
    assert torch.equal(torch.cat([first.inv_std, second.inv_std], 2), torch.stack([r.inv_std for r in rows]))
    assert (first.channels, second.channels) == CHANNELS
    assert (first.interpolation, first.granularity) == ("linear", 4)
    assert table(Norm("kin"), rows, 0, 9).fields(2, 3)[0].interpolation == "nearest"


def test_rows_that_were_dropped_are_gone():
    window = table(Norm(), node_rows(), 0, 9)
    window.drop(3)
    assert len(window.fields(4, 6)) == 2
    with pytest.raises(KeyError):
        window.fields(3, 6)


def test_nodes_without_tissue_are_filled_before_the_kernel():
    rows = node_rows()
    mean, inv_std, confidence = (
        torch.stack([getattr(r, name) for r in rows]) for name in ("mean", "inv_std", "confidence")
    )
    filled = fill_nodes(mean, inv_std, confidence)
    for done, expected in zip(Norm().normaliser.finish(mean, inv_std, confidence), filled, strict=True):
        assert torch.equal(done, expected)
    everywhere = torch.ones_like(confidence)
    kernel = kernel_average(*fill_nodes(mean, inv_std, everywhere), size=5)
    found = Norm("kin", size=5).normaliser.finish(mean, inv_std, everywhere)
    for done, expected in zip(found, kernel, strict=True):
        torch.testing.assert_close(done, expected)


def test_far_glass_does_not_enter_a_kernel():
    mean, inv_std = torch.zeros(1, 9, 1), torch.full((1, 9, 1), 300.0)
    confidence = torch.zeros(1, 9)
    mean[0, 0], inv_std[0, 0], confidence[0, 0] = 2.0, 0.5, 1.0
    centre, scale = Norm("kin", size=7).normaliser.finish(mean, inv_std, confidence)
    # the node beside is filled; those within three nodes of either are averages of these two alone
    assert centre[0, :, 0].tolist() == pytest.approx([2, 2, 2, 2, 2, 0, 0, 0, 0])
    assert scale[0, :, 0].tolist() == pytest.approx([0.5] * 5 + [300] * 4, rel=1e-5)


def test_statistics_of_layers_side_by_side():
    first = LayerStats(torch.full((2, 2), 1.0), torch.full((2, 2), 2.0))
    second = LayerStats(torch.full((2, 1), 3.0), torch.full((2, 1), 4.0))
    mean, inv_std = side_by_side([first, second])
    np.testing.assert_array_equal(mean, [[1, 1, 3], [1, 1, 3]])
    np.testing.assert_array_equal(inv_std, [[2, 2, 4], [2, 2, 4]])

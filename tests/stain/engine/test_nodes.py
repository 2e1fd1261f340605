"""Nodes: cells that tile the slide, patches in them, windows that interpolate as the whole table does."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsigen.geometry import Region, Size
from wsigen.stain.engine.background import BackgroundMap
from wsigen.stain.engine.nodes import (
    PATCH,
    NodeAxis,
    NodeGrid,
    NodeRow,
    TableWindow,
    contrast_confidence,
    side_by_side,
    tissue_confidence,
)
from wsigen.stain.normalise import LayerStats
from wsigen.stain.normalise.norm import Norm
from wsigen.stain.normalise.tables import fill_nodes, kernel_average

LENGTHS = st.integers(4, 5000).map(lambda n: 4 * n)
PITCHES = st.sampled_from([64, 128, 512, 516, 1024, 2048])


@settings(max_examples=60, deadline=None)
@given(length=LENGTHS, pitch=PITCHES)
def test_cells_tile_the_axis_and_hold_their_patches(length, pitch):
    axis = NodeAxis(length, pitch)
    cells = [axis.cell(i) for i in range(axis.count)]
    assert cells[0][0] == 0
    assert cells[-1][1] == length
    assert all(a[1] == b[0] for a, b in pairwise(cells))
    assert all(end - start == pitch for start, end in cells[:-1])
    if axis.count > 1:
        assert pitch / 2 <= cells[-1][1] - cells[-1][0] < 1.5 * pitch
    for i, (start, end) in enumerate(cells):
        y, y1 = axis.patch(i)
        assert start <= y < y1 <= end
        assert y % 4 == y1 % 4 == 0
        assert y1 - y == (end - start if pitch <= PATCH else min(PATCH, end - start))
        assert abs((y + y1) - (start + end)) < 8  # in the middle
    assert axis.longest == max(y1 - y for y, y1 in map(axis.patch, range(axis.count)))


@pytest.mark.parametrize(
    ("length", "count"), [(100, 1), (767, 1), (768, 2), (1024, 2), (1279, 2), (1280, 3), (65536, 128)]
)
def test_the_last_cell_takes_up_to_half_a_pitch_more(length, count):
    assert NodeAxis(length, 512).count == count


def test_sparse_nodes_lie_in_the_middle_of_their_cells():
    axis = NodeAxis(8192, 2048)
    assert axis.centres == (1024, 3072, 5120, 7168)
    assert axis.patch(1) == (3072 - 256, 3072 + 256)
    assert axis.axis(1, 3).borders == (4096,)
    assert axis.pixels == 4 * 512


def test_dense_nodes_lie_in_the_centres_of_patches():
    axis = NodeAxis(1700, 512)
    assert [axis.patch(i) for i in range(axis.count)] == [(0, 512), (512, 1024), (1024, 1700)]
    assert axis.centres == (256, 768, 1362)
    assert axis.axis().borders == (512, 1024)


@settings(max_examples=60, deadline=None)
@given(length=LENGTHS, pitch=PITCHES, data=st.data())
def test_a_bracket_interpolates_as_all_nodes_do(length, pitch, data):
    axis = NodeAxis(length, pitch)
    start = data.draw(st.integers(0, length - 4))
    end = data.draw(st.integers(start + 4, min(length, start + 3000)))
    first, stop = axis.bracket(start, end)
    assert 0 <= first < stop <= axis.count
    at = torch.arange(start, end, dtype=torch.float64) + 0.5
    whole, part = axis.axis().linear(at), axis.axis(first, stop).linear(at)
    assert torch.equal(whole.before, part.before + first)
    assert torch.equal(whole.weight, part.weight)
    assert stop - first <= 3 + (end - start) / pitch


@settings(max_examples=60, deadline=None)
@given(length=LENGTHS, pitch=PITCHES, data=st.data())
def test_cells_of_some_pixels_are_those_nearest_to_them(length, pitch, data):
    axis = NodeAxis(length, pitch)
    start = data.draw(st.integers(0, length - 4))
    end = data.draw(st.integers(start + 4, min(length, start + 3000)))
    first, stop = axis.cells(start, end)
    at = torch.arange(start, end, dtype=torch.float64) + 0.5
    whole, part = axis.axis().nearest(at), axis.axis(first, stop).nearest(at)
    assert torch.equal(whole.before, part.before + first)
    assert (int(whole.before[0]), int(whole.before[-1]) + 1) == (first, stop)


def test_patches_and_cells_of_a_grid():
    grid = NodeGrid.of(Size(4096, 1000), 2048)
    assert grid.cell(1, 0) == Region(2048, 0, 2048, 1000)
    assert grid.patch(1, 0) == Region(2816, 244, 512, 512)
    assert grid.pixels == 2 * 512 * 512


def test_a_quarter_of_tissue_is_enough():
    occupied = np.zeros((8, 8), bool)
    occupied[0, 0] = occupied[0, 1] = True
    glass = BackgroundMap(occupied, 16)
    assert tissue_confidence(None, Region(0, 0, 64, 64)) == 1
    assert tissue_confidence(glass, Region(0, 0, 64, 64)) == pytest.approx(2 / 16 / 0.25)
    assert tissue_confidence(glass, Region(0, 0, 32, 32)) == 1
    assert tissue_confidence(glass, Region(64, 64, 64, 64)) == 0


@pytest.mark.parametrize(("swing", "expected"), [(0, 0), (1, 0), (1.5, 0.5), (2, 1), (30, 1)])
def test_contrast_from_one_to_two_grey_levels(swing, expected):
    values = np.where(np.arange(64 * 64) % 2, 100 + 2 * swing, 100).astype(
        np.uint8
    )  # standard deviation: swing
    image = np.full((64, 64, 3), 7, np.uint8)
    image[:, :, 1] = values.reshape(64, 64)  # the channel that varies most counts
    assert contrast_confidence(image) == pytest.approx(expected)


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

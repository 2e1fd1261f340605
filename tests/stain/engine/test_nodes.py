"""Nodes: cells that tile the slide, patches inside them, and windows that interpolate as the whole table."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsigen.geometry import Region, Size
from wsigen.stain.engine.background import BackgroundMap
from wsigen.stain.engine.nodes import PATCH, NodeAxis, NodeGrid, contrast_confidence, tissue_confidence

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

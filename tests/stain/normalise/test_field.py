"""Fields know where they are: node weights are functions of the global position."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsigen.errors import InvalidValueError
from wsigen.stain.normalise.field import Axis, Field


def field(rows: Axis, cols: Axis, interpolation="linear", granularity: int = 1) -> Field:
    shape = (len(rows.centres), len(cols.centres), 2)
    return Field(torch.zeros(shape), torch.ones(shape), rows, cols, interpolation, granularity)


def at(*positions: float) -> torch.Tensor:
    return torch.tensor(positions, dtype=torch.float64)


def test_linear_weights_between_nodes_that_are_not_uniform():
    found = Axis((10.0, 20.0, 60.0)).linear(at(0, 10, 12.5, 20, 30, 60, 99))
    assert found.before.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert found.weight.tolist() == [0, 0, 0.25, 0, 0.25, 1, 1]


def test_one_node_is_everywhere():
    found = Axis((10.0,)).linear(at(-5, 10, 300))
    assert found.before.tolist() == [0, 0, 0]
    assert found.weight.tolist() == [0, 0, 0]


def test_the_nearest_node_changes_at_the_borders_of_cells():
    assert Axis((10.0, 20.0, 60.0)).nearest(at(0, 14.9, 15.1, 39, 41)).before.tolist() == [0, 0, 1, 1, 2]
    cells = Axis((256.0, 768.0, 1162.0), (512.0, 1024.0))  # the last cell is narrower
    assert cells.nearest(at(511.5, 512.5, 1023.5, 1024.5)).before.tolist() == [0, 1, 1, 2]
    assert not cells.nearest(at(511.5, 512.5)).weight.any()


@pytest.mark.parametrize(
    ("centres", "borders"),
    [((), ()), ((1.0, 1.0), ()), ((2.0, 1.0), ()), ((1.0, 2.0), (1.5, 1.6)), ((1.0, 2.0), (3.0,))],
)
def test_axes_that_make_no_sense(centres, borders):
    with pytest.raises(InvalidValueError, match="an axis needs"):
        Axis(centres, borders)


def test_fields_that_make_no_sense():
    axis, one = Axis((0.0, 1.0)), Axis((0.0,))
    table = torch.zeros(2, 1, 3)
    with pytest.raises(InvalidValueError, match=r"on 2 x 2 nodes needs .* got \(2, 1, 3\)"):
        Field(table, table, axis, axis)
    with pytest.raises(InvalidValueError, match="granularity"):
        Field(table, table, axis, one, granularity=0)
    assert Field(table, table, axis, one).channels == 3


@given(
    origin=st.integers(0, 200).map(lambda n: 4 * n),
    count=st.integers(1, 70),
    scale=st.sampled_from([1, 2, 4]),
    interpolation=st.sampled_from(["linear", "nearest"]),
    granularity=st.integers(1, 9),
)
def test_a_tile_sees_what_the_whole_slide_sees_there(origin, count, scale, interpolation, granularity):
    axis = Axis((64.0, 192.0, 300.0, 700.0))
    f = field(axis, axis, interpolation, granularity)
    tile = f.locate(axis, origin=origin, scale=scale, count=count)
    first = origin // scale
    whole = f.locate(axis, origin=0, scale=scale, count=first + count)
    assert torch.equal(tile.before, whole.before[first:])
    assert torch.equal(tile.weight, whole.weight[first:])


def test_features_lie_at_the_centres_of_their_pixels():
    axis = Axis((0.0, 100.0))
    found = field(axis, axis).locate(axis, origin=8, scale=4, count=3)
    assert found.weight.tolist() == pytest.approx([0.10, 0.14, 0.18])


def test_granularity_repeats_the_weight_of_a_block_of_features():
    axis = Axis((0.0, 64.0))
    found = field(axis, axis, granularity=4).locate(axis, origin=4, scale=2, count=8)
    # features 2 … 9 of the slide; blocks of four begin at 0, 4, 8 and have their centres at 4, 12, 20 px
    assert (found.weight * 64).tolist() == [4, 4, 12, 12, 12, 12, 20, 20]

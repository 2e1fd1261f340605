"""Tiles: cores that cover the slide once, halos that stop at its edge, and what a row of them depends on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsigen.geometry import Region, Size
from wsigen.stain.engine.nodes import NodeGrid
from wsigen.stain.engine.tiles import LEAST, Schedule, TileGrid, rows_alive
from wsigen.stain.normalise.norm import Norm

SIDES = st.integers(4, 400).map(lambda n: 4 * n)


@settings(max_examples=40, deadline=None)
@given(
    height=SIDES, width=SIDES, tile=st.sampled_from([64, 128, 512, 4096]), halo=st.sampled_from([0, 20, 96])
)
def test_cores_cover_the_slide_once_and_reads_hold_the_halo(height, width, tile, halo):
    grid, slide = TileGrid.of(Size(height, width), tile, halo), Region(0, 0, height, width)
    covered = np.zeros((height // 4, width // 4), int)
    for i in range(grid.rows.count):
        for part in grid.row(i):
            core, read = part.core, part.read
            covered[core.y // 4 : core.y1 // 4, core.x // 4 : core.x1 // 4] += 1
            inside = core.pad(halo).intersect(slide)
            assert read.intersect(inside) == inside
            assert read.intersect(slide) == read
            assert all(n % 4 == 0 for n in (read.y, read.x, read.height, read.width))
            assert read.size.area >= min(LEAST**2, height * width)
            assert part.spot.shift(read.y, read.x) == core
            assert read.height <= grid.largest_read.height
            assert read.width <= grid.largest_read.width
    assert (covered == 1).all()


def test_a_tile_by_hand():
    grid = TileGrid.of(Size(1000, 1400), 512, 96)
    assert [t.core for t in grid.row(1)] == [
        Region(512, 0, 488, 512),
        Region(512, 512, 488, 512),
        Region(512, 1024, 488, 376),
    ]
    assert [t.read for t in grid.row(1)] == [
        Region(416, 0, 584, 608),
        Region(416, 416, 584, 704),
        Region(416, 928, 584, 472),
    ]
    assert grid.pixels_read == (608 + 584) * (608 + 704 + 472)
    assert grid.tallest == 512


def test_a_narrow_rest_is_read_with_more_around_it():
    assert TileGrid.of(Size(516, 516), 512, 20).row(1)[1].read == Region(260, 260, 256, 256)
    assert TileGrid.of(Size(516, 40), 64, 20).row(0)[0].read == Region(0, 0, 516, 40)


def test_patches_rendered_alone_are_cells():
    grid = TileGrid.of_cells(Size(1280, 700), 512, 96)
    assert [grid.rows.core(i) for i in range(grid.rows.count)] == [(0, 512), (512, 1024), (1024, 1280)]
    assert [t.core.width for t in grid.row(0)] == [700]
    assert grid.row(1)[0].read == Region(416, 0, 704, 700)


def schedule(norm: str, height: int = 4096, tile: int = 512, pitch: int = 512, halo: int = 96) -> Schedule:
    return Schedule.of(Size(height, 2048), halo, norm=Norm.parse(norm), tile=tile, pitch=pitch)


def test_a_row_of_tiles_needs_nodes_around_its_halo_and_one_more_to_fill_them():
    dense = schedule("dn")
    # rows 928 … 1632 lie between the nodes at 768 and 1792; filling takes one more on either side
    assert dense.fields(2) == (1, 4)
    assert dense.measured(2) == (0, 5)
    assert dense.first_source(2) == 0
    assert dense.source_end(2) == 5 * 512
    assert dense.measured(7) == (5, 8)
    assert dense.source_end(7) == 4096


def test_wider_kernels_look_further():
    assert schedule("kin").fields(2) == (1, 4)
    assert schedule("kin").measured(2) == (0, 6)
    assert schedule("kin-7").measured(4) == (0, 8)
    assert schedule("kin-1").measured(2) == (0, 5)


@pytest.mark.parametrize("norm", ["in", "tin"])
def test_without_nodes_only_the_halo_is_needed(norm):
    plain = schedule(norm)
    assert (plain.measured(2), plain.first_source(2), plain.source_end(2)) == ((0, 0), 928, 1632)


def test_rows_alive_by_hand():
    assert rows_alive([schedule("tin")]) == 512 + 2 * 96
    # the fourth row of tiles: from its halo to the end of the node that fills its last one
    assert rows_alive([schedule("dn")]) == schedule("dn").source_end(3) - (3 * 512 - 96)
    assert rows_alive([schedule("dn", tile=4096)]) == 4096


@settings(max_examples=40, deadline=None)
@given(
    height=SIDES,
    tile=st.sampled_from([64, 128, 320, 4096]),
    pitch=st.sampled_from([64, 128, 600]),
    halo=st.sampled_from([0, 20, 96]),
    norm=st.sampled_from(["dn", "dn-8", "kin", "kin-5", "tin"]),
    first=st.integers(0, 30),
)
def test_a_stream_with_so_many_rows_never_stalls(height, tile, pitch, halo, norm, first):
    plans = [schedule(norm, height, tile, pitch, h) for h in (halo, 8)]
    tiles, nodes = plans[0].tiles.rows, plans[0].nodes
    row = min(first, tiles.count - 1)
    capacity = rows_alive(plans, row)
    node = min(p.measured(row)[0] for p in plans)
    start = held = min(p.first_source(row) for p in plans)
    end = start
    while row < tiles.count:
        assert end < height, "nothing more will come"
        assert end - held < capacity, "no room, and nothing can go on"
        end += min(4, capacity - (end - held))
        while nodes and node < nodes.count and nodes.patch(node)[1] <= end:
            node += 1
        while row < tiles.count and max(p.source_end(row) for p in plans) <= end:
            assert all(p.measured(row)[1] <= node for p in plans)
            row += 1
        needed = [height] + [p.tiles.rows.read(row)[0] for p in plans if row < tiles.count]
        needed += [nodes.patch(node)[0]] if nodes and node < nodes.count else []
        held = max(held, min(needed))
    assert end == height


def test_nodes_of_a_sparse_grid_are_waited_for():
    sparse = schedule("dn", 16384, pitch=2048)
    nodes = NodeGrid.of(Size(16384, 2048), 2048).rows
    assert sparse.fields(0) == (0, 2)
    assert sparse.source_end(0) == nodes.patch(2)[1] == 2 * 2048 + 1024 + 256

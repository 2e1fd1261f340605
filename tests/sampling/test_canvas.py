"""The canvas keeps for halos what the patches before took further."""

from __future__ import annotations

import pytest
import torch

from wsigen.geometry import Region
from wsigen.sampling.canvas import Canvas, outside
from wsigen.sampling.shift import Lines, StepGrid

CPU = torch.device("cpu")


@pytest.mark.parametrize("offset", [0, 2, 4, 6])
@pytest.mark.parametrize("late", [False, True], ids=["written at once", "written after the row"])
def test_patches_see_the_step_before_though_neighbours_are_written(offset, late):
    extent, halo = 40, 2
    before = torch.arange(3.0 * extent * extent).view(3, extent, extent)
    canvas = Canvas(extent, extent, 1, history_dtype=None, device=CPU)
    canvas.state.write(canvas.bounds, before)
    grid = StepGrid(Lines(extent, offset, 8, halo), Lines(extent, (offset + 4) % 8, 8, halo))
    for row in range(grid.rows.count):
        canvas.begin_row(grid, row)
        written = []
        for col in range(grid.cols.count):
            patch = torch.full((3, 12, 12), -1.0)
            spot = canvas.gather(grid, 0, row, col, patch)
            region = grid.read(row, col)
            inside = spot.shift(region.y, region.x)
            expected = before[:, inside.y : inside.y1, inside.x : inside.x1]
            assert torch.equal(patch[:, spot.y : spot.y1, spot.x : spot.x1], expected)
            written.append(grid.written(row, col).intersect(canvas.bounds))
            if not late:
                canvas.state.write(written[-1], torch.full((3, *_shape(written[-1])), -5.0))
        for region in written:
            canvas.state.write(region, torch.full((3, *_shape(region)), -5.0))
        canvas.end_row(0)
    out = torch.empty_like(before)
    canvas.state.read(canvas.bounds, out)
    assert (out == -5).all()


def _shape(region: Region) -> tuple[int, int]:
    return region.height, region.width


@pytest.mark.parametrize(
    "inside",
    [Region(0, 0, 8, 8), Region(2, 3, 4, 5), Region(0, 3, 8, 5), Region(5, 0, 3, 8), Region(0, 0, 2, 2)],
)
def test_outside_is_the_rest_once(inside):
    region = Region(0, 0, 8, 8)
    count = torch.zeros(8, 8, dtype=torch.int)
    for part in (inside, *outside(region, inside)):
        count[part.y : part.y1, part.x : part.x1] += 1
    assert (count == 1).all()


def test_memory_is_what_the_band_holds():
    one = Canvas(64, 10, 3, history_dtype=None, device=CPU)
    two = Canvas(64, 10, 3, history_dtype=torch.float16, device=CPU)
    assert one.nbytes == 3 * 10 * 64 * 4
    assert two.nbytes == 3 * 10 * 64 * 6

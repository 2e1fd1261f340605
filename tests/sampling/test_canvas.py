"""The canvas as the previous step left it, and the guide: read once, padded with its edge, empty or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.stores import GLASS, ImageSource, noise_image
from wsigen.geometry import Region, Size
from wsigen.nn.images import to_unit
from wsigen.sampling.canvas import Canvas, GuideRows, outside
from wsigen.sampling.pixels import SkipRule
from wsigen.sampling.shift import Lines, StepGrid

CPU = torch.device("cpu")


@pytest.mark.parametrize("offset", [0, 2, 4, 6])
@pytest.mark.parametrize("late", [False, True], ids=["written at once", "written after the row"])
def test_patches_see_the_step_before_though_neighbours_are_written(offset, late):
    extent, halo = 40, 2
    before = torch.arange(3.0 * extent * extent).view(3, extent, extent)
    canvas = Canvas(Size.square(extent), extent, 1, history_dtype=None, device=CPU)
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
    one = Canvas(Size.square(64), 10, 3, history_dtype=None, device=CPU)
    two = Canvas(Size.square(64), 10, 3, history_dtype=torch.float16, device=CPU)
    assert one.nbytes == 3 * 10 * 64 * 4
    assert two.nbytes == 3 * 10 * 64 * 6


CPU = torch.device("cpu")


class CountingSource(ImageSource):
    """Records which rows were read."""

    def __init__(self, image: np.ndarray) -> None:
        super().__init__(image)
        self.rows: list[int] = []

    def read(self, region: Region) -> np.ndarray:
        assert (region.x, region.width) == (0, self.image.shape[1])
        self.rows.extend(range(region.y, region.y1))
        return super().read(region)


def guide_rows(source: ImageSource, *, k: int = 2, capacity: int = 64, **more) -> GuideRows:
    values = {"background": GLASS, "skip": None, "device": CPU, **more}
    return GuideRows(source, size=Size(*source.image.shape[:2]), capacity=capacity, k=k, **values)


def test_every_row_is_read_once_whatever_is_needed():
    source = CountingSource(noise_image(300).image)
    guide = guide_rows(source, capacity=50)
    for row in (10, 10, 130, 131, 300):
        guide.need(row)
        assert len(source.rows) >= row
    assert source.rows == list(range(300))


def test_a_run_that_goes_on_begins_at_its_first_row():
    source = CountingSource(noise_image(300).image)
    guide_rows(source, skip=SkipRule(margin=7), first=200).need(220)
    assert source.rows[0] == 193


@settings(max_examples=30, deadline=None)
@given(y=st.integers(-15, 60), x=st.integers(-15, 60))
def test_patches_hold_the_guide_and_go_on_with_its_edge(y, x):
    image = noise_image(64).image
    guide = guide_rows(ImageSource(image), capacity=64)
    guide.need(64)
    out = torch.full((3, 16, 16), 99.0)
    guide.patch(Region(y, x, 16, 16), out)
    padded = np.pad(image, ((30, 30), (30, 30), (0, 0)), mode="edge")
    expected = padded[y + 30 : y + 46, x + 30 : x + 46].transpose(2, 0, 1)
    assert torch.equal(out, to_unit(torch.from_numpy(expected.copy())))


@settings(max_examples=30, deadline=None)
@given(k=st.integers(2, 5), data=st.data())
def test_replicated_rows_need_not_align(k, data):
    source = noise_image(20)
    guide = guide_rows(source, k=k)
    guide.need(20)
    y, x = data.draw(st.integers(0, 20 * k - 1)), data.draw(st.integers(0, 20 * k - 1))
    h, w = data.draw(st.integers(1, 20 * k - y)), data.draw(st.integers(1, 20 * k - x))
    whole = source.image.repeat(k, axis=0).repeat(k, axis=1).transpose(2, 0, 1)
    expected = to_unit(torch.from_numpy(whole[:, y : y + h, x : x + w].copy())).numpy()
    assert np.array_equal(guide.replicated(Region(y, x, h, w)), expected)


def test_to_unit_maps_the_ends():
    assert to_unit(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]


@pytest.mark.parametrize("margin", [0, 3])
@settings(max_examples=25, deadline=None)
@given(y=st.integers(0, 63), x=st.integers(0, 63))
def test_glass_is_where_no_pixel_with_margin_is_tissue(margin, y, x):
    image = np.full((64, 64, 3), GLASS, np.uint8)
    image[y, x] = 0
    guide = guide_rows(ImageSource(image), skip=SkipRule(margin=margin))
    guide.need(64)
    for row in (-8, 8, 24, 40, 56):
        regions = [Region(row, col, 16, 16) for col in (-8, 8, 24, 40, 56)]
        near = [bool(r.pad(margin).intersect(Region(y, x, 1, 1))) for r in regions]
        assert guide.is_background(regions) == [not n for n in near]


def test_without_a_rule_nothing_is_glass():
    guide = guide_rows(ImageSource(np.full((32, 32, 3), GLASS, np.uint8)))
    guide.need(32)
    assert guide.is_background([Region(0, 0, 16, 16)] * 2) == [False, False]
    assert guide.nbytes == 3 * 32 * 32

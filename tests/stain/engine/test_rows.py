"""A ring of rows reads as the padded slide does, whatever came when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region, Size
from wsigen.stain.engine.stream import RowBuffer

SIZE, PADDED = Size(41, 10), Size(44, 12)
SLIDE = np.random.default_rng(0).integers(0, 256, (41, 10, 3), np.uint8)
WHOLE = np.pad(SLIDE, ((0, 3), (0, 2), (0, 0)), mode="edge")


@settings(max_examples=60, deadline=None)
@given(capacity=st.integers(8, 60), first=st.integers(0, 30), data=st.data())
def test_reads_are_those_of_the_padded_slide(capacity, first, data):
    buffer, y = RowBuffer(SIZE, PADDED, capacity, first), first
    while y < 41:
        chunk = SLIDE[y : y + data.draw(st.integers(1, 41))]
        taken = buffer.take(chunk)
        y += taken
        assert buffer.end == (44 if y == 41 else y)
        assert buffer.end - buffer.first <= capacity
        if buffer.end > buffer.first:
            top = data.draw(st.integers(buffer.first, buffer.end - 1))
            region = Region(top, 3, data.draw(st.integers(1, buffer.end - top)), 9)
            out = np.zeros((region.height, 9, 3), np.uint8)
            buffer.read(region, out)
            np.testing.assert_array_equal(out, WHOLE[top : region.y1, 3:12])
        buffer.drop(data.draw(st.integers(buffer.first, buffer.end)))
        if taken == 0:
            buffer.drop(buffer.first + 1)


def test_no_more_is_taken_than_there_is_room_for():
    buffer = RowBuffer(SIZE, PADDED, 8, 0)
    assert buffer.take(SLIDE) == 8
    assert buffer.take(SLIDE[8:]) == 0
    buffer.drop(5)
    assert buffer.take(SLIDE[8:]) == 5
    assert (buffer.first, buffer.end) == (5, 13)


def test_dropping_goes_forward_only():
    buffer = RowBuffer(SIZE, PADDED, 20, 0)
    buffer.take(SLIDE[:10])
    buffer.drop(6)
    buffer.drop(2)
    assert buffer.first == 6
    buffer.drop(100)
    assert buffer.first == 10


@pytest.mark.parametrize(
    "rows",
    [SLIDE[:, :9], SLIDE.astype(np.float32), SLIDE[:, :, :2], SLIDE[:, :, 0], np.repeat(SLIDE, 2, axis=0)],
)
def test_other_rows_are_refused(rows):
    with pytest.raises(InvalidValueError, match="rows"):
        RowBuffer(SIZE, PADDED, 50, 0).take(rows)

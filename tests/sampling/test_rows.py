"""Rows in a ring: what is written is read, wherever the ring wraps around."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsigen.geometry import Region
from wsigen.sampling.rows import RowBand

CPU = torch.device("cpu")


@settings(max_examples=50, deadline=None)
@given(capacity=st.integers(1, 20), width=st.integers(1, 12), data=st.data())
def test_a_sliding_window_of_a_tall_image_is_always_right(capacity, width, data):
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 60, width), np.float32))
    band = RowBand(3, capacity, width, torch.float32, CPU)
    written = 0
    while written < 60:
        rows = data.draw(st.integers(1, min(capacity, 60 - written)))
        region = Region(written, 0, rows, width)
        band.write(region, image[:, written : written + rows])
        written += rows
        y = data.draw(st.integers(max(written - capacity, 0), written - 1))
        x = data.draw(st.integers(0, width - 1))
        out = torch.empty(3, written - y, width - x)
        band.read(Region(y, x, written - y, width - x), out)
        assert torch.equal(out, image[:, y:written, x:])


def test_parts_of_rows_leave_the_rest_alone():
    band = RowBand(1, 4, 6, torch.float32, CPU)
    band.write(Region(0, 0, 4, 6), torch.zeros(1, 4, 6))
    band.write(Region(3, 2, 2, 3), torch.ones(1, 2, 3))  # row 4 takes the place of row 0
    out = torch.empty(1, 4, 6)
    band.read(Region(1, 0, 4, 6), out)
    expected = torch.zeros(1, 4, 6)
    expected[:, 2:, 2:5] = 1
    assert torch.equal(out, expected)


def test_values_are_converted_on_the_way():
    band = RowBand(1, 2, 2, torch.float16, CPU)
    band.write(Region(0, 0, 1, 2), torch.tensor([[[1 / 3, 2.0]]]))
    out = torch.empty(1, 1, 2)
    band.read(Region(0, 0, 1, 2), out)
    assert out.flatten().tolist() == [torch.tensor(1 / 3).half().item(), 2.0]
    assert band.nbytes == 8

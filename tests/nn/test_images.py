"""Every level of 8-bit pixels survives the way to networks and back."""

from __future__ import annotations

import torch

from wsigen.nn.images import to_pixels, to_unit, to_unit_

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_every_level_comes_back():
    unit = to_unit(LEVELS)
    assert (unit[0], unit[255]) == (-1, 1)
    assert torch.equal(unit, LEVELS.float() / 127.5 - 1)
    assert torch.equal(to_pixels(unit), LEVELS)


def test_values_are_rounded_and_clamped():
    assert to_pixels(torch.tensor([-2.0, 0.0, 1.5, 2.4 / 127.5 - 1, 2.6 / 127.5 - 1])).tolist() == [
        0,
        128,
        255,
        2,
        3,
    ]


def test_what_was_given_is_overwritten_only_where_the_name_says_so():
    floats = LEVELS.float()
    assert torch.equal(to_unit(floats), to_unit(LEVELS))
    assert torch.equal(floats, LEVELS.float())
    to_pixels(unit := to_unit(LEVELS))
    assert torch.equal(unit, to_unit(LEVELS))
    assert to_unit_(floats) is floats

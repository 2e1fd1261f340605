"""How many patches are compared: the same on all sides, and a word about what is not."""

from __future__ import annotations

import pytest

from tests.evaluation.slides import entry
from wsigen.errors import InvalidValueError
from wsigen.evaluation.sets import SlideSet, describe, plan_scales


def plans(generated, real, scales=(0.5, 1.0), patch=50, patches=100, train=None):
    return plan_scales(
        [SlideSet("generated", tuple(generated))],
        SlideSet("real", tuple(real)),
        train,
        scales=scales,
        patch=patch,
        patches=patches,
    )


REAL = [entry("r1"), entry("r2"), entry("r3"), entry("r4")]


def test_numbers_are_shared_out_and_the_real_ones_are_twice_as_many():
    found, warnings = plans([entry("g1"), entry("g2")], REAL)
    assert [(p.mpp, p.count) for p in found] == [(0.5, 50), (1.0, 50)]
    for plan in found:
        assert plan.allotted["generated"] == {"g1": 25, "g2": 25}
        assert plan.allotted["real"] == {"r1": 25, "r2": 25, "r3": 25, "r4": 25}
    assert warnings == []


def test_a_scale_with_little_room_leaves_its_share_to_the_others():
    found, warnings = plans([entry("g", side=400)], REAL, scales=(0.5, 2.0), patches=200)
    rooms = {0.5: 15 * 15, 2.0: 3 * 3}
    assert [p.mpp for p in found] == [0.5]  # nine patches are too few
    assert warnings[0] == (
        "2 µm/px is left out: the slides of generated have room for 9 different patches of 50 px (100 µm) "
        "only, 16 are the least"
    )
    assert found[0].count == min(200, rooms[0.5])
    found, warnings = plans([entry("g", side=600)], REAL, scales=(0.5, 2.0), patches=200)
    assert [p.count for p in found] == [175, 25]
    assert "patches of generated overlap and say less than their number: 175 at 0.5" not in str(warnings)


def test_fewer_than_wanted_is_said():
    found, warnings = plans([entry("g", side=400)], REAL, scales=(0.5,), patches=1000)
    assert found[0].count == 225
    assert warnings[0].startswith("225 patches a side instead of 1000: the slides have no room for more")
    assert (
        "patches of generated overlap and say less than their number: 225 at 0.5 µm/px, where 64"
        in warnings[1]
    )


def test_halves_of_the_real_slides_must_be_as_many_as_the_set():
    found, _ = plans([entry("g", side=2000)], [entry("r", side=400)], scales=(0.5,), patches=1000)
    assert found[0].count == 225 // 2
    assert sum(found[0].allotted["real"].values()) == 2 * (225 // 2)
    assert "one real slide (or case) only" in found[0].warnings[0]


def test_nothing_is_enlarged():
    found, warnings = plans([entry("g", mpp=1.0)], REAL)
    assert [p.mpp for p in found] == [1.0]
    assert warnings[0] == (
        "0.5 µm/px is left out: no slide of generated serves 50 px patches at it (the finest has 1 µm/px, "
        "and nothing is enlarged)"
    )


def test_no_scale_at_all_is_an_error_that_says_why():
    with pytest.raises(
        InvalidValueError, match=r"nothing can be compared: 16 µm/px is left out: no slide of"
    ) as e:
        plans([entry("g")], REAL, scales=(16.0,))
    assert "50 px there are 800 µm, wider than the slides" in str(e.value)
    assert "use a smaller --patch, other --mpp, or larger slides" in str(e.value)


def test_train_takes_part_but_decides_nothing():
    train = SlideSet("train", (entry("t", side=100),))
    found, _ = plans([entry("g")], REAL, train=train)
    assert [p.count for p in found] == [50, 50]
    assert [p.allotted["train"] for p in found] == [{"t": 9}, {"t": 1}]


def test_the_plan_as_a_table():
    sets = [SlideSet("real", tuple(REAL)), SlideSet("generated", (entry("g"),))]
    found, warnings = plans([entry("g")], REAL)
    table = describe(found, [*warnings, "mind the gap"], sets).splitlines()
    assert table[0].split() == ["set", "slide", "µm/px", "0.5", "1"]
    assert table[1].split() == ["real", "r1", "0.5", "25", "25"]
    assert table[6].split() == ["generated", "g", "0.5", "50", "50"]
    assert table[8].split() == ["compared,", "a", "side", "50", "50"]
    assert table[-1] == "warning: mind the gap"

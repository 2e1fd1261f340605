"""Sharing patches out over slides and µm/px: numbers by hand, and invariants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.slides import entry, slide_set, slides
from wsigen.errors import InvalidValueError
from wsigen.evaluation.sets import SlideSet, allot, capacity, describe, level, load_set, plan_scales


def test_room_is_places_half_a_patch_apart_on_tissue():
    assert capacity(entry(side=1000, mpp=0.5), 100, 0.5) == 19 * 19
    assert capacity(entry(side=100, mpp=0.5), 100, 0.5) == 1
    assert capacity(entry(side=1000, mpp=0.5, tissue=0.25), 100, 0.5) == 19 * 19 // 2
    assert capacity(entry(side=1000, mpp=0.5), 100, 5.0) == 1  # as large as the slide


def test_groups_get_as_many_and_their_slides_by_tissue():
    groups = {"x": [entry("x1", "x", side=2000), entry("x2", "x", side=1000)], "y": [entry("y")]}
    allotted = allot(groups, 100, 0.5, 100)
    assert allotted["y"] == 50
    assert allotted["x1"] + allotted["x2"] == 50
    assert allotted["x1"] == 40  # four times the area


def test_what_a_slide_cannot_give_the_others_do():
    groups = {"small": [entry("small", side=100)], "large": [entry("large", side=1000)]}
    assert allot(groups, 100, 0.5, 60) == {"small": 1, "large": 59}
    assert allot(groups, 100, 0.5, 10**6) == {"small": 1, "large": 361}


@given(
    room=st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 50), min_size=1),
    count=st.integers(0, 300),
)
def test_levelled_shares(room, count):
    shares = level(room, count)
    assert sum(shares.values()) == min(count, sum(room.values()))
    assert all(shares[name] <= room[name] for name in room)
    open_ = [shares[name] for name in room if shares[name] < room[name]]
    assert not open_ or max(shares.values()) - min(open_) <= 1  # nobody is ahead of who could take more


@given(
    sides=st.lists(st.integers(60, 900), min_size=1, max_size=6),
    groups=st.integers(1, 3),
    count=st.integers(0, 400),
)
def test_all_that_is_wanted_is_allotted_where_there_is_room(sides, groups, count):
    by_group: dict[str, list] = {}
    for i, side in enumerate(sides):
        by_group.setdefault(f"g{i % groups}", []).append(entry(f"s{i}", f"g{i % groups}", side=side))
    found = allot(by_group, 60, 0.5, count)
    room = {e.slide: capacity(e, 60, 0.5) for some in by_group.values() for e in some}
    assert sum(found.values()) == min(count, sum(room.values()))
    assert all(0 < number <= room[slide] for slide, number in found.items())
    assert allot(dict(reversed(by_group.items())), 60, 0.5, count) == found  # whatever their order


def test_groups_are_those_of_slides_that_can_serve():
    fine, coarse = entry("fine", "case", mpp=0.25), entry("coarse", "case", mpp=2.0)
    found = SlideSet("real", (coarse, fine, entry("b", mpp=0.5)))
    assert {g: [e.slide for e in v] for g, v in found.groups(100, 0.5).items()} == {
        "b": ["b"],
        "case": ["fine"],
    }
    assert [e.slide for e in found.groups(100, 2.0)["case"]] == ["coarse", "fine"]


def test_a_folder_a_pattern_and_several(tmp_path):
    folder = slides(tmp_path / "slides", range(3), size=256)
    (folder / "bad.svs").write_bytes(b"?")
    one = slide_set("real", folder)
    assert [e.slide for e in one.entries] == ["s0.tif", "s1.tif", "s2.tif"]
    assert [f.slide for f in one.failures] == ["bad.svs"]
    assert len(load_set("x", str(folder / "s[01].tif")).entries) == 2
    assert len(load_set("x", [str(folder / "s0.tif"), str(folder / "s2.tif")]).entries) == 2


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

"""Sharing patches out over slides: numbers by hand, and invariants."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.slides import entry, slide_set, slides
from wsigen.evaluation.sets import SlideSet, allot, capacity, level, load_set


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

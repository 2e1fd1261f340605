"""Planted copies are found where they are, however they were turned; glass is not searched."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.evaluation.slides import entry, signatures_of, slide_set, slides
from wsigen.evaluation.search import SearchArea, search_slides
from wsigen.evaluation.signatures import distinct, signature

PATCH = 128


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return slide_set("real", slides(tmp_path_factory.mktemp("hunt") / "s", range(3), size=512))


@pytest.fixture(scope="module")
def field(real):
    return SearchArea.of(real.entries, PATCH, 1.0)


def patch(real, slide=1, centre=(260.0, 220.0)):
    one = real.entries[slide]
    return one.open().read_patch(centre, 1.0, PATCH, background=one.background)


@pytest.mark.parametrize("turn", range(8))
def test_a_turned_copy_is_found_at_its_place(real, field, turn):
    image = patch(real)
    copy = np.rot90(image[:, ::-1] if turn >= 4 else image, turn % 4)
    found = search_slides(signature(np.ascontiguousarray(copy))[None], field)
    assert found.distance[0] < 0.05
    assert found.slide[0] == 1
    assert np.abs(found.centre[0] - (260, 220)).max() <= field.cell_mpp


def test_recoloured_blurred_and_faint_copies_are_found(real, field):
    image = patch(real)
    changed = [
        cv2.GaussianBlur(image, (0, 0), 2),
        (image * np.array([0.9, 0.8, 0.95])).astype(np.uint8),
        (128 + image * 0.5).astype(np.uint8),
    ]
    found = search_slides(signatures_of(changed), field, threads=2)
    assert found.distance.max() < 0.15
    assert found.slide.tolist() == [1, 1, 1]


def test_own_groups_are_not_searched(real, field):
    queries = signatures_of([patch(real), patch(real, 2)])
    found = search_slides(queries, field, groups=["s1.tif", "elsewhere"])
    assert found.slide[1] == 2
    assert found.distance[1] < 0.05
    assert found.slide[0] != 1
    assert found.distance[0] > 0.3


def test_nowhere_to_look(real):
    nowhere = SearchArea.of(real.entries, 2048, 1.0)
    assert nowhere.entries == ()
    found = search_slides(signatures_of([patch(real)]), nowhere)
    assert np.isinf(found.distance).all()


def test_a_field_is_of_slides_that_are_fine_and_large_enough():
    entries = [entry("a", mpp=0.5), entry("coarse", mpp=8.0), entry("small", side=100)]
    found = SearchArea.of(entries, 128, 0.5)
    assert [e.slide for e in found.entries] == ["a"]
    assert found.cell_mpp == 2.0
    assert found.cells() == 250 * 250


def test_a_budget_leaves_slides_out_but_never_all():
    whole = SearchArea.of([entry(f"s{i}") for i in range(8)], 128, 0.5)
    some = whole.within(3 * 62500, seed=0)
    assert len(some.entries) == 3
    assert some == whole.within(3 * 62500, seed=0)
    assert len(whole.within(1, seed=0).entries) == 1
    assert whole.within(1e9, seed=0) == whole


def test_specks_on_glass_tell_nothing(real):
    speck = np.full((PATCH, PATCH, 3), 243, np.uint8)
    speck[4:12, 4:12] = 100
    blank = np.full((PATCH, PATCH, 3), 243, np.uint8)
    assert distinct(signatures_of([patch(real), speck, blank])).tolist() == [True, False, False]

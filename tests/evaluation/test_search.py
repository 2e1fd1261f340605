"""Places are found on slides at any orientation, as an exhaustive search finds them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.evaluation.slides import entry, signatures_of, slide_set, slides
from tests.evaluation.test_signatures import DISGUISES, recoloured
from tests.synthetic import he_image
from wsigen.errors import InvalidValueError
from wsigen.evaluation.search import (
    CANDIDATES,
    STRIDE,
    SearchArea,
    candidates,
    search_overviews,
    search_slides,
)
from wsigen.evaluation.signatures import SIDE, distinct, local_contrast, signature, turned

CELL, PATCH = 4, 128


@pytest.fixture(scope="module")
def slide():
    return he_image(800, seed=5)


@pytest.fixture(scope="module")
def overview(slide):
    return local_contrast(cv2.resize(slide, (200, 200), interpolation=cv2.INTER_AREA))


@pytest.fixture(scope="module")
def exhaustive(overview):
    """The least distance of queries over all cells and orientations, by the correlation of windows."""
    windows = np.lib.stride_tricks.sliding_window_view(overview, (SIDE, SIDE)).reshape(-1, SIDE * SIDE)
    lengths = np.linalg.norm(windows - windows.mean(axis=1, keepdims=True), axis=1)

    def distances(queries: np.ndarray) -> np.ndarray:
        every = np.stack([turned(queries, k) for k in range(8)], axis=1).reshape(-1, SIDE * SIDE)
        alike = windows @ every.T / np.maximum(lengths, 1e-3)[:, None]
        return 1 - alike.max(axis=0).reshape(len(queries), 8).max(axis=1)

    return distances


@pytest.mark.parametrize("disguise", DISGUISES)
def test_copies_are_as_near_as_an_exhaustive_search_says(disguise, slide, overview, exhaustive):
    corners = np.random.default_rng(7).integers(200, 480, (12, 2))
    copies = [DISGUISES[disguise](slide[y : y + PATCH, x : x + PATCH]) for y, x in corners]
    queries = signatures_of(np.ascontiguousarray(c) for c in copies)
    nearest, places = search_overviews(queries, [overview])
    np.testing.assert_allclose(nearest.distance, exhaustive(queries), atol=1e-5)
    assert nearest.distance.max() < 0.3
    assert np.abs(places - corners / CELL).max() <= 1.5


def test_what_is_unrelated_is_never_nearer_than_an_exhaustive_search_says(overview, exhaustive):
    other = he_image(800, seed=6)
    queries = signatures_of(other[y : y + PATCH, x : x + PATCH] for y in (250, 400) for x in (250, 350, 450))
    nearest, _ = search_overviews(queries, [overview])
    expected = exhaustive(queries)
    assert (nearest.distance >= expected - 1e-5).all()
    assert np.abs(nearest.distance - expected).mean() < 0.05
    assert nearest.distance.min() > 0.3


def test_candidates_are_different_places_and_hold_the_right_one(slide, overview):
    queries = signatures_of([slide[300:428, 260:388], slide[401:529, 333:461]])
    every = np.stack([turned(queries, k) for k in range(8)])
    turns, corners = candidates(every, overview)
    assert turns.shape == (2, CANDIDATES)
    assert turns[:, 0].tolist() == [0, 0]
    assert np.abs(corners[:, 0] - np.array([[75, 65], [100.25, 83.25]])).max() <= STRIDE
    for query in range(2):
        assert (
            len({(t, *c) for t, c in zip(turns[query], corners[query].tolist(), strict=True)}) == CANDIDATES
        )


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (34, 32), (63, 40)])
def test_every_place_of_a_small_overview_counts(size):
    rng = np.random.default_rng(0)
    overview = local_contrast(cv2.GaussianBlur(rng.integers(0, 255, (*size, 3), dtype=np.uint8), (0, 0), 2))
    last = overview[size[0] - SIDE :, size[1] - SIDE :]
    last = last - last.mean()
    nearest, places = search_overviews((last / np.linalg.norm(last))[None].astype(np.float32), [overview])
    assert nearest.distance[0] == pytest.approx(0, abs=1e-5)
    assert places[0].tolist() == [size[0] - SIDE, size[1] - SIDE]


def test_strips_do_not_matter(overview, slide, monkeypatch):
    queries = signatures_of(slide[y : y + PATCH, 300:428] for y in (250, 300, 350))
    whole = search_overviews(queries, [overview])
    monkeypatch.setattr("wsigen.evaluation.search._LARGEST", 8 * 3 * 50)
    narrow = search_overviews(queries, [overview])
    np.testing.assert_array_equal(whole[0].distance, narrow[0].distance)
    np.testing.assert_array_equal(whole[1], narrow[1])


def test_search_finds_the_place_on_the_slide_at_any_orientation():
    patch_px, cell = 256, 8
    slides = [he_image(1024, seed=s) for s in (5, 6)]
    places = [(0, 312, 400), (1, 300, 480), (1, 413, 333)]
    queries = signatures_of(
        np.ascontiguousarray(np.rot90(recoloured(slides[s][y : y + patch_px, x : x + patch_px]), k))
        for k, (s, y, x) in enumerate(places)
    )
    reduced = [cv2.resize(s, (1024 // cell, 1024 // cell), interpolation=cv2.INTER_AREA) for s in slides]
    nearest, corners = search_overviews(queries, map(local_contrast, reduced))
    np.testing.assert_array_equal(nearest.index, [0, 1, 1])
    assert np.abs(corners - [[y / cell, x / cell] for _, y, x in places]).max() <= 0.6
    assert nearest.distance.max() < 0.3
    np.testing.assert_array_equal(nearest.orientation, [0, 3, 2])
    unrelated, _ = search_overviews(queries[:1], map(local_contrast, reduced[1:]))
    assert unrelated.distance[0] > 0.35


def test_search_of_glass_finds_nothing():
    glass = local_contrast(np.full((64, 80, 3), 243, np.uint8))
    nearest, _ = search_overviews(signature(he_image(128, seed=7))[None], [glass])
    assert nearest.distance[0] == 1
    blank, _ = search_overviews(np.zeros((1, SIDE, SIDE), np.float32), [local_contrast(he_image(64, seed=8))])
    assert blank.distance[0] == 1


def test_overviews_smaller_than_a_patch_are_refused():
    with pytest.raises(InvalidValueError, match="32 × 32 cells"):
        search_overviews(np.zeros((1, SIDE, SIDE), np.float32), [np.zeros((31, 40), np.float32)])


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

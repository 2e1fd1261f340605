"""Places follow from seed, slide, µm/px and number alone; reading ahead keeps the order."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from tests.evaluation.slides import entry, slide_set, slides
from wsigen.errors import SlideError
from wsigen.evaluation.spots import TISSUE_SHARE, Reader, Spot, ahead, readable, spots, tissue_share


def test_places_are_on_tissue_and_inside():
    half = entry(tissue=0.5)
    for number in range(40):
        y, x = Spot(half, 0.5, 100, number).centre(0)
        assert 25 <= y <= 475
        assert 25 <= x <= 475
        assert tissue_share(half, (y, x), 50) >= TISSUE_SHARE
        assert y <= 250  # at least half of the patch is above the line where tissue ends


def test_places_differ_by_number_seed_slide_and_scale_and_by_nothing_else():
    first = Spot(entry("a"), 0.5, 100, 0)
    assert first.centre(3) == Spot(entry("a", "another group"), 0.5, 100, 0).centre(3)
    others = [
        Spot(entry("a"), 0.5, 100, 1).centre(3),
        Spot(entry("b"), 0.5, 100, 0).centre(3),
        Spot(entry("a"), 1.0, 100, 0).centre(3),
        first.centre(4),
    ]
    assert len({first.centre(3), *others}) == 5


def test_share_of_tissue_by_hand():
    half = entry(tissue=0.5)  # mask of 100 × 100 cells of 5 µm, tissue down to 250 µm
    assert tissue_share(half, (100, 100), 50) == 1
    assert tissue_share(half, (250, 100), 50) == 0.5
    assert tissue_share(half, (0, 100), 50) == 0.5  # half of it beyond the slide
    assert tissue_share(half, (400, 100), 50) == 0


def test_spots_are_numbered_slide_by_slide():
    entries = [entry("a"), entry("b"), entry("c")]
    found = spots(entries, {"a": 2, "c": 1}, 0.5, 64)
    assert [(s.entry.slide, s.number) for s in found] == [("a", 0), ("a", 1), ("c", 0)]


def test_a_patch_is_what_the_slide_has_there(tmp_path):
    (one,) = slide_set("x", slides(tmp_path / "s", range(1))).entries
    spot, reader = Spot(one, 1.0, 64, 0), Reader(5)
    expected = one.open().read_patch(spot.centre(5), 1.0, 64, background=one.background)
    np.testing.assert_array_equal(reader(spot), expected)
    np.testing.assert_array_equal(reader(spot), expected)  # the open slide, again
    np.testing.assert_array_equal(reader.at(one, spot.centre(5), 2.0, 32).shape, (32, 32, 3))


def test_ahead_keeps_the_order_and_does_not_run_away():
    taken: list[int] = []

    def jobs():
        for i in range(40):
            taken.append(i)
            yield i

    def work(i: int) -> int:
        time.sleep(0.002 * (i % 3))
        return i * i

    results = ahead(work, jobs(), 2)
    assert next(results) == 0
    assert len(taken) <= 9
    assert list(results) == [i * i for i in range(1, 40)]


def test_ahead_works_on_several_threads_and_hands_errors_on():
    barrier = threading.Barrier(2, timeout=10)
    assert list(ahead(lambda i: barrier.wait() >= 0, range(4), 2)) == [True] * 4

    def fail(i: int) -> int:
        return 1 // (3 - i)

    with pytest.raises(ZeroDivisionError):
        list(ahead(fail, range(9), 2))


@pytest.mark.parametrize("threads", [None, 3])
def test_the_rest_is_read_and_each_slide_is_said_once(caplog, threads):
    def read(job: int) -> int:
        if job in (2, 3, 7):
            raise SlideError("a.tif" if job < 5 else "b.tif", f"damaged at {job}")
        return 10 * job

    warnings: list[str] = []
    found = readable(read, range(9), "windows", threads=threads, warnings=warnings)
    assert list(found) == [(job, 10 * job) for job in (0, 1, 4, 5, 6, 8)]
    assert warnings == [record.getMessage() for record in caplog.records]
    assert warnings == [
        "a.tif: windows that cannot be read, left out: 2; the first: damaged at 2",
        "b.tif: windows that cannot be read, left out: 1; the first: damaged at 7",
    ]

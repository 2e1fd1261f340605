"""Planted copies are caught, strangers are not, and training slides betray themselves only where they do."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from tests.evaluation.slides import slide_set, slides
from tests.synthetic import he_image, write_tiff
from wsigen.evaluation.comparison import Comparison, real_patches
from wsigen.evaluation.descriptor import WeightFree
from wsigen.evaluation.estimate import percentage
from wsigen.evaluation.gallery import Gallery
from wsigen.evaluation.patches import read_patches
from wsigen.evaluation.privacy import privacy_rows, unknown_training
from wsigen.evaluation.sets import load_set
from wsigen.evaluation.spots import Reader, spots

PATCH, COUNT = 96, 24


def seen(one, count=COUNT):
    each = -(-count // len(one.entries))
    where = spots(one.entries, {e.slide: each for e in one.entries}, 1.0, PATCH)
    return read_patches(where, Reader(0), WeightFree(), keep=0)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return slide_set("real", slides(tmp_path_factory.mktemp("privacy") / "real", range(6), size=448))


@pytest.fixture(scope="module")
def real_seen(real):
    return seen(real, 48)


@pytest.fixture(scope="module")
def privacy(real, real_seen):
    return Gallery(real_seen, None, real, mpp=1.0, patch=PATCH, seed=0, threads=1)


def compared(patches, real_seen):
    return Comparison(patches, real_patches(real_seen, {1.0: COUNT}, 0), 1.0)


class Found(NamedTuple):
    rows: list
    neighbours: list
    distances: np.ndarray | None


def found_by(gallery, comparison):
    return Found(*privacy_rows(comparison, gallery))


def by_key(rows):
    return {r.key: r for r in rows}


def disguised(image: np.ndarray) -> np.ndarray:
    """Flipped, turned, recoloured and slightly blurred."""
    image = cv2.GaussianBlur(np.ascontiguousarray(np.rot90(image[:, ::-1])), (0, 0), 1)
    return (255 - (255 - image.astype(float)) * [1.2, 0.9, 1.1]).clip(0, 255).astype(np.uint8)


def test_strangers_are_no_copies(privacy, real_seen, tmp_path):
    ours = seen(slide_set("ours", slides(tmp_path / "s", range(40, 43), size=448)))
    found = found_by(privacy, compared(ours, real_seen))
    rows = by_key(found.rows)
    assert list(rows) == ["copies", "near_pixels", "near_features", "authenticity"]
    assert rows["copies"].value.value == 0
    assert rows["copies"].excess == 0
    assert rows["near_pixels"].excess < 2
    assert rows["authenticity"].excess < 1.5
    assert len(found.distances) == len(ours)


def test_disguised_copies_are_caught_and_shown(privacy, real_seen, tmp_path):
    for seed in (1, 2):
        write_tiff(tmp_path / f"c{seed}.tif", disguised(he_image(448, seed, mpp=1.0)), 1.0)
    found = found_by(privacy, compared(seen(load_set("copies", str(tmp_path))), real_seen))
    rows = by_key(found.rows)
    assert rows["copies"].value.value > 80
    assert rows["copies"].excess > 3
    assert 1 <= len(found.neighbours) <= 6
    for one in found.neighbours:
        copied = {"c1.tif": "s1.tif", "c2.tif": "s2.tif"}[one.spot.entry.slide]
        assert privacy.area.entries[one.slide].slide == copied
        assert one.distance < 0.2
    assert [n.distance for n in found.neighbours] == sorted(n.distance for n in found.neighbours)


def test_neighbours_are_of_different_places(privacy, real_seen):
    found = found_by(privacy, compared(real_seen, real_seen)).neighbours
    for i, one in enumerate(found):
        for other in found[:i]:
            far = np.hypot(one.centre[0] - other.centre[0], one.centre[1] - other.centre[1]) >= PATCH / 2
            assert one.slide != other.slide or far


def test_authenticity_of_real_slides_is_that_of_real_slides(real, real_seen, privacy):
    """Judged as if they were generated, against the others, they have what the floor says."""
    rest = real_seen.take(np.flatnonzero([g != "s0.tif" for g in real_seen.groups]))
    fewer = replace(real, entries=real.entries[1:])
    held_out = Gallery(rest, None, fewer, mpp=1.0, patch=PATCH, seed=0, threads=1)
    left = real_seen.take(np.flatnonzero([g == "s0.tif" for g in real_seen.groups]))
    value = by_key(found_by(held_out, compared(left, rest)).rows)["authenticity"].value.value
    floor = by_key(found_by(privacy, compared(left, real_seen)).rows)["authenticity"].floor
    assert value == pytest.approx(floor.value, abs=30)
    assert 25 < floor.value < 75  # of equals, about half are nearer


def test_authenticity_needs_three_real_slides_for_its_floor(real, real_seen):
    two = real_seen.take(np.flatnonzero([g in ("s0.tif", "s1.tif") for g in real_seen.groups]))
    privacy = Gallery(
        two, None, replace(real, entries=real.entries[:2]), mpp=1.0, patch=PATCH, seed=0, threads=1
    )
    row = by_key(found_by(privacy, compared(real_seen, two)).rows)["authenticity"]
    assert row.value is not None
    assert row.floor is None
    assert "from three real slides" in row.warnings[-1]


def test_one_real_slide_says_nothing(real_seen, real):
    alone, one = real_seen.take(np.arange(8)), replace(real, entries=real.entries[:1])
    privacy = Gallery(alone, None, one, mpp=1.0, patch=PATCH, seed=0, threads=1)
    found = found_by(privacy, compared(real_seen, real_seen))
    assert len(found.rows) == 4
    assert all(r.value is None for r in found.rows)
    assert all("at least two real slides" in r.warnings[0] for r in found.rows)
    assert found.neighbours == []
    assert found.distances is None


def test_membership_of_a_set_that_copies_its_training_slides(real_seen, tmp_path):
    train = slide_set("train", slides(tmp_path / "train", range(20, 26), size=448))
    trained = seen(train, 48)
    privacy = Gallery(real_seen, trained, train, mpp=1.0, patch=PATCH, seed=0, threads=1)
    strangers = seen(slide_set("x", slides(tmp_path / "x", range(60, 66), size=448)), 48)
    rows = by_key(found_by(privacy, compared(trained, real_seen)).rows)
    assert rows["copies"].value.value == 100
    assert rows["authenticity"].value.value == 0
    assert rows["membership"].value.value == 1.0
    assert rows["membership"].excess > 1
    assert rows["copying"].value.value < -3
    rows = by_key(found_by(privacy, compared(strangers, real_seen)).rows)
    assert rows["copies"].value.value == 0
    assert 0.3 < rows["membership"].value.value < 0.7
    chance = rows["membership"].floor
    assert chance.value == pytest.approx(0.5, abs=1e-6)  # either half may be taken for the one trained on
    assert chance.low + chance.high == pytest.approx(1, abs=1e-6)
    assert abs(rows["copying"].value.value) < 3


def test_what_needs_training_slides_says_so():
    rows = unknown_training()
    assert [r.key for r in rows] == ["copying", "membership"]
    assert all(r.value is None and "--train" in r.warnings[0] for r in rows)


def test_shares_have_wilsons_interval():
    half, none, every = percentage(5, 10), percentage(0, 10), percentage(10, 10)
    assert (half.value, half.low, half.high) == pytest.approx((50, 23.659, 76.341), abs=1e-2)
    assert (none.value, none.low, none.high) == pytest.approx((0, 0, 27.753), abs=1e-2)
    assert (every.value, every.low, every.high) == pytest.approx((100, 72.247, 100), abs=1e-2)


def test_a_budget_is_shared_and_what_it_leaves_out_is_said(real, real_seen, monkeypatch):
    each = Gallery(real_seen, None, real, mpp=1.0, patch=PATCH, seed=0, threads=1).area.cells() // 6
    monkeypatch.setattr("wsigen.evaluation.gallery.BUDGET", 20 * 4 * each)
    monkeypatch.setattr("wsigen.evaluation.gallery.FEWEST_QUERIES", 20)
    monkeypatch.setattr("wsigen.evaluation.gallery.MOST_UNRELATED", 11)
    privacy = Gallery(real_seen, None, real, mpp=1.0, patch=PATCH, seed=0, threads=1)
    assert (
        len(privacy.area.entries),
        len(privacy.null),
        len(privacy.search(real_seen, privacy.real_pixels)[0]),
    ) == (4, 10, 10)
    row = by_key(found_by(privacy, compared(real_seen, real_seen)).rows)["copies"]
    assert row.warnings[-2:] == (
        "4 of 6 slides were searched",
        f"10 of {len(real_seen)} patches were searched for, those most like a real one",
    )
    monkeypatch.setattr("wsigen.evaluation.gallery.BUDGET", 100 * 6 * each)
    larger = Gallery(real_seen, None, real, mpp=1.0, patch=PATCH, seed=0, threads=1)
    searched, _ = larger.search(real_seen, larger.real_pixels)
    assert (len(larger.area.entries), len(larger.null), len(searched)) == (6, 11, min(89, len(real_seen)))


def test_one_copied_slide_among_strangers_is_found(privacy, real_seen, tmp_path):
    slides(tmp_path / "ours", range(40, 43), size=448)
    write_tiff(tmp_path / "ours" / "copy.tif", disguised(he_image(448, 3, mpp=1.0)), 1.0)
    ours = seen(load_set("ours", str(tmp_path / "ours")))
    found = found_by(privacy, compared(ours, real_seen))
    assert by_key(found.rows)["copies"].value.value == pytest.approx(25, abs=5)
    assert {n.spot.entry.slide for n in found.neighbours if n.distance < 0.3} == {"copy.tif"}

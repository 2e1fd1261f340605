"""Grids from provenance, windows on tissue, and a choice of slides."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation.slides import entry
from wsigen.evaluation.windows import TILES, SeamGrid, as_fine, known_grids, some_slides, windows
from wsigen.slide.provenance import read_provenance


def made(folder: Path, facts: object) -> object:
    (folder / "a_HE.json").write_text(json.dumps(facts) if not isinstance(facts, str) else facts)
    return replace(entry("a_HE.ome.tif"), path=folder / "a_HE.ome.tif")


def test_a_slide_without_provenance_has_file_tiles_only(tmp_path):
    assert known_grids(replace(entry(), path=tmp_path / "a_HE.ome.tif")) == [TILES]
    assert known_grids(made(tmp_path, "no json")) == [TILES]
    assert read_provenance(made(tmp_path, [1, 2]).path) == {}


def test_grids_of_a_synthetic_slide(tmp_path):
    found = known_grids(made(tmp_path, {"size": 2048, "k": 2, "stages": 4}))
    assert found == [TILES, SeamGrid("128 px patches", 128, None, None)]


def test_seams_that_the_provenance_names_are_used(tmp_path):
    joints = [{"name": "last patches", "pitch": 128, "rows": [40], "cols": [8, 16]}]
    found = known_grids(made(tmp_path, {"size": 2048, "k": 2, "stages": 4, "joints": joints}))
    assert found == [TILES, SeamGrid("last patches", 128, (40,), (8, 16))]


@pytest.mark.parametrize(
    "joints",
    [
        "none",
        7,
        [7],
        [{}],
        [{"pitch": "128"}],
        [{"pitch": 1, "rows": [0], "cols": [0]}],
        [{"pitch": 64, "rows": 3}],
    ],
)
def test_seams_that_another_program_means_otherwise_are_none(tmp_path, joints):
    assert known_grids(made(tmp_path, {"joints": joints})) == [TILES]


def test_the_pitch_of_a_ihc_slides_statistics(tmp_path):
    assert known_grids(made(tmp_path, {"stats_pitch": 512})) == [TILES, SeamGrid("512 px statistics", 512)]
    nested = {"stain": {"stats_pitch": 1024}, "norm": {"kind": "dn"}}
    assert known_grids(made(tmp_path, nested)) == [TILES, SeamGrid("1024 px statistics", 1024)]


def test_windows_lie_on_tissue_inside_and_apart():
    found = windows(entry(side=1000, mpp=0.5, tissue=0.4), 0.5, 200, seed=0)
    assert len(found) == 6
    assert all((r.height, r.width) == (200, 200) and r.y % 200 == r.x % 200 == 0 for r in found)
    assert all(r.y < 400 for r in found)  # tissue is in the upper 400 px
    assert len(set(found)) == 6
    assert found == sorted(found, key=lambda r: (r.y, r.x))


def test_windows_of_a_small_slide_are_the_slide():
    (found,) = windows(entry(side=300, mpp=0.5), 0.5, 1024, seed=0)
    assert (found.y, found.x, found.height, found.width) == (0, 0, 300, 300)
    (found,) = windows(entry(side=300, mpp=0.5), 2.0, 1024, seed=0)
    assert (found.height, found.width) == (75, 75)


def test_windows_differ_by_seed_where_tissue_is_alike():
    large = entry(side=4000)
    chosen = [tuple(windows(large, 0.5, 200, seed=s)) for s in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


@pytest.mark.parametrize("most", [1, 3, 5])
def test_slides_of_different_groups_come_first(most):
    entries = [entry(f"{g}{i}", g) for g in "abcd" for i in range(3)]
    found = some_slides(entries, most)
    assert len(found) == most
    assert len({e.group for e in found}) == min(most, 4)


def test_no_slide_is_enlarged():
    assert [
        e.slide for e in as_fine([entry("a", mpp=0.5), entry("b", mpp=0.52), entry("c", mpp=1)], 0.5)
    ] == [
        "a",
        "b",
    ]

"""Which files of a folder are slides; and none that looks like one is passed over without a word."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from tests.synthetic import he_image, write_tiff
from wsigen.data.domains import expand
from wsigen.data.find import TIFF_SUFFIXES, Failure, find_slides
from wsigen.data.survey import build_index
from wsigen.errors import SlideError


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def _found(folder: Path) -> tuple[list[str], dict[str, str]]:
    left_out: list[Failure] = []
    return list(find_slides(folder, left_out)), {failure.slide: failure.reason for failure in left_out}


@pytest.mark.parametrize("suffix", [*TIFF_SUFFIXES, ".QPTIFF"])
def test_a_tiff_of_any_ending_is_a_slide(tmp_path, suffix):
    write_tiff(tmp_path / f"a{suffix}", he_image(400, 1, mpp=2.0), 2.0)
    index, failures = build_index(tmp_path, progress=False)
    assert [entry.slide for entry in index.entries] == [f"a{suffix}"]
    assert not failures


def test_linked_folders_are_searched_and_loops_end(tmp_path, caplog):
    _touch(tmp_path, "all/a.svs", "all/sub/b.svs", "elsewhere/deep/c.svs", "elsewhere/d.tif")
    top = tmp_path / "all"
    (top / "aaa").symlink_to(tmp_path / "elsewhere")
    (top / "again").symlink_to(tmp_path / "elsewhere")
    (top / "sub" / "loop").symlink_to(top)
    (tmp_path / "elsewhere" / "deep" / "back").symlink_to(tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING):
        assert _found(top) == (["a.svs", "aaa/d.tif", "aaa/deep/c.svs", "sub/b.svs"], {})
    assert not caplog.records
    (tmp_path / "link").symlink_to(top)
    assert len(find_slides(tmp_path / "link")) == 4


def test_a_slide_keeps_the_name_that_it_has_without_links(tmp_path):
    _touch(tmp_path, "real/a.svs")
    (tmp_path / "earlier").symlink_to(tmp_path / "real")
    assert _found(tmp_path) == (["real/a.svs"], {})


def test_linked_files_count_once(tmp_path, caplog):
    _touch(tmp_path, "in/a.svs", "out/b.svs")
    (tmp_path / "in" / "b.svs").symlink_to(tmp_path / "out" / "b.svs")
    for name in ("0.svs", "c.svs"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "in" / "a.svs")
    (tmp_path / "in" / "gone.svs").symlink_to(tmp_path / "nowhere.svs")
    same = "the same file as a.svs"
    reasons = {"0.svs": same, "c.svs": same, "gone.svs": "a link to what is not there"}
    assert _found(tmp_path / "in") == (["a.svs", "b.svs"], reasons)
    for name, reason in reasons.items():
        assert f"left out {name}: {reason}" in caplog.text


def test_pictures_beside_slides(tmp_path):
    ours = ["s_HE.ome.tif", "s_HE.json", "s_HE.jpg", "s_HE.png", "index.parquet", "index.png"]
    _touch(tmp_path, *ours, "alone.png", "x[1].jpg", "x[1].svs", "case.tif", "case.png", "notes.txt")
    slides, left_out = _found(tmp_path)
    assert slides == ["alone.png", "case.tif", "s_HE.ome.tif", "x[1].svs"]
    assert left_out == {
        "case.png": "taken for a thumbnail of case.tif; rename it if it is a slide of its own",
        "x[1].jpg": "taken for a thumbnail of x[1].svs; rename it if it is a slide of its own",
    }


def test_slides_that_are_not_read_are_said(tmp_path):
    _touch(tmp_path, "a.svs", "b.VSI", "c.jp2", "d.csv", ".hidden/f.svs", "._a.svs", "g.xml")
    slides, left_out = _found(tmp_path)
    assert slides == ["a.svs"]
    assert left_out == {
        "b.VSI": ".vsi is not read; export it as a tiled TIFF",
        "c.jp2": ".jp2 is not read; export it as a tiled TIFF",
    }
    (tmp_path / "a.svs").unlink()
    with pytest.raises(SlideError, match=r"looked for \.tif .*; left out b\.VSI: \.vsi is not read; export"):
        find_slides(tmp_path)


def test_what_is_left_out_is_in_the_summary_and_in_sets(tmp_path):
    write_tiff(tmp_path / "a.tif", he_image(400, 1, mpp=2.0), 2.0)
    _touch(tmp_path, "b.vsi")
    assert [failure.slide for failure in build_index(tmp_path, progress=False)[1]] == ["b.vsi"]
    left_out: list[Failure] = []
    assert list(expand([str(tmp_path)], left_out)) == ["a.tif"]
    assert [failure.slide for failure in left_out] == ["b.vsi"]


@pytest.mark.skipif(os.name != "posix", reason="needs a pipe")
def test_a_pipe_is_no_slide(tmp_path):
    _touch(tmp_path, "a.svs")
    os.mkfifo(tmp_path / "b.svs")
    assert _found(tmp_path) == (["a.svs"], {"b.svs": "not an ordinary file"})


def test_a_zarr_folder_is_one_slide(tmp_path):
    thumbnail = "taken for a thumbnail of f.ZARR; rename it if it is a slide of its own"
    _touch(tmp_path, "e.zarr/0/0.tif", "sub/f.ZARR/g.svs", "sub/f.png", "named/zarr.json", "h.zarr/.zgroup")
    assert _found(tmp_path) == (["e.zarr", "h.zarr", "named", "sub/f.ZARR"], {"sub/f.png": thumbnail})
    assert find_slides(tmp_path / "e.zarr") == {"e.zarr": tmp_path / "e.zarr"}
    link = tmp_path / "sub" / "link.zarr"
    link.symlink_to(tmp_path / "h.zarr")
    assert _found(tmp_path)[1]["sub/link.zarr"] == "the same file as h.zarr"


def test_a_link_to_nothing(tmp_path):
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SlideError, match="gone: a link to what is not there"):
        find_slides(tmp_path / "gone")

"""``wsigen index``."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import pytest

from tests.synthetic import he_image, write_tiff
from wsigen.cli.index import run
from wsigen.cli.main import main
from wsigen.config.index import IndexConfig
from wsigen.data.index import SlideIndex
from wsigen.data.summary import write_index
from wsigen.errors import InvalidValueError, OutputError, SlideError


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    write_tiff(folder / "good.tif", he_image(500, mpp=2.0), 2.0)
    write_tiff(folder / "nompp.tif", he_image(500, 1, mpp=2.0), None)
    (folder / "corrupt.svs").write_bytes(b"?")
    return folder


def test_index_table_and_contact_sheet(slides, tmp_path, caplog):
    out = tmp_path / "new" / "index.parquet"
    (tmp_path / "t.csv").write_text("slide,mpp\nnompp,2.0\n")
    with caplog.at_level(logging.INFO):
        run([str(slides), "--out", str(out), "--table", str(tmp_path / "t.csv"), "--patch-size", "64"])
    assert [e.slide for e in SlideIndex.load(out).entries] == ["good.tif", "nompp.tif"]
    sheet = cv2.imread(str(out.with_suffix(".png")))
    assert sheet is not None
    assert sheet.shape[1] == 480
    for text in (
        "good.tif",
        "tissue mm²",
        "Left out, 1:",
        "corrupt.svs: not a slide",
        "left out corrupt.svs",
        "64 px",
    ):
        assert text in caplog.text


def test_again_only_with_overwrite(slides, tmp_path):
    out = slides / "index.parquet"
    first = write_index(IndexConfig(slides=slides, out=out))
    with pytest.raises(OutputError, match=r"index\.parquet: exists already; pass --overwrite"):
        write_index(IndexConfig(slides=slides, out=out))
    assert (
        write_index(IndexConfig(slides=slides, out=out, overwrite=True)) == first
    )  # the contact sheet is not taken for a slide
    out.unlink()
    with pytest.raises(OutputError, match=r"index\.png: exists already"):
        write_index(IndexConfig(slides=slides, out=out))


def test_nothing_is_written_without_slides(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SlideError, match="no slide in this folder"):
        write_index(IndexConfig(slides=tmp_path / "empty", out=tmp_path / "index.parquet"))
    assert not (tmp_path / "index.parquet").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "index.csv"], r"--out must be a \.parquet file such as index\.parquet, got index\.csv"),
        (["--patch-size", "0"], "--patch-size must be at least 1 px, got 0"),
        (["--val-fraction", "1.5"], r"val_fraction must be in \[0, 1\), got 1\.5"),
        (["--glass", "x.csv"], "glass"),
    ],
)
def test_wrong_options_are_one_line(slides, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidValueError, match=message) as caught:
        run([str(slides), *options])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["empty", "none", "blank"])
def test_a_users_mistake_is_one_line_on_stderr(tmp_path, capsys, what):
    folder = tmp_path / what
    if what != "none":
        folder.mkdir()
    if what == "blank":
        write_tiff(folder / "blank.tif", he_image(200, tissue=False), 0.5)
    with pytest.raises(SystemExit) as caught:
        main(["index", str(folder), "--out", str(tmp_path / "index.parquet")])
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"wsigen index: error: {folder}: ")

"""The report of the bundled models names what is worst and stands beside its floor; slides are made once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import bundled


def test_bundled(
    denoiser: Path, stainer: Path, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("slide,split\ncase1,val\ncase2,train\n", encoding="utf-8")
    work = tmp_path / "work"
    argv = ["--model", denoiser, "--stain", stainer, "--size", 256, "--stages", 2, "--fine", 2, "--coarse", 1]
    argv += [
        "--slides",
        slides,
        "--table",
        table,
        "--ihc",
        slides / "case2.tif",
        "--patch",
        64,
        "--patches",
        64,
    ]
    argv += ["--joint-classifiers", 0, "--work", work, "--out", tmp_path / "out", "--dtype", "float32"]
    words = [str(a) for a in argv]
    bundled.main(words)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    values = json.loads((tmp_path / "out" / "bundled.json").read_text(encoding="utf-8"))
    page = (tmp_path / "out" / "bundled.md").read_text(encoding="utf-8")
    worst = values["worst"]["generated"]
    assert printed["worst"] == worst
    assert worst["name"].partition(",")[0] in page.partition("![")[0]  # named before anything else is shown
    assert f"`{printed['command']}`" in page
    assert "held-out cases: case1" in page
    assert "case2" not in page.partition("## ")[0]
    rows = [r for one in values["sets"] for r in one["results"]]
    assert page.count(" × |") >= sum(r["excess"] is not None for r in rows)
    assert "https://" not in (tmp_path / "out" / "bundled.html").read_text(encoding="utf-8")
    with Image.open(tmp_path / "out" / "bundled.jpg") as sheet:
        assert sheet.height >= 2 * 64
    made = {p.name: p.stat().st_mtime_ns for p in work.glob("*.ome.tif")}
    assert len(made) == 2 * 2 + 1
    bundled._make(bundled._parser().parse_args(words), work)
    assert made == {p.name: p.stat().st_mtime_ns for p in work.glob("*.ome.tif")}

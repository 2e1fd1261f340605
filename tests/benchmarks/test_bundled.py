"""The report of the bundled models names what is worst and stands beside its floor; slides are made once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import bundled
from tests.pipeline.models import small_net
from wsigen.errors import InvalidValueError
from wsigen.nn.snapshot import save_snapshot


def arguments(denoiser: Path, slides: Path, table: Path, tmp_path: Path) -> list[str]:
    argv = ["--model", denoiser, "--preset", "fast", "--size", 256, "--stages", 2, "--slides-count", 2]
    argv += ["--slides", slides, "--tables", table, "--patch", 64, "--patches", 64, "--joint-classifiers", 0]
    argv += ["--work", tmp_path / "work", "--out", tmp_path / "out", "--dtype", "float32"]
    return [str(a) for a in argv]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("slide,split\ncase1,val\ncase2,train\n", encoding="utf-8")
    return path


@pytest.mark.slow
def test_bundled(
    denoiser: Path,
    stainer: Path,
    slides: Path,
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = arguments(denoiser, slides, table, tmp_path)
    argv += ["--stain", str(stainer), "--ihc", str(slides / "case2.tif"), "--compare", f"{denoiser}/fast"]
    argv += ["--compare-count", "1"]
    bundled.main(argv)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    values = json.loads((tmp_path / "out" / "bundled.json").read_text(encoding="utf-8"))
    page = (tmp_path / "out" / "bundled.md").read_text(encoding="utf-8")
    worst = values["worst"]["generated"]
    assert printed["worst"] == worst
    assert set(printed["worst_of_all_sets"]) == {"generated", "fast"}
    assert worst["name"].partition(",")[0] in page.partition("![")[0]  # named before anything else is shown
    assert f"`{printed['command']}`" in page
    assert "held-out cases: case1" in page
    assert "case2" not in page.partition("## ")[0]
    rows = [r for r in values["sets"][0]["results"] if r["excess"] is not None]
    assert page.count(" × |") >= len(rows)
    assert "within real-vs-real range |" not in page  # of one case: nothing may be called so
    assert "no verdict: one real case |" in page
    over = printed["over_real"]["generated"]["0.5"]
    (power,) = (r for r in rows if (r["measure"], r["mpp"], r["label"]) == ("power", 0.5, "4–8 px"))
    assert over["power 4–8 px"] == pytest.approx(power["value"]["value"])
    (coherence,) = (r for r in rows if (r["measure"], r["mpp"]) == ("coherence", 0.5))
    assert over["coherence"] == pytest.approx(coherence["value"]["value"] / coherence["floor"]["value"])
    assert "https://" not in (tmp_path / "out" / "bundled.html").read_text(encoding="utf-8")
    with Image.open(tmp_path / "out" / "bundled.jpg") as sheet:
        assert sheet.height >= 3 * 64
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "work").rglob("*.ome.tif")}
    assert len(made) == 2 * 2 + 2 + 2
    args = bundled._parser().parse_args(argv)
    for one in bundled._sets(args):
        bundled._make(args, one)
    assert made == {p: p.stat().st_mtime_ns for p in (tmp_path / "work").rglob("*.ome.tif")}


def test_other_weights_are_other_slides(denoiser: Path, slides: Path, table: Path, tmp_path: Path) -> None:
    argv = arguments(denoiser, slides, table, tmp_path)
    other = tmp_path / "other"
    net = small_net()
    net.pixel_out.weight.data += 1
    save_snapshot(net, other)
    found = [
        bundled._sets(bundled._parser().parse_args([*argv, "--model", str(m)]))[0] for m in (denoiser, other)
    ]
    assert found[0].folder != found[1].folder


def test_what_is_compared_with_is_a_model_and_a_preset(
    denoiser: Path, slides: Path, table: Path, tmp_path: Path
) -> None:
    argv = [*arguments(denoiser, slides, table, tmp_path), "--compare", "fast"]
    with pytest.raises(InvalidValueError, match="MODEL/PRESET"):
        bundled._sets(bundled._parser().parse_args(argv))

"""``wsigen evaluate``: made-up slides with a planted copy and planted joints, from the flags to the page."""

from __future__ import annotations

import json
import re
from html import unescape

import cv2
import numpy as np
import pytest

from tests.synthetic import he_image, write_tiff
from wsigen.cli.evaluate import LISTS, run
from wsigen.cli.main import main
from wsigen.cli.parse import gathered
from wsigen.errors import InvalidValueError, OutputError, SlideError, SnapshotError

SIDE, COPIED = 512, "s1.tif"


def disguised(image: np.ndarray) -> np.ndarray:
    """Flipped, recoloured, and a little blurred."""
    image = cv2.GaussianBlur(np.ascontiguousarray(image[:, ::-1]), (0, 0), 0.8)
    return (255 - (255 - image.astype(float)) * [0.85, 1.1, 1.15]).clip(0, 255).astype(np.uint8)


def joined(image: np.ndarray) -> np.ndarray:
    """Every second of the 256 px tiles is darker."""
    tiles = np.arange(SIDE) // 256
    return (image - 25.0 * (tiles[:, None] ^ tiles)[..., None]).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of slides: real ones, strangers with one copy of a real one, and the same with joints."""
    folder = tmp_path_factory.mktemp("evaluate")
    for name in ("real", "ours", "joined"):
        (folder / name).mkdir()
    for seed in range(6):
        write_tiff(folder / "real" / f"s{seed}.tif", he_image(SIDE, seed, mpp=1.0), 1.0, compression="zstd")
    for seed in range(20, 24):
        image = disguised(he_image(SIDE, 1, mpp=1.0)) if seed == 23 else he_image(SIDE, seed, mpp=1.0)
        for name, one in (("ours", image), ("joined", joined(image))):
            write_tiff(folder / name / f"<b>{seed}&.tif", one, 1.0, compression="zstd")
    return folder


def flags(made, *more: str) -> list[str]:
    paths = ["--generated", str(made / "ours"), "--real", str(made / "real")]
    return [*paths, "--mpp", "1,2,0.25", "--patch", "96", "--patches", "64", *more]


@pytest.fixture(scope="module")
def out(made, tmp_path_factory):
    """A finished report."""
    out = tmp_path_factory.mktemp("report") / "new"
    main(["evaluate", *flags(made, "--compare", f"joined={made / 'joined'}", "--out", str(out))])
    return out


@pytest.fixture(scope="module")
def values(out):
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def row(values, of: str, measure: str, mpp=None, label=None):
    (one,) = (s for s in values["sets"] if s["name"] == of)
    return next(
        r
        for r in one["results"]
        if (r["measure"], r["mpp"]) == (measure, mpp) and label in (None, r["label"])
    )


def test_the_report_says_what_was_compared(values):
    assert values["schema"] == "wsigen-evaluation/1"
    assert [s["name"] for s in values["sets"]] == ["generated", "joined"]
    assert values["mpp"] == [1.0, 2.0]
    assert sum(values["patches_a_side"].values()) == 64
    assert values["features"]["comparable"] is False
    said = " ".join(values["warnings"])
    assert "features are weight-free: distances compare with one another only" in said
    assert "0.25 µm/px is left out: no slide of generated serves" in said


def test_the_planted_copy_is_named(values):
    for mpp in (1.0, 2.0):
        assert row(values, "generated", "copies", mpp)["value"]["value"] > 5
        assert row(values, "generated", "copies", mpp)["floor"]["value"] == 0
    assert values["neighbours"]["neighbours generated 1"][0].startswith(COPIED)
    nearest, second = values["neighbours"]["overviews generated"][:2]
    assert nearest.startswith(f"<b>23&.tif: {COPIED}, 0.0")
    assert float(nearest.rpartition(" ")[2]) < 0.6 * float(second.rpartition(" ")[2])


def test_the_planted_joints_are_seen_in_their_set_alone(values):
    ours, theirs = (row(values, name, "seam", None, "256 px tiles") for name in ("generated", "joined"))
    assert theirs["value"]["value"] > 1.7 > 1.4 > ours["value"]["value"]
    assert theirs["excess"] > 1 > ours["excess"]
    edge = row(values, "joined", "edge", None, "256 px tiles")
    assert edge["value"]["value"] > 1.5 > edge["floor"]["value"]


def test_slides_of_one_name_are_compared_pixel_by_pixel(values):
    assert row(values, "joined", "tiling_largest")["value"]["value"] == 25
    share = row(values, "joined", "tiling_share")["value"]["value"]
    assert share == pytest.approx(50, abs=1)
    assert not any(r["measure"].startswith("tiling") for r in values["sets"][0]["results"])


def test_every_value_has_an_interval_and_every_gap_a_reason(values):
    gaps = {}
    for one in values["sets"]:
        known = [r for r in one["results"] if r["value"] is not None]
        assert len(known) > 80
        for r in known:
            assert r["value"]["method"], r
            assert r["value"]["low"] <= r["value"]["value"] <= r["value"]["high"], r
        gaps |= {r["measure"]: r["warnings"] for r in one["results"] if r["value"] is None}
    assert gaps.keys() == {"copying", "membership", "overview_copies", "niqe"}
    assert "NIQE needs more than 36 sharp blocks" in gaps["niqe"][0]
    assert "--train" in gaps["copying"][0]
    assert "--train" in gaps["membership"][0]
    assert "at least 10 real patches, got 6" in gaps["overview_copies"][0]


def test_the_page_needs_nothing_else(out, values):
    page = (out / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|iframe)\b|@import|url\(", page)
    sources = re.findall(r'src="([^"]{20})', page)
    assert len(sources) > 10
    assert all(source.startswith("data:image/") for source in sources)
    links = re.findall(r"href=['\"]([^'\"]*)", page)
    assert "#fidelity" in links
    assert {link.removeprefix("#") for link in links} <= set(re.findall(r'id="(\w+)"', page))
    assert "<b>23" not in page
    assert "<b>23&.tif" in unescape(page)
    assert "joined" in page
    for one in values["worst"].values():
        assert one["name"] in unescape(page)
    assert sorted(p.name for p in out.iterdir()) == ["index.html", "report.json"]


def test_an_existing_report_is_not_replaced(made, out):
    before = (out / "report.json").stat().st_mtime_ns
    with pytest.raises(OutputError, match="pass --overwrite to replace it, or another --out"):
        run(flags(made, "--out", str(out)))
    assert (out / "report.json").stat().st_mtime_ns == before


def test_a_dry_run_says_what_would_be_drawn_and_writes_nothing(made, tmp_path, capsys):
    run(flags(made, "--out", str(tmp_path / "x"), "--dry-run"))
    said = capsys.readouterr().out
    assert "compared, a side" in said
    assert COPIED in said
    assert "warning: 0.25 µm/px is left out" in said
    assert not (tmp_path / "x").exists()


def test_missing_weights_are_an_error_and_no_other_features(made, tmp_path):
    with pytest.raises(SnapshotError, match=r"nowhere\.pth.*no such file; get https?://"):
        run(flags(made, "--features", f"inception:{tmp_path / 'nowhere.pth'}", "--out", str(tmp_path / "x")))
    with pytest.raises(InvalidValueError, match="features"):
        run(flags(made, "--features", "fastest", "--out", str(tmp_path / "x")))
    assert not (tmp_path / "x").exists()


def test_no_slides_is_one_line(tmp_path, capsys):
    with pytest.raises(SlideError, match="no such file or folder"):
        run(["--real", str(tmp_path / "a"), "--generated", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--real", str(tmp_path / "a")])
    assert stopped.value.code == 2
    assert "--generated must be slides to judge" in capsys.readouterr().err.splitlines()[-1]


def test_paths_that_a_shell_has_expanded_belong_to_their_flag():
    found = gathered(
        ["--real", "a.tif", "b.tif", "--seed", "1", "--real=c.tif", "--compare", "x=y", "--dry-run"], LISTS
    )
    assert found == ["--seed", "1", "--dry-run", "--real", '["a.tif", "b.tif", "c.tif"]', "--compare", "x=y"]
    assert gathered(["--real_pairs", "a", "--out", "x"], LISTS) == ["--out", "x", "--real-pairs", "a"]
    assert gathered(["stray", "--seed", "1"], LISTS) == ["stray", "--seed", "1"]

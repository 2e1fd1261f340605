"""A pack keeps to its size, splits and scales; unpacked it is the same slides; wheels lose only extras."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile

from benchmarks.gpu import pack, wheels
from tests.synthetic import he_image, write_tiff
from wsigen.data.index import SlideEntry, SlideIndex
from wsigen.data.patches import PatchDataset, PatchKey
from wsigen.errors import InvalidValueError, OutputError
from wsigen.slide.read import open_slide

SOURCES = [  # file, group, µm/px, encoding
    ("a_overview.tif", "A/HE", 2.0, "tiled JPEG"),
    ("a_roi.tif", "A/HE", 0.5, "tiled JPEG"),
    ("b_roi.tif", "B/HE", 0.5, "slide exported as JPEG Q30"),
    ("skin_roi.tif", "EAS22/HE", 0.5, "tiled JPEG"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides of three cases, one of which held_out.py names, and a table without splits."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "he").mkdir()
    lines = []
    for seed, (name, group, mpp, encoding) in enumerate(SOURCES):
        if "overview" in name:
            image = he_image(1280, seed=seed, mpp=mpp)
        else:  # the middle, which is tissue from edge to edge
            image = he_image(1700, seed=seed, mpp=mpp)[400:1300, 400:1300]
        write_tiff(folder / "he" / name, np.ascontiguousarray(image), mpp)
        lines.append(f"he/{name},{group},{mpp},{encoding}")
    table = "\n".join(["file,group,mpp,encoding", "ihc/a_KI67.tif,A/KI67,0.5,tiled JPEG", *lines])
    (folder / "SOURCES.csv").write_text(table + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def entries(folder: Path) -> list[SlideEntry]:
    return pack.survey([folder / "he"], [folder / "SOURCES.csv"])


@pytest.fixture(scope="module")
def packed(entries: list[SlideEntry], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "pack"
    pack.pack(entries, out, size=5_000_000, side=320, quality=90)
    return out


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_tables_do_not_say_comes_from_the_lists_of_held_out_cases(entries: list[SlideEntry]) -> None:
    found = {e.slide: (e.split, e.finest_mpp) for e in entries}
    assert found == {
        "a_overview.tif": ("train", 0.0),
        "a_roi.tif": ("train", 0.0),
        "b_roi.tif": ("train", 1.0),
        "skin_roi.tif": ("val", 0.0),
    }


def test_table_wins_over_the_lists(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    lines = ["slide,mpp,group,split,finest_mpp", "a_overview.tif,2,A,test,", "a_roi.tif,0.5,A,test,"]
    lines += ["b_roi.tif,0.5,B,val,2", "skin_roi.tif,0.5,EAS22,train,"]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = {e.slide: (e.split, e.finest_mpp) for e in pack.survey([folder / "he"], [table])}
    assert found["a_roi.tif"] == ("test", 0.0)
    assert found["b_roi.tif"] == ("val", 2.0)
    assert found["skin_roi.tif"] == ("train", 0.0)


@pytest.mark.parametrize("size", [150_000, 400_000])
def test_size_is_kept_and_used(entries: list[SlideEntry], size: int, tmp_path: Path) -> None:
    facts = pack.pack(entries, tmp_path / "pack", size=size, side=256, quality=85)
    assert facts["bytes"] == on_disk(tmp_path / "pack") <= size
    assert facts["bytes"] > 0.6 * size


def test_index_that_is_larger_than_thought_costs_squares(
    entries: list[SlideEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "INDEX_BYTES", 0)
    facts = pack.pack(entries, tmp_path / "pack", size=150_000, side=256, quality=85)
    table, index = rows(tmp_path / "pack"), SlideIndex.load(tmp_path / "pack" / pack.INDEX)
    assert facts["bytes"] == on_disk(tmp_path / "pack") <= 150_000
    assert {e.slide for e in index.entries} == {row["slide"] for row in table}
    assert {p.name for p in (tmp_path / "pack" / "slides").iterdir()} == {row["slide"] for row in table}
    counts = facts["slides"]
    assert isinstance(counts, dict)
    assert sum(n for by_split in counts.values() for n in by_split.values()) == len(table)


def test_too_small_a_size_is_refused(entries: list[SlideEntry], tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"--megabytes 0\.02 has no room for the overviews"):
        pack.pack(entries, tmp_path / "pack", size=20_000, side=256, quality=85)
    assert not (tmp_path / "pack").exists()


@pytest.mark.parametrize("side", [240, 300])
def test_side_must_fit_patches_and_jpeg(entries: list[SlideEntry], side: int, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=f"--side must be a multiple of 16 .* got {side}"):
        pack.pack(entries, tmp_path / "pack", size=400_000, side=side, quality=85)


def test_a_pack_is_not_overwritten(entries: list[SlideEntry], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        pack.pack(entries, tmp_path, size=400_000, side=256, quality=85)


def test_table_says_what_the_files_are(packed: Path) -> None:
    table = rows(packed)
    assert sorted(row["slide"] for row in table) == sorted(p.name for p in (packed / "slides").iterdir())
    for row in table:
        assert open_slide(packed / "slides" / row["slide"]).mpp == pytest.approx(float(row["mpp"]), rel=1e-4)
        group, split, finest = {
            "a": ("A", "train", ""),
            "b": ("B", "train", "1"),
            "s": ("EAS22", "val", ""),
        }[row["slide"][0]]
        assert (row["group"], row["split"], row["finest_mpp"]) == (group, split, finest)


def test_overviews_are_whole_and_squares_are_of_every_octave(packed: Path) -> None:
    by_case: dict[str, set[float]] = {}
    for row in rows(packed):
        by_case.setdefault(row["group"], set()).add(float(row["mpp"]))
    assert by_case["A"] == {0.5, 1.0, 2.0, 4.0, 8.0}
    assert open_slide(packed / "slides" / "a_overview-whole.tif").size.height == 1280 // 4
    assert by_case["EAS22"] == {0.5, 1.0}


def test_nothing_is_finer_than_its_slide_is_good_for(packed: Path) -> None:
    assert min(float(row["mpp"]) for row in rows(packed) if row["group"] == "B") == 1.0
    index = SlideIndex.load(packed / pack.INDEX)
    assert not any(e.serves(64, 0.9) for e in index.entries if e.group == "B")
    assert any(e.serves(64, 1.0) for e in index.entries if e.group == "B")


def test_held_out_cases_take_one_small_square_an_octave(packed: Path) -> None:
    held = [row for row in rows(packed) if row["split"] == "val"]
    assert len({row["mpp"] for row in held}) == len(held)
    others = [row for row in rows(packed) if row["group"] == "A" and row["mpp"] == "0.5"]
    assert len(others) > 1


def test_squares_of_an_octave_show_no_place_twice_and_hold_tissue(entries: list[SlideEntry]) -> None:
    found = [square for _, square in pack.squares(entries, 256)]
    for octave in pack.OCTAVES:
        some = [s for s in found if octave <= s.mpp < 2 * octave]
        assert not any(a.overlaps(b) for i, a in enumerate(some) for b in some[:i])
    assert min(s.tissue for s in found) >= pack.LEAST_TISSUE
    first = [s for number, s in pack.squares(entries, 256) if number == 1 and s.entry.slide == "a_roi.tif"]
    assert all(s.tissue > 0.9 for s in first)


def test_square_that_ends_in_glass_is_left_out(entries: list[SlideEntry]) -> None:
    overview = next(e for e in entries if e.slide == "a_overview.tif")
    whole = pack.Square(entry=overview, mpp=4.0, side=640, corner=(0, 0), tissue=1.0)
    inside = pack.Square(entry=overview, mpp=4.0, side=256, corner=(192, 192), tissue=1.0)
    assert (pack.frayed(whole), pack.frayed(inside)) == (False, True)


def test_pixels_are_the_slides_own(entries: list[SlideEntry], packed: Path) -> None:
    number, square = next(
        (n, s) for n, s in pack.squares(entries, 320) if s.entry.slide == "a_roi.tif" and s.mpp == 0.5
    )
    stored = tifffile.imread(packed / "slides" / f"a_roi-0.5-{number}.tif").astype(int)
    assert stored.shape == (320, 320, 3)
    assert np.abs(stored - square.read()).mean() < 3


def test_unpacked_slides_are_the_packs(packed: Path, tmp_path: Path) -> None:
    facts = pack.unpack(packed, tmp_path / "raw")
    for path in (packed / "slides").iterdir():
        raw = open_slide(tmp_path / "raw" / "slides" / path.name)
        assert np.array_equal(raw.read_region(raw.size.region, raw.mpp), tifffile.imread(path, key=0)), (
            path.name
        )
    index = SlideIndex.load(Path(str(facts["index"])))
    assert all(e.path.parent == (tmp_path / "raw" / "slides").absolute() for e in index.entries)
    assert {e.slide: e.split for e in index.entries} == {r["slide"]: r["split"] for r in rows(packed)}
    patch = PatchDataset(index.split("train"), mpp_range=(1.0, 2.0))[PatchKey(0, 128)]
    assert float(patch.image.float().std()) > 10


def test_reading_a_pyramid_is_reading_the_slide(packed: Path, tmp_path: Path) -> None:
    pack.unpack(packed, tmp_path / "raw")
    raw, stored = (open_slide(p / "slides" / "a_overview-whole.tif") for p in (tmp_path / "raw", packed))
    assert len(raw.levels) == 2
    a, b = (s.read_patch((1280, 1280), 32.0, 64).astype(int) for s in (raw, stored))
    assert np.abs(a - b).mean() < 1


def test_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--slides", folder / "he", "--table", folder / "SOURCES.csv", "--out", tmp_path / "p"]
    argv += ["--megabytes", 0.3, "--side", 256]
    pack.main([str(a) for a in argv])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["bytes"] == on_disk(tmp_path / "p") <= 300_000
    assert found["cases"] == {"train": 2, "val": 1}
    assert found["wheels"].startswith("python -m pip download --no-deps")
    pack.main(["--unpack", str(tmp_path / "p"), "--out", str(tmp_path / "raw")])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["slides"] == len(rows(tmp_path / "p"))


def test_two_slides_of_one_name_are_refused(folder: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"slide a_overview\.tif is in two folders"):
        pack.survey([folder / "he", folder], [])


def test_wheels_lose_what_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = ["imagecodecs/__init__.py", "imagecodecs/_jpeg8.abi3.so", "imagecodecs.libs/libzstd-5.so.1"]
    kept += ["diffusers/models/modeling_utils.py", "diffusers/pipelines.py", "x-1.dist-info/RECORD"]
    lost = ["imagecodecs/_avif.abi3.so", "imagecodecs.libs/libaom-3.so.1", "diffusers/pipelines/a/b.py"]
    with zipfile.ZipFile(tmp_path / "x-1-py3-none-any.whl", "w") as wheel:
        for name in (*kept, *lost):
            wheel.writestr(name, name * 100)
    other = tmp_path / "y-1-py3-none-any.whl"
    with zipfile.ZipFile(other, "w") as wheel:
        wheel.writestr("y/_avif.so", "y")
    before = other.read_bytes()
    wheels.main(["--slim", str(tmp_path)])
    found = json.loads(capsys.readouterr().out)
    with zipfile.ZipFile(tmp_path / "x-1-py3-none-any.whl") as wheel:
        assert wheel.namelist() == kept
        assert wheel.read(kept[1]) == (kept[1] * 100).encode()
    assert other.read_bytes() == before
    assert found["bytes"] == on_disk(tmp_path)


def test_command_for_wheels_pins_what_is_installed() -> None:
    words = wheels.command().split()
    assert [w.partition("==")[0] for w in words if "==" in w] == list(wheels.PACKAGES)
    assert words[-2:] == ["--slim", "runs/gpu-wheels"]

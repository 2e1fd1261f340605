"""Which slides are shown together, under which names, and what is said of those that cannot be shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.synthetic import write_tiff
from tests.viewer.slides import write_pair
from wsigen.errors import PathError, SlideError
from wsigen.slide.provenance import complete_provenance, description
from wsigen.viewer.catalogue import open_catalogue
from wsigen.viewer.facts import find_provenance, is_synthetic, parse_name, stain_title

SQUARE = {"type": "Polygon", "coordinates": [[[10, 20], [30, 20], [30, 40], [10, 40], [10, 20]]]}


@pytest.fixture
def small(he_picture):
    return he_picture[:300, :400]


def slide(folder, name, picture, **facts):
    folder.mkdir(exist_ok=True)
    path = write_tiff(folder / name, picture, 0.5, levels=1, compression="zstd")
    if facts:
        whole = complete_provenance(facts, 0.5, *picture.shape[:2])
        (folder / name.replace(".ome.tif", ".json")).write_text(json.dumps(whole))
    return path


def shown(catalogue):
    return {case.title: [e.name for e in case.entries] for case in catalogue.cases}


@pytest.mark.parametrize(
    ("file", "parts", "title"),
    [
        ("a_HE.ome.tif", ("a_HE", "a", "HE"), "H&E"),
        ("a_b_IHC-SYN.ome.tif", ("a_b_IHC-SYN", "a_b", "IHC-SYN"), "IHC SYN"),
        ("a_like-b.ome.tif", ("a_like-b", "a", "like-b"), "H&E like b"),
        ("a.svs", ("a", "a", ""), "H&E"),
        ("HE.svs", ("HE", "HE", ""), "H&E"),
    ],
)
def test_names_tell_case_and_stain(file, parts, title):
    assert parse_name(Path(file)) == parts
    assert stain_title(parts[2]) == title


def test_pairs_are_known_by_name(small, tmp_path):
    for name in ("b_IHC-SYN.ome.tif", "a_IHC-SYN.ome.tif", "a_HE.ome.tif", "a_IHC-CGA.ome.tif", "b.tif"):
        slide(tmp_path, name, small)
    assert shown(open_catalogue([tmp_path])) == {
        "a": ["a_HE", "a_IHC-CGA", "a_IHC-SYN"],
        "b": ["b", "b_IHC-SYN"],
    }


def test_pairs_are_known_by_provenance_across_folders(small, tmp_path):
    real = slide(tmp_path / "scans", "S-12.tif", small)
    slide(tmp_path / "out", "renamed_IHC-SYN.ome.tif", small, source={"slide": "S-12.tif"})
    slide(tmp_path / "out", "other_IHC-SYN.ome.tif", small[:200], source={"slide": "S-12.tif"})
    found = shown(open_catalogue([real, tmp_path / "out"]))
    assert found == {"S-12": ["S-12", "renamed_IHC-SYN"], "other": ["other_IHC-SYN"]}


def test_a_stain_of_another_version_is_not_paired(small, tmp_path, caplog):
    slide(tmp_path, "a_HE.ome.tif", small, fingerprint="new")
    slide(tmp_path, "a_IHC-SYN.ome.tif", small, source={"slide": "a_HE.ome.tif", "fingerprint": "old"})
    assert len(open_catalogue([tmp_path]).cases) == 2
    assert "made from another version of a_HE.ome.tif" in caplog.text


def test_slides_of_one_name_in_two_folders_are_two(small, tmp_path):
    for folder, picture in (("one", small), ("two", small[:200])):
        slide(tmp_path / folder, "a_HE.ome.tif", picture)
        slide(tmp_path / folder, "a_IHC-SYN.ome.tif", picture, source={"slide": "a_HE.ome.tif"})
    catalogue = open_catalogue([tmp_path / "one", tmp_path / "two"])
    names = [[e.name for e in case.entries] for case in catalogue.cases]
    assert names == [["a_HE", "a_IHC-SYN"], ["a_HE~2", "a_IHC-SYN~2"]]
    assert [catalogue.entry(n).tiles.size.height for n in ("a_HE", "a_HE~2", "a_IHC-SYN~2")] == [
        300,
        200,
        200,
    ]
    assert catalogue.entry("a_HE~3") is None


def test_names_are_safe_in_addresses(small, tmp_path):
    path = slide(tmp_path, "a b:c#1%.tif", small)
    (entry,) = open_catalogue([path]).cases[0].entries
    assert (entry.name, entry.title) == ("a_b_c_1_", "a b:c#1%.tif")


def test_what_cannot_be_read_is_listed_and_the_rest_is_shown(small, tmp_path, caplog):
    slide(tmp_path, "good_HE.ome.tif", small)
    (tmp_path / "bad.tif").write_bytes(b"II*\0nothing")
    write_tiff(tmp_path / "unknown.tif", small, None, levels=1)
    (tmp_path / "good_HE.geojson").write_text('{"type": "Circle"}')
    catalogue = open_catalogue([tmp_path, tmp_path / "missing.svs"])
    assert shown(catalogue) == {"good": ["good_HE"]}
    reasons = {f["slide"].rpartition("/")[2]: f["reason"] for f in catalogue.describe()["failures"]}
    assert reasons.keys() == {"bad.tif", "unknown.tif", "missing.svs", "good_HE.geojson"}
    assert "µm/px" in reasons["unknown.tif"]
    assert "no such file" in reasons["missing.svs"]
    assert "Circle" in reasons["good_HE.geojson"]
    assert caplog.text.count("left out") == 4
    assert catalogue.describe()["cases"][0]["slides"][0]["overlays"] == []
    with pytest.raises(SlideError, match=r"bad\.tif"):
        open_catalogue([tmp_path / "bad.tif"])


def test_a_table_or_a_flag_gives_the_resolution(small, tmp_path):
    path = write_tiff(tmp_path / "a.tif", small, None, levels=1)
    assert open_catalogue([path], mpp=0.3).cases[0].entries[0].mpp == 0.3
    table = tmp_path / "slides.csv"
    table.write_text("slide,mpp\na,0.7\n")
    assert open_catalogue([path], table=table).cases[0].entries[0].mpp == 0.7


def test_synthetic_is_known_from_the_file_alone(small, tmp_path):
    facts = complete_provenance({"seed": 7, "model": {"hash": "ab"}}, 0.5, 300, 400)
    path = write_tiff(tmp_path / "a.tif", small, 0.5, levels=1, description=description(facts))
    assert find_provenance(path) == {}  # of other software, whatever its description says
    import tifffile

    for name, how in (("plain.tif", {"description": description(facts)}), ("a.ome.tif", {"ome": True})):
        from wsigen.slide.provenance import SOFTWARE, ome_metadata

        metadata = (
            {"metadata": ome_metadata(facts, 0.5, "a")}
            if how.pop("ome", False)
            else {"metadata": None, **how}
        )
        tifffile.imwrite(tmp_path / name, small, software=SOFTWARE, photometric="rgb", **metadata)
        found = find_provenance(tmp_path / name)
        assert is_synthetic(found)
        assert (found["seed"], found["model.hash"]) == ("7", "ab")
        assert "not for diagnosis" in found["notice"]


def test_overlays_beside_a_slide_and_by_flag(small, tmp_path):
    he, ihc = write_pair(tmp_path, small)
    (tmp_path / "case_HE.geojson").write_text(json.dumps(SQUARE))
    other, elsewhere = tmp_path / "case_IHC-SYN.geojson.x", tmp_path / "flag"
    elsewhere.mkdir()
    named = elsewhere / "case_IHC-SYN.geojson"
    named.write_text(json.dumps({"type": "Feature", "geometry": SQUARE, "properties": {"name": "A"}}))
    other.write_text("not looked at")
    catalogue = open_catalogue([he, ihc], overlays=[named])
    slides = catalogue.describe()["cases"][0]["slides"]
    assert [s["overlays"] for s in slides] == [["case_HE.geojson"], ["case_IHC-SYN.geojson"]]
    (shape,) = catalogue.overlays["case_IHC-SYN", "case_IHC-SYN.geojson"]
    assert shape["parts"] == [[[10, 20], [30, 20], [30, 40], [10, 40], [10, 20]]]
    assert (shape["kind"], shape["class"]) == ("polygon", "A")


def test_an_overlay_of_no_slide_is_an_error(small, tmp_path):
    slide(tmp_path, "a.tif", small)
    slide(tmp_path, "b.tif", small)
    stray = tmp_path / "c.geojson"
    stray.write_text(json.dumps(SQUARE))
    with pytest.raises(PathError, match=r"c\.geojson: belongs to no slide .*\(a, b\)"):
        open_catalogue([tmp_path], overlays=[stray])
    (entry,) = open_catalogue([tmp_path / "a.tif"], overlays=[stray]).cases[0].entries
    assert list(entry.overlays) == ["c.geojson"]


def test_facts_of_a_slide(small, tmp_path):
    write_pair(tmp_path, small)
    (case,) = open_catalogue([tmp_path]).describe()["cases"]
    he, ihc = case["slides"]
    assert (he["width"], he["height"], he["mpp"], he["stain"]) == (400, 300, 0.25, "H&E")
    assert (he["synthetic"], he["computed"], ihc["stain"]) == (True, False, "IHC SYN")
    assert (he["provenance"]["seed"], ihc["provenance"]["source.slide"]) == ("7", "case_HE.ome.tif")
    assert he["version"] != ihc["version"]
    assert np.isfinite(he["mpp"])

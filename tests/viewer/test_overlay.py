"""GeoJSON as QuPath writes it: shapes, classes and colours; mistakes name the file."""

from __future__ import annotations

import json

import pytest

from wsigen.errors import PathError
from wsigen.viewer.overlay import read_overlay

RING = [[0, 0], [4, 0], [4, 3], [0, 0]]
HOLE = [[1, 1], [2, 1], [2, 2], [1, 1]]


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "a.geojson"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_overlay(path)

    return read


def feature(kind, coordinates, **properties):
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": properties,
    }


def test_every_geometry(read):
    shapes = read(
        {
            "type": "FeatureCollection",
            "features": [
                feature("Polygon", [RING, HOLE]),
                feature("MultiPolygon", [[RING], [RING, HOLE]]),
                feature("LineString", RING),
                feature("MultiLineString", [RING, HOLE]),
                feature("Point", [5, 6, 7]),
                feature("MultiPoint", [[5, 6], [7, 8]]),
                {"type": "Feature", "geometry": None, "properties": None},
            ],
        }
    )
    assert [(s["kind"], s["parts"]) for s in shapes] == [
        ("polygon", [RING, HOLE]),
        ("polygon", [RING]),
        ("polygon", [RING, HOLE]),
        ("line", [RING]),
        ("line", [RING, HOLE]),
        ("point", [[[5, 6]]]),
        ("point", [[[5, 6], [7, 8]]]),
    ]


def test_classes_and_colours(read):
    tumour = feature("Point", [1, 2], classification={"name": "Tumor", "color": [200, 0, 300]})
    older = feature("Point", [1, 2], classification={"name": "Stroma", "colorRGB": -16711936})
    own = feature("Point", [1, 2], name="A", color=[1, 2, 3])
    derived = feature("Point", [1, 2], classification={"names": ["Tumor", "Positive"], "color": [1, 2, 3]})
    shapes = read([tumour, older, own, feature("Point", [1, 2])])
    assert read(derived)[0]["class"] == "Tumor: Positive"
    assert [(s["class"], s["color"]) for s in shapes[:3]] == [
        ("Tumor", "#c800ff"),
        ("Stroma", "#00ff00"),
        ("A", "#010203"),
    ]
    assert shapes[3]["class"] == "unclassified"
    assert (
        len(
            read({"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [1, 2]}] * 2})
        )
        == 2
    )


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ({"type": "Circle", "coordinates": [0, 0]}, "Circle"),
        ([{"no": "geometry"}], "geometry"),
        (feature("Point", ["a", 1]), "could not convert"),
        (feature("Polygon", [[[1, float("nan")]]]), "finite"),
        (feature("Polygon", 3), "not GeoJSON"),
        ("7", "not GeoJSON"),
    ],
)
def test_mistakes_are_named(read, content, named):
    with pytest.raises(PathError, match=rf"a\.geojson: .*{named}"):
        read(content)


def test_missing_and_enormous_files(tmp_path, monkeypatch):
    with pytest.raises(PathError, match="cannot be read"):
        read_overlay(tmp_path / "none.geojson")
    monkeypatch.setattr("wsigen.viewer.overlay.MOST_BYTES", 10)
    (tmp_path / "a.geojson").write_text("[" + " " * 20 + "]")
    with pytest.raises(PathError, match="larger than"):
        read_overlay(tmp_path / "a.geojson")

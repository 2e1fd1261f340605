"""Masks: which pixels of a slide are inside a region, polygons or a mask image."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image

from tests.synthetic import write_dicom
from wsigen.errors import SlideError
from wsigen.geometry import Region, Size
from wsigen.slide.mask import Roi, check_region, find_mask, open_mask
from wsigen.slide.read import Level, WholeSlide

SIZE = Size(300, 400)


@pytest.fixture
def slide(tmp_path):
    return WholeSlide(tmp_path / "a.svs", 0.5, (Level(SIZE, 1.0),))


def ring(x, y, width, height):
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]


def feature(kind, coordinates, name=None, **more):
    classification = {"classification": {"name": name, "color": [200, 0, 0], **more}} if name else {}
    properties = {"objectType": "annotation", **classification}
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": properties,
    }


def write(path, data):
    path.write_text(json.dumps(data))
    return path


def inside(mask):
    return mask.read(mask.size.region)


def test_a_polygon_with_a_hole_and_two_polygons_that_overlap(slide, tmp_path):
    features = [
        feature("Polygon", [ring(10, 20, 100, 50), ring(30, 30, 10, 5)]),
        feature("MultiPolygon", [[ring(100, 60, 40, 40)], [ring(390, 290, 100, 100)]]),
        feature("Point", [5, 5]),
        {"type": "Feature", "geometry": None, "properties": None},
    ]
    wanted = np.zeros((300, 400), bool)
    wanted[20:70, 10:110] = True
    wanted[30:35, 30:40] = False
    wanted[60:100, 100:140] = True
    wanted[290:, 390:] = True
    collection = {"type": "FeatureCollection", "features": features}
    for data in (features, collection):
        found = inside(open_mask(write(tmp_path / "a.geojson", data), slide))
        np.testing.assert_array_equal(found, wanted)
    one = open_mask(write(tmp_path / "b.json", features[0]["geometry"]), slide)
    assert inside(one).sum() == 100 * 50 - 50


def test_polygons_hold_the_pixels_whose_centres_they_hold(slide, tmp_path):
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radii = 90 + 30 * np.sin(5 * angles)
    star = np.stack([200.3 + radii * np.cos(angles), 140.1 + radii * np.sin(angles)], 1)
    hole = [[180, 120], [230.5, 133.2], [190, 160], [180, 120]]
    data = feature("Polygon", [[*star.tolist(), star[0].tolist()], hole])
    mask = open_mask(write(tmp_path / "a.geojson", data), slide)
    polygon = shapely.Polygon(star, [hole])
    y, x = np.mgrid[:300, :400] + 0.5
    np.testing.assert_array_equal(inside(mask), shapely.contains_xy(polygon, x, y))
    part = Region(100, 150, 60, 200)
    np.testing.assert_array_equal(mask.read(part), inside(mask)[100:160, 150:350])
    coarse = mask.at(4).read(Region(0, 0, 75, 100))
    np.testing.assert_array_equal(coarse, shapely.contains_xy(polygon, 4 * x[:75, :100], 4 * y[:75, :100]))


def test_cells_that_are_used_as_a_whole_or_in_part(slide, tmp_path):
    data = feature("Polygon", [ring(20, 32, 80, 64)])
    mask = open_mask(write(tmp_path / "a.geojson", data), slide)
    whole, part = mask.covered(Size(19, 25), 16), mask.touched(Size(19, 25), 16)
    rows, columns = (np.flatnonzero(part.any(axis=axis)) for axis in (1, 0))
    assert (rows.tolist(), columns.tolist()) == ([2, 3, 4, 5], [1, 2, 3, 4, 5, 6])
    # a cell on the edge of the polygon is not used as a whole with certainty
    rows, columns = (np.flatnonzero(whole.any(axis=axis)) for axis in (1, 0))
    assert (rows.tolist(), columns.tolist()) == ([3, 4], [2, 3, 4, 5])
    pixels = inside(mask)
    for y, x in np.argwhere(whole):
        assert pixels[16 * y : 16 * y + 16, 16 * x : 16 * x + 16].all()


def test_classes_as_qupath_writes_them(slide, tmp_path):
    features = [
        feature("Polygon", [ring(0, 0, 10, 10)], "Tumor"),
        feature("Polygon", [ring(50, 0, 20, 10)], "Stroma"),
        feature("Polygon", [ring(90, 0, 30, 10)], "Tumor: Positive", names=["Tumor", "Positive"]),
        feature("Polygon", [ring(200, 0, 40, 10)]),
    ]
    path = write(tmp_path / "a.geojson", features)
    counts = [inside(open_mask(path, slide, name)).sum() for name in ("Tumor", "Stroma", "Tumor: Positive")]
    assert counts == [100, 200, 300]
    assert inside(open_mask(path, slide)).sum() == 1000
    with pytest.raises(SlideError, match="no polygon of class 'tumor'; its classes are Stroma, Tumor, Tumor"):
        open_mask(path, slide, "tumor")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("kind", ["bool", "grey", "16 bit", "rgb"])
def test_an_image_of_any_size(slide, tmp_path, suffix, kind):
    small = np.zeros((76, 100), np.uint8)  # 300 / 4, rounded up once more
    small[10:20, 30:50] = 1
    types = {"bool": bool, "grey": np.uint8, "16 bit": np.uint16, "rgb": np.uint8}
    image = small.astype(types[kind])
    image = np.dstack([image] * 3) if kind == "rgb" else image
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        Image.fromarray(image).save(path)
    else:
        tifffile.imwrite(path, image)
    found = inside(open_mask(path, slide))
    rows, columns = (np.flatnonzero(found.any(axis=axis)) for axis in (1, 0))
    assert (columns[0], columns[-1]) == (120, 199)
    assert (rows[0], rows[-1]) == (39, 78)  # at 300 / 76 px each
    assert found.sum() == 80 * 40


def test_transparency_of_an_image_means_nothing_and_a_palette_is_shown(slide, tmp_path):
    rgba = np.zeros((30, 40, 4), np.uint8)
    rgba[..., 3] = 255
    rgba[:3, :4, 0] = 9
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert inside(open_mask(tmp_path / "a.png", slide)).sum() == 30 * 40
    Image.fromarray(rgba[..., :3]).quantize(4).save(tmp_path / "p.png")
    assert inside(open_mask(tmp_path / "p.png", slide)).sum() == 30 * 40


def test_a_region_and_a_mask_together(slide, tmp_path):
    path = write(tmp_path / "a.geojson", feature("Polygon", [ring(10, 20, 100, 50)]))
    assert Roi().of(slide, "a.svs") is None
    both = Roi(path, None, Region(40, 50, 100, 200)).of(slide, "a.svs")
    wanted = np.zeros((300, 400), bool)
    wanted[40:70, 50:110] = True
    np.testing.assert_array_equal(inside(both), wanted)
    pixels = np.full((40, 70, 3), 7, np.uint8)
    both.paint(pixels, Region(30, 45, 40, 70), (1, 2, 3))
    np.testing.assert_array_equal((pixels == 7).all(axis=2), wanted[30:70, 45:115])
    assert (pixels[~wanted[30:70, 45:115]] == (1, 2, 3)).all()
    assert inside(Roi(region=Region(1, 2, 3, 4)).of(slide, "a.svs")).sum() == 12


def test_a_region_outside_the_slide(slide):
    check_region(Region(0, 0, 300, 400), slide)
    says = r"a.svs: region 10,0,400,300 \(X,Y,WIDTH,HEIGHT\) reaches outside the slide, which is 400 x 300 px"
    with pytest.raises(SlideError, match=says):
        check_region(Region(0, 10, 300, 400), slide)


BOW = [[0, 0], [20, 20], [20, 0], [0, 20], [0, 0]]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "no polygon in it"),
        (feature("LineString", [[0, 0], [9, 9]]), "no polygon in it"),
        (feature("Polygon", [BOW]), "polygon 1 has a ring that crosses or touches itself, at x 10, y 10"),
        (
            feature("Polygon", [ring(5, 5, 5, 5), ring(50, 5, 5, 5)]),
            "polygon 1 is invalid .Hole lies outside",
        ),
        (feature("Polygon", [ring(500, 0, 9, 9)]), "no polygon lies on the slide, which is 400 x 300 px"),
        (feature("Polygon", [[[0, 0], [1, 1]]]), "not readable GeoJSON"),
        (feature("Oval", [1, 2]), "not readable GeoJSON"),
        ({"synthetic": True}, "not readable GeoJSON"),
        ("text", "not readable GeoJSON"),
    ],
)
def test_geojson_that_cannot_be(slide, tmp_path, data, says):
    with pytest.raises(SlideError, match=says):
        open_mask(write(tmp_path / "a.geojson", data), slide)


def test_files_that_cannot_be_masks(slide, tmp_path):
    square, empty = np.ones((100, 100), np.uint8), np.zeros((75, 100), np.uint8)
    for name, image in (("square.png", square), ("empty.png", empty), ("a.jpg", square)):
        cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / "bad.png").write_text("?")
    (tmp_path / "bad.tif").write_text("?")
    (tmp_path / "bad.geojson").write_text("{")
    for name, says in (
        ("none.png", "no such mask"),
        ("square.png", "is 100 x 100 px, another aspect than the slide of 400 x 300 px"),
        ("empty.png", "is 0 everywhere"),
        ("a.jpg", "not a mask; give GeoJSON or a lossless image"),
        ("bad.png", "not a readable mask"),
        ("bad.tif", "not a readable mask"),
        ("bad.geojson", "not readable GeoJSON"),
    ):
        with pytest.raises(SlideError, match=f"{name}: {says}"):
            open_mask(tmp_path / name, slide)
    with pytest.raises(SlideError, match="an image has no class 'Tumor'"):
        open_mask(tmp_path / "empty.png", slide, "Tumor")


def test_the_mask_of_a_slide_in_a_folder(tmp_path):
    (tmp_path / "x").mkdir()
    for name in ("a.geojson", "b.svs.geojson", "x/a.png", "c.tif", "d.png", "d.geojson"):
        (tmp_path / name).touch()
    for slide, mask in (
        ("a.svs", "a.geojson"),
        ("a_HE.ome.tif", "a.geojson"),
        ("b.svs", "b.svs.geojson"),
        ("x/a.svs", "x/a.png"),
        ("x/c.svs", "c.tif"),
    ):
        assert find_mask(tmp_path, slide, tmp_path / slide) == tmp_path / mask
    assert find_mask(tmp_path / "a.geojson", "z.svs", tmp_path / "z.svs") == tmp_path / "a.geojson"
    with pytest.raises(SlideError, match=r"no mask for slide y/e_HE\.tif; add e_HE\.geojson, e_HE\.png or"):
        find_mask(tmp_path, "y/e_HE.tif", tmp_path / "y/e_HE.tif")
    with pytest.raises(SlideError, match=r"several masks for slide d\.svs: d\.geojson, d\.png; keep one"):
        find_mask(tmp_path, "d.svs", tmp_path / "d.svs")


def test_the_mask_of_a_dicom_series(tmp_path, he_picture):
    """The folder's name comes first, since files of all series may have the same names."""
    (file,) = write_dicom(tmp_path / "he" / "p 1.5_HE", he_picture, 0.5, levels=1)
    masks = tmp_path / "masks"
    (masks / "a" / "p 1.5_HE").mkdir(parents=True)
    name = f"a/p 1.5_HE/{file.name}"
    with pytest.raises(SlideError, match=r"no mask for slide a/p 1\.5_HE/.*; add p 1\.5_HE\.geojson, p 1"):
        find_mask(masks, name, file)
    for mask in (f"{file.stem}.png", f"a/p 1.5_HE/{file.name}.png", "p 1.5.png", "a/p 1.5_HE.geojson"):
        (masks / mask).touch()  # each comes before those so far
        assert find_mask(masks, name, file) == masks / mask
    assert find_mask(masks, file.name, file) == masks / "p 1.5.png"

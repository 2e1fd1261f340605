"""DeepZoom tiles: their grid is the standard one, and their pixels are those of the slide."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import numpy as np
import openslide
import pytest
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

from tests.synthetic import reduce_by, write_tiff
from wsigen.arrays import ArrayCache
from wsigen.geometry import Region, Size
from wsigen.slide.codec import JPEG
from wsigen.slide.levels import FileSlide, Slide
from wsigen.slide.read import open_slide
from wsigen.slide.stored import stored_tiles
from wsigen.viewer.deepzoom import DeepZoom


def decoded(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def opened(path, *, stored=True) -> DeepZoom:
    file = open_slide(path, 0.5)
    return DeepZoom(FileSlide(file), ArrayCache(2**24), stored_tiles(file) if stored else None)


class Plain:
    """A picture as the only level of a slide; notes what is read of it."""

    def __init__(self, picture):
        self.picture, self.levels, self.area = picture, (Size(*picture.shape[:2]),), 0

    def read(self, region, level):
        self.area += region.height * region.width
        return self.picture[region.y : region.y1, region.x : region.x1]


@pytest.mark.parametrize("size", [(1, 1), (257, 1000), (512, 512), (700, 333)])
def test_the_grid_is_that_of_openslide(he_picture, size, tmp_path):
    Image.fromarray(he_picture[: size[0], : size[1]]).save(tmp_path / "a.png")
    zoom = opened(tmp_path / "a.png")
    with openslide.ImageSlide(Image.fromarray(he_picture[: size[0], : size[1]])) as slide:
        theirs = DeepZoomGenerator(slide, tile_size=256, overlap=0)
    assert zoom.top + 1 == theirs.level_count
    for level in range(theirs.level_count):
        columns, rows = theirs.level_tiles[level]
        for at in {(0, 0), (columns - 1, rows - 1)}:
            region = zoom.region(level, *at)
            assert (region.width, region.height) == theirs.get_tile_dimensions(level, at)
        assert not zoom.region(level, columns, 0)
        assert not zoom.region(level, 0, rows)
    assert not zoom.region(theirs.level_count, 0, 0)
    assert not zoom.region(-1, 0, 0)
    image = ElementTree.fromstring(zoom.dzi)
    assert {k: image.get(k) for k in ("TileSize", "Overlap", "Format")} == {
        "TileSize": "256",
        "Overlap": "0",
        "Format": "jpeg",
    }
    assert (image[0].get("Height"), image[0].get("Width")) == tuple(map(str, size))


def test_tiles_put_together_are_the_slide(he_picture, tmp_path):
    picture = he_picture[:700, :600]
    zoom = opened(write_tiff(tmp_path / "a.tif", picture, 0.5, levels=1, compression="zstd"))
    whole = np.zeros((700, 600, 3), int)
    for row in range(3):
        for column in range(3):
            region = zoom.region(zoom.top, column, row)
            tile = decoded(zoom.read(zoom.top, column, row))
            whole[region.y : region.y1, region.x : region.x1] = tile
            expected = JPEG.decode(JPEG.encode(picture[region.y : region.y1, region.x : region.x1]))
            assert np.abs(tile - expected).max() <= 3
    assert np.abs(whole - picture).mean() < 5


def test_levels_between_the_stored_ones_are_means_of_the_finer(he_picture, tmp_path):
    path = write_tiff(tmp_path / "a.tif", he_picture, 0.5, levels=2, factor=4, compression="zstd")
    zoom = opened(path)
    half = decoded(zoom.read(zoom.top - 1, 1, 0))
    assert np.abs(half - reduce_by(he_picture, 2)[:256, 256:512]).mean() < 5
    eighth = decoded(zoom.read(zoom.top - 3, 0, 0))
    assert eighth.shape == (128, 128, 3)
    assert np.abs(eighth - reduce_by(he_picture, 8)).mean() < 4


def test_only_edges_are_coded_anew(he_picture, tmp_path):
    path = write_tiff(tmp_path / "a.tif", he_picture[:600, :600], 0.5, levels=1)
    zoom, plain = opened(path), opened(path, stored=False)
    assert zoom.read(zoom.top, 1, 1) != plain.read(zoom.top, 1, 1)
    assert np.abs(decoded(zoom.read(zoom.top, 1, 1)) - he_picture[256:512, 256:512]).mean() < 4
    assert zoom.read(zoom.top, 2, 2) == plain.read(zoom.top, 2, 2)
    assert decoded(zoom.read(zoom.top, 2, 2)).shape == (88, 88, 3)


def test_tiles_are_as_large_as_those_of_the_file(he_picture, tmp_path):
    path = write_tiff(tmp_path / "a.tif", he_picture, 0.5, tile=512, levels=1)
    zoom = opened(path)
    assert zoom.tile == 512
    assert decoded(zoom.read(zoom.top, 1, 0)).shape == (512, 512, 3)
    assert 'TileSize="512"' in zoom.dzi


def test_coarse_tiles_of_a_slide_without_pyramid_read_it_once(monkeypatch):
    monkeypatch.setattr("wsigen.viewer.deepzoom.OVERVIEW", 128)
    picture = np.random.default_rng(0).integers(0, 256, (1000, 1024, 3), np.uint8)
    source = Plain(picture)
    zoom = DeepZoom(Slide(source, [1], 0.5), ArrayCache(2**20))
    shown = [decoded(zoom.read(level, 0, 0)) for level in range(8)]
    assert source.area == picture.shape[0] * picture.shape[1]
    assert [tile.shape[:2] for tile in shown] == [
        (1, 1),
        (2, 2),
        (4, 4),
        (8, 8),
        (16, 16),
        (32, 32),
        (63, 64),
        (125, 128),
    ]
    mean = picture.reshape(125, 8, 128, 8, 3).mean(axis=(1, 3))
    assert np.abs(shown[7] - mean).mean() < 12
    assert np.abs(shown[0][0, 0] - picture.mean(axis=(0, 1))).max() < 4
    zoom.read(8, 0, 0)
    assert source.area > picture.shape[0] * picture.shape[1]


def test_a_region_is_asked_for_in_its_own_level(he_slide):
    file = open_slide(he_slide)
    zoom = DeepZoom(FileSlide(file), ArrayCache(0))
    expected = JPEG.encode(file.read_level(Region(256, 0, 256, 256), 1))
    assert zoom.read(zoom.top - 1, 0, 1) == expected

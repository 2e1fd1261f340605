"""Which cells of a slide are glass: of one that exists, and of one that is being sampled."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.sampling.stores import ImageSource
from tests.slide.vendor_files import write_mirax, write_ndpi
from tests.synthetic import GLASS, he_image, write_tiff
from wsigen.errors import SlideError
from wsigen.geometry import Region, Size
from wsigen.pipeline.background import CELL, TOLERANCE, slide_background, stage_background
from wsigen.pipeline.source import open_source
from wsigen.slide.read import BACKGROUND, open_slide
from wsigen.slide.tissue import drop_specks

PINK = (226, 168, 200)


def slide_of(folder, image, mpp=0.5):
    Image.fromarray(image).save(folder / "a.png")
    return open_slide(folder / "a.png", mpp)


def painted(height, width, colour=BACKGROUND):
    return np.full((height, width, 3), colour, np.uint8)


def test_a_real_looking_slide(he_slide, he_picture):
    glass = slide_background(open_slide(he_slide))
    assert np.abs(np.subtract(glass.colour, BACKGROUND)).max() <= 1
    means = cv2.resize(he_picture, (64, 64), interpolation=cv2.INTER_AREA).astype(int)
    clear = np.abs(means - BACKGROUND).max(axis=2)
    occupied = glass.map.occupied
    assert occupied[clear > TOLERANCE + 3].all()
    assert not occupied[clear < TOLERANCE - 3].any()
    assert 0.2 < occupied.mean() < 0.8


def test_a_white_half(tmp_path):
    image = painted(256, 512)
    image[:, 256:] = he_image((256, 256), seed=1)
    image[:, 256:] = np.where(image[:, 256:] > 230, PINK, image[:, 256:])
    glass = slide_background(slide_of(tmp_path, image))
    assert glass.colour == BACKGROUND
    assert np.array_equal(glass.map.occupied, np.arange(32)[None, :].repeat(16, axis=0) >= 16)


@pytest.mark.parametrize("colour", [(255, 255, 255), (243, 243, 243), (228, 226, 230)])
def test_a_blank_slide_is_all_glass(tmp_path, colour):
    glass = slide_background(slide_of(tmp_path, painted(300, 200, colour)))
    assert glass.colour == colour
    assert glass.map.occupied.shape == (19, 13)
    assert not glass.map.occupied.any()


def test_tissue_from_edge_to_edge(tmp_path):
    glass = slide_background(slide_of(tmp_path, painted(256, 256, PINK)))
    assert glass.map.occupied.all()
    assert glass.colour == BACKGROUND


def test_tissue_at_the_far_edge_is_not_thinned_out_by_what_lies_beyond(tmp_path):
    side = 16 * 20 + 4
    image = painted(side, side)
    image[160:, 160:] = PINK
    glass = slide_background(slide_of(tmp_path, image)).map
    assert glass.occupied.shape == (21, 21)
    assert (glass.opacity(Region(160, 160, side - 160, side - 160)) == 1).all()
    assert not glass.opacity(Region(0, 0, 32, 32)).any()


def test_transparent_parts_are_glass_whatever_colour_the_glass_has(tmp_path):
    image = np.zeros((320, 320, 4), np.uint8)
    image[:160, :, :3], image[:160, :, 3] = (228, 226, 230), 255
    image[:160, :80, :3] = PINK
    glass = slide_background(slide_of(tmp_path, image))
    assert glass.colour == (228, 226, 230)
    assert np.array_equal(np.argwhere(glass.map.occupied), [(y, x) for y in range(10) for x in range(5)])


def test_grey_is_refused_and_blank_is_not_grey(tmp_path):
    grey = he_image(320, seed=2).mean(axis=2).astype(np.uint8)
    Image.fromarray(grey, "L").save(tmp_path / "grey.png")
    with pytest.raises(SlideError, match=r"grey\.png: is grey; .* give the slide in RGB"):
        slide_background(open_slide(tmp_path / "grey.png", 0.5))


@pytest.mark.parametrize("size", [(1, 1), (15, 17), (16, 40)])
def test_tiny_slides(tmp_path, size):
    assert slide_background(slide_of(tmp_path, painted(*size, PINK))).map.occupied.all()
    slide_background(slide_of(tmp_path, painted(*size)))


def test_the_map_of_a_large_slide_is_made_of_a_coarse_level(tmp_path, he_picture):
    path = write_tiff(tmp_path / "a.tif", he_picture, 0.5, levels=5)
    full = slide_background(open_slide(write_tiff(tmp_path / "b.tif", he_picture, 0.5, levels=1)))
    coarse = slide_background(open_slide(path))
    assert (coarse.map.occupied | ~full.map.occupied).mean() > 0.99, "JPEG rings around tissue"
    assert coarse.map.occupied.mean() < 0.6


@pytest.mark.parametrize(("k", "extent"), [(2, 1024), (4, 1024), (16, 512), (3, 768), (3, 1215), (2, 600)])
def test_the_stage_above_shows_where_glass_will_be(k, extent):
    side = extent // k
    image = he_image(side, seed=k, mpp=0.5 * k)
    cells = -(-extent // CELL)
    fine = image.repeat(k, axis=0).repeat(k, axis=1).astype(float)
    padded = np.pad(fine, ((0, cells * CELL - extent),) * 2 + ((0, 0),), mode="edge")
    means = padded.reshape(cells, CELL, cells, CELL, 3).mean(axis=(1, 3))
    difference = np.abs(means - BACKGROUND).max(axis=2)
    occupied = stage_background(
        ImageSource(image), Size.square(extent), k, mpp=0.5, colour=BACKGROUND
    ).occupied
    assert occupied.shape == (cells, cells)
    tissue = drop_specks(difference > TOLERANCE + 0.51, 0.5 * CELL)
    assert occupied[tissue].all()
    assert not occupied[difference < TOLERANCE + 0.49].any()
    assert 0.1 < tissue.mean() <= occupied.mean() < 0.9


def test_dust_is_glass_and_tissue_is_not(tmp_path):
    image = painted(1024, 1024)
    image[100:116, 100:116] = (90, 80, 70)
    image[400:700, 400:700] = PINK
    occupied = slide_background(slide_of(tmp_path, image)).map.occupied
    assert not occupied[:10].any()
    assert occupied[26:43, 26:43].all()


def test_dust_on_a_sampled_slide_is_glass_too():
    image = painted(512, 512)
    image[50:58, 50:58] = (90, 80, 70)
    image[200:350, 200:350] = PINK
    occupied = stage_background(ImageSource(image), Size.square(1024), 2, mpp=0.5, colour=BACKGROUND).occupied
    assert not occupied[:20, :20].any()
    assert occupied[25:43, 25:43].all()


def test_missing_places_are_not_stained(tmp_path):
    """Of MIRAX, they are glass; black pixels, which other formats store there, stay as they are."""
    image = np.full((512, 768, 3), GLASS, np.uint8)
    image[64:448, 64:704] = he_image((384, 640), seed=1)
    black = image.copy()
    black[128:384, 256:512] = 0
    missing = [(y, x) for y in range(2, 6) for x in range(4, 8)]
    slides = [
        write_mirax(tmp_path / "a.mrxs", image, 0.5, missing=missing),
        write_ndpi(tmp_path / "a.ndpi", black, 0.5),
        write_tiff(tmp_path / "a.tif", black, 0.5, compression="zstd"),
    ]
    whole = slide_background(open_source(write_ndpi(tmp_path / "whole.ndpi", image, 0.5))).map.occupied
    inside = np.s_[128 // CELL : 384 // CELL, 256 // CELL : 512 // CELL]
    assert whole[inside].mean() > 0.5
    for path in slides:
        found = slide_background(open_source(path)).map.occupied
        assert not found[inside].any(), path
        assert found.sum() > 0.9 * (whole.sum() - whole[inside].sum()) - 100

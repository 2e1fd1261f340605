"""Damaged tiles: noticed by every reader, named, and passed over where that is asked for."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from tests.synthetic import damage_tile, he_image, write_tiff
from wsigen.errors import SlideError
from wsigen.geometry import Region
from wsigen.slide.damage import DamagedError
from wsigen.slide.jpeg import ends_early
from wsigen.slide.orientation import upright_region
from wsigen.slide.read import WholeSlide, open_slide
from wsigen.slide.view import View

APERIO = "Aperio Image Library v11\n1024x1024 (256x256) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5"
TILE = Region(256, 512, 256, 256)
"""The one with index 6."""


def _slide(folder: Path, name: str, image: np.ndarray) -> Path:
    text = APERIO if name.endswith(".svs") else None
    return write_tiff(folder / name, image, 0.5, levels=2, description=text)


def _whole(slide: WholeSlide) -> np.ndarray:
    return slide.read_region(slide.size.region, slide.mpp)


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, how) for name in ("a.tif", "a.svs") for how in ("shorter", "lost", "zeros", "noise", "end mark")],
)
def test_a_damaged_tile_is_named_and_no_other_is_affected(tmp_path, he_picture, name, how):
    path = _slide(tmp_path, name, he_picture)
    good = _whole(open_slide(path))
    damage_tile(path, how)
    slide = open_slide(path)
    where = rf"{name}: damaged at level 0, x 512, y 256, 256 x 256 px \("
    with pytest.raises(DamagedError, match=where) as caught:
        slide.read_region(Region(200, 300, 400, 500), 0.5)
    assert (caught.value.level, caught.value.region) == (0, TILE)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    for apart in (Region(0, 0, 256, 1024), Region(256, 0, 768, 512), Region(512, 512, 512, 512)):
        got = slide.read_region(apart, 0.5)
        np.testing.assert_array_equal(got, good[apart.y : apart.y1, apart.x : apart.x1])
    skipping = slide.skipping_damage()
    want = good.copy()
    want[256:512, 512:768] = (243, 243, 243)
    for _ in range(2):
        np.testing.assert_array_equal(_whole(skipping), want)
    assert skipping.holes is not None
    assert len(skipping.holes) == 1
    said = skipping.damage
    assert said.startswith("1 tile of level 0 (6.25%), the first at x 512, y 256 (")
    with pytest.raises(DamagedError):
        _whole(slide)


@pytest.mark.parametrize("icc", [None, "srgb"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_damage_is_found_in_turned_slides_and_converted_colours(tmp_path, he_picture, orientation, icc):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        np.ascontiguousarray(he_picture[:700]),  # the grid of tiles does not end at the last row
        photometric="rgb",
        compression="jpeg",
        tile=(256, 256),
        metadata=None,
        iccprofile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        extratags=[(274, 3, 1, orientation, True)],
    )
    view = View(icc=icc)
    want = _whole(open_slide(path, 0.5, view)).copy()
    damage_tile(path, "shorter")
    slide = open_slide(path, 0.5, view)
    tile = upright_region(TILE, slide.size, orientation)
    with pytest.raises(DamagedError) as caught:
        _whole(slide)
    assert caught.value.region == tile
    want[tile.y : tile.y1, tile.x : tile.x1] = (243, 243, 243)
    skipping = slide.skipping_damage()
    for _ in range(2):
        np.testing.assert_array_equal(_whole(skipping), want)
    assert skipping.damage.startswith("1 tile of level 0 (9.14%)")


def test_damage_is_found_in_levels_of_their_own_grid(tmp_path):
    """OpenSlide's factor is 4.01, and tifffile reads level 1."""
    path, large = tmp_path / "a.svs", he_image(1027, seed=3)
    with tifffile.TiffWriter(path) as tiff:
        for image in (large, np.ascontiguousarray(large[:1024:4, :1024:4])):
            tiff.write(
                image,
                photometric="rgb",
                compression="jpeg",
                tile=(128, 128),
                description=APERIO.replace("1024", "1027"),
                metadata=None,
            )
    slide = open_slide(path)
    want = slide.read_level(slide.levels[1].size.region, 1).copy()
    damage_tile(path, "shorter", index=3, level=1)
    slide = open_slide(path).skipping_damage()
    want[128:, 128:] = (243, 243, 243)
    np.testing.assert_array_equal(slide.read_level(slide.levels[1].size.region, 1), want)
    assert slide.damage.startswith("1 tile of level 1 (25.00%), the first at x 128, y 128 (")


def test_damage_is_counted_by_level(tmp_path, he_picture):
    path = _slide(tmp_path, "a.tif", he_picture)
    damage_tile(path, "zeros", 0)
    damage_tile(path, "zeros", 6)
    damage_tile(path, "zeros", 3, level=1)
    slide = open_slide(path).skipping_damage()
    slide.read_region(Region(0, 0, 512, 512), 1.0)
    _whole(slide)
    said = slide.damage
    assert said == (
        "2 tiles of level 0 (12.50%), the first at x 0, y 0 (JPEG data end early); "
        "1 tile of level 1 (25.00%), the first at x 256, y 256 (JPEG data end early)"
    )


@pytest.mark.parametrize("restart", [0, 3])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_good_data_pass_even_where_they_are_grey(mode, progressive, restart):
    image = he_image(128, seed=3)
    image[40:90, 30:100] = 128
    options = {"progressive": progressive, "restart_marker_blocks": restart, "quality": 80}
    data = _jpeg(Image.fromarray(image).convert(mode), **options)
    for kept in (data, data + bytes(9), data + b"\0", data[:-2]):
        assert not ends_early(kept, _pixels(data), _pixels)


@pytest.mark.parametrize("restart", [0, 3])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_data_that_end_early_are_noticed(restart, share):
    data = _jpeg(Image.fromarray(he_image(128, seed=3)), restart_marker_blocks=restart, quality=80)
    cut = data.index(b"\xff\xda") + 14
    cut += int((len(data) - cut) * share)
    for bad in (data[:cut], data[:cut] + bytes(500), data[:cut] + b"\xff\xd9" + data[cut:]):
        assert ends_early(bad, _pixels(bad), _pixels)


def _jpeg(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def _pixels(data: bytes) -> np.ndarray:
    pixels = imagecodecs.jpeg8_decode(data)
    return pixels.reshape(*pixels.shape[:2], -1)


def test_a_picture_whose_data_end_early_is_refused(tmp_path):
    data = _jpeg(Image.fromarray(he_image(256, seed=3)))
    middle = len(data) * 2 // 3
    (tmp_path / "a.jpg").write_bytes(data[:middle] + b"\xff\xd9" + data[middle:])
    with pytest.raises(SlideError, match=r"a\.jpg: not a readable picture \(its data end early; copy"):
        open_slide(tmp_path / "a.jpg", 0.5)

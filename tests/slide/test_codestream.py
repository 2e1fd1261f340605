"""Tiles whose decoder says nothing where their data end early; and sound ones, which look like them."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile

from tests.synthetic import damage_tile, he_image
from wsigen.geometry import Region
from wsigen.slide.codestream import jpeg2000_ends_early, jpegxr_ends_early, webp_ends_early
from wsigen.slide.damage import DamagedError
from wsigen.slide.read import open_slide


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return he_image(256, seed=4)


@pytest.mark.parametrize("how", ["zeros", "shorter"])
@pytest.mark.parametrize("compression", ["webp", "jpeg2000", "jpegxr", 33005])
def test_a_tile_that_ends_early_is_damaged_and_the_others_are_not(tmp_path, picture, compression, how):
    path = tmp_path / "a.tif"
    lossy = {"compressionargs": {"level": 90}} if compression in ("webp", "jpegxr") else {}
    tiles = [picture[y : y + 128, x : x + 128] for y in (0, 128) for x in (0, 128)]
    if compression == 33005:  # Aperio's, which tifffile does not encode
        coded = [imagecodecs.jpeg2k_encode(tile, level=0, codecformat="j2k") for tile in tiles]
        shape = {"data": iter(coded), "shape": picture.shape, "dtype": np.uint8}
    else:
        shape = {"data": picture, **lossy}
    tifffile.imwrite(
        path, photometric="rgb", tile=(128, 128), compression=compression, metadata=None, **shape
    )
    good = open_slide(path, 0.5).read_region(Region(0, 0, 256, 256), 0.5)
    assert np.abs(good.astype(int) - picture).mean() < (6 if lossy else 1e-9)
    damage_tile(path, how, index=3)
    slide = open_slide(path, 0.5)
    with pytest.raises(DamagedError, match="damaged at level 0, x 128, y 128, 128 x 128 px"):
        slide.read_region(Region(100, 100, 100, 100), 0.5)
    for y, x in ((0, 0), (0, 128), (128, 0)):
        got = slide.read_region(Region(y, x, 128, 128), 0.5)
        np.testing.assert_array_equal(got, good[y : y + 128, x : x + 128])


@pytest.mark.parametrize("side", [64, 256, 1024])
@pytest.mark.parametrize("colour", [0, 243, 255])
def test_plain_tiles_are_sound_though_webp_ends_with_zeros(side, colour):
    plain = np.full((side, side, 3), colour, np.uint8)
    for level in (20, 80):
        assert not webp_ends_early(bytes(imagecodecs.webp_encode(plain, level=level)), side * side)
        assert not jpegxr_ends_early(bytes(imagecodecs.jpegxr_encode(plain, level=level)))
        assert not jpeg2000_ends_early(bytes(imagecodecs.jpeg2k_encode(plain, level=level)))
    assert not webp_ends_early(bytes(imagecodecs.webp_encode(plain, lossless=True)), side * side)


@pytest.mark.parametrize("kind", ["j2k", "jp2"])
def test_jpeg2000_may_lack_its_end_mark_but_no_data(picture, kind):
    sound = bytes(imagecodecs.jpeg2k_encode(picture[:128, :128], level=0, codecformat=kind))
    assert sound.endswith(b"\xff\xd9")
    assert not jpeg2000_ends_early(sound)
    assert not jpeg2000_ends_early(sound + bytes(3))
    assert not jpeg2000_ends_early(sound[:-2])
    for lost in (10, len(sound) // 2, len(sound) - 120):
        assert jpeg2000_ends_early(sound[:-lost])
        assert jpeg2000_ends_early(sound[:-lost] + bytes(lost))
    place = sound.index(b"\xff\x90") + 6
    open_end = sound[:place] + bytes(4) + sound[place + 4 :]  # a last tile-part of unstated length
    assert not jpeg2000_ends_early(open_end)
    assert jpeg2000_ends_early(open_end[:-10] + bytes(10))
    assert not jpeg2000_ends_early(b"no codestream")  # which the decoder refuses

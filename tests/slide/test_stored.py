"""Stored JPEG tiles are passed on: the same picture as the reader's, not one bit of it coded anew."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.synthetic import damage_tile, write_tiff
from wsigen.errors import SlideError
from wsigen.geometry import Region
from wsigen.slide.read import open_slide
from wsigen.slide.stored import complete_jpeg, stored_tiles


def decoded(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_tiles_of_every_level_show_what_the_reader_reads(he_slide):
    slide = open_slide(he_slide)
    stored = stored_tiles(slide)
    assert stored.tile == 256
    for level, factor in enumerate((1, 2, 4)):
        shown = decoded(stored.read(factor, 0, 0))
        read = slide.read_level(Region(0, 0, 256, 256), level)
        assert np.abs(shown - read).max() <= 3  # decoders may round chroma differently
    assert np.abs(decoded(stored.read(1, 2, 1)) - slide.read_level(Region(512, 256, 256, 256), 0)).max() <= 3
    assert stored.read(8, 0, 0) is None


def test_the_coded_data_are_those_of_the_file(he_slide):
    with tifffile.TiffFile(he_slide) as tiff:
        page = tiff.pages.first
        start = page.dataoffsets[5]
        data = he_slide.read_bytes()[start : start + page.databytecounts[5]]
    assert stored_tiles(open_slide(he_slide)).read(1, 1, 1).endswith(data[2:])


def test_colours_follow_the_tags_and_not_the_decoder(he_picture, tmp_path):
    """Tiles of RGB without a marker of their own would be taken for YCbCr."""
    path = tmp_path / "rgb.tif"
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    options |= {"compressionargs": {"level": 95, "outcolorspace": "rgb"}, "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, he_picture[:512, :512], resolution=(2e4, 2e4), **options)
    slide = open_slide(path)
    jpeg = stored_tiles(slide).read(1, 1, 0)
    assert np.abs(decoded(jpeg) - slide.read_level(Region(256, 0, 256, 256), 0)).max() <= 3
    assert np.abs(decoded(jpeg) - he_picture[256:512, :256]).mean() < 4


def test_grey_slides_and_subifds(he_picture, tmp_path):
    grey = tmp_path / "grey.tif"
    how = {"tile": (256, 256), "compression": "jpeg", "metadata": None, "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(grey, he_picture[:512, :512, 1], resolution=(2e4, 2e4), photometric="minisblack", **how)
    below = write_tiff(tmp_path / "sub.ome.tif", he_picture, 0.5, levels=2, subifds=True, ome=True)
    for path, factor, level in ((grey, 1, 0), (below, 2, 1)):
        slide = open_slide(path)
        shown = decoded(stored_tiles(slide).read(factor, 1, 1))
        assert np.abs(shown - slide.read_level(Region(256, 256, 256, 256), level)).max() <= 3


def test_what_is_not_stored_as_wanted_is_left_to_the_reader(he_picture, lossless_slide, tmp_path):
    Image.fromarray(he_picture[:64, :64]).save(tmp_path / "a.png")
    small = write_tiff(tmp_path / "small.tif", he_picture[:256, :256], 0.5, tile=64)
    turned = tmp_path / "turned.tif"
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    tags = [(274, "H", 1, 3, True)]
    tifffile.imwrite(turned, he_picture[:256, :256], extratags=tags, resolution=(2e4, 2e4), **options)
    for path in (tmp_path / "a.png", small, turned, lossless_slide):
        assert stored_tiles(open_slide(path, 0.5)) is None


@pytest.mark.parametrize("how", ["shorter", "lost", "noise", "zeros"])
def test_damaged_tiles_are_left_to_the_reader_which_says_so(he_picture, tmp_path, how):
    path = write_tiff(tmp_path / "a.tif", he_picture, 0.5, levels=1)
    damage_tile(path, how, index=5)
    assert stored_tiles(open_slide(path)).read(1, 1, 1) is None
    assert stored_tiles(open_slide(path)).read(1, 1, 2) is not None


def test_a_file_that_was_replaced_is_not_served(he_picture, tmp_path):
    path = write_tiff(tmp_path / "a.tif", he_picture[:512, :512], 0.5, levels=1)
    stored = stored_tiles(open_slide(path))
    write_tiff(path, 255 - he_picture[:512, :512], 0.5, levels=1, compression="zstd")
    with pytest.raises(SlideError, match="was changed"):
        stored.read(1, 0, 0)


def test_other_kinds_of_jpeg_are_refused(he_slide):
    jpeg = stored_tiles(open_slide(he_slide)).read(1, 1, 1)
    assert complete_jpeg(jpeg, b"", 256, 3, 1) == jpeg
    assert complete_jpeg(jpeg, b"", 128, 3, 1) is None  # another size
    assert complete_jpeg(jpeg, b"", 256, 1, 0) is None  # other samples
    assert complete_jpeg(jpeg, b"", 256, 3, 0) is None  # it says YCbCr
    assert complete_jpeg(jpeg[:-2], b"", 256, 3, 1) is None  # no end
    frame = jpeg.index(b"\xff\xc0")
    lossless = jpeg[: frame + 1] + b"\xc3" + jpeg[frame + 2 :]
    assert complete_jpeg(lossless, b"", 256, 3, 1) is None
    assert complete_jpeg(b"\xff\xd8\xff\xd9", b"", 256, 3, 1) is None

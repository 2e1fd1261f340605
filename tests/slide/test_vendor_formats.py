"""MIRAX and NDPI through OpenSlide: pixels, µm/px, levels, and what the scanner left out."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from tests.slide.vendor_files import write_mirax, write_ndpi
from tests.synthetic import he_image, reduce_by
from wsigen.geometry import Region
from wsigen.slide.read import BACKGROUND, open_slide

HOLE = (slice(64, 192), slice(128, 256))


@pytest.fixture(scope="module")
def image():
    return he_image((256, 384), seed=1)


@pytest.mark.parametrize(("write", "name"), [(write_mirax, "a.mrxs"), (write_ndpi, "a.ndpi")])
def test_pixels_levels_and_scale(tmp_path, image, write, name):
    found = open_slide(write(tmp_path / name, image, 0.25))
    assert found.mpp == pytest.approx(0.25)
    assert [(level.size.height, level.size.width) for level in found.levels[:2]] == [(256, 384), (128, 192)]
    for level, wanted in enumerate((image, reduce_by(image, 2))):
        pixels = found.read_region(Region(0, 0, *wanted.shape[:2]), 0.25 * 2**level)
        assert np.abs(pixels.astype(int) - wanted).mean() < 2


def test_what_a_mirax_scanner_left_out_is_background(tmp_path, image):
    """In every level, whatever fill colour the file states; here, black."""
    missing = [(1, 2), (1, 3), (2, 2), (2, 3)]
    found = open_slide(write_mirax(tmp_path / "a.mrxs", image, 0.5, missing=missing))
    whole = found.read_region(found.size.region, 0.5)
    assert (whole[HOLE] == BACKGROUND).all()
    assert np.abs(whole[:, :128].astype(int) - image[:, :128]).mean() < 2
    assert (found.read_region(Region(32, 64, 64, 64), 1.0) == BACKGROUND).all()
    assert (found.read_region(found.size.region, 0.5, (9, 8, 7))[HOLE] == (9, 8, 7)).all()


@pytest.mark.parametrize("suffix", ["svs", "tif"])
def test_tiles_that_a_file_does_not_hold_are_background(tmp_path, image, suffix):
    path = tmp_path / f"a.{suffix}"
    said = "Aperio Image Library v11.2.1 \r\n384x256 (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"
    tifffile.imwrite(
        path,
        image,
        photometric="rgb",
        tile=(64, 64),
        compression="jpeg",
        compressionargs={"level": 95},
        description=said if suffix == "svs" else None,
        resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("TileByteCounts", "TileOffsets"):
            values = np.array(tiff.pages.first.tags[name].value).reshape(4, 6)
            values[1:3, 2:4] = 0
            tiff.pages.first.tags[name].overwrite(values.ravel().tolist())
    whole = open_slide(path).read_region(Region(0, 0, 256, 384), 0.5)
    assert (whole[HOLE] == BACKGROUND).all()
    assert np.abs(whole[:, :128].astype(int) - image[:, :128]).mean() < 2

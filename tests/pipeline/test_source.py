"""The slide that is translated: what it is called, how it is told from others, how its rows come."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.synthetic import write_tiff
from wsigen.errors import AmbiguousSlideError, InvalidValueError, MissingMppError, SlideError
from wsigen.pipeline.rows import slide_rows
from wsigen.pipeline.source import open_overview, open_source, source_facts, source_name
from wsigen.slide.read import BACKGROUND, open_slide
from wsigen.slide.view import View


def png(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(path)
    return path


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a_HE.ome.tif", "a"),
        ("a.b_HE.svs", "a.b"),
        ("case 1.ndpi", "case 1"),
        ("x.ome.tiff", "x"),
        ("x_HE_2.png", "x_HE_2"),
        ("_HE.png", "_HE"),
    ],
)
def test_name(file, name):
    assert source_name(Path("folder") / file) == name


def test_what_says_which_pixels_it_has(tmp_path, he_slide):
    slide = open_source(he_slide)
    assert source_facts(slide) == {
        "slide": "he.tif",
        "height": 1024,
        "width": 1024,
        "mpp": 0.5,
        "sha256": hashlib.sha256(he_slide.read_bytes()).hexdigest(),
    }


def test_the_hash_is_never_that_of_another_file(tmp_path):
    path = png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    slide = open_slide(path, 0.5)
    png(path, np.full((9, 8, 3), 200, np.uint8))
    with pytest.raises(SlideError, match=r"a\.png: the file was changed since it was opened; open it again"):
        source_facts(slide)


def test_what_the_user_chose_is_stated(he_slide):
    slide = open_source(he_slide, view=View(series=0, z=0))
    assert source_facts(slide) == source_facts(open_source(he_slide)) | {"series": 0, "z": 0}
    assert View(icc="srgb").facts() == {"icc": "srgb"}


def test_of_mirax_the_folder_counts(tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    slide = open_source(png(tmp_path / "a.png", image), 0.5)
    mirax = tmp_path / "a.mrxs"
    mirax.write_bytes(b"head")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Data1.dat").write_bytes(b"pixels")
    slide = replace(slide, path=mirax, identity=None)
    assert source_facts(slide)["sha256"] == hashlib.sha256(b"headpixels").hexdigest()
    mirax.unlink()
    with pytest.raises(SlideError, match="cannot be read"):
        source_facts(slide)


@pytest.mark.parametrize(
    ("first", "tops"),
    [
        (0, [0, 256, 512]),
        (255, [255, 256, 512]),
        (256, [256, 512]),
        (300, [300, 512]),
        (699, [699]),
        (700, []),
    ],
)
def test_rows_are_those_of_the_picture(tmp_path, first, tops):
    image = np.random.default_rng(0).integers(0, 256, (700, 50, 3)).astype(np.uint8)
    slide = open_source(write_tiff(tmp_path / "a.tif", image, 0.25, compression="zstd", levels=1))
    strips = list(slide_rows(slide, first, BACKGROUND))
    assert np.array_equal(np.concatenate([image[:0], *(rows for _, rows in strips)]), image[first:])
    assert [y for y, _ in strips] == tops, "strips end where rows of tiles do"


def test_transparent_parts_are_glass(tmp_path):
    image = np.zeros((4, 4, 4), np.uint8)
    image[:2, :, 3] = 255
    slide = open_source(png(tmp_path / "a.png", image), 0.5)
    ((_, rows),) = slide_rows(slide, 0, (240, 230, 220))
    assert (rows[:2] == 0).all()
    assert (rows[2:] == (240, 230, 220)).all()


def test_no_scale_and_no_file(tmp_path):
    path = png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(MissingMppError, match=r"a\.png: µm/px is not in its metadata; pass --mpp"):
        open_source(path)
    assert open_source(path, 0.25).mpp == 0.25
    with pytest.raises(SlideError, match="no such file"):
        open_source(tmp_path / "b.png", 0.5)


def test_a_file_that_was_cut_off(tmp_path, he_slide):
    cut = tmp_path / "cut.tif"
    cut.write_bytes(he_slide.read_bytes()[:-5000])
    with pytest.raises(SlideError, match=r"cut\.tif: .*(truncated|damaged|not a)"):
        open_source(cut)


def test_reading_fails_where_the_strip_is_wanted(tmp_path, he_picture):
    path = write_tiff(tmp_path / "a.tif", he_picture, 0.5, compression="zstd", levels=1)
    slide = open_source(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20_000] = bytes(20_000)
    path.write_bytes(bytes(data))
    with pytest.raises(SlideError):
        list(slide_rows(slide, 0, BACKGROUND))


def test_more_than_eight_bits(tmp_path):
    path = png(tmp_path / "deep.png", np.full((32, 32), 20_000, np.uint16))
    with pytest.raises(SlideError, match="more than 8 bits; save it as 8-bit RGB"):
        open_source(path, 0.5)


def test_an_overview_in_a_file_of_several_images(tmp_path, he_picture):
    """The message names the option of the overview, and the facts say which image it was."""
    path = tmp_path / "two.tif"
    with tifffile.TiffWriter(path) as tiff:
        for image in (he_picture[:64, :64], he_picture[200:280, 200:280]):
            tiff.write(image, photometric="rgb", metadata=None)
    advice = r"choose one with --overview-series N, overview_series= in Python$"
    with pytest.raises(AmbiguousSlideError, match=advice):
        open_overview(path, 8.0)
    for series, want in enumerate((he_picture[:64, :64], he_picture[200:280, 200:280])):
        overview = open_overview(path, 8.0, series)
        np.testing.assert_array_equal(overview.pixels, want)
        assert overview.facts["series"] == series
    with pytest.raises(InvalidValueError, match=r"--overview-series must be the number of an image .* got 2"):
        open_overview(path, 8.0, 2)


def test_an_overview_of_several_focus_planes(tmp_path, he_picture):
    path = tmp_path / "z.ome.tif"
    planes = np.stack([he_picture[:64, :64]] * 2)
    tifffile.imwrite(path, planes, photometric="rgb", ome=True, metadata={"axes": "ZYXS"})
    with pytest.raises(AmbiguousSlideError, match=r"has 2 focus planes; save one of them as a file"):
        open_overview(path, 8.0)

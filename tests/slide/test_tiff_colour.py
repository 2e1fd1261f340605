"""Colours of TIFF pages: converted as their tags say, or refused."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile
from openslide import OpenSlide
from PIL import Image

from wsigen.arrays import ArrayCache
from wsigen.errors import AmbiguousSlideError, SlideError
from wsigen.geometry import Region
from wsigen.slide.read import open_slide
from wsigen.slide.tiff_backend import TiffBackend

WHITE = (243, 243, 243)
COLOURS = np.array(
    [(200, 30, 40), (30, 180, 60), (40, 50, 210), (243, 243, 243), (226, 168, 200), (96, 60, 138)], np.uint8
)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Blocks of 16 px of plain colours: uint8 (512, 768, 3)."""
    blocks = np.random.default_rng(0).integers(0, len(COLOURS), (32, 48))
    return np.repeat(np.repeat(COLOURS[blocks], 16, 0), 16, 1)


def _to_ycbcr(rgb: np.ndarray, luma=(0.299, 0.587, 0.114), codes=(0, 255, 128, 255)) -> np.ndarray:
    """RGB to YCbCr by TIFF 6.0, section 21: Y and chroma between their reference black and white."""
    red, green, blue = (rgb[..., i].astype(float) for i in range(3))
    y = luma[0] * red + luma[1] * green + luma[2] * blue
    cb, cr = (blue - y) / (2 - 2 * luma[2]), (red - y) / (2 - 2 * luma[0])
    black, white, zero, top = codes
    coded = [
        black + y * (white - black) / 255,
        zero + cb * (top - zero) / 127,
        zero + cr * (top - zero) / 127,
    ]
    return np.rint(np.clip(np.stack(coded, axis=-1), 0, 255)).astype(np.uint8)


def _write(path, image, **options):
    tifffile.imwrite(
        path, image, metadata=None, resolution=(20000, 20000), resolutionunit="CENTIMETER", **options
    )
    return path


def _rgb(path, background=WHITE):
    backend = TiffBackend(path, ArrayCache(2**22))
    return backend.read(0, backend.levels[0].region, background)


def _error(got, want) -> int:
    return int(np.abs(got.astype(int) - want).max())


YCBCR = {"photometric": "ycbcr", "subsampling": (1, 1)}


@pytest.mark.parametrize(
    "options",
    [{}, {"rowsperstrip": 64, "compression": "lzw"}, {"tile": (256, 256), "compression": "zlib"}],
    ids=["mapped", "strips", "tiles"],
)
def test_ycbcr_without_jpeg_becomes_rgb(tmp_path, picture, options):
    path = _write(tmp_path / "a.tif", _to_ycbcr(picture), **YCBCR, **options)
    assert _error(_rgb(path), picture) <= 2
    assert _error(open_slide(path).read_region(Region(37, 41, 300, 301), 0.5), picture[37:337, 41:342]) <= 2


def test_ycbcr_of_pillow_becomes_rgb(tmp_path, picture):
    Image.fromarray(picture).convert("YCbCr").save(tmp_path / "a.tif")
    assert _error(_rgb(tmp_path / "a.tif"), picture) <= 3  # Pillow rounds down


def test_coefficients_and_reference_levels_of_the_file_are_used(tmp_path, picture):
    """BT.709 in the range of video."""
    luma, codes = (0.2126, 0.7152, 0.0722), (16, 235, 128, 240)
    tags = [
        (529, 5, 3, (2126, 10000, 7152, 10000, 722, 10000), True),
        (532, 5, 6, (16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1), True),
    ]
    path = _write(tmp_path / "a.tif", _to_ycbcr(picture, luma, codes), extratags=tags, **YCBCR)
    assert _error(_rgb(path), picture) <= 3


def test_ycbcr_in_separate_planes_is_refused(tmp_path, picture):
    planes = np.ascontiguousarray(np.moveaxis(_to_ycbcr(picture), -1, 0))
    path = _write(tmp_path / "a.tif", planes, planarconfig="separate", **YCBCR)
    with pytest.raises(
        SlideError, match="YCbCr with compression NONE in separate planes; save the slide as RGB"
    ):
        open_slide(path)


def test_subsampled_chroma_without_jpeg_is_refused(tmp_path, picture):
    path = _write(tmp_path / "a.tif", _to_ycbcr(picture), **YCBCR)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["YCbCrSubSampling"].overwrite((2, 2))
    with pytest.raises(AmbiguousSlideError, match="chroma subsampled 2 × 2; save the slide as RGB or JPEG"):
        open_slide(path)


def _jpeg2000(path, image, compression, *, mct=False, description=None):
    def tiles():
        for y in range(0, image.shape[0], 256):
            for x in range(0, image.shape[1], 256):
                tile = np.ascontiguousarray(image[y : y + 256, x : x + 256])
                yield imagecodecs.jpeg2k_encode(tile, level=0, codecformat="j2k", mct=mct)

    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            tiles(),
            shape=image.shape,
            dtype=np.uint8,
            photometric="rgb",
            description=description,
            tile=(256, 256),
            compression=compression,
            resolution=(20000, 20000),
            resolutionunit="CENTIMETER",
            metadata=None,
        )
    return path


@pytest.mark.parametrize(
    "description", [None, "Aperio Image Library v11\n768x512 (256x256) J2K/YUV16|MPP = 0.5"]
)
def test_33003_is_ycbcr_with_or_without_its_description(tmp_path, picture, description):
    path = _jpeg2000(tmp_path / "a.tif", _to_ycbcr(picture), 33003, description=description)
    got = open_slide(path).read_region(Region(0, 0, *picture.shape[:2]), 0.5)
    assert _error(got, picture) <= 2


@pytest.mark.parametrize("compression", [33005, 34712])
def test_other_jpeg_2000_is_what_it_says(tmp_path, picture, compression):
    np.testing.assert_array_equal(
        _rgb(_jpeg2000(tmp_path / "a.tif", picture, compression, mct=True)), picture
    )


def test_33003_that_transforms_colours_itself_is_refused(tmp_path, picture):
    path = _jpeg2000(tmp_path / "a.tif", picture, 33003, mct=True)
    with pytest.raises(
        AmbiguousSlideError, match="YCbCr with compression APERIO_JP2000_YCBC, and its JPEG 2000"
    ):
        open_slide(path)


@pytest.fixture(scope="module")
def alpha() -> np.ndarray:
    """Clear, half transparent and opaque bands: uint8 (512, 768)."""
    alpha = np.full((512, 768), 255, np.uint8)
    alpha[:100], alpha[100:250] = 0, 128
    return alpha


TILED = {"tile": (256, 256), "compression": "zlib"}


@pytest.mark.parametrize("options", [{}, TILED], ids=["mapped", "tiles"])
@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha"])
def test_both_kinds_of_alpha_show_the_background(tmp_path, picture, alpha, kind, options):
    share = alpha[..., None] / 255
    colours = np.rint(picture * share).astype(np.uint8) if kind == "assocalpha" else picture
    rgba = np.dstack([colours, alpha])
    path = _write(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=[kind], **options)
    want = picture * share + np.array((0, 100, 200)) * (1 - share)
    assert _error(_rgb(path, (0, 100, 200)), np.rint(want)) <= 1


def test_grey_with_alpha_shows_the_background(tmp_path, picture, alpha):
    grey = picture[..., 1]
    path = _write(
        tmp_path / "a.tif",
        np.dstack([grey, alpha]),
        photometric="minisblack",
        extrasamples=["unassalpha"],
        **TILED,
    )
    share = alpha[..., None] / 255
    want = np.repeat(grey[..., None], 3, axis=2) * share + np.array((0, 100, 200)) * (1 - share)
    assert _error(_rgb(path, (0, 100, 200)), np.rint(want)) <= 1


@pytest.mark.parametrize(
    ("samples", "photometric"), [(4, "rgb"), (2, "minisblack")], ids=["fourth sample", "second sample"]
)
def test_a_sample_that_nobody_explains_is_refused(tmp_path, picture, samples, photometric):
    """It may be alpha or an infrared channel: the slide would fade to the background."""
    image = np.ascontiguousarray(np.dstack([picture, picture[..., :1]])[..., :samples])
    path = _write(tmp_path / "a.tif", image, photometric=photometric, extrasamples=["unspecified"], **TILED)
    with pytest.raises(
        AmbiguousSlideError, match=f"what sample {samples} of its pixels is; set its tag ExtraSamples"
    ):
        open_slide(path)


def test_three_grey_samples_are_refused(tmp_path, picture):
    path = _write(
        tmp_path / "a.tif",
        picture,
        photometric="minisblack",
        planarconfig="contig",
        extrasamples=["unspecified"] * 2,
        **TILED,
    )
    with pytest.raises(AmbiguousSlideError, match="has 3 samples a pixel that its tags call MINISBLACK"):
        open_slide(path)


@pytest.mark.parametrize(("photometric", "samples"), [("separated", 4), ("cielab", 3)])
def test_inks_and_cielab_are_refused(tmp_path, picture, photometric, samples):
    """OpenSlide would open the file, and convert it without its profile."""
    image = np.ascontiguousarray(np.dstack([picture, picture[..., :1]])[..., :samples])
    path = _write(tmp_path / "a.tif", image, photometric=photometric, **TILED)
    assert OpenSlide.detect_format(path) == "generic-tiff"
    with pytest.raises(
        AmbiguousSlideError, match=f"{photometric.upper()} × {samples}; expected 8-bit RGB or grey"
    ):
        open_slide(path)


def test_a_palette_is_read(tmp_path, picture):
    """By OpenSlide, whose libtiff knows all of it."""
    index = np.random.default_rng(1).integers(0, 256, (512, 512), dtype=np.uint8)
    table = np.random.default_rng(2).integers(0, 256, (3, 256)).astype(np.uint16) * 257
    path = _write(tmp_path / "a.tif", index, photometric="palette", colormap=table, **TILED)
    got = open_slide(path).read_region(Region(0, 0, 512, 512), 0.5)
    np.testing.assert_array_equal(got, (table // 257).T[index])


@pytest.mark.parametrize("samples", [1, 3])
def test_samples_of_12_bits_are_refused_by_their_number(tmp_path, samples):
    """As tiles of packed bits; OpenSlide opens such a file, and fails at every tile of it."""
    image = np.zeros((64, 64, samples) if samples > 1 else (64, 64), np.uint16)
    photometric = "rgb" if samples > 1 else "minisblack"
    tifffile.imwrite(
        tmp_path / "a.tif", image, photometric=photometric, tile=(64, 64), bitspersample=12, metadata=None
    )
    with pytest.raises(AmbiguousSlideError, match="of 12 bits; expected 8-bit RGB or grey; convert the file"):
        open_slide(tmp_path / "a.tif", 0.5)


def test_16_bits_are_read_by_their_upper_half_unless_they_are_12(tmp_path, he_picture):
    image = he_picture[:256, :256].astype(np.uint16)
    options = {"photometric": "rgb", "tile": (256, 256), "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", image * 257, **options)
    got = open_slide(tmp_path / "a.tif", 0.5).read_region(Region(0, 0, 256, 256), 0.5)
    np.testing.assert_array_equal(got, he_picture[:256, :256])
    tifffile.imwrite(tmp_path / "b.tif", image * 16, **options)
    with pytest.raises(SlideError, match="no sample above 15 of 255, as of 12 bits stored as 16; scale"):
        open_slide(tmp_path / "b.tif", 0.5)

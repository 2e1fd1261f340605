"""TIFF in every shape that slides come in."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.synthetic import reduce_by, write_tiff
from wsigen.arrays import ArrayCache
from wsigen.errors import SlideError
from wsigen.geometry import Region, Size
from wsigen.slide import tiff_backend
from wsigen.slide.read import open_slide
from wsigen.slide.tiff_backend import TiffBackend, check_complete

WHITE = (243, 243, 243)
PART = Region(101, 203, 333, 400)


@pytest.fixture
def cache() -> ArrayCache:
    return ArrayCache(2**22)


def _cut(image: np.ndarray, region: Region = PART) -> np.ndarray:
    return image[region.y : region.y1, region.x : region.x1]


VARIANTS = {
    "one uncompressed strip": {},
    "uncompressed strips": {"rowsperstrip": 100},
    "deflate strips": {"rowsperstrip": 77, "compression": "deflate"},
    "LZW with predictor": {"rowsperstrip": 64, "compression": "lzw", "predictor": True},
    "zstd tiles": {"tile": (256, 128), "compression": "zstd"},
    "uncompressed tiles": {"tile": (256, 256)},
    "separate planes": {"planarconfig": "separate", "tile": (128, 128), "compression": "zstd"},
    "separate strips": {"planarconfig": "separate", "rowsperstrip": 50, "compression": "deflate"},
    "big endian": {"byteorder": ">", "rowsperstrip": 100},
    "BigTIFF": {"bigtiff": True, "tile": (256, 256), "compression": "deflate"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_lossless_variants_give_back_the_pixels(tmp_path, cache, he_picture, variant):
    options = dict(VARIANTS[variant])
    opening = {key: options.pop(key) for key in ("byteorder", "bigtiff") if key in options}
    data = he_picture.transpose(2, 0, 1) if "planarconfig" in options else he_picture
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ascontiguousarray(data), photometric="rgb", metadata=None, **opening, **options)
    backend = TiffBackend(path, cache)
    assert backend.levels == (Size(1024, 1024),)
    np.testing.assert_array_equal(backend.read(0, PART, WHITE), _cut(he_picture))
    np.testing.assert_array_equal(backend.read(0, PART, WHITE), _cut(he_picture))


def test_grey_becomes_rgb(tmp_path, cache, he_picture):
    tifffile.imwrite(tmp_path / "a.tif", he_picture[..., 1], photometric="minisblack")
    got = TiffBackend(tmp_path / "a.tif", cache).read(0, PART, WHITE)
    np.testing.assert_array_equal(got, np.repeat(_cut(he_picture)[..., 1:2], 3, axis=2))


def test_transparent_parts_show_the_background(tmp_path, cache, he_picture):
    alpha = np.full((1024, 1024, 1), 255, np.uint8)
    alpha[:200] = 0
    alpha[200:300] = 128
    rgba = np.concatenate([he_picture, alpha], axis=2)
    tifffile.imwrite(
        tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"], tile=(256, 256)
    )
    got = TiffBackend(tmp_path / "a.tif", cache).read(0, PART, (0, 100, 200))
    want = _cut(he_picture).astype(float)
    want[:99] = (0, 100, 200)
    want[99:199] = want[99:199] * 128 / 255 + np.array((0, 100, 200)) * 127 / 255
    assert np.abs(got - want).max() <= 0.51


@pytest.mark.parametrize("options", [{}, {"subifds": True}, {"subifds": True, "ome": True}])
def test_every_level_is_found(tmp_path, he_picture, options):
    path = write_tiff(tmp_path / "a.tif", he_picture, 0.25, levels=3, compression="zstd", **options)
    slide = open_slide(path)
    assert [stored.size for stored in slide.levels] == [Size(1024, 1024), Size(512, 512), Size(256, 256)]
    assert slide.mpp == pytest.approx(0.25)
    got = slide.read_region(Region(20, 30, 100, 100), 1.0)
    np.testing.assert_array_equal(got, reduce_by(reduce_by(he_picture, 2), 2)[20:120, 30:130])


def test_pages_that_are_not_levels_are_left_alone(tmp_path, cache, he_picture):
    """A small label and a thumbnail of other proportions are not the pyramid."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(he_picture, photometric="rgb", tile=(256, 256), metadata=None)
        tiff.write(he_picture[:100, :300], photometric="rgb", metadata=None)
        tiff.write(he_picture[:100, :50], photometric="rgb", subfiletype=1, metadata=None)
        tiff.write(reduce_by(he_picture, 4), photometric="rgb", subfiletype=1, tile=(256, 256), metadata=None)
    assert TiffBackend(path, cache).levels == (Size(1024, 1024), Size(256, 256))


@pytest.mark.parametrize(
    ("image", "options", "what"),
    [
        (np.zeros((64, 64, 3), np.uint16), {"photometric": "rgb"}, "uint16 RGB"),
        (np.zeros((64, 64), np.float32), {"photometric": "minisblack"}, "float32 MINISBLACK"),
        (
            np.zeros((64, 64), np.uint8),
            {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
            "PALETTE",
        ),
    ],
)
def test_other_pixels_than_rgb_are_refused(tmp_path, image, options, what):
    tifffile.imwrite(tmp_path / "a.tif", image, **options)
    with pytest.raises(SlideError, match=rf"{what}.*; expected 8-bit RGB or grey"):
        TiffBackend(tmp_path / "a.tif", ArrayCache(1))


def test_one_huge_compressed_piece_is_refused(tmp_path, monkeypatch, he_picture):
    tifffile.imwrite(
        tmp_path / "a.tif", he_picture, photometric="rgb", rowsperstrip=1024, compression="deflate"
    )
    monkeypatch.setattr(tiff_backend, "MAX_SEGMENT_PIXELS", 1000 * 1000)
    with pytest.raises(SlideError, match="one segment of 1024 × 1024 px; rewrite it with tiles"):
        TiffBackend(tmp_path / "a.tif", ArrayCache(1))


def test_missing_tiles_show_the_background(tmp_path, cache, he_picture):
    """Scanners leave out tiles without tissue: their byte count is zero."""
    path = write_tiff(tmp_path / "a.tif", he_picture, 0.5, levels=1, compression="zstd")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages.first.tags["TileByteCounts"]
        tag.overwrite([0, *tag.value[1:]])
    got = TiffBackend(path, cache).read(0, Region(0, 0, 512, 512), (1, 2, 3))
    assert (got[:256, :256] == (1, 2, 3)).all()
    np.testing.assert_array_equal(got[256:], he_picture[256:512, :512])


@pytest.mark.parametrize("levels", [1, 3])
def test_a_file_that_lost_its_end_is_refused(tmp_path, he_picture, levels):
    path = write_tiff(tmp_path / "a.tif", he_picture, 0.5, levels=levels, compression="zstd")
    check_complete(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(SlideError, match=r"truncated|damaged"):
        check_complete(path)


def test_only_tiffs_are_checked_for_their_end(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    check_complete(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"II*\0", b"II*\0\xff\xff\xff\xff" + bytes(50), b"MM\0+" + bytes(60)])
def test_a_header_alone_is_refused(tmp_path, content):
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(SlideError, match=r"a\.tif"):
        TiffBackend(tmp_path / "a.tif", ArrayCache(1))


@pytest.fixture(scope="module")
def damaged(he_picture, tmp_path_factory) -> tuple[Path, bytes]:
    """Where to write a small TIFF, and its bytes when they are good."""
    path = tmp_path_factory.mktemp("damage") / "a.tif"
    write_tiff(
        path, he_picture[:100, :100], 0.5, tile=32, levels=2, compression="deflate", ome=True, subifds=True
    )
    return path, path.read_bytes()


@settings(max_examples=60)
@given(data=st.data())
def test_damage_anywhere_is_a_slide_error_or_harmless(damaged, data):
    """Whatever bytes are wrong, a user sees one line that names the file."""
    path, good = damaged
    bad = bytearray(good)
    most = data.draw(st.sampled_from([len(bad), 1200]))  # half of the time the header and the tags
    for _ in range(data.draw(st.integers(1, 20))):
        bad[data.draw(st.integers(0, most - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(bad)[: data.draw(st.sampled_from([len(good), len(good) - 1, len(good) // 2, 9]))])
    with contextlib.suppress(SlideError):
        check_complete(path)
        backend = TiffBackend(path, ArrayCache(2**20))
        if backend.levels[0].area < 2**22:
            backend.read(0, backend.levels[0].region, WHITE)


@pytest.mark.parametrize(("unit", "factor"), [("µm", 1.0), ("nm", 1e3), ("mm", 1e-3), ("cm", 1e-4)])
def test_ome_units(tmp_path, cache, he_picture, unit, factor):
    metadata = {"axes": "YXS"} | {f"PhysicalSize{a}": 0.5 * factor for a in "XY"}
    metadata |= {f"PhysicalSize{a}Unit": unit for a in "XY"}
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, he_picture, ome=True, photometric="rgb", metadata=metadata)
    assert TiffBackend(path, cache).mpp == pytest.approx((0.5, 0.5))


def test_broken_ome_xml_is_no_metadata(tmp_path, cache, he_picture):
    tifffile.imwrite(
        tmp_path / "a.tif", he_picture, photometric="rgb", metadata=None, description="<OME><Pixels"
    )
    assert TiffBackend(tmp_path / "a.tif", cache).mpp is None
    assert open_slide(tmp_path / "a.tif", 0.5).mpp == 0.5  # that of the user, without a warning or an error


def test_cached_segments_are_not_read_again(tmp_path, he_picture):
    path = write_tiff(tmp_path / "a.tif", he_picture, 0.5, levels=1)
    backend = TiffBackend(path, ArrayCache(2**24))
    first = backend.read(0, PART, WHITE)
    backend._tiff.filehandle.close()
    np.testing.assert_array_equal(backend.read(0, PART, WHITE), first)

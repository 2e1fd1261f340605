"""Frames of DICOM: the stored pixels, level by level, or the damage in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from openslide import OpenSlide
from pydicom.encaps import encapsulate_extended, generate_frames

from tests.synthetic import he_image, reduce_by, write_dicom
from wsigen.arrays import ArrayCache
from wsigen.geometry import Region, Size
from wsigen.slide.backend import OpenSlideBackend
from wsigen.slide.damage import DamagedError
from wsigen.slide.dicom_backend import DicomBackend
from wsigen.slide.handles import handles
from wsigen.slide.read import WholeSlide, open_slide


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return he_image((403, 301), seed=5, mpp=2.0)


def _is_read_by_frames(slide: WholeSlide) -> bool:
    backend = handles().get(slide.path)
    assert isinstance(backend, OpenSlideBackend)
    return isinstance(backend._stored, DicomBackend)


def _whole(slide: WholeSlide, level: int = 0) -> np.ndarray:
    return slide.read_level(slide.levels[level].size.region, level)


@pytest.mark.parametrize("codec", ["none", "jpeg2000"])
def test_levels_that_lost_odd_pixels_have_their_own_grid(tmp_path, picture, codec, caplog):
    """OpenSlide places level 1 by its factor of 2.0025 and interpolates."""
    files = write_dicom(tmp_path, picture, 2.0, codec=codec)
    slide = open_slide(files[1])
    assert _is_read_by_frames(slide)
    assert [stored.size for stored in slide.levels] == [Size(403, 301), Size(201, 150), Size(100, 75)]
    assert [stored.downsample for stored in slide.levels] == [1, 2, 4]
    np.testing.assert_array_equal(_whole(slide), picture)
    small = reduce_by(picture, 2)
    np.testing.assert_array_equal(_whole(slide, 1), small)
    np.testing.assert_array_equal(_whole(slide, 2), reduce_by(small, 2))
    np.testing.assert_array_equal(slide.read_region(Region(120, 90, 80, 60), 4.0), small[120:200, 90:150])
    assert not caplog.records


def test_jpeg_is_decoded_as_openslide_does(tmp_path, picture):
    (path,) = write_dicom(tmp_path, picture, 0.25, levels=1, codec="jpeg")
    slide = open_slide(path)
    assert slide.mpp == 0.25
    assert _is_read_by_frames(slide)
    with OpenSlide(path) as other:
        shown = np.asarray(other.read_region((0, 0), 0, (301, 403)))[..., :3]
    np.testing.assert_array_equal(_whole(slide), shown)
    assert np.abs(shown.astype(int) - picture).mean() < 2


def test_frames_of_several_fragments_and_tables_of_offsets(tmp_path, picture):
    (path,) = write_dicom(tmp_path, picture, 2.0, levels=1, codec="jpeg")
    want = _whole(open_slide(path))
    header = pydicom.dcmread(path)
    frames = list(generate_frames(header.PixelData, number_of_frames=header.NumberOfFrames))
    header.PixelData, header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths = encapsulate_extended(
        frames
    )
    header["PixelData"].VR = "OB"
    header.save_as(path)
    np.testing.assert_array_equal(_whole(open_slide(path)), want)
    del header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths
    header.PixelData = pydicom.encaps.encapsulate(frames, fragments_per_frame=3, has_bot=True)
    header.save_as(path)
    slide = open_slide(path)
    assert _is_read_by_frames(slide)
    np.testing.assert_array_equal(_whole(slide), want)


def _lose_rest(path: Path, tag: bytes, number: int) -> None:
    """Overwrite the data of a frame, which begins with ``tag``, by zeros from a third of them on."""
    data = path.read_bytes()
    starts = [i for i in range(len(data)) if data.startswith(tag, i)]
    start, end = starts[number], starts[number + 1] - 8
    at = start + (end - start) // 3
    path.write_bytes(data[:at] + bytes(end - at) + data[end:])


@pytest.mark.parametrize(
    ("codec", "tag", "what"),
    [
        ("jpeg", b"\xff\xd8\xff\xe0", "JPEG data end early"),
        ("jpeg2000", b"\0\0\0\x0cjP  ", "JPEG 2000 data end early"),
    ],
)
def test_a_frame_whose_rest_is_zero_is_damaged(tmp_path, picture, codec, tag, what):
    (path,) = write_dicom(tmp_path, picture, 2.0, levels=1, codec=codec)
    want = _whole(open_slide(path)).copy()
    _lose_rest(path, tag, 4)
    slide = open_slide(path)
    with pytest.raises(DamagedError, match=rf"level 0, x 128, y 128, 128 x 128 px \({what}\)"):
        _whole(slide)
    want[128:256, 128:256] = 243
    skipping = slide.skipping_damage()
    np.testing.assert_array_equal(_whole(skipping), want)
    assert skipping.damage.startswith("1 tile of level 0")


def test_a_file_that_was_cut_off(tmp_path, picture):
    (path,) = write_dicom(tmp_path, picture, 2.0, levels=1)
    path.write_bytes(path.read_bytes()[:-50_000])
    slide = open_slide(path)
    np.testing.assert_array_equal(slide.read_region(Region(0, 0, 256, 301), 2.0), picture[:256])
    with pytest.raises(DamagedError, match=r"x 256, y 384, 45 x 19 px \(truncated: 49152 bytes expected at"):
        slide.read_region(Region(380, 280, 20, 20), 2.0)


def test_tiles_in_no_stated_order_are_left_to_openslide(tmp_path, picture):
    files = write_dicom(tmp_path, picture[:128, :128], 2.0, levels=1, tile=128)
    header = pydicom.dcmread(files[0])
    position, frame = pydicom.dataset.Dataset(), pydicom.dataset.Dataset()
    position.RowPositionInTotalImagePixelMatrix = position.ColumnPositionInTotalImagePixelMatrix = 1
    frame.PlanePositionSlideSequence = [position]
    header.PerFrameFunctionalGroupsSequence, header.DimensionOrganizationType = [frame], "TILED_SPARSE"
    header.save_as(files[0])
    slide = open_slide(files[0])
    assert not _is_read_by_frames(slide)
    np.testing.assert_array_equal(_whole(slide), picture[:128, :128])


def test_frames_are_decoded_once(tmp_path, picture):
    (path,) = write_dicom(tmp_path, picture, 2.0, levels=1)
    backend = DicomBackend(path, ArrayCache(2**24), [Size(403, 301)])
    first = backend.read(0, Region(100, 100, 50, 60), (0, 0, 0))
    path.unlink()
    np.testing.assert_array_equal(backend.read(0, Region(100, 100, 50, 60), (0, 0, 0)), first)

"""Any µm/px, any region, any process."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wsigen
from tests.synthetic import reduce_by, write_tiff
from wsigen.errors import InvalidValueError, SlideError
from wsigen.geometry import Region, Size
from wsigen.slide import read
from wsigen.slide.read import BACKGROUND, WholeSlide, open_slide
from wsigen.slide.tiff_backend import TiffBackend

INK = (10, 200, 30)


@pytest.fixture(scope="module")
def ramp_slide(tmp_path_factory: pytest.TempPathFactory) -> WholeSlide:
    """Red grows with y, green with x, a fifth of a grey level per pixel; 0.5 µm/px."""
    y, x = np.mgrid[:900, :1100]
    image = np.stack([y / 5, x / 5, np.full_like(y, 77)], axis=2).round().astype(np.uint8)
    path = write_tiff(tmp_path_factory.mktemp("ramp") / "ramp.tif", image, 0.5, levels=3, compression="zstd")
    return open_slide(path)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Region]]:
    """What is asked of the file: levels and regions."""
    asked: list[tuple[int, Region]] = []
    original = TiffBackend.read

    def recorded(self, level, region, background):
        asked.append((level, region))
        return original(self, level, region, background)

    monkeypatch.setattr(TiffBackend, "read", recorded)
    return asked


def test_native_resolution_returns_the_stored_pixels(lossless_slide, he_picture):
    slide = open_slide(lossless_slide)
    assert (slide.size, slide.mpp) == (Size(1024, 1024), 0.5)
    part = slide.read_region(Region(300, 411, 200, 333), 0.5)
    np.testing.assert_array_equal(part, he_picture[300:500, 411:744])


@pytest.mark.parametrize("factor", [2, 4, 8, 32])
def test_coarser_resolution_is_the_average_over_areas(lossless_slide, he_picture, factor):
    side = 1024 // factor
    got = open_slide(lossless_slide).read_region(Region(0, 0, side, side), 0.5 * factor)
    want = he_picture.reshape(side, factor, side, factor, 3).mean(axis=(1, 3))
    assert np.abs(got - want).max() <= 1.5  # the file's own levels are rounded to 8 bits, once each


def test_jpeg_slides_are_read_within_the_codec_error(he_slide, he_picture):
    whole = open_slide(he_slide).read_region(Region(0, 0, 1024, 1024), 0.5)
    assert np.abs(whole.astype(int) - he_picture).mean() < 3


@given(
    ratio=st.floats(0.92, 20.0),
    y=st.floats(-0.3, 1.1),
    x=st.floats(-0.3, 1.1),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
)
def test_pixels_sit_where_they_belong_at_any_resolution(ramp_slide, ratio, y, x, height, width):
    """Each pixel shows the ramp's value at its own centre; outside there is background."""
    region = Region(int(y * 900 / ratio), int(x * 1100 / ratio), height, width)
    got = ramp_slide.read_region(region, 0.5 * ratio, INK)
    assert got.shape == (height, width, 3)
    centre_y = (np.arange(region.y, region.y1) + 0.5) * ratio - 0.5
    centre_x = (np.arange(region.x, region.x1) + 0.5) * ratio - 0.5
    inside = _well_inside(centre_y, 900, ratio)[:, None] & _well_inside(centre_x, 1100, ratio)[None]
    tolerance = 1.0 + 1.5 * max(1.0, ratio / 2) / 5  # rounding; then one and a half stored pixels
    for channel, centre in ((0, centre_y[:, None]), (1, centre_x[None])):
        error = np.abs(got[..., channel] - centre / 5)
        assert error[inside].max(initial=0) <= tolerance
    assert (np.abs(got[..., 2][inside].astype(int) - 77) <= 1).all()
    outside = _outside(centre_y, 900, ratio)[:, None] | _outside(centre_x, 1100, ratio)[None]
    assert (got[outside] == INK).all()


def _well_inside(centre: np.ndarray, length: int, ratio: float) -> np.ndarray:
    return (centre > 1.5 * ratio) & (centre < length - 2.5 * ratio)


def _outside(centre: np.ndarray, length: int, ratio: float) -> np.ndarray:
    return (centre < -ratio) | (centre > length + ratio)


@given(factor=st.sampled_from([1, 2, 4, 8, 12]), cut=st.integers(1, 79), y=st.integers(-40, 200))
def test_abutting_regions_join_without_a_seam(ramp_slide, factor, cut, y):
    mpp = 0.5 * factor
    whole = ramp_slide.read_region(Region(y, -20, 60, 80), mpp, INK)
    left = ramp_slide.read_region(Region(y, -20, 60, cut), mpp, INK)
    right = ramp_slide.read_region(Region(y, -20 + cut, 60, 80 - cut), mpp, INK)
    np.testing.assert_array_equal(np.hstack([left, right]), whole)


@pytest.mark.parametrize(
    ("region", "mpp"),
    [(Region(0, 0, 1024, 1024), 0.5), (Region(-9, 5, 300, 201), 1.0), (Region(-3, -3, 40, 40), 16.0)],
)
def test_reading_in_blocks_changes_nothing(lossless_slide, monkeypatch, region, mpp):
    slide = open_slide(lossless_slide)
    whole = slide.read_region(region, mpp)
    monkeypatch.setattr(read, "BLOCK_PIXELS", 5000)
    np.testing.assert_array_equal(slide.read_region(region, mpp), whole)


def test_the_nearest_finer_level_is_used(lossless_slide, spy):
    slide = open_slide(lossless_slide)
    for mpp, level in [(0.49, 0), (0.5, 0), (0.97, 0), (0.99, 1), (1.0, 1), (1.9, 1), (2.0, 2), (150.0, 2)]:
        spy.clear()
        slide.read_region(Region(0, 0, 1, 1), mpp)
        assert {asked for asked, _ in spy} == {level}, mpp


def test_very_coarse_reads_stay_within_the_slide(lossless_slide, spy):
    """1000² pixels at 150 µm/px are 15 cm of glass around half a millimetre: read no more than that."""
    out = open_slide(lossless_slide).read_region(Region(-500, -500, 1000, 1000), 150.0, INK)
    assert sum(r.height * r.width for _, r in spy) <= 256 * 256
    assert (out == INK).all(axis=2).sum() == 1000 * 1000 - 4 * 4


def test_a_slide_without_pyramid_is_read_in_bounded_blocks(tmp_path, he_picture, spy, monkeypatch):
    path = write_tiff(tmp_path / "flat.tif", he_picture, 0.5, levels=1, compression="deflate")
    monkeypatch.setattr(read, "BLOCK_PIXELS", 64 * 1024)
    out = open_slide(path).read_region(Region(0, 0, 16, 16), 32.0)
    assert max(r.height * r.width for _, r in spy) <= 64 * 1024
    want = he_picture.reshape(16, 64, 16, 64, 3).mean(axis=(1, 3))
    assert np.abs(out - want).max() <= 1


def test_patches_are_centred(lossless_slide, he_picture):
    slide = open_slide(lossless_slide)
    patch = slide.read_patch((200.0, 300.0), 0.5, 64)
    np.testing.assert_array_equal(patch, he_picture[368:432, 568:632])
    wide = slide.read_patch((200.0, 300.0), 1.0, Size(20, 50))
    np.testing.assert_array_equal(wide, slide.read_region(Region(190, 275, 20, 50), 1.0))


def test_edges_are_padded_with_the_background(lossless_slide, he_picture):
    patch = open_slide(lossless_slide).read_patch((0.0, 0.0), 0.5, 40, INK)
    np.testing.assert_array_equal(patch[20:, 20:], he_picture[:20, :20])
    assert (patch[:20] == INK).all()
    assert (patch[:, :20] == INK).all()
    far = open_slide(lossless_slide).read_patch((-1e6, 1e6), 4.0, 8)
    assert (far == BACKGROUND).all()


def test_a_few_percent_finer_than_stored_is_interpolated(tmp_path, he_picture):
    slide = open_slide(write_tiff(tmp_path / "a.tif", he_picture, 0.2528, compression="zstd"))
    got = slide.read_region(Region(0, 0, 1035, 1035), 0.25)
    assert abs(got.mean() - he_picture.mean()) < 1
    assert not (got[-1] == BACKGROUND).all()


def test_finer_than_stored_is_refused_unless_asked_for(lossless_slide):
    slide = open_slide(lossless_slide)
    with pytest.raises(InvalidValueError, match=r"he\.tif has 0\.5 µm/px, cannot be read at 0\.25"):
        slide.read_region(Region(0, 0, 8, 8), 0.25)
    enlarged = slide.read_region(Region(0, 0, 2048, 2048), 0.25, upsample=True)
    small = slide.read_region(Region(0, 0, 1024, 1024), 0.5)
    assert np.abs(reduce_by(enlarged, 2).astype(int) - small).mean() < 4


@pytest.mark.parametrize("mpp", [0.0, -1.0, math.nan, math.inf])
def test_nonsense_resolutions_are_refused(lossless_slide, mpp):
    with pytest.raises(InvalidValueError, match="positive number"):
        open_slide(lossless_slide).read_region(Region(0, 0, 8, 8), mpp)


def test_levels_that_dropped_odd_pixels_keep_their_factor(tmp_path, he_picture):
    path = write_tiff(tmp_path / "odd.tif", he_picture[:1003, :1001], 0.5, levels=3, compression="zstd")
    slide = open_slide(path)
    assert [stored.downsample for stored in slide.levels] == [1, 2, 4]
    got = slide.read_region(Region(100, 100, 50, 50), 2.0)
    want = he_picture[400:600, 400:600].reshape(50, 4, 50, 4, 3).mean(axis=(1, 3))
    assert np.abs(got - want).max() <= 1.5


def test_a_coarser_slide_has_larger_pixels(lossless_slide):
    slide = replace(open_slide(lossless_slide), pixel_um=(0.5, 0.502))
    assert slide.from_level(1).pixel_um == (1.0, 1.004)
    assert open_slide(lossless_slide).from_level(1).pixel_um is None


def test_a_file_that_vanished_or_was_damaged_is_named(tmp_path, he_picture):
    path = write_tiff(tmp_path / "gone.tif", he_picture, 0.5, levels=1, compression="deflate")
    slide = open_slide(path)
    data = path.read_bytes()
    path.write_bytes(data[:1000] + bytes(len(data) - 1000))
    with pytest.raises(SlideError, match=r"gone\.tif: the file was changed"):
        slide.read_region(Region(0, 0, 1024, 1024), 0.5)
    slide = open_slide(path)
    with pytest.raises(SlideError, match=r"gone\.tif: damaged"):
        slide.read_region(Region(0, 0, 1024, 1024), 0.5)
    path.unlink()
    with pytest.raises(SlideError, match=r"gone\.tif: no such file"):
        slide.read_region(Region(0, 0, 8, 8), 0.5)


@pytest.mark.parametrize("mpp", ["0.5", None, -1, math.nan])
def test_what_is_no_scale_is_refused(lossless_slide, mpp):
    slide = open_slide(lossless_slide)
    for read_it in (
        lambda: slide.read_region(Region(0, 0, 8, 8), mpp),
        lambda: slide.read_patch((9.0, 9.0), mpp, 8),
        lambda: wsigen.open_slide(lossless_slide).read_region_um(x=0, y=0, width=9, height=9, mpp=mpp),
    ):
        with pytest.raises(InvalidValueError, match=rf"mpp must be .*positive .*, got {mpp!r}"):
            read_it()


def test_pickles_hold_no_handle(lossless_slide):
    slide = open_slide(lossless_slide)
    before = slide.read_region(Region(5, 5, 50, 50), 1.3)
    data = pickle.dumps(slide)
    assert len(data) < 1500
    copy = pickle.loads(data)
    assert copy == slide
    np.testing.assert_array_equal(copy.read_region(Region(5, 5, 50, 50), 1.3), before)


def _checksums(slide: WholeSlide, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 900, (60, 2))
    return [
        int(slide.read_region(Region(int(y), int(x), 100, 100), 0.5).astype(int).sum()) for y, x in corners
    ]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("fixture", ["he_slide", "aperio_slide"])
def test_workers_read_the_same_pixels(method, fixture, request):
    """Handles that workers shared would give wrong pixels: every worker opens its own."""
    slide = open_slide(request.getfixturevalue(fixture))
    want = [_checksums(slide, seed) for seed in range(4)]
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(4, mp_context=context) as pool:
        got = list(pool.map(_checksums, itertools.repeat(slide), range(4)))
    assert got == want


@pytest.fixture(scope="module")
def aperio_slide(he_picture, tmp_path_factory) -> Path:
    """A file that OpenSlide takes for Aperio's."""
    description = (
        "Aperio Image Library v11\n1024x1024 [0,0 1024x1024] (256x256) JPEG/RGB Q=90|AppMag = 20|MPP = 0.499"
    )
    path = tmp_path_factory.mktemp("aperio") / "a.svs"
    return write_tiff(path, he_picture, None, levels=1, description=description)


def test_vendor_files_go_through_openslide(aperio_slide, he_picture):
    slide = open_slide(aperio_slide)
    assert slide.mpp == 0.499
    part = slide.read_region(Region(300, 411, 200, 333), 0.499)
    assert np.abs(part.astype(int) - he_picture[300:500, 411:744]).mean() < 3
    edge = slide.read_region(Region(1000, 1000, 48, 48), 0.499, INK)
    assert (edge[24:] == INK).all()

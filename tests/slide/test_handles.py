"""Which files are open, in which process; and which files can be opened at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from tests.synthetic import write_tiff
from wsigen.errors import MissingMppError, SlideError
from wsigen.geometry import Region, Size
from wsigen.slide import handles as module
from wsigen.slide.backend import OpenSlideBackend, over_background
from wsigen.slide.handles import Handles, handles, identity, set_limits
from wsigen.slide.read import open_slide
from wsigen.slide.tiff_backend import TiffBackend
from wsigen.slide.view import WHOLE, View


@pytest.fixture
def pictures(tmp_path, he_picture) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        Image.fromarray(he_picture[:100, :100]).save(path)
    return paths


def test_files_are_opened_once(he_slide):
    pool = Handles()
    assert pool.get(he_slide) is pool.get(he_slide)
    first = pool.get(he_slide)
    pool.drop(he_slide)
    assert pool.get(he_slide) is not first


def test_only_so_many_stay_open(pictures):
    pool = Handles(open_files=2)
    first = [pool.get(p) for p in pictures[:2]]
    assert pool.get(pictures[0]) is first[0]
    pool.get(pictures[2])  # pushes out 1, which was not used for longer
    assert pool.get(pictures[0]) is first[0]
    assert pool.get(pictures[1]) is not first[1]


def test_decoded_pictures_are_held_up_to_a_limit(pictures):
    pool = Handles(held_bytes=70_000)  # two of 30 kB
    for path in pictures:
        pool.get(path)
    assert sum(h.backend.nbytes for h in pool._open.values()) == 60_000
    alone = Handles(held_bytes=10)
    assert alone.get(pictures[0]).nbytes == 30_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_with_nothing_open(he_slide):
    before = handles()
    before.get(he_slide)
    child = os.fork()
    if child == 0:
        fresh = handles() is not before and not handles()._open
        os._exit(0 if fresh and module._inherited[-1] is before else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert handles() is before


def test_limits_can_be_set(he_slide):
    try:
        set_limits(cache_bytes=10_000, open_files=3, held_bytes=7)
        assert (handles().cache_bytes, handles().open_files, handles().held_bytes) == (10_000, 3, 7)
        renewed = handles().renew()
        assert (renewed.cache_bytes, renewed.open_files, renewed.held_bytes) == (10_000, 3, 7)
        open_slide(he_slide).read_region(Region(0, 0, 512, 512), 0.5)
    finally:
        set_limits()


def test_the_reader_fits_the_file(tmp_path, he_slide, he_picture):
    assert isinstance(Handles().get(he_slide), TiffBackend)
    text = "Aperio Image Library v11\n1024x1024 (256x256) JPEG/RGB Q=90|AppMag = 20|MPP = 0.499"
    svs = write_tiff(tmp_path / "a.svs", he_picture, None, levels=1, description=text)
    backend = Handles().get(svs)
    assert isinstance(backend, OpenSlideBackend)
    tiff = TiffBackend(svs, module.ArrayCache(2**20))
    region = Region(100, 200, 300, 400)
    white = (243, 243, 243)
    difference = np.abs(backend.read(0, region, white).astype(int) - tiff.read(0, region, white))
    assert difference.max() <= 8  # two decoders of the same JPEG
    assert difference.mean() < 0.2


def _fractional(path, side=1027, **options):
    """An SVS whose level 1 (factor 4) lost odd pixels: OpenSlide's factor is 4.01."""
    blocks = np.random.default_rng(0).integers(60, 220, (side // 4 + 1, side // 4 + 1, 3), dtype=np.uint8)
    level = np.ascontiguousarray(blocks[: side // 4, : side // 4])
    whole = np.ascontiguousarray(np.repeat(np.repeat(blocks, 4, 0), 4, 1)[:side, :side])
    text = "Aperio Image Library v11\n1027x1027 (256x256) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as tiff:
        for image in (whole, level):
            tiff.write(image, photometric="rgb", tile=(128, 128), description=text, metadata=None, **options)
    return path, level


def test_a_level_that_lost_odd_pixels_is_read_from_its_own_grid(tmp_path, caplog):
    """OpenSlide interpolates it by up to 1/8 px, more or less by where a region begins."""
    path, level = _fractional(tmp_path / "a.svs")
    with openslide.OpenSlide(path) as own:
        assert own.level_downsamples[1] != 4
        shown = np.asarray(own.read_region((4 * 150, 4 * 150), 1, (50, 50)))[..., :3]
    assert np.abs(shown.astype(int) - level[150:200, 150:200]).mean() > 1
    slide = open_slide(path)
    assert [stored.downsample for stored in slide.levels] == [1, 4]
    whole = slide.read_region(Region(0, 0, 256, 256), 2.0)
    np.testing.assert_array_equal(whole, level)
    for y in (3, 100, 201):
        parts = [slide.read_region(Region(y, 17, 40, width), 2.0) for width in (200,)]
        parts += [np.hstack([slide.read_region(Region(y, x, 40, 100), 2.0) for x in (17, 117)])]
        for part in parts:
            np.testing.assert_array_equal(part, level[y : y + 40, 17:217])
    assert not caplog.records


def test_a_level_that_stays_between_its_pixels_is_warned_of_once(tmp_path, caplog):
    """OpenSlide fills tiles that were never written from the finer level, which tifffile cannot."""
    path, _ = _fractional(tmp_path / "a.svs")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages[1].tags["TileByteCounts"]
        tag.overwrite([0, *tag.value[1:]])
    for _ in range(2):
        Handles().get(path)
    assert [r.message for r in caplog.records] == [
        f"{path}: OpenSlide interpolates level 1 by part of a pixel "
        "(256 × 256 px are not in one page of complete tiles)"
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.svs", b"", "not a slide"),
        ("a.ndpi", b"hello" * 1000, "not a slide"),
        ("a.tif", b"II*\0\x08\0\0\0", "a.tif"),
        ("a.png", b"", "not a readable picture"),
        ("a.jpg", b"\xff\xd8\xff\xe0" + bytes(100), "not a readable picture"),
        ("a.mrxs", b"", "a.mrxs"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SlideError, match=reason) as caught:
        open_slide(tmp_path / name)
    assert caught.value.path == tmp_path / name


def test_missing_files_and_folders_are_named(tmp_path):
    for name in ("folder", "stack.zarr", "scan"):
        (tmp_path / name).mkdir()
    for name in ("scan.mrxs", "lone.mrxs"):
        (tmp_path / name).write_bytes(b"")
    for name, reason in {
        "none.svs": "no such file",
        "folder": "a folder, not a slide; give a file in it",
        "scan": r"a folder, not a slide; give scan\.mrxs",
        "stack.zarr": "not a readable OME-Zarr folder",
        "lone.mrxs": "in a folder of the same name, and folder lone is missing; copy it too",
        "scan.mrxs": r"in a folder of the same name, and scan/Slidedat\.ini is missing; copy it too",
    }.items():
        with pytest.raises(SlideError, match=rf"{name}: .*{reason}"):
            open_slide(tmp_path / name)


def _write(path: Path, image: np.ndarray, how: str, mpp: float = 0.5) -> None:
    """Write a slide under a name that may be taken: as a new file, or into the one that is there."""
    written = path.with_name("new-" + path.name) if how == "replaced" else path
    if path.suffix == ".png":
        Image.fromarray(image).save(written)
    else:
        text = f"Aperio Image Library v11\n{image.shape[1]}x{image.shape[0]} (256x256)|MPP = {mpp}"
        svs = path.suffix == ".svs"
        write_tiff(
            written,
            np.ascontiguousarray(image),
            mpp,
            levels=1,
            compression="jpeg" if svs else "none" if "strips" in path.name else "zstd",
            description=text if svs else None,
        )
    if written != path:
        written.replace(path)


@pytest.mark.parametrize("how", ["replaced", "written again"])
@pytest.mark.parametrize("name", ["a.tif", "uncompressed-strips.tif", "a.svs", "a.png"])
def test_another_file_under_the_same_name_is_read_anew(tmp_path, he_picture, name, how):
    """A notebook opens a slide, exports it again, and opens it again."""
    path, mpp = tmp_path / name, 0.5 if name == "a.png" else None
    one, other = he_picture[:512, :512], he_picture[400:912, 300:812]
    tolerance = 6 if name == "a.svs" else 0
    for image in (one, other, one):
        _write(path, image, how)
        got = open_slide(path, mpp).read_region(Region(0, 0, 512, 512), 0.5)
        assert np.abs(got.astype(int) - image).mean() <= tolerance / 2
    larger = np.ascontiguousarray(he_picture[:768])
    _write(path, larger, how, mpp=0.25)
    slide = open_slide(path, mpp and 0.25)
    assert (slide.size, slide.mpp) == (Size(768, 1024), pytest.approx(0.25))


@pytest.mark.parametrize("name", ["a.tif", "a.svs", "a.png"])
def test_a_slide_that_is_open_does_not_mix_two_files(tmp_path, he_picture, name):
    path, mpp = tmp_path / name, 0.5 if name == "a.png" else None
    _write(path, he_picture[:512, :512], "replaced")
    slide = open_slide(path, mpp)
    slide.read_region(Region(0, 0, 100, 100), 0.5)
    _write(path, he_picture[400:912, 300:812], "replaced")
    with pytest.raises(SlideError, match="was changed since it was opened; open it again"):
        slide.read_region(Region(200, 0, 100, 100), 0.5)
    path.unlink()
    with pytest.raises(SlideError, match="no such file"):
        slide.read_region(Region(0, 0, 100, 100), 0.5)


def test_every_view_of_a_file_is_read_anew(tmp_path, he_picture):
    path, region = tmp_path / "a.tif", Region(0, 0, 512, 512)
    for image in (he_picture[:512, :512], he_picture[400:912, 300:812]):
        _write(path, image, "replaced")
        for view in (WHOLE, View(series=0)):
            np.testing.assert_array_equal(open_slide(path, view=view).read_region(region, 0.5), image)


def test_of_mirax_the_folder_counts(tmp_path):
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"head")
    alone = identity(path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Slidedat.ini").write_text("one")
    first = identity(path)
    (tmp_path / "a" / "Slidedat.ini").write_text("another")
    assert len({alone, first, identity(path)}) == 3


class TestPictures:
    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG"])
    def test_are_slides_once_their_scale_is_given(self, tmp_path, he_picture, suffix):
        path = tmp_path / f"a{suffix}"
        Image.fromarray(he_picture).save(path, dpi=(72, 72))
        with pytest.raises(MissingMppError, match="pass mpp"):
            open_slide(path)
        slide = open_slide(path, 0.5)
        assert slide.size == Size(1024, 1024)
        part = slide.read_region(Region(100, 200, 300, 300), 0.5)
        tolerance = 0 if suffix == ".png" else 4
        assert np.abs(part.astype(int) - he_picture[100:400, 200:500]).mean() <= tolerance

    def test_too_large_is_an_error_not_a_crash(self, tmp_path, he_picture, monkeypatch):
        Image.fromarray(he_picture).save(tmp_path / "a.png")
        monkeypatch.setattr(
            Image, "MAX_IMAGE_PIXELS", 600_000
        )  # Pillow warns above it and refuses twice as much
        assert open_slide(tmp_path / "a.png", 0.5).size == Size(1024, 1024)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)
        handles().drop(tmp_path / "a.png")
        with pytest.raises(SlideError, match=r"too large.*above 1 million pixels use a tiled TIFF"):
            open_slide(tmp_path / "a.png", 0.5)

    @pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA"])
    def test_of_other_modes_become_rgb(self, tmp_path, he_picture, mode):
        image = Image.fromarray(he_picture[:64, :64]).convert("RGBA" if mode in ("LA", "RGBA") else "RGB")
        image.convert(mode).save(tmp_path / "a.png")
        got = open_slide(tmp_path / "a.png", 1.0).read_region(Region(0, 0, 64, 64), 1.0)
        want = np.asarray(image.convert(mode).convert("RGB"))
        np.testing.assert_array_equal(got, want)

    def test_of_inks_is_refused(self, tmp_path, he_picture):
        Image.fromarray(he_picture[:64, :64]).convert("CMYK").save(tmp_path / "a.jpg")
        with pytest.raises(SlideError, match="CMYK pixels; save it as RGB"):
            open_slide(tmp_path / "a.jpg", 1.0)

    def test_transparency_shows_the_background(self, tmp_path):
        rgba = np.zeros((10, 10, 4), np.uint8)
        rgba[5:] = (200, 100, 50, 255)
        Image.fromarray(rgba).save(tmp_path / "a.png")
        got = open_slide(tmp_path / "a.png", 1.0).read_region(Region(0, 0, 10, 10), 1.0, (9, 8, 7))
        assert (got[:5] == (9, 8, 7)).all()
        assert (got[5:] == (200, 100, 50)).all()


def test_half_transparent_pixels_mix():
    rgba = np.array([[[100, 200, 0, 51], [1, 2, 3, 0], [7, 8, 9, 255]]], np.uint8)
    assert over_background(rgba, (200, 100, 100)).tolist() == [[[180, 120, 80], [200, 100, 100], [7, 8, 9]]]

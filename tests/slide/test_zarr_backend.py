"""OME-Zarr folders: read as their metadata say, or refused with the reason."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.synthetic import he_image, reduce_by, write_zarr
from wsigen.data.domains import expand
from wsigen.data.find import find_slides
from wsigen.data.survey import build_index
from wsigen.errors import AmbiguousSlideError, InvalidValueError, MissingMppError, SlideError
from wsigen.geometry import Region, Size
from wsigen.pipeline.source import open_source, source_facts, source_name
from wsigen.slide import zarr_backend
from wsigen.slide.damage import DamagedError
from wsigen.slide.read import WholeSlide, open_slide
from wsigen.slide.view import View

zarr = pytest.importorskip("zarr")


@pytest.fixture(scope="module")
def levels() -> list[np.ndarray]:
    picture = he_image((400, 300), seed=6, mpp=2.0)
    return [picture, reduce_by(picture, 2), reduce_by(reduce_by(picture, 2), 2)]


@pytest.fixture(scope="module")
def folder(levels, tmp_path_factory) -> Path:
    """Version 0.5; not to be written to."""
    return write_zarr(tmp_path_factory.mktemp("zarr") / "case_HE.ome.zarr", levels, 2.0)


def _whole(slide: WholeSlide) -> np.ndarray:
    return slide.read_region(slide.size.region, slide.mpp)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["tczyx", "cyx", "yxc", "czyx"])
def test_every_level_has_its_pixels(tmp_path, levels, version, axes):
    slide = open_slide(write_zarr(tmp_path / "a.zarr", levels, 2.0, version=version, axes=axes))
    assert slide.mpp == 2.0
    assert slide.pixel_um is None
    assert [(level.size, level.downsample) for level in slide.levels] == [
        (Size(400, 300), 1),
        (Size(200, 150), 2),
        (Size(100, 75), 4),
    ]
    for level, image in enumerate(levels):
        np.testing.assert_array_equal(slide.read_level(slide.levels[level].size.region, level), image)
    part = slide.read_region(Region(90, 100, 200, 150), 2.0)
    np.testing.assert_array_equal(part, levels[0][90:290, 100:250])


def test_shards_and_other_compressions(tmp_path, levels):
    path = write_zarr(tmp_path / "a.zarr", levels, 2.0, axes="cyx", shards=(3, 256, 256))
    np.testing.assert_array_equal(_whole(open_slide(path)), levels[0])
    path = write_zarr(tmp_path / "b.zarr", levels, 2.0, compressors=None)
    np.testing.assert_array_equal(_whole(open_slide(path)), levels[0])


@pytest.mark.parametrize(("unit", "factor"), [("micrometer", 1), ("nanometer", 1e3), ("millimeter", 1e-3)])
def test_units_of_length(tmp_path, levels, unit, factor):
    path = write_zarr(tmp_path / "a.zarr", levels[:1], 0.25 * factor, unit=unit)
    assert open_slide(path).mpp == pytest.approx(0.25)


def test_no_unit_is_no_scale(tmp_path, levels):
    path = write_zarr(tmp_path / "a.zarr", levels[:1], None)
    with pytest.raises(MissingMppError):
        open_slide(path)
    assert open_slide(path, 0.5).mpp == 0.5


@pytest.mark.parametrize(
    ("omero", "order"),
    [
        ([{"label": "Channel 0"}, {"label": "Channel 1"}, {"label": ""}], [0, 1, 2]),
        ([{"color": "FF0000"}, {"color": "00FF00"}, {"color": "0000FF"}], [0, 1, 2]),
        ([{"color": "0000FF"}, {"color": "00ff00"}, {"color": "FF0000"}], [2, 1, 0]),
        ([{"label": "Green"}, {"label": "b"}, {"label": "R"}], [2, 0, 1]),
    ],
)
def test_channels_are_put_in_the_order_of_their_colours(tmp_path, levels, omero, order):
    path = write_zarr(tmp_path / "a.zarr", levels[:1], 2.0, omero=omero)
    np.testing.assert_array_equal(_whole(open_slide(path)), levels[0][..., order])


def _grey(count: int) -> np.ndarray:
    return np.zeros((1, count, 1, 64, 64), np.uint8)


@pytest.mark.parametrize(
    ("image", "options", "reason"),
    [
        (_grey(1), {}, "has 1 channels; expected 3, RGB"),
        (_grey(4), {}, "has 4 channels; expected 3, RGB"),
        (_grey(3).astype(np.uint16), {}, "its pixels are uint16; expected uint8, RGB"),
        (np.zeros((2, 3, 1, 64, 64), np.uint8), {}, "holds 2 points in time"),
        (np.zeros((1, 3, 5, 64, 64), np.uint8), {}, "has 5 focus planes; choose one with --z 0 to 4"),
        (np.zeros((64, 64), np.uint8), {"axes": "yx"}, "has no channel axis; expected 3 channels"),
        (
            _grey(3),
            {"omero": [{"label": name} for name in ("DAPI", "FITC", "Cy3")]},
            "has channels DAPI, FITC, Cy3, not red, green and blue; if they are its colours, label them",
        ),
    ],
)
def test_what_is_no_rgb_is_refused_by_name(tmp_path, image, options, reason):
    path = write_zarr(tmp_path / "a.zarr", [image], 2.0, **options)
    with pytest.raises(SlideError, match=reason):
        open_slide(path)


def test_a_focus_plane(tmp_path, levels):
    planes = np.stack([levels[0], levels[0][::-1]]).transpose(3, 0, 1, 2)
    path = write_zarr(tmp_path / "a.zarr", [planes], 2.0, axes="czyx")
    np.testing.assert_array_equal(_whole(open_slide(path, view=View(z=1))), levels[0][::-1])
    with pytest.raises(AmbiguousSlideError, match="has focus planes 0 to 1, not plane 2"):
        open_slide(path, view=View(z=2))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_images_in_the_layout_of_bioformats2raw(tmp_path, levels, version):
    """The largest is the slide, unless others come near it that are no label."""
    path = tmp_path / "a.zarr"
    root = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    layout = {"bioformats2raw.layout": 3}
    root.attrs.update(layout if version == "0.4" else {"ome": {"version": version, **layout}})
    write_zarr(path / "0", [levels[2][:50]], 8.0, version=version)
    write_zarr(path / "1", levels, 2.0, version=version)
    write_zarr(path / "2", [levels[0][::-1]], 2.0, version=version, name="Label image")
    np.testing.assert_array_equal(_whole(open_slide(path)), levels[0])
    write_zarr(path / "3", [levels[1]], 4.0, version=version, name="second")
    listed = "1: 300 × 400 px; 3: 'second' 150 × 200 px"
    with pytest.raises(AmbiguousSlideError, match=rf"several images \({listed}\); choose one with --series"):
        open_slide(path)
    chosen = open_slide(path, view=View(series=3))
    assert (chosen.mpp, chosen.size) == (4.0, Size(200, 150))
    np.testing.assert_array_equal(_whole(chosen), levels[1])
    np.testing.assert_array_equal(_whole(open_slide(path / "0")), levels[2][:50])
    with pytest.raises(InvalidValueError, match=r"--series must be the number of an image .* got 4"):
        open_slide(path, view=View(series=4))


def test_folders_that_are_no_slides(tmp_path, levels):
    for name in ("empty", "array", "plate", "old"):
        (tmp_path / f"{name}.zarr").mkdir()
    zarr.create_array(tmp_path / "array.zarr", shape=(4, 4), dtype="uint8")
    zarr.open_group(tmp_path / "plate.zarr", mode="w").attrs["ome"] = {"version": "0.5", "plate": {}}
    old = write_zarr(tmp_path / "old.zarr", levels, 2.0, version="0.4")
    text = json.loads((old / ".zattrs").read_text())
    text["multiscales"][0] |= {"axes": ["t", "c", "z", "y", "x"], "version": "0.3"}
    (old / ".zattrs").write_text(json.dumps(text))
    reasons = {
        "empty.zarr": "not a readable OME-Zarr folder",
        "array.zarr": "not a readable OME-Zarr folder",
        "plate.zarr": "is an OME-Zarr plate of wells",
        "old.zarr": "OME-Zarr 0.3 without axes and datasets as 0.4 and 0.5 describe them; convert it",
    }
    for name, reason in reasons.items():
        with pytest.raises(SlideError, match=reason):
            open_slide(tmp_path / name)


def test_without_zarr_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(SlideError, match=r"needs the package zarr; pip install 'wsigen\[zarr\]'"):
        open_slide(folder)


def test_there_is_no_profile_to_convert_by(folder):
    with pytest.raises(SlideError, match="has no ICC profile to convert its colours by; leave out --icc"):
        open_slide(folder, view=View(icc="srgb"))


def test_chunks_that_are_not_stored_have_the_fill_value(tmp_path, folder, levels):
    path = shutil.copytree(folder, tmp_path / "a.zarr")
    for channel in range(3):
        (path / "0" / "c" / "0" / str(channel) / "0" / "1" / "0").unlink()
    want = levels[0].copy()
    want[128:256, :128] = 0
    np.testing.assert_array_equal(_whole(open_slide(path)), want)


def test_a_damaged_chunk_is_named(tmp_path, folder, levels):
    path = shutil.copytree(folder, tmp_path / "a.zarr")
    chunk = path / "0" / "c" / "0" / "1" / "0" / "2" / "1"
    data = chunk.read_bytes()
    chunk.write_bytes(data[: len(data) // 2])
    slide = open_slide(path)
    with pytest.raises(DamagedError, match=r"a\.zarr: damaged at level 0, x 128, y 256, 128 x 128 px"):
        _whole(slide)
    skipping = slide.skipping_damage()
    want = levels[0].copy()
    want[256:384, 128:256] = 243
    np.testing.assert_array_equal(_whole(skipping), want)


def test_the_hash_covers_every_chunk(tmp_path, folder):
    facts = source_facts(open_source(folder))
    assert facts["slide"] == "case_HE.ome.zarr"
    assert source_name(folder) == "case"
    path = shutil.copytree(folder, tmp_path / "case_HE.ome.zarr")
    assert source_facts(open_source(path)) == facts
    chunk = path / "2" / "c" / "0" / "0" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    assert source_facts(open_source(path))["sha256"] != facts["sha256"]


def test_a_folder_that_was_written_again_is_read_anew(tmp_path, levels):
    path = write_zarr(tmp_path / "a.zarr", levels, 2.0)
    slide = open_slide(path)
    np.testing.assert_array_equal(_whole(slide), levels[0])
    shutil.rmtree(path)
    write_zarr(path, [level[:, ::-1] for level in levels], 2.0)
    np.testing.assert_array_equal(_whole(open_slide(path)), levels[0][:, ::-1])
    with pytest.raises(SlideError, match="the file was changed since it was opened"):
        _whole(slide)


def test_a_set_of_slides_may_have_zarr_folders(tmp_path, levels):
    write_zarr(tmp_path / "sub" / "a.ome.zarr", levels, 2.0)
    write_zarr(tmp_path / "b", levels, 2.0)  # known by what is in it
    index, failures = build_index(tmp_path, progress=False)
    assert not failures
    assert [(e.slide, e.mpp, e.size) for e in index.entries] == [
        ("b", 2.0, Size(400, 300)),
        ("sub/a.ome.zarr", 2.0, Size(400, 300)),
    ]
    np.testing.assert_array_equal(_whole(index.entries[1].open()), levels[0])
    for given in ("sub/a.ome.zarr", "sub/*.zarr"):
        assert list(expand(str(tmp_path / given))) == ["a.ome.zarr"]
    assert list(find_slides(tmp_path / "b")) == ["b"]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_worker_reads_after_its_parent_did(folder, levels):
    slide = open_slide(folder)
    np.testing.assert_array_equal(_whole(slide), levels[0])
    with multiprocessing.get_context("fork").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply_async(_whole, (slide,)).get(timeout=60), levels[0])


def test_huge_chunks_are_refused(folder, monkeypatch):
    monkeypatch.setattr(zarr_backend, "MAX_SEGMENT_PIXELS", 100 * 100)
    with pytest.raises(SlideError, match="stored in chunks of 128 × 128 px; rewrite it with smaller ones"):
        open_slide(shutil.copytree(folder, folder.parent / "other.zarr"))

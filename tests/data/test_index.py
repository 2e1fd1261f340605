"""From a folder of slides to an index, whatever lies in the folder."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.synthetic import damage_tile, he_image, write_tiff
from wsigen.data.find import find_slides
from wsigen.data.index import SlideEntry, SlideIndex
from wsigen.data.summary import contact_sheet
from wsigen.data.survey import build_index, load_or_build_index, survey_slide
from wsigen.data.table import Row
from wsigen.errors import InvalidValueError, OutputError, PathError, SlideError
from wsigen.geometry import Region


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good slides, one of them in a sub-folder; and four that must be left out."""
    folder = tmp_path_factory.mktemp("slides")
    (folder / "deep").mkdir()
    write_tiff(folder / "a.tif", he_image(600, 0, mpp=2.0), 2.0)
    write_tiff(folder / "b.ome.tif", he_image((512, 700), 1), 0.5, compression="zstd", ome=True, subifds=True)
    write_tiff(folder / "deep" / "c.tif", he_image(600, 2, mpp=2.0), None)
    write_tiff(folder / "blank.tif", he_image(400, 3, tissue=False), 0.5)
    (folder / "corrupt.svs").write_bytes(b"not a slide at all")
    write_tiff(folder / "nompp.tif", he_image(300, 4), None)
    torn = write_tiff(folder / "torn.tif", he_image(600, 5, mpp=2.0), 2.0)
    torn.write_bytes(torn.read_bytes()[:-20_000])
    (folder / "notes.txt").write_text("not a slide")
    (folder / ".trash").mkdir()
    write_tiff(folder / ".trash" / "old.tif", he_image(64), 0.5)
    (folder / "table.csv").write_text("slide,mpp,group\na.tif,,P1/HE\ndeep/c.tif,2.0,P1/CHR\n")
    return folder


@pytest.fixture(scope="module")
def index(folder: Path) -> SlideIndex:
    """The good ones."""
    return build_index(folder, folder / "table.csv", progress=False)[0]


def test_bad_slides_are_reported_and_left_out(folder, caplog):
    with caplog.at_level(logging.WARNING):
        index, failures = build_index(folder, folder / "table.csv", progress=False)
    assert [e.slide for e in index.entries] == ["a.tif", "b.ome.tif", "deep/c.tif"]
    reasons = {f.slide: f.reason for f in failures}
    assert set(reasons) == {"blank.tif", "corrupt.svs", "nompp.tif", "torn.tif"}
    assert "no tissue" in reasons["blank.tif"]
    assert "not a slide" in reasons["corrupt.svs"]
    assert "--table" in reasons["nompp.tif"]
    assert "truncated" in reasons["torn.tif"]
    for slide, reason in reasons.items():
        assert f"left out {slide}: {reason}" in caplog.text


def test_entries_tell_what_is_on_the_slide(index, folder):
    a, b, c = index.entries
    assert (a.mpp, a.height, a.width, a.path) == (2.0, 600, 600, folder / "a.tif")
    assert (b.mpp, b.size.height, b.size.width) == (0.5, 512, 700)
    assert c.mpp == 2.0  # from the table
    picture = he_image(600, 0, mpp=2.0)
    share = (picture[..., 1] < 220).mean()
    assert a.tissue_fraction == pytest.approx(share, rel=0.1)
    assert a.tissue_um2 == pytest.approx(a.tissue_fraction * 1200**2)
    assert a.border_tissue == 0
    assert a.background == pytest.approx((242, 242, 242), abs=2)


def test_masks_lie_on_the_tissue(index):
    for entry in index.entries:
        rows, columns = entry.tissue_cells
        assert entry.mask.sum() == len(rows)
        assert entry.mask.shape == tuple(
            -(-side * entry.mpp // entry.mask_mpp) for side in (entry.height, entry.width)
        )
        whole = entry.open().read_region(Region(0, 0, *entry.mask.shape), entry.mask_mpp)
        assert whole[rows, columns, 1].mean() < 200 < whole[~entry.mask][:, 1].mean()


def test_a_slide_of_another_size_than_was_indexed_is_refused(index):
    with pytest.raises(SlideError, match=r"is 600 x 600 px, its index says 600 x 700 px; run `wsigen index`"):
        replace(index.entries[0], height=700).open()


def test_a_damaged_tile_costs_its_patches_not_the_slide(tmp_path, caplog):
    path = write_tiff(tmp_path / "a.tif", he_image(1024, 0, mpp=2.0), 2.0, levels=1)
    good = survey_slide("a.tif", path, Row()).entry
    damage_tile(path, "zeros", 5)
    entry = survey_slide("a.tif", path, Row()).entry
    assert good.mask[80:112, 80:112].any()
    assert not entry.mask[80:112, 80:112].any()
    np.testing.assert_array_equal(entry.mask[160:], good.mask[160:])
    said = (
        "a.tif: damaged, no patches are taken there: 1 tile of level 0 (6.25%), the first at x 256, y 256 ("
    )
    assert said in caplog.text
    assert contact_sheet(SlideIndex((entry,))).any()
    for index in range(16):
        damage_tile(path, "lost", index)
    with pytest.raises(SlideError, match=r"no tissue found on it \(damaged: 16 tiles of level 0 \(100.00%\)"):
        survey_slide("a.tif", path, Row())


def test_groups_go_by_case_and_never_part(index):
    a, b, c = index.entries
    assert (a.group, b.group, c.group) == ("P1", "b.ome.tif", "P1")
    assert a.split == c.split != b.split
    assert {e.split for e in index.entries} == {"train", "val"}
    assert index.split("val").entries == tuple(e for e in index.entries if e.split == "val")


def test_a_group_in_two_splits_is_refused(folder, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("slide,group,split\na.tif,P,train\nb,P,val\n")
    with pytest.raises(InvalidValueError, match=r"group 'P' is in split train and val \(b\.ome\.tif\)"):
        build_index([folder / "a.tif", folder / "b.ome.tif"], table, progress=False)


def test_save_and_load(index, tmp_path):
    index.save(tmp_path / "i.parquet")
    loaded = SlideIndex.load(tmp_path / "i.parquet")
    assert loaded == index
    np.testing.assert_array_equal(loaded.entries[1].mask, index.entries[1].mask)
    moved = SlideIndex.load(tmp_path / "i.parquet", folder=Path("/elsewhere"))
    assert moved.entries[2].path == Path("/elsewhere/deep/c.tif")


def test_the_table_says_how_fine_a_slide_is_to_be_learnt_from(folder, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("slide,finest_mpp\na.tif,4.0\n")
    index, _ = build_index([folder / "a.tif", folder / "b.ome.tif"], table, progress=False)
    assert [(e.finest_mpp, e.finest) for e in index.entries] == [(4.0, 4.0), (0.0, 0.5)]
    index.save(tmp_path / "i.parquet")
    assert SlideIndex.load(tmp_path / "i.parquet") == index


def test_the_table_chooses_the_image_of_a_file(tmp_path, he_picture):
    """Without it the file is left out, and the reason says which columns to fill."""
    (tmp_path / "in").mkdir()
    with tifffile.TiffWriter(tmp_path / "in" / "a.tif") as tiff:
        for image in (he_picture[:, ::-1], he_picture):
            tiff.write(
                np.ascontiguousarray(image),
                photometric="rgb",
                tile=(256, 256),
                metadata=None,
                resolution=(20000, 20000),
                resolutionunit="CENTIMETER",
            )
    with pytest.raises(SlideError, match=r"holds several images .* a column series in the table of slides"):
        build_index(tmp_path / "in", progress=False)
    table = tmp_path / "table.csv"
    table.write_text("slide,series\na.tif,1\n")
    index, _ = build_index(tmp_path / "in", table, progress=False)
    index.save(tmp_path / "i.parquet")
    (entry,) = SlideIndex.load(tmp_path / "i.parquet").entries
    slide = entry.open()
    np.testing.assert_array_equal(slide.read_region(slide.size.region, 0.5), he_picture)


def test_indexes_without_newer_columns_can_still_be_read(index, tmp_path):
    path = tmp_path / "old.parquet"
    index.save(path)
    pq.write_table(pq.read_table(path).drop_columns(["finest_mpp", "series", "z", "class_label"]), path)
    assert SlideIndex.load(path) == index
    assert {e.finest_mpp for e in SlideIndex.load(path).entries} == {0.0}


def test_the_same_slides_give_the_same_index(index, folder, tmp_path):
    again, _ = build_index(folder, folder / "table.csv", progress=False)
    assert again == index
    for i, made in enumerate((index, again)):
        made.save(tmp_path / f"{i}.parquet")
    assert (tmp_path / "0.parquet").read_bytes() == (tmp_path / "1.parquet").read_bytes()


def test_an_index_keeps_the_classes(folder, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("slide,organ\na.tif,liver\n")
    index, _ = build_index(
        [folder / "a.tif", folder / "b.ome.tif"], table, class_column="organ", progress=False
    )
    index.save(tmp_path / "i.parquet")
    assert [e.class_label for e in SlideIndex.load(tmp_path / "i.parquet").entries] == ["liver", None]


def test_an_index_that_is_none_is_refused(tmp_path, folder):
    for name, content in (("none.parquet", None), ("text.parquet", b"hello")):
        if content:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(SlideError, match=rf"{name}: not a readable index.*wsigen index"):
            SlideIndex.load(tmp_path / name)


def test_an_index_is_not_written_where_it_cannot_be(index, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        index.save(tmp_path / "file" / "i.parquet")


def test_load_or_build(index, folder, tmp_path):
    index.save(tmp_path / "i.parquet")
    assert load_or_build_index(tmp_path / "i.parquet") == index
    assert load_or_build_index(folder, table=folder / "table.csv") == index
    with pytest.raises(InvalidValueError, match="leave out"):
        load_or_build_index(tmp_path / "i.parquet", table=folder / "table.csv")


def test_pickled_entries_leave_decoded_masks_behind(index):
    entry = index.entries[0]
    cells = entry.tissue_cells
    copy = pickle.loads(pickle.dumps(entry))
    assert "mask" not in copy.__dict__
    np.testing.assert_array_equal(copy.tissue_cells, cells)


class TestNothingToLearn:
    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(SlideError, match=r"no slide in this folder; looked for \.tif"):
            build_index(tmp_path, progress=False)

    def test_no_folder(self, tmp_path):
        with pytest.raises(SlideError, match="no such file or folder"):
            build_index(tmp_path / "none", progress=False)

    def test_only_blank_slides(self, tmp_path):
        for i in range(2):
            write_tiff(tmp_path / f"{i}.tif", he_image(300, i, tissue=False), 0.5)
        with pytest.raises(
            SlideError, match=r"none of 2 slides can be used \(0\.tif: no tissue .*, and 1 more\)"
        ):
            build_index(tmp_path, progress=False)

    def test_grey_slides(self, tmp_path, he_picture):
        Image.fromarray(he_picture).convert("L").save(tmp_path / "x.png")
        grey = np.repeat(he_picture[..., 1:2], 3, axis=2)
        write_tiff(tmp_path / "y.tif", grey, 0.5)
        (tmp_path / "t.csv").write_text("slide,mpp\nx,0.5\n")
        reason = "it is grey, and tissue is found by its colour; give the slide in RGB"
        with pytest.raises(SlideError, match=rf"x\.png: no tissue found on it \({reason}\), and 1 more"):
            build_index(tmp_path, tmp_path / "t.csv", progress=False)

    def test_no_mpp_anywhere(self, tmp_path):
        write_tiff(tmp_path / "x.tif", he_image(300), None)
        with pytest.raises(SlideError, match=r"x\.tif: µm/px is not in its metadata; add a row.*--table"):
            build_index(tmp_path, progress=False)

    def test_a_table_of_nonsense(self, tmp_path, folder):
        (tmp_path / "t.csv").write_text("a,b\n1,2\n")
        with pytest.raises(PathError, match="no column 'slide'"):
            build_index(folder, tmp_path / "t.csv", progress=False)


class TestFindSlides:
    def test_one_file_and_several(self, folder):
        assert find_slides(folder / "a.tif") == {"a.tif": folder / "a.tif"}
        several = find_slides([folder / "b.ome.tif", folder / "a.tif"])
        assert list(several) == ["a.tif", "b.ome.tif"]
        namesakes = find_slides([folder / "a.tif", folder / "deep" / "a.tif"])
        assert len(namesakes) == 2

    def test_pictures_beside_slides_are_not_slides(self, tmp_path):
        for name in (
            "s_HE.ome.tif",
            "s_HE.jpg",
            "index.parquet",
            "index.png",
            "alone.png",
            "x[1].jpg",
            "x[1].svs",
        ):
            (tmp_path / name).touch()
        assert list(find_slides(tmp_path)) == ["alone.png", "s_HE.ome.tif", "x[1].svs"]


def test_pictures_can_be_indexed(tmp_path, he_picture):
    Image.fromarray(he_picture).save(tmp_path / "p.png")
    (tmp_path / "t.csv").write_text("slide,mpp\np,0.5\n")
    index, failures = build_index(tmp_path, tmp_path / "t.csv", progress=False)
    assert not failures
    patch = index.entries[0].open().read_patch((256, 256), 1.0, 64)
    assert np.abs(patch.mean() - he_picture[448:576, 448:576].mean()) < 2


def test_slides_without_glass_borrow_its_colour(tmp_path):
    image = he_image(800, 1, mpp=1.0)
    image[image[..., 1] > 230] = (250, 247, 244)
    write_tiff(tmp_path / "glass.tif", image, 1.0, compression="zstd")
    write_tiff(tmp_path / "crop.tif", image[300:500, 300:500], 1.0, compression="zstd")
    crop, glass = build_index(tmp_path, progress=False)[0].entries
    assert crop.background == glass.background == (250, 247, 244)
    assert crop.border_tissue > 0.8
    _, none = survey_slide("crop", tmp_path / "crop.tif", Row())
    assert none is None


@given(
    mpp=st.floats(0.1, 8),
    height=st.integers(100, 5000),
    width=st.integers(100, 5000),
    border=st.sampled_from([0.0, 0.049, 0.05, 1.0]),
    size=st.sampled_from([64, 128, 256, 512]),
    asked=st.floats(0.05, 200),
    finest=st.sampled_from([0.0, 1.0, 4.0]),
)
def test_which_patches_a_slide_serves(index, mpp, height, width, border, size, asked, finest):
    entry: SlideEntry = replace(
        index.entries[0], mpp=mpp, height=height, width=width, border_tissue=border, finest_mpp=finest
    )
    fine = asked >= 0.95 * mpp and asked >= finest
    fits = size * asked <= min(height, width) * mpp
    assert entry.serves(size, asked) == (fine and (fits or border < 0.05))
    assert (entry in SlideIndex((entry,)).usable(size, asked)) == entry.serves(size, asked)


def test_every_usable_patch_can_be_read(index):
    for entry in index.entries:
        slide = entry.open()
        for mpp in (entry.mpp * 0.95, entry.mpp, 3.3, 40.0):
            if entry.serves(64, mpp):
                assert slide.read_patch((100.0, 100.0), mpp, 64, entry.background).std() > 0

"""Finished slides as readers see them, their thumbnails, and what is refused."""

from __future__ import annotations

import errno
import json
import xml.etree.ElementTree as ElementTree

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from tests.synthetic import he_image
from wsigen.errors import InvalidValueError, OutputError
from wsigen.geometry import Region, Size
from wsigen.slide import write
from wsigen.slide.codec import DEFLATE, JPEG, ZSTD
from wsigen.slide.journal import BlockJournal
from wsigen.slide.pyramid import halve
from wsigen.slide.read import open_slide
from wsigen.slide.write import (
    LAYOUTS,
    check_output,
    estimate_bytes,
    final_journal,
    layout_codec,
    link_pages,
    thumbnail,
    write_slide,
)

MODEL = {"sha256": "abc", "name": "<tiny> & \"µ\" '{x}'"}

FACTS = {"seed": 7, "model": MODEL, "preset": "fast", "version": "0.1"}

OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"

# one tile and less; one block; several blocks with odd edges; long and thin
SIZES = [(128, 128), (512, 384), (1030, 1201), (2600, 530)]


def make(folder, image, layout="linked-ome", mpp=0.5, **options):
    height, width = image.shape[:2]
    options = {"block": 512, **options}
    journal = final_journal(folder / f"journal-{layout}", Size(height, width), layout, "test", **options)
    for y in range(journal.rows_done, height, 200):
        journal.append(image[y : y + 200])
    files = write_slide(journal, folder / f"{layout}_HE.ome.tif", mpp=mpp, layout=layout, provenance=FACTS)
    return files.slide


def rms(a, b):
    return np.sqrt(np.mean((a.astype(float) - b) ** 2))


def levels_of(image, count):
    for _ in range(count):
        yield image
        image = halve(image)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SIZES)
def test_openslide_finds_every_level_with_the_right_pixels(tmp_path, shape, layout):
    image = he_image(shape, seed=1)
    with openslide.OpenSlide(make(tmp_path, image, layout, mpp=0.2528)) as slide:
        levels = list(levels_of(image, slide.level_count))
        assert slide.level_dimensions == tuple((level.shape[1], level.shape[0]) for level in levels)
        assert min(slide.level_dimensions[-1]) <= 512
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.2528, rel=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.2528, rel=1e-6)
        for number, level in enumerate(levels):
            found = np.asarray(slide.read_region((0, 0), number, slide.level_dimensions[number]))
            assert found[..., 3].min() == 255
            if layout == "lossless":
                np.testing.assert_array_equal(found[..., :3], level)
            else:
                assert rms(found[..., :3], level) < 12
                assert np.abs((found[..., :3].astype(float) - level).mean(axis=(0, 1))).max() < 1.5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tifffile_finds_every_level(tmp_path, layout):
    image = he_image((1030, 1201), seed=1)
    with tifffile.TiffFile(make(tmp_path, image, layout, mpp=0.4)) as tif:
        assert tif.is_bigtiff
        assert tif.is_ome == (layout != "generic")
        assert len(tif.series) == 1
        series = tif.series[0]
        assert [level.shape[:2] for level in series.levels] == [(1030, 1201), (515, 601), (258, 301)]
        assert len(tif.pages) == 3
        for number, page in enumerate(level.keyframe for level in series.levels):
            assert page.subfiletype == (1 if number else 0)
            assert page.tags["ResolutionUnit"].value == 3
            for tag in ("XResolution", "YResolution"):
                top, bottom = page.tags[tag].value
                assert top / bottom == pytest.approx(1e4 / 0.4 / 2**number, rel=1e-6)
        if layout == "lossless":
            np.testing.assert_array_equal(series.levels[2].asarray(), halve(halve(image)))


def test_sub_ifds_are_the_chain(tmp_path):
    with tifffile.TiffFile(make(tmp_path, he_image(1500, seed=2))) as tif:
        subifds = tif.pages.first.subifds
        assert len(subifds) == 2
        assert [page.offset for page in tif.pages][1:] == list(subifds)


def test_chain_is_linked_only_once(tmp_path):
    path = make(tmp_path, he_image(1100, seed=2))
    with pytest.raises(AssertionError, match="last of the chain"):
        link_pages(path)


@pytest.mark.parametrize("layout", ["linked-ome", "lossless"])
def test_ome_xml_states_size_scale_and_origin(tmp_path, layout):
    with tifffile.TiffFile(make(tmp_path, he_image((600, 700), seed=3), layout, mpp=0.25)) as tif:
        root = ElementTree.fromstring(tif.ome_metadata)
    pixels = root.find(f"{OME}Image/{OME}Pixels")
    assert pixels is not None
    assert (pixels.get("SizeX"), pixels.get("SizeY")) == ("700", "600")
    for axis in "XY":
        assert float(pixels.get(f"PhysicalSize{axis}")) == 0.25
        assert pixels.get(f"PhysicalSize{axis}Unit") == "µm"
    facts = {entry.get("K"): entry.text for entry in root.iter(f"{OME}M")}
    assert facts["synthetic"] == "true"
    assert facts["model.sha256"] == "abc"
    assert facts["model.name"] == MODEL["name"]
    assert facts["seed"] == "7"
    assert root.find(f"{OME}Image").get("Name") == f"{layout}_HE"
    reference, annotation = (next(root.iter(f"{OME}{kind}")) for kind in ("AnnotationRef", "MapAnnotation"))
    assert reference.get("ID") == annotation.get("ID")


def test_generic_has_a_plain_description(tmp_path):
    path = make(tmp_path, he_image((600, 700), seed=3), "generic")
    with tifffile.TiffFile(path) as tif:
        text = tif.pages.first.description
        assert tif.pages.first.subifds is None
    assert text.startswith("synthetic = true; ")
    assert "model.sha256 = abc" in text
    assert "<" not in text
    assert text.isascii()
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["tiff.ImageDescription"] == text
        assert float(slide.properties["tiff.XResolution"]) == pytest.approx(20000)
        assert slide.properties["tiff.ResolutionUnit"] == "centimeter"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_own_reader_finds_scale_and_pixels(tmp_path, layout):
    image = he_image((1030, 1201), seed=4)
    slide = open_slide(make(tmp_path, image, layout, mpp=0.2528))
    assert slide.mpp == pytest.approx(0.2528, rel=1e-5)
    assert slide.size == Size(1030, 1201)
    found = slide.read_region(Region(400, 300, 256, 256), slide.mpp)
    assert rms(found, image[400:656, 300:556]) < (0.01 if layout == "lossless" else 12)


def test_json_and_thumbnail_lie_beside(tmp_path):
    image = he_image((1030, 2400), seed=5)
    path = make(tmp_path, image)
    facts = json.loads((tmp_path / "linked-ome_HE.json").read_text(encoding="utf-8"))
    assert facts["synthetic"] is True
    assert facts["model"] == MODEL
    assert (facts["mpp"], facts["height"], facts["width"]) == (0.5, 1030, 2400)
    with Image.open(tmp_path / "linked-ome_HE.jpg") as picture:
        assert picture.format == "JPEG"
        assert picture.size == (1024, 439)
        small = np.asarray(Image.fromarray(image).resize(picture.size, Image.Resampling.BOX))
        assert rms(np.asarray(picture), small) < 12
    names = {file.name for file in tmp_path.iterdir()} - {"journal-linked-ome"}
    assert names == {path.name, "linked-ome_HE.json", "linked-ome_HE.jpg"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_run_gives_the_same_files(tmp_path, layout):
    image = he_image((700, 1300), seed=6)
    first, second = (make(tmp_path / name, image, layout, threads=n) for name, n in (("a", 1), ("b", 3)))
    for suffix in (".ome.tif", ".json", ".jpg"):
        names = [path.name.replace(".ome.tif", suffix) for path in (first, second)]
        assert (first.parent / names[0]).read_bytes() == (second.parent / names[1]).read_bytes()


def test_block_size_cannot_be_seen_in_lossless_slides(tmp_path):
    image = he_image((1500, 1100), seed=6)
    small, large = (make(tmp_path / str(block), image, "lossless", block=block) for block in (512, 2048))
    assert small.read_bytes() == large.read_bytes()


def test_tiles_are_copied_as_the_journal_holds_them(tmp_path):
    path = make(tmp_path, he_image((1030, 1201), seed=1))
    journal = final_journal(
        tmp_path / "journal-linked-ome", Size(1030, 1201), "linked-ome", "test", block=512
    )
    data = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        tiles = [data[o : o + n] for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    assert tiles == list(journal.encoded_tiles(0))


def test_existing_slide_is_kept_unless_told(tmp_path):
    image = he_image(300, seed=7)
    path = make(tmp_path, image)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists already; pass --overwrite"):
        make(tmp_path, image)
    with pytest.raises(OutputError, match="exists already"):
        check_output(path, overwrite=False)
    check_output(path, overwrite=True)
    journal = final_journal(tmp_path / "journal-linked-ome", Size(300, 300), "linked-ome", "test", block=512)
    write_slide(journal, path, mpp=0.5, layout="linked-ome", provenance={"seed": 8}, overwrite=True)
    assert path.read_bytes() != before


@pytest.mark.parametrize("where", ["write_bytes", "link_pages", "thumbnail"])
def test_disk_full_leaves_no_slide_and_the_journal_usable(tmp_path, monkeypatch, where):
    image = he_image(1100, seed=8)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(write, where, full)
        with pytest.raises(OutputError, match=r"linked-ome_HE\.ome\.tif.*no space left.*[KMG]iB free"):
            make(tmp_path, image)
    assert not list(tmp_path.glob("*.tif*"))
    with openslide.OpenSlide(make(tmp_path, image)) as slide:
        assert slide.dimensions == (1100, 1100)


def test_disk_full_within_tifffile(small_disk, tmp_path):
    journal = final_journal(tmp_path / "journal", Size(1100, 1100), "lossless", "test", block=512)
    journal.append(he_image(1100, seed=8))
    with pytest.raises(OutputError, match=r"no space left.*make room"):
        write_slide(journal, small_disk / "a.tif", mpp=0.5, layout="lossless", provenance={})
    assert not list(small_disk.iterdir())


def test_damaged_block_stops_the_slide(tmp_path):
    journal = final_journal(tmp_path / "journal", Size(600, 600), "linked-ome", "test", block=512)
    journal.append(he_image(600, seed=9))
    block = tmp_path / "journal" / "0000_0000.block"
    block.write_bytes(b"x" + block.read_bytes()[1:])
    with pytest.raises(OutputError, match="run the same command again"):
        write_slide(journal, tmp_path / "a.tif", mpp=0.5, layout="linked-ome", provenance={})
    assert not (tmp_path / "a.tif").exists()


def test_unfinished_journal_is_refused(tmp_path):
    journal = final_journal(tmp_path / "journal", Size(600, 600), "linked-ome", "test", block=512)
    journal.append(he_image(600, seed=9)[:520])
    with pytest.raises(InvalidValueError, match="512/600 rows"):
        write_slide(journal, tmp_path / "a.tif", mpp=0.5, layout="linked-ome", provenance={})


def test_codec_must_fit_the_layout(tmp_path):
    size = Size(100, 100)
    journal = BlockJournal(tmp_path / "journal", size, codec=ZSTD, levels=1, fingerprint="test")
    journal.append(he_image(100))
    with pytest.raises(InvalidValueError, match="needs jpeg85 tiles, got a zstd journal"):
        write_slide(journal, tmp_path / "a.tif", mpp=0.5, layout="linked-ome", provenance={})
    with pytest.raises(InvalidValueError, match="linked-ome, generic, lossless, got 'svs'"):
        layout_codec("svs")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan"), float("inf")])
def test_scale_must_be_positive(tmp_path, mpp):
    with pytest.raises(InvalidValueError, match="mpp must be a positive number"):
        make(tmp_path, he_image(100), mpp=mpp)


def test_estimate_counts_levels_and_codec():
    size = Size(1024, 1024)
    assert estimate_bytes(size, ZSTD) == round(1024**2 * ZSTD.bytes_per_pixel)
    assert estimate_bytes(size, JPEG, 2) == round(1.25 * 1024**2 * JPEG.bytes_per_pixel)
    assert estimate_bytes(size, DEFLATE, 3) > 5 * estimate_bytes(size, JPEG, 3)


@pytest.mark.parametrize("layout", ["linked-ome", "lossless"])
def test_estimate_is_of_the_right_order(tmp_path, layout):
    path = make(tmp_path, he_image(1024, seed=10), layout)
    assert 0.3 < path.stat().st_size / estimate_bytes(Size(1024, 1024), layout_codec(layout), 2) < 3


def journal_of(folder, image, levels):
    size = Size(*image.shape[:2])
    options = {"codec": ZSTD, "levels": levels, "fingerprint": "test", "tile": 32, "block": 128}
    journal = BlockJournal(folder, size, **options)
    journal.append(image)
    return journal


def expected(image, longest):
    while max(image.shape[:2]) >= 2 * longest - 1:
        image = halve(image)
    scale = longest / max(image.shape[:2])
    if scale < 1:
        target = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        image = cv2.resize(image, target, interpolation=cv2.INTER_AREA)
    return image


@pytest.mark.parametrize("levels", [1, 3, 6])
@pytest.mark.parametrize("longest", [20, 64, 100, 300, 1000])
def test_thumbnail_is_the_reduced_slide_whatever_is_stored(tmp_path, levels, longest):
    image = he_image((270, 401), seed=1)
    picture = thumbnail(journal_of(tmp_path, image, levels), longest)
    assert max(picture.shape[:2]) == min(longest, 401)
    np.testing.assert_array_equal(picture, expected(image, longest))


def test_thin_slides_keep_at_least_one_pixel(tmp_path):
    image = he_image((1, 400), seed=1)
    assert thumbnail(journal_of(tmp_path, image, 1), 20).shape == (1, 20, 3)

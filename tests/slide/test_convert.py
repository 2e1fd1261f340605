"""Slides as DICOM and OME-Zarr: the same pixels and µm/px for every reader, whole or not at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from openslide import OpenSlide

from tests.synthetic import damage_tile, he_image, write_tiff
from wsigen.cli import main
from wsigen.errors import InvalidValueError, OutputError, SlideError
from wsigen.geometry import Size
from wsigen.slide.codec import JPEG
from wsigen.slide.convert import Export, convert, power_levels, write_as
from wsigen.slide.read import WholeSlide, open_slide
from wsigen.slide.write import final_journal, write_slide

zarr = pytest.importorskip("zarr")
ome_zarr_io = pytest.importorskip("ome_zarr.io")
ome_zarr_reader = pytest.importorskip("ome_zarr.reader")
ome_zarr_models = pytest.importorskip("ome_zarr_models.v05")
wsidicom = pytest.importorskip("wsidicom")

MPP = 0.4561
FACTS = {"model": "default", "seed": 3}


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    """A synthetic H&E slide and its IHC slide, 1301 × 1103 px in three levels of JPEG."""
    folder = tmp_path_factory.mktemp("pair")
    return _write(folder, "a_HE", FACTS), _write(folder, "a_IHC-SYN", {**FACTS, "marker": "SYN"})


def _write(folder: Path, name: str, facts: dict, layout: str = "linked-ome") -> Path:
    picture = he_image((1103, 1301), seed=len(name), mpp=MPP)
    journal = final_journal(folder / name, Size(1103, 1301), layout, "test")
    journal.append(picture)
    return write_slide(journal, folder / f"{name}.ome.tif", mpp=MPP, layout=layout, provenance=facts).slide


def _whole(slide: WholeSlide, level: int) -> np.ndarray:
    return slide.read_level(slide.levels[level].size.region, level)


@pytest.fixture(scope="module")
def dicom(pair, tmp_path_factory) -> list[Path]:
    return convert(pair, "dicom", tmp_path_factory.mktemp("dicom"))


@pytest.fixture(scope="module")
def ome_zarrs(pair, tmp_path_factory) -> list[Path]:
    return convert(pair, "ome-zarr", tmp_path_factory.mktemp("zarr"))


def test_dicom_has_the_pixels_and_mpp_of_every_level(pair, dicom):
    source, written = open_slide(pair[0]), open_slide(next(dicom[0].iterdir()))
    assert written.mpp == pytest.approx(MPP, rel=1e-6)
    assert [level.size for level in written.levels] == [level.size for level in source.levels]
    assert [level.downsample for level in written.levels] == [1, 2, 4]
    for level in range(3):
        np.testing.assert_array_equal(_whole(written, level), _whole(source, level))


def test_openslide_and_wsidicom_open_it(pair, dicom):
    source = open_slide(pair[0])
    with OpenSlide(next(dicom[0].iterdir())) as slide:
        assert slide.level_dimensions == ((1301, 1103), (651, 552), (326, 276))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(MPP, rel=1e-6)
        shown = np.asarray(slide.read_region((0, 0), 0, (1301, 1103)))[..., :3]
    np.testing.assert_array_equal(shown, _whole(source, 0))
    with wsidicom.WsiDicom.open(dicom[0]) as slide:
        found = [(level.size.to_tuple(), level.mpp.width, level.mpp.height) for level in slide.pyramids[0]]
        assert [size for size, _, _ in found] == [(1301, 1103), (651, 552), (326, 276)]
        for (_, width, height), factor in zip(found, (1, 2, 4), strict=True):
            assert (width, height) == pytest.approx((MPP * factor, MPP * factor), rel=1e-6)
        region = np.asarray(slide.read_region((300, 200), 1, (256, 256)))
    assert np.abs(region.astype(int) - _whole(source, 1)[200:456, 300:556]).mean() < 1


def test_a_pair_is_two_series_of_one_study(dicom):
    headers = [[pydicom.dcmread(p, stop_before_pixels=True) for p in sorted(f.iterdir())] for f in dicom]
    assert [len(levels) for levels in headers] == [3, 3]
    every = [header for levels in headers for header in levels]
    shared = ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID")
    assert all(len({str(header[name].value) for header in every}) == 1 for name in shared)
    he, ihc = (levels[0] for levels in headers)
    assert he.PatientID == "a"
    assert (he.SeriesNumber, he.SeriesDescription) == (1, "H&E")
    assert (ihc.SeriesNumber, ihc.SeriesDescription) == (2, "SYN")
    assert he.SeriesInstanceUID != ihc.SeriesInstanceUID
    assert len({header.SOPInstanceUID for header in every}) == 6
    assert (he.LossyImageCompression, he.PhotometricInterpretation) == ("01", "YBR_FULL_422")
    assert he.Manufacturer == "wsigen"
    assert "shows no patient" in he.PatientComments


def test_jpeg_tiles_are_copied_byte_by_byte(pair, dicom):
    level = max(dicom[0].iterdir(), key=lambda p: p.stat().st_size)
    header = pydicom.dcmread(level)
    frames = list(pydicom.encaps.generate_frames(header.PixelData, number_of_frames=header.NumberOfFrames))
    stored = Export.of_file(open_slide(pair[0])).stored
    assert stored is not None
    tiles = [stored.read(1, row, column) for row in range(5) for column in range(6)]
    assert [frame.rstrip(b"\0") for frame in frames] == [tile.rstrip(b"\0") for tile in tiles]
    assert JPEG.decode(frames[7]).shape == (256, 256, 3)


def test_other_tiles_are_coded_without_loss(tmp_path):
    path = _write(tmp_path, "b_HE", {}, "lossless")
    (folder,) = convert([path], "dicom", tmp_path / "dicom")
    file = max(folder.iterdir(), key=lambda p: p.stat().st_size)
    header = pydicom.dcmread(file, stop_before_pixels=True)
    assert header.file_meta.TransferSyntaxUID.name == "JPEG 2000 Image Compression (Lossless Only)"
    assert header.PhotometricInterpretation == "YBR_RCT"
    assert header.LossyImageCompression == "00"
    for level in range(3):
        np.testing.assert_array_equal(_whole(open_slide(file), level), _whole(open_slide(path), level))
    with OpenSlide(file) as slide:
        shown = np.asarray(slide.read_region((0, 0), 0, (1301, 1103)))[..., :3]
    np.testing.assert_array_equal(shown, _whole(open_slide(path), 0))


def test_long_names_fit_into_dicom(tmp_path):
    names = [f"{'long' * 20}-{i}" for i in range(2)]
    paths = [write_tiff(tmp_path / f"{name}.tif", he_image(300), 0.5, levels=1) for name in names]
    headers = [pydicom.dcmread(next(f.iterdir())) for f in convert(paths, "dicom", tmp_path / "out")]
    assert [header.PatientID for header in headers] == [("long" * 20)[:64]] * 2
    assert headers[0].StudyInstanceUID != headers[1].StudyInstanceUID


def test_identifiers_follow_from_names(pair, dicom, tmp_path):
    again = convert(pair, "dicom", tmp_path)
    assert [sorted(p.name for p in f.iterdir()) for f in again] == [
        sorted(p.name for p in f.iterdir()) for f in dicom
    ]


def test_ome_zarr_is_valid_and_has_the_pixels_and_mpp_of_every_level(pair, ome_zarrs):
    assert [path.name for path in ome_zarrs] == ["a_HE.ome.zarr", "a_IHC-SYN.ome.zarr"]
    model = ome_zarr_models.Image.from_zarr(zarr.open_group(ome_zarrs[0], mode="r"))
    (multiscale,) = model.ome_attributes.multiscales
    assert [(axis.name, axis.unit) for axis in multiscale.axes] == [
        ("c", None),
        ("y", "micrometer"),
        ("x", "micrometer"),
    ]
    source = open_slide(pair[0])
    (node,) = list(ome_zarr_reader.Reader(ome_zarr_io.parse_url(str(ome_zarrs[0])))())
    for level, dataset in enumerate(multiscale.datasets):
        scale, translation = dataset.coordinateTransformations
        assert scale.scale == pytest.approx([1, MPP * 2**level, MPP * 2**level])
        assert translation.translation == pytest.approx([0, *2 * [MPP * (2**level - 1) / 2]])
        want = _whole(source, level)
        np.testing.assert_array_equal(np.asarray(node.data[level]).transpose(1, 2, 0), want)
    written = open_slide(ome_zarrs[0])
    assert written.mpp == pytest.approx(MPP)
    np.testing.assert_array_equal(_whole(written, 2), _whole(source, 2))
    attributes = json.loads((ome_zarrs[0] / "zarr.json").read_text())["attributes"]
    assert attributes["wsigen"]["seed"] == 3
    assert [c["label"] for c in attributes["ome"]["omero"]["channels"]] == ["Red", "Green", "Blue"]


def test_ome_zarr_is_written_block_by_block(pair, tmp_path, monkeypatch):
    monkeypatch.setattr("wsigen.slide.zarr_write.SHARD", 512)
    export = Export.of_file(open_slide(pair[0]))
    read, largest = export.slide.read, []
    monkeypatch.setattr(export.slide, "read", lambda r, level: largest.append(r.size.area) or read(r, level))
    path = write_as("ome-zarr", export, tmp_path)
    assert max(largest) == 512**2
    np.testing.assert_array_equal(_whole(open_slide(path), 0), _whole(open_slide(pair[0]), 0))


@pytest.mark.parametrize("form", ["dicom", "ome-zarr"])
def test_slides_are_there_whole_or_not_at_all(pair, tmp_path, form, monkeypatch):
    module = f"wsigen.slide.{'dicom_write._Level._inside' if form == 'dicom' else 'zarr_write.Region'}"
    with monkeypatch.context() as patch:
        patch.setattr(module, _interrupt)
        with pytest.raises(KeyboardInterrupt):
            convert(pair[:1], form, tmp_path)
    assert [path.name[0] for path in tmp_path.iterdir()] == ["."]
    (path,) = convert(pair[:1], form, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    convert(pair[:1], form, tmp_path)  # there already
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before


def _interrupt(*_args: object) -> None:
    raise KeyboardInterrupt


def test_levels_whose_factor_is_no_power_of_two_are_left_out(tmp_path):
    write_tiff(tmp_path / "c.tif", he_image(700), 0.5, levels=3, factor=3, compression="zstd")
    export = Export.of_file(open_slide(tmp_path / "c.tif"))
    assert power_levels(export.slide) == [(0, 1)]
    assert (export.study, export.stain, export.synthetic) == ("c", "H&E", False)
    path = write_as("dicom", export, tmp_path / "out")
    assert len(list(path.iterdir())) == 1


@pytest.mark.parametrize(("form", "package"), [("dicom", "wsidicom"), ("ome-zarr", "zarr")])
def test_a_missing_package_is_named(pair, tmp_path, form, package, monkeypatch):
    module = {"dicom": "dicom_write", "ome-zarr": "zarr_write"}[form]
    monkeypatch.delitem(sys.modules, f"wsigen.slide.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    extra = rf"needs {package}, which is not installed; pip install 'wsigen\[{form.removeprefix('ome-')}\]'"
    with pytest.raises(InvalidValueError, match=extra):
        convert(pair[:1], form, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damage_and_names_that_clash_are_errors(pair, tmp_path):
    other = tmp_path / "a_HE.ome.tif"
    other.write_bytes(pair[0].read_bytes())
    with pytest.raises(InvalidValueError, match=r"would both become a_HE; rename one"):
        convert([pair[0], other], "dicom", tmp_path / "out")
    damaged = write_tiff(tmp_path / "d.tif", he_image(700, seed=2), 0.5)
    damage_tile(damaged, "zeros")
    for form in ("dicom", "ome-zarr"):
        with pytest.raises((SlideError, OutputError), match=r"d\.tif"):
            convert([damaged], form, tmp_path / form)
        assert [path.name[0] for path in (tmp_path / form).iterdir()] == ["."]


def test_the_command_names_what_it_wrote(pair, tmp_path, capsys):
    main.main(["convert", str(pair[1].parent), "--format", "ome-zarr", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out.splitlines()
    assert said == [str(tmp_path / "out" / name) for name in ("a_HE.ome.zarr", "a_IHC-SYN.ome.zarr")]

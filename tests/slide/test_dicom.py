"""DICOM: one slide per series, whichever of its files is given, of which every one counts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import ImageCms

from tests.synthetic import he_image, reduce_by, write_dicom
from wsigen.data.domains import expand
from wsigen.data.find import Failure, find_slides
from wsigen.data.survey import build_index
from wsigen.errors import SlideError
from wsigen.geometry import Region, Size
from wsigen.pipeline.source import open_source, source_facts, source_name
from wsigen.slide.read import open_slide
from wsigen.slide.view import View


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return he_image((400, 300), seed=5, mpp=2.0)


@pytest.fixture(scope="module")
def case(picture, tmp_path_factory) -> Path:
    """A folder of one series, whose levels are three files; not to be written to."""
    return write_dicom(tmp_path_factory.mktemp("dicom") / "case.1_HE", picture, 2.0)[0].parent


def _found(folder: Path) -> tuple[list[str], dict[str, str]]:
    left_out: list[Failure] = []
    return list(find_slides(folder, left_out)), {failure.slide: failure.reason for failure in left_out}


@pytest.mark.parametrize("given", ["3-0.dcm", "3-1.dcm", "3-2.dcm", ""])
def test_a_series_is_one_slide_whichever_of_its_files_is_given(case, picture, given):
    slide = open_slide(case / given)
    assert slide.path == case / "3-0.dcm"
    assert slide.mpp == 2.0
    assert [(level.size, level.downsample) for level in slide.levels] == [
        (Size(400, 300), 1),
        (Size(200, 150), 2),
        (Size(100, 75), 4),
    ]
    np.testing.assert_array_equal(slide.read_region(Region(50, 60, 300, 200), 2.0), picture[50:350, 60:260])
    small = reduce_by(reduce_by(picture, 2), 2)
    np.testing.assert_array_equal(slide.read_region(Region(0, 0, 100, 75), 8.0), small)


def test_the_hash_covers_every_level_and_no_name(case, tmp_path):
    facts = source_facts(open_source(case / "3-2.dcm"))
    assert (facts["slide"], facts["height"], facts["width"]) == ("case.1_HE", 400, 300)
    assert source_name(case / "3-0.dcm") == "case.1"
    renamed = tmp_path / "other"
    renamed.mkdir()
    for file, name in zip(sorted(case.iterdir()), ("c", "a", "b.dcm"), strict=True):
        shutil.copy(file, renamed / name)
    assert source_facts(open_source(renamed)) == facts | {"slide": "other"}
    for level in range(3):
        copy = shutil.copytree(case, tmp_path / f"changed{level}")
        data = bytearray((copy / f"3-{level}.dcm").read_bytes())
        data[-100] ^= 1
        (copy / f"3-{level}.dcm").write_bytes(data)
        assert source_facts(open_source(copy))["sha256"] != facts["sha256"]


def test_a_level_that_changes_is_noticed(case, tmp_path):
    copy = shutil.copytree(case, tmp_path / "case")
    slide = open_slide(copy)
    os.utime(copy / "3-1.dcm", ns=(1, 1))
    with pytest.raises(SlideError, match="the file was changed since it was opened"):
        slide.read_region(Region(0, 0, 10, 10), 2.0)
    assert open_slide(copy).size == Size(400, 300)


def test_a_folder_of_cases_has_each_series_once(tmp_path, picture):
    write_dicom(tmp_path / "a", picture, 2.0, series="1.2.7")
    write_dicom(tmp_path / "flat", picture, 2.0, series="1.2.8", suffix="")
    write_dicom(tmp_path / "flat", picture[:, ::-1], 2.0, series="1.2.9", suffix=".1.2.40")
    write_dicom(tmp_path / "flat", picture[:64, :64], 2.0, series="1.2.9.5", levels=1, flavour="LABEL")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    reasons = {
        "b/7-0.dcm": "the same DICOM series as a/7-0.dcm",
        "flat/5-0.dcm": "a DICOM series without an image of type VOLUME",
    }
    assert _found(tmp_path) == (["a/7-0.dcm", "flat/8-0", "flat/9-0.1.2.40"], reasons)
    with pytest.raises(SlideError, match="holds 2 DICOM series; give a file of one of them: 8-0, 9-0"):
        open_slide(tmp_path / "flat")
    assert source_name(tmp_path / "flat" / "8-0") == "8-0"
    for name, pixels in (("8-2", picture), ("9-1.1.2.40", picture[:, ::-1])):
        got = open_slide(tmp_path / "flat" / name).read_region(Region(0, 0, 400, 300), 2.0)
        np.testing.assert_array_equal(got, pixels)
    assert list(expand(f"{tmp_path}/a/*.dcm")) == ["7-0.dcm"]
    assert list(find_slides([tmp_path / "a" / "7-2.dcm", tmp_path / "a"])) == ["7-0.dcm"]
    assert list(find_slides(tmp_path / "a" / "7-1.dcm")) == ["7-0.dcm"]


def test_a_series_with_its_label_is_the_slide_of_its_levels(tmp_path, picture):
    """Also where a label has more pixels than the levels."""
    write_dicom(tmp_path, picture[:128, :128], 2.0, levels=1)
    label = write_dicom(tmp_path / "label", picture, 2.0, series="1.2.3", levels=1, flavour="LABEL")
    header = pydicom.dcmread(label[0])
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = "1.2.3.99"
    header.save_as(tmp_path / "0-label.dcm")
    shutil.rmtree(tmp_path / "label")
    assert _found(tmp_path) == (["3-0.dcm"], {})
    assert open_slide(tmp_path / "0-label.dcm").size == Size(128, 128)


def test_dicom_that_is_no_whole_slide(tmp_path, picture):
    (path,) = write_dicom(tmp_path, picture, 2.0, levels=1)
    header = pydicom.dcmread(path)
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.2"
    header.save_as(path)
    shutil.copy(path, tmp_path / "DICOMDIR")
    (tmp_path / "cut.dcm").write_bytes(path.read_bytes()[:100])
    kind = "DICOM of VL Microscopic Image Storage, not of a whole slide"
    assert _found(tmp_path) == (["cut.dcm"], {"3-0.dcm": kind})
    with pytest.raises(SlideError, match=kind):
        open_slide(path)
    with pytest.raises(SlideError, match=r"cut\.dcm: not a slide"):
        open_slide(tmp_path / "cut.dcm")


def test_what_openslide_refuses_it_names(tmp_path, picture):
    (path,) = write_dicom(tmp_path, picture, 2.0, levels=1, TotalPixelMatrixFocalPlanes=3)
    with pytest.raises(SlideError, match=r"cannot open it \(.*TotalPixelMatrixFocalPlanes value 3 != 1"):
        open_slide(path)


def test_patients_are_groups_and_studies_where_there_is_no_patient(tmp_path, picture):
    patients = {
        "a": ("P/7", "1.5"),
        "b": ("P/7", "1.6"),
        "c": ("", "1.7"),
        "d": (" ", "1.7"),
        "e": ("Q", "1.7"),
    }
    for number, (name, (patient, study)) in enumerate(patients.items()):
        write_dicom(tmp_path / name, picture, 2.0, series=f"1.2.{number}", study=study, patient=patient)
    index, failures = build_index(tmp_path, progress=False)
    assert not failures
    groups = [entry.group for entry in index.entries]
    assert groups == ["P/7", "P/7", "1.7", "1.7", "Q"]
    table = tmp_path / "table.csv"
    table.write_text("slide,group\na,case 1\nd,case 2\n")
    index, _ = build_index(tmp_path, table, progress=False)
    assert [entry.group for entry in index.entries] == ["case 1", "P/7", "1.7", "case 2", "Q"]
    entry = index.entries[3]
    assert (entry.slide, entry.mpp, entry.size) == ("d/3-0.dcm", 2.0, Size(400, 300))
    np.testing.assert_array_equal(entry.open().read_region(Region(0, 0, 400, 300), 2.0), picture)


def test_where_one_id_stands_for_all_patients_the_lack_of_validation_is_said(tmp_path, picture, caplog):
    for name in "ab":
        write_dicom(tmp_path / name, picture, 2.0, series=f"1.2.{ord(name)}", patient="ANON")
    index, _ = build_index(tmp_path, progress=False)
    assert {entry.split for entry in index.entries} == {"train"}
    assert "all 2 slides are of one group, 'ANON': none is kept for validation" in caplog.text


def test_colours_by_the_profile_of_the_optical_path(tmp_path, picture):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = pydicom.dataset.Dataset()
    path.ICCProfile = profile
    (file,) = write_dicom(tmp_path, picture, 2.0, levels=1, OpticalPathSequence=[path])
    got = open_slide(file, view=View(icc="srgb")).read_region(Region(0, 0, 400, 300), 2.0)
    assert np.abs(got.astype(int) - picture).max() <= 1  # from sRGB to itself
    (without,) = write_dicom(tmp_path / "b", picture, 2.0, levels=1)
    with pytest.raises(SlideError, match="has no ICC profile to convert its colours by; leave out --icc"):
        open_slide(without, view=View(icc="srgb"))

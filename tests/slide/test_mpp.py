"""µm/px: metadata, then the user, never a guess."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests.synthetic import write_tiff
from wsigen.errors import InvalidValueError, MissingMppError, SlideError
from wsigen.geometry import Size
from wsigen.slide.mpp import mean_mpp, resolve_pixel_um
from wsigen.slide.read import open_slide


class Stub:
    """An open file whose metadata say ``mpp``."""

    levels = (Size(8, 8),)
    nbytes = 0

    def __init__(self, mpp):
        self.mpp = mpp

    def read(self, level, region, background):
        raise NotImplementedError


def resolve_mpp(path, backend, given=None):
    return mean_mpp(resolve_pixel_um(path, backend, given))


@pytest.fixture
def path(tmp_path) -> Path:
    (tmp_path / "slide.bin").write_bytes(b"")
    return tmp_path / "slide.bin"


def test_metadata_are_taken(path):
    assert resolve_mpp(path, Stub((0.2528, 0.2528))) == 0.2528


@pytest.mark.parametrize("value", [0.0, -0.5, math.nan, math.inf, 1e-6, 352.78, 264.58, 84.67, 42.33, 2000.0])
def test_nonsense_and_print_resolutions_count_as_missing(path, value):
    """72, 96, 300 and 600 dpi are what programs write when they know nothing."""
    with pytest.raises(MissingMppError, match=r"slide\.bin: µm/px is not in its metadata; pass mpp"):
        resolve_mpp(path, Stub((value, value)))
    assert resolve_mpp(path, Stub((value, value)), 0.4) == 0.4


def test_what_nobody_knows_is_an_error_with_the_fix(path):
    with pytest.raises(MissingMppError, match="pass mpp") as caught:
        resolve_mpp(path, Stub(None))
    assert caught.value.path == path


@given(known=st.floats(0.1, 20), given_=st.floats(0.1, 20))
def test_the_user_wins_where_it_matters(tmp_path_factory, known, given_):
    path = tmp_path_factory.getbasetemp() / "slide.bin"
    path.touch()
    got = resolve_mpp(path, Stub((known, known)), given_)
    assert got == (given_ if abs(given_ / known - 1) > 0.05 else known)


def test_disagreement_is_warned_of(path, caplog):
    with caplog.at_level(logging.WARNING):
        assert resolve_mpp(path, Stub((0.5, 0.5)), 0.505) == 0.5
        assert not caplog.records
        assert resolve_mpp(path, Stub((0.5, 0.5)), 0.25) == 0.25
    assert "slide.bin: 0.25 µm/px were given, the metadata state 0.5" in caplog.text


@pytest.mark.parametrize(("y", "x"), [(0.5, 1.0), (0.52, 0.5), (0.5, 0.5051)])
def test_pixels_that_are_not_square_are_refused(path, y, x, caplog):
    """One µm/px would give the IHC slide a wrong size."""
    want = rf"slide\.bin: pixels are not square \(by the metadata {x:g} µm wide and {y:g} µm high\); resample"
    with pytest.raises(SlideError, match=want):
        resolve_mpp(path, Stub((y, x)))
    assert resolve_mpp(path, Stub((y, x)), y) == y
    assert f"using the {y:g} µm/px that were given" in caplog.text


def test_of_pixels_that_are_nearly_square_the_mean_is_taken(path, caplog):
    assert resolve_mpp(path, Stub((0.5, 0.501))) == pytest.approx(0.5005)
    assert not caplog.records


def test_pixels_of_a_file_that_are_not_square_are_refused(tmp_path, he_picture):
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": 1.0, "PhysicalSizeY": 0.5}
    tifffile.imwrite(path, np.ascontiguousarray(he_picture[:, ::2]), photometric="rgb", metadata=metadata)
    with pytest.raises(SlideError, match=r"1 µm wide and 0\.5 µm high"):
        open_slide(path)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, 1001.0, "0.5", True])
def test_the_users_nonsense_is_refused(path, value):
    match = rf"slide\.bin must be a number in \(0, 1000\] µm/px, got {value!r}"
    with pytest.raises(InvalidValueError, match=match):
        resolve_mpp(path, Stub(None), value)


def test_tiff_without_resolution_needs_the_table(tmp_path, he_picture):
    path = write_tiff(tmp_path / "a.tif", he_picture, None)
    with pytest.raises(MissingMppError, match=r"a\.tif"):
        open_slide(path)
    assert open_slide(path, 0.3).mpp == 0.3


@pytest.mark.parametrize("dpi", [72, 96, 300])
def test_tiff_with_a_print_resolution_needs_the_table(tmp_path, he_picture, dpi):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, he_picture, photometric="rgb", resolution=(dpi, dpi), resolutionunit="INCH")
    with pytest.raises(MissingMppError):
        open_slide(path)


def test_a_resolution_that_divides_by_zero_is_none(tmp_path, he_picture):
    path = write_tiff(tmp_path / "a.tif", he_picture, 0.5)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for axis in "XY":
            tiff.pages.first.tags[f"{axis}Resolution"].overwrite((20000, 0))
    with pytest.raises(MissingMppError):
        open_slide(path)


def test_inches_and_centimetres(tmp_path, he_picture):
    for unit, per_unit in (("INCH", 25400), ("CENTIMETER", 10000)):
        path = tmp_path / f"{unit}.tif"
        resolution = (per_unit / 0.5, per_unit / 0.5)
        tifffile.imwrite(path, he_picture, photometric="rgb", resolution=resolution, resolutionunit=unit)
        assert open_slide(path).mpp == pytest.approx(0.5)


def test_ome_xml_speaks_where_openslide_is_silent(tmp_path):
    """A file of a vendor, but only its OME-XML knows the scale."""
    image = np.full((512, 512, 3), 200, np.uint8)
    path = write_tiff(tmp_path / "a.ome.tif", image, 0.33, ome=True, levels=1)
    assert resolve_mpp(path, Stub(None)) == pytest.approx(0.33)


@pytest.mark.parametrize("unit", ["um", "micron", "microns", "\\u00B5m", "mm", "cm"])
def test_imagej_states_its_unit_in_the_description(tmp_path, he_picture, unit):
    """In resolution tags without a unit; 2 px/µm are 0.5 µm/px."""
    per_unit = {"mm": 2e3, "cm": 2e4}.get(unit, 2.0)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, he_picture, imagej=True, resolution=(per_unit, per_unit), metadata={"unit": unit, "axes": "YXS"}
    )
    assert open_slide(path).mpp == pytest.approx(0.5)


def test_imagej_without_a_unit_of_length_states_nothing(tmp_path, he_picture):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, he_picture, imagej=True, resolution=(2, 2), metadata={"unit": "pixel", "axes": "YXS"}
    )
    with pytest.raises(MissingMppError):
        open_slide(path)


@pytest.mark.parametrize(
    ("size", "unit", "mpp"),
    [
        ("0.5", "\u00c2\u00b5m", 0.5),  # UTF-8 that was read as Latin-1
        ("0.5", "micron", 0.5),
        ("500", "nm", 0.5),
        ("0.0005", "mm", 0.5),
        ("0.5", "pixel", None),
        ("0.5", "Mm", None),  # megametre
        ("0,5", "\u00b5m", None),
    ],
)
def test_units_of_ome_xml(tmp_path, he_picture, size, unit, mpp):
    height, width = he_picture.shape[:2]
    stated = " ".join(f'PhysicalSize{axis}="{size}" PhysicalSize{axis}Unit="{unit}"' for axis in "XY")
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
        f'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{width}" SizeY="{height}" SizeC="3" '
        f'SizeZ="1" SizeT="1" {stated}><Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData/></Pixels>'
        "</Image></OME>"
    )
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, he_picture, photometric="rgb", description=xml.encode(), metadata=None)
    if mpp is None:
        with pytest.raises(MissingMppError):
            open_slide(path)
    else:
        assert open_slide(path).mpp == pytest.approx(mpp)

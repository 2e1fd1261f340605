"""Which cases are held out, where their files lie on the slide, and what they show at which µm/px."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.held_out import HELD_OUT, Crop, cases, listed, write_table
from wsigen.data.table import SlideTable
from wsigen.errors import InvalidValueError

HEAD = "file,kind,group,mpp,native_mpp,x0_native,y0_native,height,width,encoding\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "he").mkdir()
    for name in ("a_overview.tif", "a_roi1.tif", "b_roi1.tif"):
        (tmp_path / "he" / name).touch()
    (tmp_path / "SOURCES.csv").write_text(
        HEAD
        + "he/a_roi1.tif,roi,EAS22/HE,0.5,0.25,400,800,100,200,exported as JPEG Q30\n"
        + "he/a_overview.tif,overview,EAS22/HE,2.0,0.25,0,80,500,600,JPEG\n"
        + "he/b_roi1.tif,roi,other/HE,0.25,0.25,,,100,100,JPEG\n"
        + "ihc/a_overview_KI67.tif,overview,EAS22/KI67,2.0,0.25,0,80,500,600,JPEG\n",
        encoding="utf-8",
    )
    return tmp_path


def test_a_case_is_its_overview_and_its_crops_in_micrometres(folder):
    (case,) = cases([folder / "he"], [folder / "SOURCES.csv"], ["EAS22/HE"])
    assert case.organ == "skin"
    assert case.overview.path.name == "a_overview.tif"
    assert case.overview.corner == (20.0, 0.0)
    assert case.crops[1].corner == (200.0, 100.0)
    assert case.crops[1].centre == (225.0, 150.0)
    assert Crop(path=Path("x"), mpp=1, finest=1, overview=False, corner=None, size=(1, 1)).centre is None


def test_lossy_files_hold_no_detail_below_1(folder):
    (case,) = cases([folder / "he"], [folder / "SOURCES.csv"], ["EAS22/HE"])
    held = {mpp: [c.path.name for c in case.holding(mpp)] for mpp in (0.5, 1.0, 2.0)}
    assert held == {0.5: [], 1.0: ["a_roi1.tif"], 2.0: ["a_overview.tif", "a_roi1.tif"]}


def test_a_case_without_an_overview_is_an_error(folder):
    with pytest.raises(InvalidValueError, match="no overview of other/HE"):
        cases([folder / "he"], [folder / "SOURCES.csv"], ["other/HE"])
    with pytest.raises(InvalidValueError, match="as many as --slides"):
        cases([folder / "he"], [])


def test_one_table_for_all_folders(folder):
    found = listed([folder / "he"], [folder / "SOURCES.csv"])
    assert {s.path.name: (s.split, s.finest_mpp) for s in found} == {
        "a_roi1.tif": ("val", "1"),
        "a_overview.tif": ("val", ""),
        "b_roi1.tif": ("train", ""),
    }
    rows = SlideTable.load(write_table(found, folder / "new" / "table.csv")).rows
    assert (rows["a_roi1.tif"].finest_mpp, rows["a_roi1.tif"].split) == (1.0, "val")
    assert rows["a_overview.tif"].finest_mpp is None
    with pytest.raises(InvalidValueError, match="name no slide"):
        listed([folder], [folder / "SOURCES.csv"])


def test_six_cases_are_held_out():
    assert len(HELD_OUT) == 6

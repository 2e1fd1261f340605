"""The two files of a report."""

from __future__ import annotations

import json

import pytest

from tests.evaluation.report.reports import report, row
from wsigen.errors import OutputError
from wsigen.evaluation.report import page as files
from wsigen.evaluation.report.page import write_report
from wsigen.evaluation.report.plots import illustrated
from wsigen.evaluation.results import SetReport
from wsigen.evaluation.topics import SECTIONS


def test_page_and_values_side_by_side(tmp_path, pictured, monkeypatch):
    monkeypatch.setattr(files, "illustrated", lambda _: pictured)
    page = write_report(report(), tmp_path / "new" / "folder")
    assert page == tmp_path / "new" / "folder" / "index.html"
    assert sorted(p.name for p in page.parent.iterdir()) == ["index.html", "report.json"]
    found = json.loads((page.parent / "report.json").read_text(encoding="utf-8"))
    assert set(found) == {
        *("schema", "config", "versions", "features", "mpp", "patches_a_side", "worst", "warnings"),
        *("sets", "references", "neighbours", "curves"),
    }
    assert [s["name"] for s in found["sets"]] == ["good", "bad<i>"]
    for one in found["sets"]:
        for result in one["results"]:
            assert set(result) == {
                *("measure", "title", "label", "mpp", "value", "floor", "better", "excess", "verdict", "why"),
                *("cases", "samples", "warnings"),
            }
            assert set(result["value"]) == {"value", "low", "high", "method"}
            assert result["value"]["low"] <= result["value"]["value"] <= result["value"]["high"]
    assert found["worst"]["bad<i>"]["excess"] == pytest.approx(4)
    assert found["worst"]["good"]["beyond_chance"] is False


def test_every_section_that_has_numbers_over_scales_has_a_plot(pictured):
    pictures = pictured.pictures
    plotted = {
        *("fidelity", "diversity", "realism", "quality", "nuclei", "spectrum", "seams", "privacy", "stain")
    }
    assert set(pictures) == {f"plot {s}" for s in plotted}
    assert plotted < set(SECTIONS)


def test_what_was_not_measured_is_not_plotted():
    found = illustrated(
        report(sets=(SetReport("x", (), (row("fid", 1.0),)),), curves={"seam profiles": {"x": {}}})
    )
    assert set(found.pictures) == {"plot fidelity"}


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, pictured, monkeypatch):
    monkeypatch.setattr(files, "illustrated", lambda _: pictured)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        write_report(report(), tmp_path / "file")

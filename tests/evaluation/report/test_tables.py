"""Tables: which dot, which place, which number."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from tests.evaluation.report.reports import about, report, row, slides
from wsigen.evaluation.estimate import Estimate
from wsigen.evaluation.report import page
from wsigen.evaluation.report.page import interval, number, times
from wsigen.evaluation.results import Result, SetReport
from wsigen.evaluation.topics import METRICS
from wsigen.evaluation.verdict import Verdict

tables: Any = page.environment().get_template("tables.html.j2").module


def cells(table: str) -> list[list[str]]:
    """Text of every cell, by row."""
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", re.sub(r"\s*\n\s*", "", table))
    return [
        [unescape(re.sub(r"<[^>]+>", " ", c)).strip() for c in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line)]
        for line in lines
    ]


def of(*rows: Result, name: str = "x"):
    return report(sets=(SetReport(name, (), rows),))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.12345, "0.123"),
        (12.345, "12.3"),
        (1234.5, "1234"),
        (-0.5, "−0.500"),
        (1e-9, "1.00e−09"),
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_intervals_and_distances_in_words():
    assert interval(about(0.5)) == "0.400 … 0.600"
    assert interval(Estimate(1, 1, 1)) == interval(None) == ""
    assert (times(2.44), times(-3.0), times(None)) == ("2.4 ×", "0.0 ×", "")


def test_what_keeps_a_floor_from_judging_is_said():
    assert str(Verdict("good")) == "within real-vs-real range"
    assert str(Verdict("none", "2 real cases")) == "no verdict: 2 real cases"


def test_a_row_for_each_scale_and_label_in_the_order_of_the_results():
    table = tables.section_table(
        of(row("fid", 0.4, mpp=0.5), row("fid", 0.45, mpp=1.0), row("fid", 0.41, mpp=None)), ["fid"]
    )
    assert [line[-3] for line in cells(table)[1:]] == ["0.5", "1", "all"]
    table = tables.section_table(of(row("seam", 2.0, mpp=None, label="256 px tiles")), ["seam"])
    assert cells(table)[1][1] == "256 px tiles"
    table = tables.section_table(of(row("niqe", 0.4, mpp=0.5, label="IHC")), ["niqe"])
    assert cells(table)[1][1] == "0.5 · IHC"


def test_a_set_without_a_row_has_an_empty_cell_beside_one_that_has():
    sets = (SetReport("one", (), (row("fid", 0.4),)), SetReport("two", (), (row("kid", 0.4),)))
    head, line = cells(tables.section_table(report(sets=sets), ["fid"]))
    assert head == ["measure", "µm/px", "one", "two", "real against real"]
    assert line[2:] == ["0.400 0.300 … 0.500", "", "0.500 0.400 … 0.600"]


def test_no_rows_no_table():
    assert tables.section_table(of(row("fid", 0.4)), ["kid"]).strip() == ""


def test_dots_say_how_far_off():
    for value, state in ((0.5, "good"), (0.75, "off"), (2.0, "far")):
        table = tables.section_table(of(row("fid", value)), ["fid"])
        assert f'<span class="dot {state}"></span>{number(value)}' in table
    assert '<span class="dot none"></span>' in tables.section_table(of(row("fid", 1.0, None)), ["fid"])


def test_what_could_not_be_computed_says_why_in_its_cell():
    table = tables.section_table(of(row("fid", None, warnings=("too few <slides>",))), ["fid"])
    assert cells(table)[1][2] == "too few <slides>"
    assert "<slides>" not in table


def test_the_tooltip_holds_samples_and_warnings():
    table = tables.section_table(
        of(row("fid", 0.4, samples="9 patches a side", warnings=('a "b"',))), ["fid"]
    )
    assert 'title="within real-vs-real range; 9 patches a side; a &#34;b&#34;"' in table


def test_where_anything_would_pass_there_is_no_green_dot():
    blind = Result(METRICS["precision"], 1.0, Estimate(0, 0, 0), Estimate(0, 0, 0))
    table = tables.section_table(of(blind), ["precision"])
    assert '<span class="dot none"></span>0' in table
    assert cells(table)[1][2] == "0  no verdict: even 0 would be 0.0 ×"
    glance = cells(tables.glance_table(of(blind, row("fid", 0.5), row("kid", 0.5, cases=3))))
    found = {line[0]: line[1] for line in glance[1:]}
    assert found["Do patches look real?"] == "within real-vs-real range 2 values without a verdict"
    assert cells(tables.glance_table(of(blind)))[1][1] == "no verdict"
    assert "No verdict: no floor can judge" in tables.worst_table(SetReport("x", (), (blind,)))


def test_at_a_glance_the_furthest_of_each_section_counts():
    rows = (row("fid", 0.7), row("kid", 1.5), row("recall", 0.9), row("membership", None, None, mpp=None))
    found = {line[0]: line[1] for line in cells(tables.glance_table(of(*rows)))[1:]}
    assert found["Do patches look real?"].startswith("far outside Kernel distance, 1 µm/px, 7.1 ×")
    assert found["Is everything there?"] == "within real-vs-real range"
    assert found["Are training slides given away?"] == "not measured"
    assert len(found) == 3


def test_the_worst_are_ordered_and_no_more_than_asked_for():
    one = SetReport("x", (), tuple(row("fid", 0.5 + 0.2 * i, mpp=float(i)) for i in range(9)))
    lines = cells(tables.worst_table(one, most=3))[1:]
    assert [line[0] for line in lines] == [f"Fréchet distance, {i} µm/px" for i in (8, 7, 6)]
    assert lines[0][1:] == ["11.3 ×", "2.10", "0.500"]
    assert "Everything is within the real-vs-real range" in tables.worst_table(
        SetReport("x", (), (row("fid", 0.5),))
    )


def test_how_many_patches_were_drawn():
    lines = cells(tables.counts_table(report()))
    assert lines[1][2:] == ["60", "40", "14"]
    assert lines[2] == ["real", "2 slides, 1 groups", "30", "20", "7"]
    by_slide = cells(tables.slides_table(report()))
    assert by_slide[1] == ["real", slides("r")[0].slide, "case 1", "0.25", "30", "20", "·"]
    assert len(by_slide) == 1 + 3 * 2

"""The page: whole, self-contained, escaped, and with the values that it was given."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.evaluation.report.reports import ODD, SCALES, report, row
from wsigen.evaluation.report.page import number, render
from wsigen.evaluation.report.pictures import sheet
from wsigen.evaluation.results import SetReport
from wsigen.evaluation.topics import INTRODUCTIONS, METRICS, SECTIONS

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Tags in order, whether they close, and what a browser would load."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self._drawing = 0
        self.feed(page.decode())

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data


@pytest.fixture(scope="module")
def page(pictured):
    strip = sheet([[np.zeros((32, 32, 3), np.uint8)]])
    names = ("real", "good", "bad<i>")
    pictures = {f"patches {n} {m:g}": strip for n in names for m in SCALES}
    pictures |= {"neighbours good 0.5": strip, "overviews bad<i>": strip, "pairs": strip}
    captions = {"neighbours good 0.5": [f"{ODD}, 0.31"]}
    drawn = {**pictured.pictures, **pictures}
    return Page(render(report(pictures=drawn, captions=captions)))


def test_every_tag_is_closed_and_nothing_runs(page):
    assert page.open == []
    assert not {"script", "iframe", "link", "object"} & set(page.seen)


def test_nothing_is_loaded_from_anywhere(page):
    assert len(page.loads) > 20
    for source in page.loads:
        assert source.startswith(("data:image/svg+xml;base64,", "data:image/jpeg;base64,", "#")), source[:60]


def test_links_lead_to_sections(page):
    inside = {link for link in page.loads if link.startswith("#")}
    assert inside == {f"#{key}" for key in SECTIONS}
    html = render(report()).decode()
    assert set(re.findall(r'<h2 id="(\w+)"', html)) == set(SECTIONS)


def test_every_section_question_measure_and_set_is_there(page):
    for key, question in SECTIONS.items():
        assert question in page.text
        assert INTRODUCTIONS[key] in page.text
    for metric in METRICS.values():
        assert metric.title in page.text
        assert metric.good in page.text
        assert metric.source in page.text
    for name in ("good", "bad<i>", "real"):
        assert page.text.count(name) >= 4


def test_values_stand_there_with_intervals_and_floors(page):
    bad = 0.5 + 0.4 * 2**0.5
    assert f"{number(bad)}{number(bad - 0.1)} … {number(bad + 0.1)}" in page.text
    assert "0.5000.400 … 0.600" in page.text
    assert page.text.count(number(bad)) >= sum(m.better != "higher" for m in METRICS.values())


def test_odd_names_are_text_and_not_tags(page):
    assert "b" not in [tag for tag in page.seen if tag == "i"]
    assert "i" not in page.seen
    assert f"g{ODD}" in page.text
    assert f"bad<i>: left out {ODD}: has no µm/px" in page.text
    assert "only <two> cases" in page.text
    assert f"{ODD}, 0.31" in page.text
    assert ODD.encode() not in render(report())


def test_sheets_are_shown_under_their_captions(page):
    assert "good, 0.5 µm/px: the patches most like a real place (above)" in page.text
    assert "bad<i>, whole slides: those most like a real slide (above)" in page.text
    assert "H&E above, its IHC below" in page.text
    assert page.seen.count("img") == 3 * 3 + 3 + 9


def test_the_worst_is_named_first_and_good_sets_are_not_accused(page):
    html = unescape(render(report()).decode())
    glance = html[html.index("At a glance") : html.index("Side by side")]
    assert "nothing is outside by more than chance; furthest is" in glance
    assert "worst is" in glance
    assert "4.0 × the 95 % half-width of real-vs-real" in glance
    assert "Everything is within the real-vs-real range." in glance
    assert glance.count("within real-vs-real range") >= len(SECTIONS)
    assert glance.count("far outside") >= len(SECTIONS)


def test_what_was_not_measured_says_why():
    note = "not measured: give the slides that the model learnt from as --train"
    rows = (row("fid", 0.4), row("membership", None, None, mpp=None, warnings=(note,)))
    text = Page(render(report(sets=(SetReport("x", (), rows),)))).text
    assert text.count(note) == 2  # among the notes, and in the table
    assert "Do seams show?" not in text  # a section without rows
    assert SECTIONS["privacy"] in text


def test_warnings_name_the_sets_and_rows_that_they_are_about():
    few = "NIQE says little"
    one = SetReport("one", (), (row("niqe", 0.4, warnings=(few,)),))
    two = SetReport("two", (), (row("niqe", 0.4),))
    text = Page(render(report(sets=(one, two)))).text
    assert f"one: {few} (NIQE (own fit), 1 µm/px)" in text
    text = Page(render(report(sets=(one, replace(one, name="two"))))).text
    assert f"{few} (NIQE (own fit), 1 µm/px)" in text
    assert f"one: {few}" not in text


def test_the_page_follows_from_the_report_alone(pictured):
    assert render(pictured) == render(replace(report(), pictures=pictured.pictures))

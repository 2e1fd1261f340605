"""The page in a browser: nothing wider than a phone, a laptop or a sheet of paper; pictures that enlarge."""

from __future__ import annotations

import numpy as np
import pytest

from tests.browser import needs_chromium
from tests.evaluation.report.reports import SCALES, report
from wsigen.evaluation.report.page import render
from wsigen.evaluation.report.pictures import sheet

PAPER = 718  # px, A4 less margins of 1 cm
# Elements that reach beyond the page, but for what scrolls in a box of its own.
BEYOND = """
() => [...document.querySelectorAll('main *')]
  .filter((e) => !e.closest('.scroll') || e.matches('.scroll') || matchMedia('print').matches)
  .filter((e) => !e.closest('.zoom') || e.matches('.zoom'))
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
  .map((e) => `${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`)
"""
WIDER = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth + 1).length"

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def path(pictured, tmp_path_factory):
    strip = sheet([[np.full((256, 256, 3), 40 * i, np.uint8)] for i in range(6)])
    shown = {f"patches {n} {m:g}": strip for n in ("real", "good", "bad<i>") for m in SCALES}
    captions = {
        f"patches real {SCALES[0]:g}": [f"case-of-a-very-long-name-{i}.ome.tif, 0.31" for i in range(6)]
    }
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_bytes(render(report(pictures={**pictured.pictures, **shown}, captions=captions)))
    return path


@pytest.mark.parametrize(("width", "height"), [(390, 780), (1366, 768), (3840, 2160)])
def test_nothing_is_wider_than_the_screen(browser, path, width, height):
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(BEYOND) == []
    assert (page.evaluate(WIDER) > 3) == (width == 390)  # tables of a phone scroll, and others need not
    main = page.evaluate("document.querySelector('main').getBoundingClientRect().width")
    assert main > 0.45 * width  # a 4K screen is not mostly margin
    page.close()


def test_every_table_is_in_a_box_that_scrolls(browser, path):
    page = browser.new_page(viewport={"width": 390, "height": 780})
    page.goto(path.as_uri())
    assert page.locator("table").count() == page.locator(".scroll > table").count() > 12
    first = page.locator(".scroll").filter(has=page.locator("td.value")).first
    first.evaluate("e => e.scrollTo(1e4, 0)")
    assert first.evaluate("e => e.scrollLeft") > 50
    assert page.evaluate("scrollX") == 0
    page.close()


def test_a_click_enlarges_a_picture_and_another_ends_it(browser, path):
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.goto(path.as_uri())
    picture = page.locator("figure:not(.plot) img").first
    before = picture.bounding_box()
    picture.click()
    assert picture.bounding_box() == {"x": 0, "y": 0, "width": 1366, "height": 768}
    picture.click()
    after = picture.bounding_box()
    assert (after["width"], after["height"]) == (before["width"], before["height"])
    page.close()


def test_print_cuts_nothing_off(browser, path):
    page = browser.new_page(viewport={"width": PAPER, "height": 1000})
    page.goto(path.as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= PAPER
    assert page.evaluate(BEYOND) == []
    slides = page.locator("details table").first
    assert slides.bounding_box()["height"] > 50  # closed on the screen, printed all the same
    pdf = page.pdf(format="A4", margin=dict.fromkeys(("left", "right", "top", "bottom"), "1cm"))
    assert pdf.startswith(b"%PDF")
    page.close()

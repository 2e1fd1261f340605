"""Whole studies in a real browser: simulated readers, the server killed half-way, and the report.

A simulated reader looks at the pixels that the browser has drawn from, and answers with mouse and keyboard.
"""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from tests.browser import needs_chromium
from tests.study.studies import MPP, SIZE, Skilled, config, is_real, make, write_set, write_sources
from tests.study.test_server import Served
from wsigen.config.study import StudyMakeConfig, StudyReportConfig
from wsigen.study.automatic import Task
from wsigen.study.report import report_study
from wsigen.study.results import evaluate
from wsigen.study.store import AnswerStore
from wsigen.study.study import load_key

WINDOW = {"width": 1000, "height": 600}

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    return {name: write_set(folder, name, odd=name == "real", count=1) for name in ("real", "synthetic")}


@pytest.fixture
def serve():
    """Serve studies in processes of their own, until the end of the test."""
    running = []

    def start(study):
        running.append(Served(study.folder))
        return running[-1]

    yield start
    for served in running:
        if served.process.poll() is None:
            served.kill()


@pytest.fixture
def page(browser):
    """A page that fails the test if its script does, and keeps the images that it loads."""
    context = browser.new_context(viewport=WINDOW)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


def enter(page, served, code):
    """Give the code and start; return nothing."""
    page.goto(served.url)
    page.fill("#code", code.lower())
    page.keyboard.press("Enter")
    page.click("#start")


def at(page, number):
    """Wait for an item; return its images as they lie in the browser, from left to right."""
    page.wait_for_selector(f'main[data-ready="{number}"]', timeout=20_000)
    urls = page.evaluate(
        "[...document.querySelectorAll('.pane')].map((e) => location.origin + e.dataset.image)"
    )
    return [np.asarray(Image.open(io.BytesIO(page.request.get(url).body()))) for url in urls]


def answers_of(study):
    store = AnswerStore(study, create=False)
    found = store.answers()
    store.close()
    return found


def click_slider(page, value):
    box = page.locator(".scale input").bounding_box()
    # The middle of the thumb, which is 16 px wide, lies at these places.
    page.mouse.click(box["x"] + 8 + (box["width"] - 16) * value / 100, box["y"] + box["height"] / 2)


def test_three_readers_one_of_them_interrupted_and_their_report(slides, serve, page, tmp_path):
    study = make(config(**slides, out=tmp_path / "s", count=8, training=2, repeats=2, readers=3))
    skills, given = (1.0, 0.75, 0.5), {}
    served = serve(study)
    for i, code in enumerate(study.readers):
        reader = Skilled(skills[i], seed=i)
        enter(page, served, code)
        for trial in study.trials(code):
            if (i, trial.number) == (1, 6):  # the machine of the server loses its power
                at(page, trial.number)  # it is shown, and not answered
                served.kill()
                served = serve(study)
                page.goto("about:blank")
                page.goto(f"{served.url}#{code}")
                assert "6 items are left" in page.locator("li").nth(1).inner_text()
                page.click("#start")
            (image,) = at(page, trial.number)
            assert page.locator("#count").inner_text() == f"{trial.number + 1} of 12"
            assert page.locator("#training").is_visible() == trial.training
            assert page.locator("#next").is_disabled()  # no answer without a choice
            value = reader(Task("slider", (image,), None, study.questions, MPP))
            click_slider(page, value)
            given[code, trial.number] = int(page.locator("output").inner_text())
            assert abs(given[code, trial.number] - value) <= 1
            page.keyboard.press("Enter")
            if trial.training:
                truth = "real" if is_real(image) else "synthetic"
                page.wait_for_selector(f"text=This image is {truth}.")
                page.click("#next")
        page.wait_for_selector("#end")
        assert "stored" in page.locator("#end").inner_text()
    found = answers_of(study)
    assert {(a.reader, a.number): a.value for a in found} == given
    assert len(found) == 36
    assert all(0 < a.seconds < 30 for a in found)
    assert [(a.reader, a.number) for a in found if a.views > 1] == [(study.readers[1], 6)]
    results = evaluate(study, load_key(study), found)
    for reader, skill in zip(results.readers, skills, strict=True):
        assert reader.accuracy.low <= skill <= reader.accuracy.high
        assert reader.answered == 12
    assert results.readers[0].accuracy.value == 1
    path = report_study(StudyReportConfig(study=study.folder))
    page.goto(path.as_uri())
    assert "3 of 3 readers, 8 of 8 items answered" in page.locator(".lead").inner_text()
    for width in (390, 1366, 3840):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    loaded = "[...document.images].every((i) => i.complete && i.naturalWidth)"
    assert page.evaluate(loaded)


def test_2afc_hides_the_images_after_the_time_and_takes_keys(slides, serve, page, tmp_path):
    study = make(config(**slides, out=tmp_path / "s", kind="2afc", count=3, seconds=300, readers=1))
    (code,), served, chosen = study.readers, serve(study), []
    page.clock.install()
    enter(page, served, code)
    for trial in study.trials(code):
        images = at(page, trial.number)
        real = [is_real(image) for image in images].index(True)
        assert trial.choices[real] == load_key(study)["items"][trial.item.code]
        if trial.number == 0:
            drawn = page.locator(".pane").first.locator(".osd")
            sides = [extent(shot) for shot in shots(page)]
            assert np.abs(np.subtract(*sides)).max() <= 1  # both at one scale, as large as they can be
            assert max(sides[0]) >= 0.95 * min(shots(page)[0].shape[:2])
            assert drawn.is_visible()
            assert re.fullmatch(r"\d+ s", page.locator("#clock").inner_text())
            page.clock.fast_forward(300_000)
            page.wait_for_selector(".pane.over")
            assert drawn.is_hidden()
            assert page.locator("#clock").inner_text() == "Time"
        page.keyboard.press(("ArrowLeft", "ArrowRight")[real])
        chosen.append(trial.choices[real])
    page.wait_for_selector("#end")
    found = answers_of(study)
    assert [a.value for a in found] == chosen
    assert found[0].seconds > 300 > found[1].seconds


def test_quality_asks_every_question_and_moves_all_images_together(serve, page, tmp_path):
    he, translated = write_sources(tmp_path, methods=3)
    study = make(
        StudyMakeConfig(
            kind="quality", source=he, translation=[f"{n}={p}" for n, ps in translated.items() for p in ps],
            out=tmp_path / "s", count=2, readers=1, mpp=MPP, size=SIZE, question=["Best?", "Sharpest?"],
        )
    )  # fmt: skip
    (code,), served, given = study.readers, serve(study), []
    enter(page, served, code)
    for trial in study.trials(code):
        source, *images = at(page, trial.number)
        assert page.locator(".pane b").all_inner_texts() == ["H&E", "A", "B", "C"]
        best = int(np.argmax([image.mean() for image in images]))
        assert np.array_equal(images[best], 255 - source)
        if trial.number == 0:  # all panes show the same place after a zoom into one
            before = shots(page)
            page.locator(".pane").nth(2).hover()
            page.mouse.wheel(0, -500)
            page.wait_for_timeout(1000)
            after = shots(page)
            assert all(np.abs(a - b).mean() > 2 for a, b in zip(before, after, strict=True))
            middle = tuple(slice(n // 4, -(n // 4)) for n in after[0].shape[:2])
            negative = 255 - after[0][middle]
            assert np.abs(after[1 + best][middle] - negative).mean() < 3
        rows = page.locator(".ratings .choices")
        rows.nth(0).locator("button").nth(best).click()
        assert page.locator("#next").is_disabled()
        rows.nth(1).locator("button").nth(0).click()
        page.click("#next")
        given.append([trial.choices[best], trial.choices[0]])
    page.wait_for_selector("#end")
    assert [a.value for a in answers_of(study)] == given


def extent(shot):
    """Height and width of an image on the dark ground of its pane, px."""
    shown = shot.sum(axis=2) > 3 * 60
    return [int(np.ptp(np.flatnonzero(shown.any(axis=axis)))) + 1 for axis in (1, 0)]


def shots(page):
    """What the panes show, without their names."""
    hide = ".pane b { visibility: hidden }"
    found = []
    for pane in page.locator(".pane").all():
        png = pane.screenshot(style=hide)
        found.append(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int))
    height, width = np.min([f.shape[:2] for f in found], axis=0)
    return [f[:height, :width] for f in found]


def test_a_phone_an_unknown_code_and_a_server_that_is_away(slides, serve, browser, tmp_path):
    study = make(config(**slides, out=tmp_path / "s", kind="2afc", count=2, readers=1))
    (code,), served = study.readers, serve(study)
    page = browser.new_page(viewport={"width": 390, "height": 780})
    page.goto(served.url)
    page.fill("#code", "nobody")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=No reader has the code NOBODY")
    enter(page, served, code)
    at(page, 0)
    sides = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    assert page.evaluate(sides) == [390, 780]
    panes = [pane.bounding_box() for pane in page.locator(".pane").all()]
    assert [p["width"] for p in panes] == [390, 390]  # one above the other
    assert panes[0]["height"] > 200
    port = served.url.rpartition(":")[2].strip("/")
    served.kill()
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("text=Nothing is lost")
    assert answers_of(study) == []
    again = Served(study.folder, port)  # the answer that was given meanwhile arrives
    try:
        page.wait_for_selector('main[data-ready="1"]', timeout=20_000)
        assert [a.value for a in answers_of(study)] == [study.trials(code)[0].choices[0]]
    finally:
        again.kill()
        page.close()

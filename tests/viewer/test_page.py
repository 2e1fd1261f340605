"""The page in a real browser: a Chromium that is installed; without one, these tests are skipped.

The case is a picture at 0.25 µm/px and its negative, so that at 40× a pixel of the slide is one of the
screen, and the two slides can be told apart everywhere.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from tests.browser import needs_chromium
from tests.synthetic import he_image, write_tiff
from tests.viewer.slides import write_pair
from wsigen.viewer.catalogue import computed_case, open_catalogue
from wsigen.viewer.http import address, listen, make_server
from wsigen.viewer.server import make_app

SIDE, MPP = 2048, 0.25
WINDOW = {"width": 1120, "height": 560}  # small, since Chromium draws without a GPU
SQUARE = (900, 1000, 1100, 1150)  # left, top, right, bottom of the annotation, px
MAGENTA = (255, 0, 255)

pytestmark = needs_chromium


class Server:
    """A viewer on a free port, in a thread."""

    def __init__(self, catalogue):
        self._socket = listen("127.0.0.1", 0)
        self.url = address(self._socket)
        self._server = make_server(make_app(catalogue))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()

    def stop(self):
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """With edges everywhere, so that a shift by a part of a pixel shows."""
    edges = np.random.default_rng(0).integers(-30, 31, (SIDE // 4, SIDE // 4, 1))
    rough = he_image(SIDE, seed=5, mpp=MPP).astype(int) + edges.repeat(4, 0).repeat(4, 1)
    return np.clip(rough, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(picture, tmp_path_factory):
    """The pair, an annotation of it, a slide of its own, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("shown")
    write_pair(folder, picture, MPP, levels=3, compression="zstd")
    left, top, right, bottom = SQUARE
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    look = {"classification": {"name": "Tumor", "color": list(MAGENTA)}}
    square = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": look}
    (folder / "case_HE.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [square]}))
    write_tiff(folder / "other.tif", picture[:600, :700], 0.5, levels=1)
    (folder / "broken.svs").write_bytes(b"nothing")
    return folder


@pytest.fixture(scope="module")
def url(folder) -> Iterator[str]:
    from wsigen.slide.levels import Slide
    from wsigen.slide.read import open_slide

    file = open_slide(folder / "case_HE.ome.tif")

    class Computed:
        """The pixels of the file, as a slide that computes them."""

        levels = tuple(level.size for level in file.levels)

        def read(self, region, level):
            return file.read_level(region, level)

    def seeds(seed):
        facts = {"wsigen.synthetic": "true", "wsigen.seed": str(seed), "wsigen.fingerprint": f"f{seed}"}
        return computed_case(seed, {"HE": Slide(Computed(), [1, 2, 4], MPP, facts)})

    server = Server(open_catalogue([folder], seeds=seeds, first_seed=7))
    yield server.url
    server.stop()


@pytest.fixture
def page(browser, url):
    """A page that fails the test if its script does."""
    context = browser.new_context(viewport=WINDOW, accept_downloads=True)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(request.url) if url not in request.url else None)
    yield page
    context.close()
    assert errors == []


def still(page) -> None:
    """Wait until everything that is looked at is loaded and drawn."""
    page.wait_for_selector('#stage[aria-busy="false"]', timeout=30_000)
    page.wait_for_timeout(350)  # the state is looked at every 150 ms, and a frame drawn after it
    page.wait_for_selector('#stage[aria-busy="false"]', timeout=30_000)


def open_at(page, url, *, slide="case_HE", x=256.0, y=256.0, mpp=MPP, **more) -> None:
    page.goto("about:blank")
    facts = {"slide": slide, "x": x, "y": y, "mpp": mpp, **more}
    page.goto(f"{url}#" + "&".join(f"{k}={v}" for k, v in facts.items()))
    still(page)


def fragment(page) -> dict[str, str]:
    page.wait_for_timeout(200)
    return dict(part.split("=") for part in page.url.partition("#")[2].split("&"))


def shot(page) -> np.ndarray:
    """What the slide's area shows, without controls: int (height, width, 3)."""
    hide = ".floating, .label, .navigator, #curtain, #note { visibility: hidden !important }"
    png = page.locator("#stage").screenshot(style=hide, animations="disabled")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def expected(picture, page) -> np.ndarray:
    """The pixels of the slide around the centre of the link, in the size of the slide's area."""
    box, at = page.locator("#stage").bounding_box(), fragment(page)
    left = round(float(at["x"]) / MPP - box["width"] / 2)
    top = round(float(at["y"]) / MPP - box["height"] / 2)
    return picture[top : top + round(box["height"]), left : left + round(box["width"])].astype(int)


def test_a_pair_opens_and_is_said_to_be_synthetic(page, url):
    page.goto(f"{url}#slide=case_HE")
    still(page)
    assert page.locator("#title").inner_text() == "case"
    assert page.locator("#badge").is_visible()
    assert "not for diagnosis" in page.locator("#badge").inner_text()
    assert page.locator(".label em").first.inner_text() == "synthetic"
    info = page.locator("#info").inner_text()
    assert "2048 × 2048 px" in info
    assert "0.25 µm/px (40×)" in info
    assert "512 µm × 512 µm" in info
    assert "aaaa" in info
    listed = page.locator("#list")
    assert [t.inner_text() for t in listed.locator(".case.on .thumb").all()] == ["H&E", "IHC SYN"]
    assert "broken.svs" in listed.locator(".failures").inner_text()
    page.locator(".thumb[title='other.tif']").click()
    still(page)
    assert page.locator("#badge").is_hidden()
    assert "wsigen did not write this slide" in page.locator("#info").inner_text()


def test_at_40_times_every_pixel_is_one_of_the_slide(page, url, picture):
    open_at(page, url, mpp=2)
    page.get_by_role("button", name="40×").click()
    still(page)
    assert page.locator("#magnification").inner_text() == "40×"
    assert float(fragment(page)["mpp"]) == MPP
    assert page.locator("#scale-text").inner_text() == "20 µm"
    assert page.locator("#scale-bar").bounding_box()["width"] == pytest.approx(20 / MPP, abs=0.6)
    page.keyboard.press("a")  # without the annotation
    still(page)
    assert all(side == round(side) for side in page.locator("#stage").bounding_box().values())
    shown, whole = shot(page), expected(picture, page)
    assert shown.shape == whole.shape
    assert np.abs(shown - whole).mean() < 4  # JPEG
    shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    away = [np.abs(np.roll(shown, shift, (0, 1)) - whole)[2:-2, 2:-2].mean() for shift in shifts]
    assert shifts[int(np.argmin(away))] == (0, 0)
    page.keyboard.press(",")
    still(page)
    assert page.locator("#magnification").inner_text() == "20×"


def test_the_curtain_is_aligned_to_the_pixel(page, url):
    """Left of it is the first slide, right of it the second, which is its negative, on the same pixels."""
    open_at(page, url)
    page.keyboard.press("a")
    he = shot(page)
    page.keyboard.press("2")
    still(page)
    ihc = shot(page)
    assert np.abs(255 - ihc - he).mean() < 8
    page.keyboard.press("1")
    page.keyboard.press("c")
    still(page)
    for share in (0.5, 0.3):
        box, handle = page.locator("#stage").bounding_box(), page.locator("#curtain").bounding_box()
        middle = handle["x"] + handle["width"] / 2
        page.mouse.move(middle, box["y"] + 200)
        page.mouse.down()
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 200, steps=3)
        page.mouse.up()
        still(page)
        edge, both = round(share * box["width"]), shot(page)
        assert float(fragment(page)["at"]) == pytest.approx(share, abs=0.002)
        assert np.array_equal(both[:, : edge - 1], he[:, : edge - 1])
        assert np.array_equal(both[:, edge + 1 :], ihc[:, edge + 1 :])


def test_blink_shows_one_slide_after_the_other(page, url):
    open_at(page, url)
    page.keyboard.press("a")
    he = shot(page)
    page.keyboard.press("b")
    still(page)
    labels = set()
    for _ in range(8):
        labels.add(page.locator(".label").first.inner_text()[:3])
        page.wait_for_timeout(250)
    assert labels == {"H&E", "IHC"}
    page.keyboard.press("v")
    still(page)
    assert np.array_equal(shot(page), he)
    page.keyboard.down(" ")
    still(page)
    assert np.abs(255 - shot(page) - he).mean() < 8
    page.keyboard.up(" ")
    still(page)
    assert np.array_equal(shot(page), he)


def test_side_by_side_moves_together_and_opacity_blends(page, url):
    open_at(page, url, mode="side")
    assert page.locator(".pane").count() == 2
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 300)  # over the second
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"] - 120, box["y"] + 250, steps=4)
    page.wait_for_timeout(150)
    page.mouse.up()
    page.mouse.wheel(0, -240)
    page.wait_for_timeout(900)
    still(page)
    page.keyboard.press("a")
    still(page)
    both, middle = shot(page), round(box["width"] / 2)
    width = middle - 4
    left, right = both[:, :width], both[:, middle + 1 : middle + 1 + width]
    moved = [np.abs(255 - np.roll(right, shift, 1) - left)[:, 5:-5].mean() for shift in (-1, 0, 1)]
    assert min(moved) < 8
    assert float(fragment(page)["x"]) > 256
    open_at(page, url)
    page.keyboard.press("a")
    he = shot(page)
    page.keyboard.press("o")
    still(page)
    assert np.abs(shot(page) - 127.5).mean() < 6  # a picture and its negative, half each
    page.locator("#opacity input").fill("20")
    still(page)
    assert np.abs(shot(page) - (0.8 * he + 0.2 * (255 - he))).mean() < 6
    assert fragment(page)["at"] == "0.2"


def test_a_link_restores_the_view(page, url, browser):
    open_at(page, url, x=200, y=300, mpp=0.5, mode="curtain", **{"with": "case_IHC-SYN"}, at=0.25)
    before, link = shot(page), page.url
    facts = fragment(page)
    assert (facts["slide"], facts["mode"], facts["at"], facts["mpp"]) == ("case_HE", "curtain", "0.25", "0.5")
    other = browser.new_page(viewport=WINDOW)
    other.goto(link)
    still(other)
    assert np.array_equal(shot(other), before)
    assert other.url == link
    other.close()
    page.evaluate("location.hash = '#slide=nowhere'")
    page.wait_for_selector("#note:not([hidden])")
    assert "No slide is called nowhere" in page.locator("#note").inner_text()


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_an_annotation_lies_where_it_belongs(page, url, mpp):
    left, top, right, bottom = (side * MPP for side in SQUARE)
    open_at(page, url, x=(left + right) / 2, y=(top + bottom) / 2, mpp=mpp)
    shown, at = shot(page), fragment(page)
    page.keyboard.press("a")
    page.wait_for_timeout(200)
    without = shot(page)
    rows, columns = np.nonzero((np.abs(shown - without) > 100).any(axis=2))  # of the outline
    box = page.locator("#stage").bounding_box()
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    origin = float(at["x"]) / mpp - box["width"] / 2, float(at["y"]) / mpp - box["height"] / 2
    wanted = [side / mpp - origin[i % 2] for i, side in enumerate((left, top, right, bottom))]
    assert np.abs(np.subtract(found, wanted)).max() <= 1.5  # half of the line's width
    changed = np.abs(shown - without).sum(axis=2) > 0
    assert (
        changed[int(wanted[1]) + 5 : int(wanted[3]) - 5, int(wanted[0]) + 5 : int(wanted[2]) - 5].mean() > 0.9
    )
    assert not changed[:, : int(wanted[0]) - 3].any()
    assert page.locator(".class").inner_text().split() == ["Tumor", "1"]


def test_a_computed_slide_shows_the_pixels_of_its_file(page, url):
    open_at(page, url)
    page.keyboard.press("a")
    written = shot(page)
    open_at(page, url, slide="seed:7:HE")
    assert np.array_equal(shot(page), written)
    assert "Nobody has made this slide" in page.locator("#info").inner_text()
    view = fragment(page)
    page.get_by_role("button", name="New seed").click()
    page.wait_for_url(lambda now: "seed%3A7%3A" not in now)
    still(page)
    after = fragment(page)
    seed = re.fullmatch(r"seed%3A(\d+)%3AHE", after["slide"])
    assert seed
    assert f"Seed {seed[1]}" in page.locator("#info").inner_text()
    assert {k: after[k] for k in ("x", "y", "mpp")} == {k: view[k] for k in ("x", "y", "mpp")}


def test_a_snapshot_is_what_is_seen_with_a_scale_bar(page, url):
    open_at(page, url)
    shown, box = shot(page), page.locator("#stage").bounding_box()
    with page.expect_download() as download:
        page.keyboard.press("p")
    assert re.fullmatch(r"case_HE_x256_y25\d_40x\.png", download.value.suggested_filename)
    saved = np.asarray(Image.open(download.value.path()).convert("RGB")).astype(int)
    height, width = shown.shape[:2]
    assert saved.shape == (height + 30, width, 3)
    assert np.array_equal(saved[: height - 50], shown[: height - 50])
    bar = (saved[height - 19] == 0).all(axis=1)[: 12 + 200]
    assert bar.sum() == 20 / MPP  # px of 20 µm
    assert (saved[height:] < 100).any()  # the line that says what it is
    assert box["width"] == width


def test_dark_light_and_a_phone(browser, url):
    for scheme, ground in (("dark", "rgb(30, 34, 38)"), ("light", "rgb(255, 255, 255)")):
        page = browser.new_page(viewport={"width": 390, "height": 780}, color_scheme=scheme)
        page.goto(url)
        still(page)
        colour = "getComputedStyle(document.querySelector('header')).backgroundColor"
        assert page.evaluate(colour) == ground
        page.get_by_role("button", name="Dark or light").click()
        assert page.evaluate(colour) != ground
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.locator("#list").is_hidden()
        assert page.locator("#stage").bounding_box()["width"] == 390
        page.get_by_role("button", name="Info").click()
        assert page.locator("#info").is_visible()
        page.keyboard.press("?")
        assert "whole slide" in page.locator("#keys").inner_text()
        page.close()

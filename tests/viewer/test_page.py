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
BROWN = (768, 896, 1024, 1152)  # the same of DAB, px; whole pixels of the heat map
GRIDS = [
    {"name": "patches, last step", "pitch": 256, "rows": [200], "cols": [72]},
    {"name": "patches, step before it", "pitch": 512, "rows": [20, 300], "cols": [150, 400]},
]
BLUE, ORANGE = (0, 163, 255), (255, 122, 0)  # of the grids
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
    stained = np.full((SIDE, SIDE, 3), 245, np.uint8)
    stained[256:-256, 256:-256] = (205, 200, 215)
    left, top, right, bottom = BROWN
    stained[top:bottom, left:right] = (150, 105, 75)
    write_pair(folder, 255 - stained, MPP, "stained", levels=3, compression="zstd")
    facts = json.loads((folder / "stained_HE.json").read_text())
    (folder / "stained_HE.json").write_text(json.dumps(facts | {"joints": GRIDS}))
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


def distance_of(some: np.ndarray, others: np.ndarray) -> float:
    """How far the farthest of some pixels is from the nearest of others."""
    rows, columns = np.nonzero(others)
    y, x = np.nonzero(some)
    down = np.maximum(np.maximum(rows.min() - y, y - rows.max()), 0)
    across = np.maximum(np.maximum(columns.min() - x, x - columns.max()), 0)
    return float(np.maximum(down, across).max(initial=0))


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
    assert page.locator(".class", has_text="Tumor").inner_text().split() == ["Tumor", "1"]


def test_patch_grids_and_the_heat_map_lie_where_they_belong(page, url):
    """Over the IHC slide of the pair, where the provenance of its H&E names the grids."""
    open_at(page, url, slide="stained_IHC-SYN")
    plain, at, box = shot(page), fragment(page), page.locator("#stage").bounding_box()
    left, top = (round(float(at[a]) / MPP - box[s] / 2) for a, s in (("x", "width"), ("y", "height")))
    columns, rows = left + np.arange(plain.shape[1]), top + np.arange(plain.shape[0])
    page.keyboard.press("m")
    still(page)
    heated = shot(page)
    changed = (np.abs(heated - plain) > 20).any(axis=2)
    x0, y0, x1, y1 = BROWN
    brown = ((rows >= y0) & (rows < y1))[:, None] & ((columns >= x0) & (columns < x1))
    assert distance_of(changed & ~brown, brown) <= 16  # the browser interpolates over half a pixel of the map
    assert changed[brown].mean() > 0.95
    assert page.locator("#heat").inner_text().split() == ["DAB", "0.2", "1", "OD"]
    page.locator("#heat input").fill("0")
    still(page)
    assert np.array_equal(shot(page), plain)
    page.locator("#heat input").fill("100")
    still(page)
    spot = shot(page)[(y0 + y1) // 2 - top, (x0 + x1) // 2 - left]
    assert spot[2] > spot[1]  # plasma, not brown
    page.locator("#stage").click(position={"x": 300, "y": 300})  # out of the slider, which takes keys
    page.keyboard.press("m")
    page.keyboard.press("g")
    still(page)
    lined = shot(page)
    for grid, colour in zip(GRIDS, (BLUE, ORANGE), strict=True):
        found = (np.abs(lined - colour) < 3).all(axis=2)
        for places, phases, axis in ((columns, grid["cols"], 0), (rows, grid["rows"], 1)):
            # a pixel on each side of the line; lines of the other grid cross it
            on = np.isin(
                places % grid["pitch"], [(p + side) % grid["pitch"] for p in phases for side in (-1, 0)]
            )
            share = found.mean(axis=axis)
            assert share[on].min() > 0.9
            assert share[~on].max() < 0.1
    assert [row.split() for row in page.locator(".class").all_inner_texts()] == [
        ["Heat", "map", "0.2–1", "OD"],
        ["patches,", "last", "step", "256", "px"],
        ["patches,", "step", "before", "it", "512", "px"],
    ]
    for name in ("patches, last step", "patches, step before it"):
        page.get_by_label(name).uncheck()
    still(page)
    assert np.array_equal(shot(page), plain)


def test_the_heat_map_is_under_the_curtain_and_side_by_side(page, url):
    """On the side of the IHC slide only, and at its opacity."""
    open_at(page, url, slide="stained_HE", mode="curtain", x=224, y=256, mpp=0.25)
    before, middle = shot(page), round(page.locator("#stage").bounding_box()["width"] / 2)
    page.keyboard.press("m")
    still(page)
    changed = (np.abs(shot(page) - before) > 20).any(axis=2)
    assert not changed[:, : middle - 1].any()
    assert changed[:, middle + 1 : middle + 100].sum() > 100 * 200
    page.keyboard.press("s")
    still(page)
    beside = shot(page)
    page.keyboard.press("m")
    still(page)
    changed = (np.abs(beside - shot(page)) > 20).any(axis=2)
    assert not changed[:, :middle].any()
    assert changed[:, middle:].any()


def test_nothing_covers_the_magnifications_between_both_panels(page, url):
    page.goto(f"{url}#slide=case_HE&mpp=1.34&x=256&y=256")  # a scale bar of 149 px; the longest has 150
    still(page)
    for mode in ("v", "s"):
        page.keyboard.press(mode)
        still(page)
        scale, buttons, overview = (
            page.locator(i).bounding_box() for i in ("#scale", "#magnifications", ".navigator")
        )
        assert buttons["x"] > 220
        for other in (scale, overview):
            assert other["y"] + other["height"] <= buttons["y"]
    page.set_viewport_size(WINDOW | {"width": 1244})
    still(page)
    scale, buttons = (page.locator(i).bounding_box() for i in ("#scale", "#magnifications"))
    assert scale["x"] + scale["width"] <= buttons["x"]


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

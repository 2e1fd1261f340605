"""Make the picture of docs/viewer.md: a synthetic pair in the viewer, in an installed Chromium.

    python benchmarks/viewer_picture.py [--slides FOLDER] [--out docs/images/viewer.jpg]

Without ``--slides`` it samples a pair with the bundled models first, minutes on a CPU. The browser is that of
the tests, see tests/viewer/test_page.py.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.browser import CHROMIUM, FLAGS
from tests.viewer.test_page import Server, still
from wsigen.viewer.catalogue import open_catalogue


def make_pair(folder: Path) -> Path:
    """H&E and synaptophysin of seed 0."""
    import wsigen

    sampler = wsigen.Sampler.from_pretrained("default")
    sampler(size=2048, stages=6, seed=0, stain="SYN").save(folder)
    return folder


def picture(slides: Path) -> Image.Image:
    """The pair under the curtain, 1366 × 768 px."""
    from playwright.sync_api import sync_playwright

    catalogue = open_catalogue([slides])
    he, ihc = catalogue.cases[0].entries[:2]
    server = Server(catalogue)
    try:
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
            page = browser.new_page(viewport={"width": 1366, "height": 768}, color_scheme="light")
            page.goto(f"{server.url}#slide={he.name}&with={ihc.name}&mode=curtain&x=560&y=420&mpp=1")
            still(page)
            return Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    finally:
        server.stop()


def main() -> None:
    """Parse the options, make the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--slides", type=Path, help="a folder with a pair")
    parser.add_argument("--out", type=Path, default=Path("docs/images/viewer.jpg"))
    options = parser.parse_args()
    if CHROMIUM is None:
        parser.error("no Chromium is installed; apt-get install chromium, or name one in CHROMIUM")
    with tempfile.TemporaryDirectory() as folder:
        picture(options.slides or make_pair(Path(folder))).save(options.out, quality=88)


if __name__ == "__main__":
    main()

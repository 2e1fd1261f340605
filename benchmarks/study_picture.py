"""Make the pictures of docs/study.md: an item of a study in an installed Chromium, and the report.

    python benchmarks/study_picture.py --real FOLDER --synthetic FOLDER [--out docs/images]

The answers in the report are simulated: three readers who are right in 55, 65 and 80 of 100 items. The
browser is that of the tests, see tests/browser.py.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.browser import CHROMIUM, FLAGS
from tests.study.test_server import Served
from wsigen.config.study import StudyMakeConfig, StudyReportConfig
from wsigen.study.make import make_study
from wsigen.study.report import report_study
from wsigen.study.store import AnswerStore
from wsigen.study.study import Study, load_key

SKILLS = (0.55, 0.65, 0.8)


def simulate(study: Study) -> None:
    """Let readers of known skill answer all items, slower at first."""
    key, store = load_key(study)["items"], AnswerStore(study)
    for i, (code, skill) in enumerate(zip(study.readers, SKILLS, strict=True)):
        rng = np.random.default_rng(i)
        while (trial := store.trial(code)) is not None:
            real = (key[trial.item.code] == "real") == (rng.random() < skill)
            score = 50 + (1 if real else -1) * rng.integers(1, 51) * rng.beta(2, 2) ** 0.5
            seconds = rng.gamma(4, 2) * (1 + np.exp(-trial.number / 10))
            store.add(code, trial.number, round(float(score)), float(seconds))
    store.close()


def pictures(study: Study) -> dict[str, Image.Image]:
    """The first item of the first reader, and the upper part of the report, 1366 × 768 px each."""
    from playwright.sync_api import sync_playwright

    served = Served(study.folder)
    found = {}
    try:
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
            page = browser.new_page(viewport={"width": 1366, "height": 768})
            page.goto(f"{served.url}#{study.readers[0]}")
            page.click("#start")
            page.wait_for_selector("main[data-ready]")
            box = page.locator(".scale input").bounding_box()
            assert box is not None
            page.mouse.click(box["x"] + 0.72 * box["width"], box["y"] + box["height"] / 2)
            page.wait_for_timeout(500)
            found["study"] = page.screenshot()
            served.kill()
            simulate(study)
            page.goto(report_study(StudyReportConfig(study=study.folder)).as_uri())
            found["study-report"] = page.screenshot(full_page=True)
            browser.close()
    finally:
        served.kill()
    return {name: Image.open(io.BytesIO(png)).convert("RGB") for name, png in found.items()}


def main() -> None:
    """Parse the options, make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--real", nargs="+", required=True, help="real slides, at 0.5 µm/px or finer")
    parser.add_argument("--synthetic", nargs="+", required=True, help="synthetic slides")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    if CHROMIUM is None:
        parser.error("no Chromium is installed; apt-get install chromium, or name one in CHROMIUM")
    with tempfile.TemporaryDirectory() as folder:
        values = {"real": options.real, "synthetic": options.synthetic, "out": Path(folder) / "study"}
        study = make_study(StudyMakeConfig(**values, size=320, count=24, repeats=6))
        for name, picture in pictures(study).items():
            picture.resize([side * 3 // 4 for side in picture.size]).save(
                options.out / f"{name}.jpg", quality=85
            )


if __name__ == "__main__":
    main()

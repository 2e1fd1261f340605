"""What every test may use: one H&E-like slide, made once, a browser, and a disk that is soon full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from tests.browser import CHROMIUM, FLAGS
from tests.synthetic import he_image, write_tiff
from tests.typecheck import check_shapes

check_shapes()

# Networks of tests are tiny: a second thread only waits for the first, minutes where the machine is busy. Set
# before torch is imported, and for the child processes too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("wsigen", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("wsigen")


@pytest.fixture(scope="session")
def he_picture() -> np.ndarray:
    """A 1024² H&E-like picture at 0.5 µm/px; not to be written to."""
    image = he_image(1024, seed=7, mpp=0.5)
    image.flags.writeable = False
    return image


@pytest.fixture(scope="session")
def he_slide(he_picture: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a tiled JPEG pyramid of three levels, 0.5 µm/px."""
    return write_tiff(tmp_path_factory.mktemp("slides") / "he.tif", he_picture, 0.5, levels=3)


@pytest.fixture(scope="session")
def lossless_slide(he_picture: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, lossless."""
    folder = tmp_path_factory.mktemp("lossless")
    return write_tiff(folder / "he.tif", he_picture, 0.5, levels=3, compression="zstd")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """An installed Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 96 KiB."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)

"""What every test may use: one H&E-like slide, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from tests.synthetic import he_image, write_tiff

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

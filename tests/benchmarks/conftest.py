"""Small slides and networks for the ablations: every path of the code, in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.models import small_snapshot
from tests.synthetic import he_image, write_tiff
from wsigen.stain.networks.blocks import initialise
from wsigen.stain.networks.generator import Generator
from wsigen.stain.stainer import save_stainer


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two slides, one of which is held out."""
    folder = tmp_path_factory.mktemp("real")
    for seed in (1, 2):
        write_tiff(folder / f"case{seed}.tif", he_image(768, seed=seed), 0.5)
    return folder


@pytest.fixture(scope="session")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small denoiser with random weights."""
    return small_snapshot(tmp_path_factory.mktemp("denoiser"))


@pytest.fixture(scope="session")
def stainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small stainer with random weights."""
    folder = tmp_path_factory.mktemp("stainer")
    save_stainer(initialise(Generator(width=4, blocks=1, marker="KI67"), gain=1.0), folder)
    return folder

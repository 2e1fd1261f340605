"""A small model and corpora made with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pipeline.models import small_net
from tests.sampling.upscalers import small_upscaler
from tests.stain.models import small_generator
from tests.synthetic import he_image
from wsigen.config.corpus import CorpusConfig
from wsigen.corpus.make import make_corpus
from wsigen.nn.model import save_model
from wsigen.stain.stainer import save_stainer


@pytest.fixture(scope="session")
def small_models(tmp_path_factory) -> dict[str, str]:
    """Options of a model and a stainer whose networks are tiny."""
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "small", denoiser=small_net(), upscaler=small_upscaler())
    save_stainer(small_generator(blocks=0, marker="SYN", mpp=0.5), folder / "SYN")
    return {"model": str(folder / "small"), "stain": str(folder / "SYN")}


@pytest.fixture(scope="session")
def options(small_models) -> Callable[..., CorpusConfig]:
    """Configurations of small corpora."""

    def configure(out: Path, **values: object) -> CorpusConfig:
        small = {"count": 4, "size": 128, "stages": 2, "split": "train=0.5,val=0.5", "dtype": "float32"}
        return CorpusConfig(**{**small_models, **small, "workers": 1, "device": "cpu", "out": out, **values})

    return configure


@pytest.fixture(scope="session")
def corpus(options, tmp_path_factory) -> Path:
    """Four pairs, seeds 0 to 3; not to be written to."""
    return make_corpus(options(tmp_path_factory.mktemp("corpus") / "four"))


@pytest.fixture(scope="session")
def overview(tmp_path_factory) -> Path:
    """A picture of 128² at 2 µm/px whose right half is glass."""
    image = he_image(128, seed=3, mpp=2.0).copy()
    image[:, 64:] = 243
    path = tmp_path_factory.mktemp("overview") / "half.png"
    Image.fromarray(image.astype(np.uint8)).save(path)
    return path

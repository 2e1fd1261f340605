"""Slides of two stains, and the smallest networks that still have every part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from tests.synthetic import he_image, write_tiff
from wsigen.config import DiscriminatorConfig, GeneratorConfig, StainDataConfig
from wsigen.training.processes import Processes
from wsigen.training.stain.method import Batch


def brown(image: np.ndarray) -> np.ndarray:
    """The same tissue in another stain: blue where it was violet, and brown where it was dark."""
    dark = (image.min(axis=2, keepdims=True) < 120) * np.array([0.0, 60.0, 90.0])
    return np.clip(image * np.array([0.85, 0.95, 1.0]) - dark, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def stains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases in H&E, the first one in IHC too."""
    folder = tmp_path_factory.mktemp("stains")
    for name, seed in (("he/a.tif", 0), ("he/b.tif", 1), ("ihc/a_SYN.tif", 2)):
        (folder / name).parent.mkdir(exist_ok=True)
        image = he_image(256, seed, mpp=1.0)
        write_tiff(folder / name, brown(image) if "ihc" in name else image, 1.0, levels=1)
    (folder / "table.csv").write_text("slide,group\na.tif,A/HE\nb.tif,B/HE\na_SYN.tif,A/SYN\n")
    return folder


def options(folder: Path | None = None, **more: Any) -> dict[str, Any]:
    """Of a run on ``folder`` with narrow networks, for any method."""
    data = {"source": "HE", "target": "IHC"}
    if folder is not None:
        table = {"table": folder / "table.csv"}
        data = {"source": str(folder / "he"), "target": str(folder / "ihc" / "*_SYN.tif"), **table}
    return {
        "data": StainDataConfig(**data, patch_size=32, batch=2, mpp_range=(1.0, 1.0), workers=0),
        "generator": GeneratorConfig(width=4, blocks=1),
        "discriminator": DiscriminatorConfig(width=4, layers=1),
        "kimg": 0.008,
        "mixed_precision": "no",
        "report_every": 1,
        "val_images": 3,
        "preview_images": 2,
        **more,
    }


@pytest.fixture
def processes() -> Processes:
    """One process, float32, on the CPU."""
    return Processes(Accelerator(cpu=True))


@pytest.fixture(scope="session")
def batch() -> Batch:
    """Two images of each domain."""
    he = [he_image(32, seed=i, mpp=4.0) for i in range(4)]
    source, target = (
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1
        for images in (he[:2], [brown(image) for image in he[2:]])
    )
    return Batch(source, target, [6, 7])

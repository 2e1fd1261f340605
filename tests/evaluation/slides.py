"""Small slides, and patches without any, for tests of the evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from tests.synthetic import he_image, write_tiff
from wsigen.data.index import SlideEntry
from wsigen.evaluation.patches import Patches
from wsigen.evaluation.sets import SlideSet, load_set
from wsigen.evaluation.signatures import signature
from wsigen.evaluation.spots import Spot


def slides(folder: Path, seeds: range, *, size: int = 384, mpp: float = 1.0) -> Path:
    """H&E-like slides, one per seed, in a new folder."""
    folder.mkdir(parents=True)
    for seed in seeds:
        write_tiff(folder / f"s{seed}.tif", he_image(size, seed, mpp=mpp), mpp)
    return folder


def written(
    folder: Path, images: Mapping[str, np.ndarray], mpp: float = 1.0, *, facts: dict | None = None, **options
) -> SlideSet:
    """A set of slides without loss, by their names before .tif, and what the provenance of each says."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        write_tiff(folder / f"{name}.tif", image, mpp, **({"compression": "zstd"} | options))
    for name, known in (facts or {}).items():
        (folder / f"{name}.json").write_text(json.dumps(known))
    return slide_set(folder.name, folder)


def slide_set(name: str, folder: Path) -> SlideSet:
    """The slides of a folder."""
    return load_set(name, str(folder))


def entry(
    slide: str = "a", group: str | None = None, *, side: int = 1000, mpp: float = 0.5, tissue: float = 1.0
) -> SlideEntry:
    """An entry without a file; its mask is tissue from the top down to the share that is wanted."""
    import cv2

    mask = np.zeros((100, 100), np.uint8)
    mask[: round(100 * tissue)] = 255
    extent = side * mpp
    return SlideEntry(
        slide=slide,
        path=Path("/nowhere") / slide,
        group=group or slide,
        split="",
        mpp=mpp,
        height=side,
        width=side,
        background=(243, 243, 243),
        tissue_um2=tissue * extent**2,
        tissue_fraction=tissue,
        border_tissue=1.0,
        mask_mpp=extent / 100,
        mask_png=cv2.imencode(".png", mask)[1].tobytes(),
    )


def patches(features: np.ndarray, groups: list[str], *, mpp: float = 1.0, seed: int = 0) -> Patches:
    """Patches that are nothing but features; all else is noise, different for each seed."""
    n, rng = len(features), np.random.default_rng(seed)
    signatures = rng.normal(size=(n, 32, 32)).astype(np.float32)
    signatures /= np.linalg.norm(signatures, axis=(1, 2), keepdims=True)
    return Patches(
        spots=tuple(Spot(entry(g), mpp, 64, i) for i, g in enumerate(groups)),
        mpp=np.full(n, mpp),
        features=np.asarray(features, np.float32),
        powers=rng.uniform(1, 2, (n, 7)),
        densities=rng.integers(1, 9, (n, 2, 256)).astype(np.int32),
        amounts=rng.uniform(0.1, 0.2, (n, 2)),
        hues=rng.uniform(0, 1, (n, 10)),
        saturations=rng.uniform(0, 1, n),
        phases=rng.uniform(0.1, 1, (n, 12)),
        signatures=signatures,
        samples={},
    )


def signatures_of(images: Iterable[np.ndarray]) -> np.ndarray:
    """Signatures of some images, (n, 32, 32)."""
    return np.stack([signature(image) for image in images])

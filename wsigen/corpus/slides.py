"""Make one slide of a corpus, and its row of the manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wsigen.corpus.plan import SLIDES, Item
from wsigen.files import write_bytes
from wsigen.geometry import Size
from wsigen.pipeline.networks import Networks
from wsigen.pipeline.outputs import HEOutput
from wsigen.pipeline.pair import SampledPair
from wsigen.pipeline.sample import open_run
from wsigen.slide.levels import FileSlide, Slide
from wsigen.slide.provenance import beside
from wsigen.slide.read import open_slide
from wsigen.slide.stains import stain_densities
from wsigen.slide.tissue import mask_resolution, tissue_mask

ROWS = ".rows"
"""Folder of a corpus with a JSON file for each finished slide, which the manifest is made from."""

_SUFFIXES = ("", ".json", ".jpg", ".png")
_CHUNK = 2**22


def row_path(folder: Path, name: str) -> Path:
    """Return the file of a slide's row."""
    return folder / ROWS / f"{name}.json"


def read_row(folder: Path, item: Item, fingerprint: str) -> dict[str, Any] | None:
    """Return the row of a slide that is finished and whose files are there, or None.

    Args:
        folder: of the corpus.
        item: the slide.
        fingerprint: of what its pixels follow from.
    """
    try:
        row = json.loads(row_path(folder, item.name).read_bytes())
    except (OSError, ValueError):
        return None
    same = row.get("fingerprint") == fingerprint and row.get("split") == item.split
    there = all((folder / file["path"]).is_file() for file in row.get("files", ()))
    return row if same and there else None


def make_slide(item: Item, folder: Path, materialise: str, networks: Networks) -> dict[str, Any]:
    """Make a slide and its IHC slides, or only describe them, and write its row.

    The row is written last: where it exists, the slide is whole. A slide that was interrupted is continued.

    Args:
        item: the slide.
        folder: of the corpus.
        materialise: "all" to write the slides, "none" to describe what their seed determines.
        networks: where loaded networks are kept.

    Returns:
        A row: what the pixels follow from, area and stain of the tissue, and files with their SHA-256.

    Raises:
        OutputError: the disk refuses.
        SlideError: an overview cannot be read.
        InvalidValueError: a value does not fit, or a network returned NaN.
    """
    run = open_run(item.config, networks)
    (output,) = run.slides
    if materialise == "all":
        replace(run, several=True).make()  # several: what exists already is no error
        he = FileSlide(open_slide(output.slide))
        ihc = [FileSlide(open_slide(stained.slide)) for stained in output.ihc]
    else:
        pair = SampledPair(item.config, networks)
        he, ihc = pair.he, [*pair.ihc.values()]
    row = describe(item, output, measure(he, ihc), folder if materialise == "all" else None)
    write_bytes(row_path(folder, item.name), json.dumps(row, indent=1, ensure_ascii=False).encode())
    return row


def describe(item: Item, he: HEOutput, measures: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Return the row of a slide; with ``folder``, that of the corpus, its files too."""
    return {
        "name": item.name,
        "split": item.split,
        "overview": item.overview,
        "class": he.class_label,
        "seed": he.seed,
        "mpp": he.mpp,
        "width": he.whole.width,
        "height": he.whole.height,
        "stages": he.stages,
        "k": he.k,
        "model": he.model,
        "model_hash": he.model_hash,
        "upscaler_hash": he.upscaler_hash,
        "preset": he.preset_name,
        "dtype": he.dtype,
        "stains": [output.stain.marker for output in he.ihc],
        "stainer_hashes": [output.stain.facts["stainer_hash"] for output in he.ihc],
        "fingerprint": fingerprint(he),
        **measures,
        "he": f"{SLIDES}/{he.slide.name}" if folder else "",
        "ihc": [f"{SLIDES}/{output.slide.name}" for output in he.ihc] if folder else [],
        "files": _files(he, folder) if folder else [],
    }


def fingerprint(he: HEOutput) -> str:
    """Return a hash of what the pixels of an H&E slide and of its IHC slides follow from."""
    parts = [he.layout, he.fingerprint(), *(output.fingerprint() for output in he.ihc)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def measure(he: Slide, ihc: Sequence[Slide]) -> dict[str, Any]:
    """Measure tissue and stains on the whole slide at about 8 µm/px.

    Returns:
        ``tissue_mm2`` and ``tissue_share``, mean optical densities ``haematoxylin`` and ``eosin`` in
        tissue of the H&E, and ``dab`` of each IHC slide.
    """
    image, mpp = overview(he)
    mask = tissue_mask(image, mpp)
    densities = stain_densities(image, stains="h-e")
    dab = [_mean(stain_densities(overview(slide)[0], stains="h-dab")[..., 2], mask) for slide in ihc]
    return {
        "tissue_mm2": round(float(mask.sum()) * mpp**2 / 1e6, 6),
        "tissue_share": round(float(mask.mean()), 6),
        "haematoxylin": _mean(densities[..., 0], mask),
        "eosin": _mean(densities[..., 1], mask),
        "dab": dab,
    }


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def overview(slide: Slide) -> tuple[np.ndarray, float]:
    """Return a whole slide, uint8 (h, w, 3), and its µm/px: those at which tissue is found."""
    (width, height), um = slide.dimensions, slide.mpp
    mpp = mask_resolution(um, Size(height, width))
    return slide.read_region_um(x=0, y=0, width=width * um, height=height * um, mpp=mpp), mpp


def _mean(density: np.ndarray, mask: np.ndarray) -> float | None:
    return round(float(density[mask].mean()), 6) if mask.any() else None


def _files(he: HEOutput, folder: Path) -> list[dict[str, Any]]:
    """Return path, bytes and SHA-256 of the files of a slide and of its IHC slides."""
    slides = [he.slide, *(output.slide for output in he.ihc)]
    paths = [slide if not suffix else beside(slide, suffix) for slide in slides for suffix in _SUFFIXES]
    return [
        {"path": p.relative_to(folder).as_posix(), "bytes": p.stat().st_size, "sha256": sha256(p)}
        for p in paths
        if p.is_file()
    ]

"""Write patches of a corpus as WebDataset shards or for ``datasets``, or its slides in other formats."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from wsigen.config.convert import SlideFormat
from wsigen.config.corpus import ExportCorpusConfig
from wsigen.corpus.dataset import Corpus, CorpusPatches
from wsigen.errors import InvalidValueError, OutputError
from wsigen.files import disk_errors, make_folder, write_bytes
from wsigen.runtime import parse_bytes
from wsigen.slide.convert import Export, write_as
from wsigen.slide.read import open_slide

Write = Callable[[str, dict[str, bytes], dict[str, Any]], None]


def export(config: ExportCorpusConfig) -> dict[str, int]:
    """Write the patches, or the slides, of every split; see `export_patches` and `export_slides`."""
    corpus = Corpus(config.corpus)
    if config.slide_format is not None:
        return export_slides(corpus, config.out, config.slide_format)
    return export_patches(corpus, config)


def export_slides(corpus: Corpus, out: Path, form: SlideFormat) -> dict[str, int]:
    """Write the slides of every split as DICOM or OME-Zarr, into ``OUT/SPLIT``; see `write_as`.

    Slides that are there already are left alone; the slides of a pair are series of one study.

    Returns:
        Number of slides of each split.

    Raises:
        SlideError: a slide cannot be read.
        InvalidValueError: a package is not installed.
        OutputError: the disk refuses.
    """
    written: dict[str, int] = {}
    for row in corpus.rows():
        for part in _exports(corpus, row):
            write_as(form, part, out / row["split"])
            written[row["split"]] = written.get(row["split"], 0) + 1
    return written


def _exports(corpus: Corpus, row: dict[str, Any]) -> Iterator[Export]:
    """Yield the H&E and IHC slides of a row."""
    name = row["name"]
    if row["he"]:
        for number, path in enumerate((row["he"], *row["ihc"]), start=1):
            yield replace(Export.of_file(open_slide(corpus.folder / path)), study=name, number=number)
        return
    pair = corpus[name]
    for number, (stain, slide) in enumerate({"": pair.he, **pair.ihc}.items(), start=1):
        known = {k.removeprefix("wsigen."): v for k, v in slide.properties.items() if k.startswith("wsigen.")}
        yield Export(
            slide=slide,
            path=corpus.folder / name,
            pixel_um=(slide.mpp, slide.mpp),
            study=name,
            name=f"{name}_IHC-{stain}" if stain else f"{name}_HE",
            stain=stain or "H&E",
            number=number,
            facts={**known, "synthetic": True},
        )


def export_patches(corpus: Corpus, config: ExportCorpusConfig) -> dict[str, int]:
    """Write the patches of every split.

    WebDataset: ``OUT/SPLIT-000000.tar``, … with samples ``KEY.he.png``, ``KEY.ihc_MARKER.png`` and
    ``KEY.json``. Folder: ``OUT/SPLIT/KEY.he.png``, … and ``OUT/SPLIT/metadata.jsonl``. Patches are in random
    order in shards, and in that of the slides in folders; both follow from the seed, byte by byte.

    Returns:
        Number of patches of each split; splits without tissue have none.

    Raises:
        SlideError: the corpus, or one of its files, cannot be read.
        InvalidValueError: ``webdataset`` is not installed, or µm/px finer than those of the slides.
        OutputError: the folder is not empty, or the disk refuses.
    """
    make_folder(config.out)
    if any(config.out.iterdir()):
        raise OutputError(config.out, "is not empty; pass a new folder to --out, or empty this one")
    written = {}
    for split in dict.fromkeys(row["split"] for row in corpus.rows()):
        patches = CorpusPatches(
            corpus,
            split=split,
            size=config.size,
            mpp=config.mpp,
            tissue=config.tissue,
            count=config.count,
            seed=config.seed,
        )
        order = np.arange(len(patches))
        if config.format == "webdataset":
            np.random.default_rng(config.seed).shuffle(order)
        with _writer(config, split) as write, disk_errors(config.out):
            for i in tqdm(order, desc=split, unit="patch"):
                patch = patches[int(i)]
                facts = {"slide": patch["slide"], "split": split, "x": patch["x"], "y": patch["y"]}
                facts |= {"mpp": config.mpp, "size": config.size, "synthetic": True}
                images = {name: _png(v) for name, v in patch.items() if isinstance(v, torch.Tensor)}
                write(f"{patch['slide']}_x{patch['x']}_y{patch['y']}", images, facts)
        written[split] = len(patches)
    return written


def _writer(config: ExportCorpusConfig, split: str) -> AbstractContextManager[Write]:
    return (_shards if config.format == "webdataset" else _folder)(config, split)


@contextmanager
def _shards(config: ExportCorpusConfig, split: str) -> Iterator[Write]:
    try:
        from webdataset.writer import ShardWriter
    except ImportError as error:
        raise InvalidValueError(
            "--format webdataset needs webdataset, which is not installed; pip install 'wsigen[corpus]', or "
            "use --format folder"
        ) from error
    pattern = str(config.out / f"{split}-%06d.tar")
    largest = parse_bytes(config.shard_bytes, "--shard-bytes")
    # The time is fixed, so that equal patches make equal shards.
    with ShardWriter(pattern, maxsize=largest, verbose=0, mtime=0, encoder=False) as sink:

        def write(key: str, images: dict[str, bytes], facts: dict[str, Any]) -> None:
            text = json.dumps(facts).encode()
            sink.write({"__key__": key, **{f"{name}.png": png for name, png in images.items()}, "json": text})

        yield write


@contextmanager
def _folder(config: ExportCorpusConfig, split: str) -> Iterator[Write]:
    folder: Path = config.out / split
    make_folder(folder)
    lines: list[str] = []

    def write(key: str, images: dict[str, bytes], facts: dict[str, Any]) -> None:
        names = {name: f"{key}.{name}.png" for name in images}
        for name, png in images.items():
            (folder / names[name]).write_bytes(png)
        # `datasets` loads each column whose name ends in file_name as an image.
        columns = {f"{name}_file_name": file for name, file in names.items()}
        lines.append(json.dumps({**columns, **facts}) + "\n")

    yield write
    write_bytes(folder / "metadata.jsonl", "".join(lines).encode())


def _png(image: torch.Tensor) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(out, "PNG")
    return out.getvalue()

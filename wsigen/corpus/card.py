"""The dataset card of a corpus, for people (Hugging Face) and for machines (Croissant)."""

from __future__ import annotations

import json
import logging
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from wsigen.config.corpus import CorpusConfig, parse_splits
from wsigen.corpus.manifest import CARD, COLUMNS, CROISSANT, MANIFEST
from wsigen.corpus.slides import sha256
from wsigen.files import write_bytes
from wsigen.slide.provenance import SOFTWARE

NOTICE = "Synthetic whole-slide images: made by a diffusion model, show no patient, not for diagnosis."
_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_TYPES = {"string": "TEXT", "int64": "INT64", "float64": "FLOAT64", "bool": "BOOL"}

log = logging.getLogger(__name__)


def write_card(config: CorpusConfig, table: pd.DataFrame) -> None:
    """Write README.md with the metadata that Hugging Face reads, and croissant.json.

    Without the package ``mlcroissant`` only README.md is written, with a warning.

    Args:
        config: of the corpus.
        table: its manifest.

    Raises:
        OutputError: the disk refuses.
    """
    accepted = table[table.accepted]
    env = Environment(
        loader=PackageLoader("wsigen.corpus"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    text = env.get_template("card.md").render(
        config=config,
        table=table,
        columns=COLUMNS,
        license=config.license.lower(),
        software=SOFTWARE,
        stains=list(table.stains[0]),
        accepted=accepted,
        splits=[(split, accepted[accepted.split == split]) for split in parse_splits(config.split)],
        size_category=next((name for most, name in _CATEGORIES if len(accepted) < most), "n>1M"),
    )
    write_bytes(config.out / CARD, text.encode())
    metadata = croissant(config)
    if metadata is None:
        log.warning("%s is not written: pip install 'wsigen[corpus]'", CROISSANT)
    else:
        write_bytes(config.out / CROISSANT, (json.dumps(metadata, indent=2, default=str) + "\n").encode())


def croissant(config: CorpusConfig) -> dict[str, Any] | None:
    """Return the corpus's metadata as JSON-LD of Croissant 1.0; None without ``mlcroissant``."""
    try:
        import mlcroissant as mlc
    except ImportError:
        return None
    manifest = mlc.FileObject(
        id=MANIFEST,
        name=MANIFEST,
        description="One row a slide.",
        content_url=MANIFEST,
        encoding_formats=["application/vnd.apache.parquet"],
        sha256=sha256(config.out / MANIFEST),
    )
    columns = [
        mlc.Field(
            id=f"slides/{name}",
            name=f"slides/{name}",
            description=meaning,
            data_types=[getattr(mlc.DataType, _TYPES.get(kind, "FLOAT64" if name == "dab" else "TEXT"))],
            repeated=kind == "object" or None,
            source=mlc.Source(file_object=MANIFEST, extract=mlc.Extract(column=name)),
        )
        for name, (kind, meaning) in COLUMNS.items()
    ]
    metadata = mlc.Metadata(
        name=config.title,
        description=NOTICE,
        license=[f"https://spdx.org/licenses/{config.license}"],
        creators=[mlc.Organization(name="wsigen")],
        keywords=["synthetic", "histopathology", "whole-slide image"],
        version="1.0.0",
        distribution=[manifest],
        record_sets=[mlc.RecordSet(id="slides", name="slides", fields=columns)],
    )
    return metadata.to_json()

"""The files that describe a corpus: its configuration, manifest and checksums; and their verification."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from wsigen.config.check import as_list
from wsigen.config.corpus import CorpusConfig
from wsigen.corpus.plan import SLIDES
from wsigen.corpus.slides import ROWS, sha256
from wsigen.errors import InvalidValueError, OutputError, SlideError
from wsigen.files import atomic_path, write_bytes
from wsigen.slide.provenance import SOFTWARE

VERSION = 1
"""Of the files of a corpus."""
CONFIG, FACTS, MANIFEST, CHECKSUMS = "corpus.yaml", "corpus.json", "manifest.parquet", "SHA256SUMS"
CARD, CROISSANT = "README.md", "croissant.json"
GATE = "training slides of the gate"
"""Name of their hash."""

COLUMNS = {
    "name": ("string", "base name of the files"),
    "split": ("string", "train, val or test, as chosen"),
    "overview": ("string", "overview that the slide starts from; empty if its first stage was sampled"),
    "class": ("string", "class of the tissue that was asked for; empty for none"),
    "seed": ("int64", "from which the slide follows"),
    "mpp": ("float64", "µm/px of level 0"),
    "width": ("int64", "px of level 0"),
    "height": ("int64", "px of level 0"),
    "stages": ("int64", "number of upscalings"),
    "k": ("int64", "factor between two stages"),
    "model": ("string", "model that sampled the slide"),
    "model_hash": ("string", "SHA-256 of the denoiser's weights"),
    "upscaler_hash": ("string", "SHA-256 of the upscaler's weights; empty if it was not used"),
    "preset": ("string", "how the slide was sampled"),
    "dtype": ("string", "precision of the networks"),
    "stains": ("object", "markers of the IHC slides"),
    "stainer_hashes": ("object", "SHA-256 of the stainers' weights"),
    "fingerprint": ("string", "hash of all that the pixels follow from"),
    "tissue_mm2": ("float64", "area of tissue, mm²"),
    "tissue_share": ("float64", "area of tissue over that of the slide"),
    "haematoxylin": ("float64", "mean optical density of haematoxylin in tissue"),
    "eosin": ("float64", "mean optical density of eosin in tissue"),
    "dab": ("object", "mean optical density of DAB in tissue of each IHC slide"),
    "accepted": ("bool", "false if the gate refused the slide, which is then left out"),
    "draws": ("int64", "seeds that were tried, of which this is the last"),
    "squares": ("int64", "squares of the slide that the gate searched for; 0 without a gate"),
    "nearest": ("float64", "distance of these to the nearest place of the training slides, 0 to 2"),
    "nearest_ratio": ("float64", "that over the distance of unrelated real tissue: its 1 % quantile"),
    "he": ("string", "file of the H&E slide; empty if only the seed is kept"),
    "ihc": ("object", "files of the IHC slides"),
    "bytes": ("int64", "size of all files"),
    "sha256": ("string", "SHA-256 of the H&E slide; of all files: SHA256SUMS"),
}
"""Columns of the manifest: type in pandas, and meaning."""

# May differ from call to call: a corpus grows, and slides move; which they are, their hash says.
_CHANGING = {"count", "gate_draws", "gate_slides", "gate_table"}
# Where and how fast a corpus is made is no part of what it is.
_ELSEWHERE = {
    "out",
    "engine",
    "address",
    "workers",
    "threads",
    "gpus",
    "shard",
    "device",
    "batch_size",
    "memory",
    "dry_run",
}


def content(config: CorpusConfig) -> dict[str, Any]:
    """Return the fields that a corpus's slides follow from."""
    values = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in _ELSEWHERE}
    values |= {name: as_list(values[name]) for name in ("overview", "gate_slides")}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def keep_config(config: CorpusConfig, hashes: dict[str, str]) -> None:
    """Write the configuration of a new corpus; of one that exists, check that it is the same.

    Args:
        config: of the call.
        hashes: of the networks' weights and of the gate's slides, by name.

    Raises:
        InvalidValueError: the corpus was made with other values, other weights or another version.
        OutputError: the disk refuses.
    """
    path = config.out / CONFIG
    if path.is_file():
        before = read_config(config.out)
        now, then = content(config), content(before)
        if different := [n for n in now if n not in _CHANGING and now[n] != then[n]]:
            changes = "; ".join(f"--{n} was {then[n]!r}, now {now[n]!r}" for n in different)
            raise InvalidValueError(
                f"{config.out} holds a corpus made otherwise: {changes}; pass its values, as in "
                f"`--config {path}`, or another --out"
            )
        old = _read_facts(config.out)["weights"]
        if changed := [name for name in hashes if old.get(name) != hashes[name]]:
            what = ", ".join(GATE if name == GATE else f"weights of {name}" for name in changed)
            raise InvalidValueError(f"{config.out} was made with other {what}; use those, or another --out")
        if config.count < before.count:
            raise InvalidValueError(
                f"--count must be at least that of the corpus in {config.out}, {before.count}, got "
                f"{config.count}; for fewer slides, pass another --out"
            )
        if now == then:
            return
    facts = {"version": VERSION, "software": SOFTWARE, "synthetic": True, "weights": hashes}
    write_bytes(config.out / FACTS, (json.dumps(facts, indent=2) + "\n").encode())
    values = {name: value for name, value in content(config).items() if value is not None and value != []}
    write_bytes(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())


def read_config(folder: Path) -> CorpusConfig:
    """Return the configuration that a corpus was made with.

    Raises:
        SlideError: the folder holds no corpus, or its configuration is damaged.
        InvalidValueError: it is one of another version.
    """
    _read_facts(folder)
    path = folder / CONFIG
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return CorpusConfig(**values, out=folder)
    except (OSError, yaml.YAMLError, TypeError) as error:
        reason = f"cannot be read ({error}); restore it from a copy of the corpus"
        raise SlideError(path, reason) from error


def _read_facts(folder: Path) -> dict[str, Any]:
    """Return version and weights of a corpus."""
    path = folder / FACTS
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = f"is no corpus: {FACTS} cannot be read; pass a folder that `wsigen corpus make` wrote"
        raise SlideError(folder, reason) from error
    if facts.get("version") != VERSION:
        raise InvalidValueError(
            f"{path} is of version {facts.get('version')}, this wsigen reads version {VERSION}; use the one "
            f"that made it ({facts.get('software', 'unknown')})"
        )
    return facts


def write_manifest(folder: Path, rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Write manifest and checksums of the slides that are finished.

    Args:
        folder: of the corpus.
        rows: of its slides, see `wsigen.corpus.slides.describe`, in order.

    Returns:
        The manifest.

    Raises:
        OutputError: the disk refuses.
    """
    table = pd.DataFrame([_columns(row) for row in rows], columns=list(COLUMNS))
    table = table.astype({name: kind for name, (kind, _) in COLUMNS.items()})
    with atomic_path(folder / MANIFEST) as path:
        table.to_parquet(path, index=False)
    sums = [f"{file['sha256']}  {file['path']}\n" for row in rows for file in row["files"]]
    sums += [f"{sha256(folder / name)}  {name}\n" for name in (CONFIG, FACTS, MANIFEST)]
    write_bytes(folder / CHECKSUMS, "".join(sums).encode())
    return table


def _columns(row: dict[str, Any]) -> dict[str, Any]:
    files = row["files"]
    more = {"bytes": sum(f["bytes"] for f in files), "sha256": files[0]["sha256"] if files else ""}
    known = {"class": "", **row, **more}  # rows of before there were classes lack theirs
    return {name: known[name] for name in COLUMNS}


def read_manifest(folder: Path) -> pd.DataFrame:
    """Return the manifest of a corpus.

    Raises:
        SlideError: the folder holds no complete corpus, or the manifest is damaged.
        InvalidValueError: it is one of another version.
    """
    read_config(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise SlideError(path, "is missing: no slide is finished; run the same `wsigen corpus make` again")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise SlideError(
            path, f"cannot be read ({error}); run `wsigen corpus make` again to renew it"
        ) from error
    if missing := [name for name in COLUMNS if name not in table]:
        raise SlideError(
            path, f"has no column {', '.join(missing)}; run `wsigen corpus make` again to renew it"
        )
    return table


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of all slides that are finished."""
    return [_read_row(path) for path in sorted((folder / ROWS).glob("*.json"))]


def _read_row(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = f"cannot be read ({error}); delete it and run the same command again"
        raise OutputError(path, reason) from error


def verify(folder: Path) -> list[str]:
    """Compare every file of a corpus with its checksum, and the manifest with what is there.

    Returns:
        What is wrong, one sentence each; empty if nothing is.

    Raises:
        SlideError: the folder holds no corpus.
        InvalidValueError: it is one of another version.
    """
    table, config = read_manifest(folder), read_config(folder)
    problems = []
    lines = (
        (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
        if (folder / CHECKSUMS).is_file()
        else []
    )
    if not lines:
        problems.append(f"{CHECKSUMS} is missing or empty")
    listed = {line[66:]: line[:64] for line in lines}
    for name, expected in listed.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif sha256(path) != expected:
            problems.append(f"{name} differs from its checksum")
    if len(table) != config.count:
        problems.append(f"{MANIFEST} lists {len(table)} of {config.count} slides; make the rest")
    named = {name for he, ihc in zip(table.he, table.ihc, strict=True) for name in (he, *ihc) if name}
    problems += [f"{name} has no checksum" for name in sorted(named - listed.keys())]
    extra = {f"{SLIDES}/{p.name}" for p in (folder / SLIDES).glob("*.ome.tif")} - named
    problems += [f"{name} is not in the manifest" for name in sorted(extra)]
    return problems

"""Make a corpus: plan, have an engine make the slides that are missing, describe what is there."""

from __future__ import annotations

import logging
import os
from collections import Counter
from contextlib import closing
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from wsigen.config.corpus import CorpusConfig, parse_shard, parse_sides
from wsigen.corpus.card import write_card
from wsigen.corpus.engine import Engine, LocalProcesses, RayTasks, Task, in_process
from wsigen.corpus.gate import Gate, fits, open_gate
from wsigen.corpus.manifest import GATE, keep_config, read_rows, write_manifest
from wsigen.corpus.plan import Item, plan_corpus
from wsigen.corpus.slides import fingerprint, read_row
from wsigen.errors import InvalidValueError
from wsigen.evaluation.signatures import SIDE
from wsigen.files import make_folder
from wsigen.pipeline.networks import Networks
from wsigen.pipeline.outputs import HEOutput
from wsigen.pipeline.plan import time_text
from wsigen.pipeline.sample import open_run
from wsigen.runtime import choose_device, format_bytes, usable_cpus
from wsigen.slide.pyramid import pyramid_levels
from wsigen.slide.write import estimate_bytes, layout_codec

WORKER_BYTES = 3 * 2**30
"""Memory of this machine that a local worker is counted with: networks, canvas and PyTorch."""

log = logging.getLogger(__name__)


def make_corpus(config: CorpusConfig, engine: Engine | None = None) -> Path:
    """Make the slides of a corpus that are missing, its manifest, card and checksums.

    Killed at any moment, the same call continues and ends with the same bytes. With a larger ``count`` it
    adds slides; the ones before keep their split and bytes.

    Args:
        config: of the corpus.
        engine: that makes slides; by default that of ``config``.

    Returns:
        The folder of the corpus.

    Raises:
        InvalidValueError: values that do not fit, another corpus in the folder, workers that keep dying, or
            a gate that refused every draw of a slide.
        SlideError: an overview cannot be read.
        OutputError: the disk refuses.
    """
    items, outputs, hashes = _plan(config)
    gate = _gate(config, outputs)
    if gate:
        log.info("%s", gate.describe())
        hashes[GATE] = gate.fingerprint()
    make_folder(config.out)
    keep_config(config, hashes)
    number, shards = parse_shard(config.shard)
    mine = list(zip(items, outputs, strict=True))[number::shards]
    missing = [item for item, he in mine if read_row(config.out, item, fingerprint(he)) is None]
    if len(missing) < len(mine):
        log.info("%s: %d of %d slides are finished", config.out, len(mine) - len(missing), len(mine))
    tasks = [
        Task(
            item=item,
            folder=config.out,
            materialise=config.materialise,
            threads=config.threads,
            gate=gate,
        )
        for item in missing
    ]
    engine = engine or choose_engine(config, len(tasks))
    try:
        with tqdm(total=len(mine), initial=len(mine) - len(tasks), desc="slides", unit="slide") as bar:
            if tasks:
                with closing(engine(tasks)) as made:  # pyright: ignore[reportArgumentType]
                    for row, why in made:
                        if why:
                            log.warning("%s is left out: %s", row["name"], why)
                        bar.update()
    finally:
        table = _describe(config, items)
    size = format_bytes(int(table.bytes.sum()))
    log.info("%s: %d of %d slides, %s", config.out, table.accepted.sum(), len(items), size)
    return config.out


def choose_engine(config: CorpusConfig, tasks: int) -> Engine:
    """Return the engine of a configuration, with no more workers than tasks."""
    if config.engine == "ray":
        workers = None if config.workers == "auto" else int(config.workers)
        gpus = 0.0 if config.device == "cpu" else config.gpus
        return RayTasks(address=config.address, workers=workers, threads=config.threads, gpus=gpus)
    devices = _devices(config)
    workers = _workers(config, len(devices)) if config.workers == "auto" else int(config.workers)
    workers = max(1, min(workers, tasks))
    return in_process if workers == 1 else LocalProcesses(workers=workers, devices=devices)


def describe(config: CorpusConfig) -> str:
    """Return what a call of ``corpus make`` would do, as a table: slides, splits, disk and time.

    Raises:
        See `make_corpus`.
    """
    items, outputs, _ = _plan(config)
    gate = _gate(config, outputs)
    number, shards = parse_shard(config.shard)
    largest = max(outputs, key=lambda he: he.whole.area)
    run = open_run(items[outputs.index(largest)].config)
    plan, seconds = run.measure()
    share = sum(he.whole.area for he in outputs[number::shards]) / largest.whole.area
    workers = getattr(choose_engine(config, len(items)), "workers", 1) or 1
    written = sum(slide_bytes(he) * (1 + len(he.ihc)) for he in outputs) if config.materialise == "all" else 0
    ihc = sum(len(he.ihc) for he in outputs)
    splits = Counter(item.split for item in items)
    megapixels = sum(he.whole.area for he in outputs) / 1e6
    lines = [
        f"slides      {len(items)} H&E, {ihc} IHC, {megapixels:.1f} megapixels of each stain",
        f"splits      {', '.join(f'{name} {count}' for name, count in splits.items())}",
        *([f"gate        {gate.describe()}"] if gate else []),
        f"disk        {format_bytes(written)} at most",
        f"time        {time_text(share * seconds / workers)} at most with {workers} workers, "
        f"{share * seconds / 3600:.2f} device hours",
        "",
        f"the largest slide, {largest.whole} px:",
        plan,
    ]
    return "\n".join(lines)


def slide_bytes(he: HEOutput) -> int:
    """Return the bytes of a slide on disk, at most."""
    return estimate_bytes(he.whole, layout_codec(he.layout), pyramid_levels(he.whole))


def _plan(config: CorpusConfig) -> tuple[list[Item], list[HEOutput], dict[str, str]]:
    """Return the slides, what their pixels follow from, and the hashes of the networks' weights."""
    items, networks = plan_corpus(config), Networks()
    outputs = [open_run(item.config, networks).slides[0] for item in items]
    first = outputs[0]
    hashes = {"model": first.model_hash}
    hashes |= {"upscaler": first.upscaler_hash} if first.upscaler_hash else {}
    hashes |= {output.stain.marker: output.stain.facts["stainer_hash"] for output in first.ihc}
    return items, outputs, hashes


def _gate(config: CorpusConfig, outputs: list[HEOutput]) -> Gate | None:
    """Open the gate, and see that it looks at every slide."""
    if config.gate is None:
        return None
    _check_sides(outputs, parse_sides(config.gate_um))  # before training slides are read for minutes
    gate = open_gate(config)
    if gate:
        _check_sides(outputs, [scale.um for scale in gate.scales])
    return gate


def _check_sides(outputs: list[HEOutput], sides: list[float]) -> None:
    for he in outputs:
        dimensions = he.whole.width, he.whole.height
        if not any(fits(dimensions, he.mpp, um) for um in sides):
            least, most = SIDE * he.mpp, min(dimensions) * he.mpp
            raise InvalidValueError(
                f"--gate-um must have a side of {least:g} to {most:g} µm for the slide of seed {he.seed} "
                f"({he.whole} px at {he.mpp:g} µm/px), got {', '.join(f'{um:g}' for um in sides)}"
            )


def _describe(config: CorpusConfig, items: list[Item]) -> pd.DataFrame:
    """Write manifest, checksums and card of the slides that are finished."""
    rows = {row["name"]: row for row in read_rows(config.out)}
    table = write_manifest(config.out, [rows[item.name] for item in items if item.name in rows])
    if len(table):
        write_card(config, table)
    return table


def _devices(config: CorpusConfig) -> list[str]:
    """Return the GPUs that workers take in turn; empty for the configured device."""
    device = choose_device(config.device)
    if config.device != "auto" or device.type != "cuda":
        return []
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


def _workers(config: CorpusConfig, gpus: int) -> int:
    if gpus or choose_device(config.device).type != "cpu":
        return max(1, gpus)
    memory = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else WORKER_BYTES
    )
    return max(1, min(usable_cpus() // config.threads, memory // WORKER_BYTES))

"""Options of ``wsigen corpus make``, ``verify`` and ``export``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from wsigen.config.check import check, is_positive
from wsigen.config.convert import SlideFormat
from wsigen.config.sample import SampleConfig, parse_mpp, parse_size
from wsigen.runtime import parse_bytes


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """One call of ``wsigen corpus make``.

    Args:
        out: folder of the corpus.
        count: number of slides, with seeds SEED, SEED + 1, …; a larger number adds slides to a corpus.
        seed: of the first slide.
        size: side of the slides in pixels, or WIDTHxHEIGHT; of several, separated by commas, each seed has
            one. Default 2048, with --overview the overview's size times k**stages.
        stages: number of upscalings; default 6, with --overview as many as --mpp needs.
        mpp: µm/px of the slides, or LOW-HIGH, such as 0.45-0.6: each seed has a value of that range.
        overview: H&E pictures or slides to start from, or folders of them, instead of sampling stage 0;
            slides take them in turn.
        overview_mpp: µm/px of overviews whose files do not state it.
        model: "default" (bundled), a model or snapshot folder, or a hub id.
        upscaler: snapshot folder or hub id of an upscaler to use instead of the model's own.
        preset: "one-step", "fast", "paper", or a YAML file; "auto" is one-step if the model has an upscaler.
        k: factor between two stages.
        classes: classes of tissue and their weights, such as liver=2,skin=1; a class without weight has 1.
            Each split has its share of each class.
        guidance: weight of classifier-free guidance towards the class of a slide; given with --classes.
        stain: stainers of the IHC slides: "SYN" (bundled), a snapshot folder or a hub id; several separated
            by commas.
        split: names and shares of the splits, such as train=0.8,val=0.1,test=0.1. Slides of one overview are
            in one split.
        materialise: "all" writes the slides; "none" only their seeds, from which regions are computed when
            they are read (needs a preset whose last stages use the upscaler).
        layout: "linked-ome", "generic" or "lossless".
        dtype: "auto", "float32" or "bfloat16": precision of the networks.
        gate: search the training slides for copies of each slide before it counts as made: "refuse" leaves
            a slide with a copy out, "redraw" makes it again with another seed.
        gate_slides: slides that the model was trained on, folders of them, or an index.parquet; default is
            the index of the training run that wrote the model.
        gate_table: CSV with columns slide, and any of mpp and group (the case), of the training slides.
        gate_um: sides of the squares that are searched for, in µm, separated by commas; those that fit.
        gate_squares: most squares of a side that are searched for in a slide.
        gate_distance: a square nearer than this is a copy, if it is also nearer than --gate-share says; 0 is
            the same picture, 1 unrelated.
        gate_share: of the distance that 1 % of the squares of unrelated real tissue fall below.
        gate_draws: most seeds that are tried for a slide with --gate redraw.
        title: of the dataset card.
        license: of the dataset, as an SPDX identifier.
        engine: "local" runs processes on this machine, "ray" tasks on a Ray cluster, which needs
            `pip install 'wsigen[ray]'` and a folder OUT that all its machines share.
        address: of the Ray cluster, such as auto; by default Ray starts on this machine.
        workers: slides made at the same time; "auto" is one for each GPU, else one for each --threads CPUs,
            as many as memory allows. On a cluster, Ray decides.
        threads: CPU threads of a worker. Slides differ in last bits between numbers of threads.
        gpus: GPUs of a worker on a Ray cluster, such as 0.5 for two workers a GPU.
        shard: I/N makes only every N-th slide, from the I-th (from 1): for array jobs on a shared folder.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        batch_size: patches per network call.
        memory: limit of a worker for canvas and stainers, such as 8GiB.
        dry_run: print slides, splits, disk and time without making anything.
    """

    out: Path = Path("corpus")
    count: int = 8
    seed: int = 0
    size: int | str | None = None
    stages: int | None = None
    mpp: float | str = 0.5
    overview: list[str] | str = field(default_factory=list)
    overview_mpp: float | None = None
    model: str = "default"
    upscaler: str | None = None
    preset: str = "auto"
    k: int = 2
    classes: str | None = None
    guidance: float = 1.0
    stain: str | None = None
    split: str = "train=0.8,val=0.1,test=0.1"
    materialise: Literal["all", "none"] = "all"
    layout: Literal["linked-ome", "generic", "lossless"] = "linked-ome"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gate: Literal["refuse", "redraw"] | None = None
    gate_slides: list[str] | str = field(default_factory=list)
    gate_table: Path | None = None
    gate_um: float | str = "256,1024,4096"
    gate_squares: int = 256
    gate_distance: float = 0.3
    gate_share: float = 0.6
    gate_draws: int = 5
    title: str = "Synthetic whole-slide images"
    license: str = "CC-BY-4.0"
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    workers: int | Literal["auto"] = "auto"
    threads: int = 1
    gpus: float = 1.0
    shard: str | None = None
    device: str = "auto"
    batch_size: int | Literal["auto"] = "auto"
    memory: str = "8GiB"
    dry_run: bool = False

    def __post_init__(self) -> None:
        check(self.count >= 1, "--count", self.count, ">= 1")
        check(self.threads >= 1, "--threads", self.threads, ">= 1")
        check(self.gpus > 0, "--gpus", self.gpus, "> 0")
        auto = self.workers == "auto"
        check(auto or int(self.workers) >= 1, "--workers", self.workers, "auto or >= 1")
        ray = self.engine == "ray"
        check(ray or self.address is None, "--address", self.address, "given with --engine ray")
        check(
            not (ray and self.shard),
            "--shard",
            self.shard,
            "left out with --engine ray, which divides the work",
        )
        sizes = parse_sizes(self.size)
        check(
            not self.overview or sizes == [None],
            "--size",
            self.size,
            "left out with --overview, whose it follows",
        )
        parse_splits(self.split)
        parse_shard(self.shard)
        parse_bytes(self.memory)
        low, high = parse_mpp(self.mpp)
        check(low == high or not self.overview, "--mpp", repr(self.mpp), "one number with --overview")
        self._check_gate()
        told = self.classes is not None or self.guidance == 1
        check(told, "--guidance", self.guidance, "given with --classes, or left out")
        first = next(iter(parse_classes(self.classes)), None)
        self.sample_config(class_label=first)  # checks what both have in common

    def _check_gate(self) -> None:
        parse_sides(self.gate_um)
        gated = self.gate is not None
        check(gated or not self.gate_slides, "--gate", self.gate, "given with --gate-slides")
        check(
            self.gate_table is None or bool(self.gate_slides),
            "--gate-slides",
            None,
            "given with --gate-table",
        )
        check(self.gate_squares >= 1, "--gate-squares", self.gate_squares, ">= 1")
        check(self.gate_draws >= 1, "--gate-draws", self.gate_draws, ">= 1")
        good = is_positive(self.gate_distance, 2)
        check(good, "--gate-distance", repr(self.gate_distance), "a distance in (0, 2]")
        check(is_positive(self.gate_share), "--gate-share", repr(self.gate_share), "a positive number")

    def sample_config(self, **values: Any) -> SampleConfig:
        """Return the configuration of a slide: the fields that both have, and ``values``."""
        shared = {f.name for f in fields(SampleConfig)} & {f.name for f in fields(self)}
        left = shared - {"out", "count", "size", "overview", "dry_run", "overview_mpp"}
        return SampleConfig(**{name: getattr(self, name) for name in left} | values)


@dataclass(frozen=True, kw_only=True)
class VerifyCorpusConfig:
    """One call of ``wsigen corpus verify``.

    Args:
        corpus: its folder.
    """

    corpus: Path


@dataclass(frozen=True, kw_only=True)
class ExportCorpusConfig:
    """One call of ``wsigen corpus export``.

    Args:
        corpus: its folder.
        out: folder to write to, empty or new; with whole slides, those that are there are left alone.
        format: of patches, "webdataset" for tar shards or "folder" for images with a metadata.jsonl; of whole
            slides, "dicom" or "ome-zarr", which take none of the options below.
        size: side of the patches in pixels.
        mpp: µm/px of the patches, that of the slides or coarser.
        tissue: least share of tissue in a patch of the H&E.
        count: number of patches for each split, drawn at random; all by default.
        seed: of that draw, and of the order of the patches in shards.
        shard_bytes: size of a shard, such as 1GB.
    """

    corpus: Path
    out: Path = Path("patches")
    format: Literal["webdataset", "folder", "dicom", "ome-zarr"] = "webdataset"
    size: int = 256
    mpp: float = 0.5
    tissue: float = 0.5
    count: int | None = None
    seed: int = 0
    shard_bytes: str = "1GB"

    def __post_init__(self) -> None:
        check(self.size >= 1, "--size", self.size, ">= 1")
        check(is_positive(self.mpp), "--mpp", repr(self.mpp), "a positive number of µm/px")
        check(0 <= self.tissue <= 1, "--tissue", self.tissue, "between 0 and 1")
        check(self.count is None or self.count >= 1, "--count", self.count, ">= 1")
        parse_bytes(self.shard_bytes, "--shard-bytes")
        if self.slide_format is not None:
            for f in fields(self)[3:]:
                value, flag = getattr(self, f.name), f"--{f.name.replace('_', '-')}"
                check(value == f.default, flag, value, f"left out with --format {self.format}: no patches")

    @property
    def slide_format(self) -> SlideFormat | None:
        """Format that whole slides are written in; None for patches."""
        return self.format if self.format in get_args(SlideFormat) else None  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, kw_only=True)
class LabelCorpusConfig:
    """One call of ``wsigen corpus label``.

    Args:
        corpus: its folder, with slides in files.
        positive: mean optical density of DAB from which a nucleus is positive.
        overwrite: label slides again that have labels.
    """

    corpus: Path
    positive: float = 0.2
    overwrite: bool = False

    def __post_init__(self) -> None:
        check(is_positive(self.positive), "--positive", repr(self.positive), "a positive optical density")


def parse_sizes(text: str | int | None) -> list[str | None]:
    """Return sizes separated by commas, each as `SampleConfig` takes it; [None] for the default.

    Raises:
        InvalidValueError: one of them is no size.
    """
    if text is None:
        return [None]
    sizes = [part.strip() for part in str(text).split(",")]
    for size in sizes:
        parse_size(size)
    return list(sizes)


def parse_sides(text: float | str) -> list[float]:
    """Return sides in µm separated by commas, smallest first.

    Raises:
        InvalidValueError: one of them is no positive number.
    """
    try:
        sides = sorted({float(part) for part in str(text).split(",")})
    except ValueError:
        sides = []
    good = bool(sides) and all(is_positive(side) for side in sides)
    check(good, "--gate-um", repr(text), "positive numbers of µm separated by commas, such as 256,1024")
    return sides


def parse_splits(text: str) -> dict[str, float]:
    """Return the share of each split; they add up to 1.

    Raises:
        InvalidValueError: a name or share is missing or twice, or shares do not add up to 1.
    """
    parts = [re.fullmatch(r"\s*(\w+)\s*=\s*([\d.]+)\s*", part, re.ASCII) for part in text.split(",")]
    try:
        shares = [(part[1], float(part[2])) for part in parts if part]
    except ValueError:
        shares = []
    good = len(shares) == len(parts) == len(dict(shares)) and all(share > 0 for _, share in shares)
    total = math.fsum(share for _, share in shares)
    expected = "NAME=SHARE, …, with shares above 0 that add up to 1, such as train=0.8,val=0.1,test=0.1"
    check(good and abs(total - 1) < 1e-6, "--split", repr(text), expected)
    return dict(shares)


def parse_classes(text: str | None) -> dict[str, float]:
    """Return the share of each class; they add up to 1. None is no class.

    Raises:
        InvalidValueError: a class is twice, or a weight is not positive.
    """
    weights: dict[str, float] = {}
    for part in () if text is None else text.split(","):
        name, _, weight = part.rpartition("=") if "=" in part else (part, "", "1")
        try:
            value = float(weight)
        except ValueError:
            value = math.nan
        okay = name.strip() and name.strip() not in weights and is_positive(value)
        check(
            bool(okay),
            "--classes",
            repr(text),
            "NAME=WEIGHT, …, each once and above 0, such as liver=2,skin=1",
        )
        weights[name.strip()] = value
    return {name: weight / math.fsum(weights.values()) for name, weight in weights.items()}


def parse_shard(text: str | None) -> tuple[int, int]:
    """Return number, from 0, and count of shards; (0, 1) for None.

    Raises:
        InvalidValueError: it is not I/N with 1 <= I <= N.
    """
    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", "1/1" if text is None else text, re.ASCII)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    check(1 <= number <= count, "--shard", repr(text), "I/N with I from 1 to N, such as 3/16")
    return number - 1, count

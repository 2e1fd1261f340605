"""Options of ``sample``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wsigen.config.check import check, is_positive, parse_region
from wsigen.geometry import Size
from wsigen.runtime import parse_bytes


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """One call of ``sample``.

    Args:
        size: side of the slide in pixels, or WIDTHxHEIGHT; default 2048, with --overview its size times
            k**stages; cropped from the next larger multiple of the denoiser's stride times k**stages.
        stages: number of upscalings, stage 0 has size / k**stages pixels; default 6, with --overview as many
            as --mpp needs.
        seed: of the noise; the same slide for any memory, batch size and schedule.
        mpp: µm/px of the finished slide, or LOW-HIGH, such as 0.45-0.6: each seed has a value of that range.
        model: "default" (bundled), a model or snapshot folder, or a hub id.
        upscaler: snapshot folder or hub id of an upscaler to use instead of the model's own.
        preset: "one-step", "fast", "paper", or a YAML file; "auto" is one-step if the model has an upscaler,
            else fast.
        overview: H&E picture or slide to start from instead of sampling stage 0.
        overview_mpp: µm/px of the overview, if the file does not state it.
        overview_series: number of the overview's image, for a TIFF or OME-Zarr that holds several.
        region: make only this region, as X,Y,WIDTH,HEIGHT in pixels of the slide; needs a preset whose last
            stages use the upscaler, such as one-step.
        k: factor between two stages.
        out: folder to write to.
        name: base name of the files, default synthetic-SEED; with --count, NAME-SEED.
        count: number of slides, with seeds SEED, SEED + 1, …, and a table of them, OUT/NAME.csv.
        class_label: class of the tissue, one of those that the model was trained with.
        guidance: weight of classifier-free guidance: above 1, slides are more typical of the class and vary
            less, and the denoiser's stages take twice the time; given with --class.
        stain: also translate each slide with this stainer: "SYN" (bundled), a snapshot folder or a hub id;
            several separated by commas.
        schedule: "wavefront" keeps a band of rows in memory, "steps" the whole canvas; the slide is the same.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        batch_size: patches per network call.
        memory: limit for the canvas on its device, and for the stainers on the host, such as 8GiB.
        dtype: "auto", "float32" or "bfloat16": precision of the network.
        layout: "linked-ome", "generic" or "lossless".
        overwrite: replace a slide of the same name.
        dry_run: print the plan (memory, disk, time) without making the slide.
    """

    size: int | str | None = None
    stages: int | None = None
    seed: int = 0
    mpp: float | str = 0.5
    model: str = "default"
    upscaler: str | None = None
    preset: str = "auto"
    overview: Path | None = None
    overview_mpp: float | None = None
    overview_series: int | None = None
    region: str | None = None
    k: int = 2
    out: Path = Path("slides")
    name: str | None = None
    count: int = 1
    class_label: str | None = None
    guidance: float = 1.0
    stain: str | None = None
    schedule: Literal["wavefront", "steps"] = "wavefront"
    device: str = "auto"
    batch_size: int | Literal["auto"] = "auto"
    memory: str = "8GiB"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    layout: Literal["linked-ome", "generic", "lossless"] = "linked-ome"
    overwrite: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        check(self.stages is None or self.stages >= 0, "--stages", self.stages, ">= 0")
        check(self.k >= 2, "--k", self.k, ">= 2")
        parse_size(self.size)
        low, high = parse_mpp(self.mpp)
        check(low == high or self.overview is None, "--mpp", repr(self.mpp), "one number with --overview")
        if self.overview_mpp is not None:
            check(self.overview is not None, "--overview-mpp", self.overview_mpp, "given with --overview")
            okay = is_positive(self.overview_mpp)
            check(okay, "--overview-mpp", repr(self.overview_mpp), "a positive number of µm/px")
        if self.overview_series is not None:
            okay = self.overview is not None and self.overview_series >= 0
            expected = "a number from 0 on, with --overview"
            check(okay, "--overview-series", self.overview_series, expected)
        check(0 <= self.seed < 2**63, "--seed", self.seed, "between 0 and 2**63")
        check(self.count >= 1, "--count", self.count, ">= 1")
        check(is_positive(self.guidance), "--guidance", repr(self.guidance), "a positive number")
        told = self.class_label is not None or self.guidance == 1
        check(told, "--guidance", self.guidance, "given with --class, or left out")
        auto = self.batch_size == "auto"
        check(auto or int(self.batch_size) >= 1, "--batch-size", self.batch_size, "auto or >= 1")
        check(
            self.name is None or self.name == Path(self.name).name != "",
            "--name",
            self.name,
            "a plain file name",
        )
        parse_bytes(self.memory)
        if self.region is not None:
            parse_region(self.region)
            check(not self.dry_run, "--dry-run", self.dry_run, "left out with --region")


def parse_size(size: int | str | None) -> Size | None:
    """Parse the side of a square, or WIDTHxHEIGHT; None stays None.

    Raises:
        InvalidValueError: it is neither, or the size is 0.
    """
    if size is None:
        return None
    # ASCII, since \d is a digit of any script otherwise
    match = re.fullmatch(r"\s*(\d+)\s*(?:[xX×]\s*(\d+)\s*)?", str(size), re.ASCII)
    width = int(match[1]) if match else 0
    height = int(match[2]) if match and match[2] else width
    check(bool(width and height), "--size", repr(size), "N or WIDTHxHEIGHT in px, such as 4096 or 8192x4096")
    return Size(height, width)


def parse_mpp(mpp: float | str) -> tuple[float, float]:
    """Return the lowest and the highest µm/px of a number or LOW-HIGH.

    Raises:
        InvalidValueError: a value is not positive, or the range is empty.
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*-\s*([\d.]+)\s*", mpp, re.ASCII) if isinstance(mpp, str) else None
    try:
        low, high = map(float, match.groups()) if match else (float(mpp), float(mpp))
    except ValueError:
        low = high = math.nan  # fails the check below
    okay = is_positive(low) and is_positive(high) and low <= high
    check(okay, "--mpp", repr(mpp), "a positive number of µm/px, or LOW-HIGH such as 0.45-0.6")
    return low, high


def size_text(size: int | str | tuple[int, int] | None) -> int | str | None:
    """Return a size as `SampleConfig` takes it; (width, height) becomes WIDTHxHEIGHT."""
    return "x".join(map(str, size)) if isinstance(size, tuple) else size

"""Stages and cascades in memory, with what they cost."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.ablations.options import Device
from benchmarks.ablations.page import Row
from wsigen.diffusion.step import DenoiserFunction
from wsigen.evaluation.seams import jump, step8
from wsigen.geometry import Colour, Region, Size
from wsigen.nn.denoiser import Denoiser, load_denoiser
from wsigen.pipeline.networks import InPrecision
from wsigen.runtime import choose_batch_size
from wsigen.sampling.pixels import background_of
from wsigen.sampling.preset import GuidedConfig, Preset, load_preset
from wsigen.sampling.spec import Execution, StageProgress, StageSpec, diffused, stage_specs
from wsigen.sampling.stage import StageRun

K = 2
LARGEST_SCORED = 4096

Joints = tuple[Sequence[int], Sequence[int]]
"""Phases of the joints between rows, and of those between columns."""


class Clock:
    """Seconds since it was made: of all threads of this process on a CPU (others may run beside it), of the
    wall on a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = self._now()

    def seconds(self) -> float:
        """Since it was made."""
        return self._now() - self._start

    def _now(self) -> float:
        if self._device.type == "cpu":
            return time.process_time()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class ImageRows:
    """A canvas in memory that rows are appended to and read from."""

    def __init__(self, image: np.ndarray, rows_done: int = 0) -> None:
        self.image, self.rows_done = image, rows_done

    @classmethod
    def empty(cls, size: Size) -> ImageRows:
        """A canvas without rows."""
        return cls(np.empty((*size.sides, 3), np.uint8))

    def append(self, rows: np.ndarray) -> None:
        """Take the next rows."""
        self.image[self.rows_done : self.rows_done + len(rows)] = rows
        self.rows_done += len(rows)

    def read(self, region: Region) -> np.ndarray:
        """Pixels of a region."""
        return self.image[region.y : region.y1, region.x : region.x1]


@dataclass(frozen=True)
class Sampled:
    """An image and what it cost.

    Args:
        image: uint8 (h, w, 3).
        evaluations: network evaluations of one patch each.
        seconds: see `Clock`.
    """

    image: np.ndarray
    evaluations: int
    seconds: float


@dataclass(frozen=True)
class Sampler:
    """A denoiser, where it runs, and what slides are asked of it.

    Args:
        net: the denoiser.
        where: device and precision.
        preset: what is not varied.
        size: side of the slides.
        stages: number of upscalings.
        mpp: µm/px of the slides.
        batch_size: patches per network call.
    """

    net: Denoiser
    where: Device
    preset: Preset
    size: int
    stages: int
    mpp: float
    batch_size: int

    @classmethod
    def of(cls, args: argparse.Namespace, where: Device) -> Sampler:
        """What the options ask for; no patch is skipped, so that costs compare."""
        preset = load_preset(args.preset)
        preset = replace(preset, guided=replace(preset.guided, background_skip=False))
        patch = args.size // K**args.stages
        batch = choose_batch_size(args.batch_size, patch, where.device)
        net = load_denoiser(args.model, where.device)
        return cls(net, where, preset, args.size, args.stages, args.mpp, batch)

    @property
    def denoise(self) -> DenoiserFunction:
        """The network in its precision."""
        return InPrecision(self.net, self.where.dtype)

    @property
    def patch(self) -> int:
        """Side of the squares that the denoiser sees."""
        return self.size // K**self.stages

    @property
    def glass(self) -> Colour:
        """Of the model's training slides."""
        red, green, blue = self.net.config["background"]
        return red, green, blue

    def specs(self, seed: int, guided: GuidedConfig | None = None) -> tuple[StageSpec, ...]:
        """What the stages of a slide have to do, with other options of guided stages if given."""
        preset = replace(self.preset, guided=guided or self.preset.guided)
        specs = stage_specs(
            preset,
            size=Size.square(self.size),
            stages=self.stages,
            k=K,
            mpp=self.mpp,
            seed=seed,
            multiple=self.net.stride,
        )
        return diffused(specs)

    def stage(self, spec: StageSpec, guide: np.ndarray | None, background: Colour) -> Sampled:
        """One stage from the stage above."""
        done: list[StageProgress] = []
        machine = Execution(device=self.where.device, batch_size=self.batch_size)
        clock, rows = Clock(self.where.device), ImageRows.empty(spec.size)
        source = None if guide is None else ImageRows(guide, len(guide))
        run = StageRun(
            spec, self.denoise, source, rows, background=background, execution=machine, progress=done.append
        )
        run.run()
        return Sampled(rows.image, done[-1].evaluations, clock.seconds())

    def base(self, seed: int) -> np.ndarray:
        """The image of stage 0."""
        return self.stage(self.specs(seed)[0], None, self.glass).image

    def above(self, spec: StageSpec, guide: np.ndarray) -> Sampled:
        """One guided stage, with the glass of its guide."""
        return self.stage(spec, guide, background_of(guide, self.glass))

    def cascade(self, specs: Sequence[StageSpec], image: np.ndarray) -> Sampled:
        """The guided stages, one from the other.

        Args:
            specs: of stages that follow one another.
            image: of the stage above the first.
        """
        background, evaluations, seconds = background_of(image, self.glass), 0, 0.0
        for spec in specs:
            sampled = self.stage(spec, image, background)
            image = sampled.image
            evaluations, seconds = evaluations + sampled.evaluations, seconds + sampled.seconds
        return Sampled(image, evaluations, seconds)

    def guide(self, seed: int) -> np.ndarray:
        """The image of the last stage but one, with the preset."""
        return self.cascade(self.specs(seed)[1:-1], self.base(seed)).image


def last_joints(spec: StageSpec, steps: int = 3) -> Joints:
    """Phases of the joints of a stage's last grids, between rows and between columns."""
    last = spec.grids[-steps:]
    return sorted({g.rows.offset for g in last}), sorted({g.cols.offset for g in last})


def cost(slides: Sequence[Sampled]) -> Row:
    """Evaluations and seconds of several slides together."""
    return {"evaluations": sum(s.evaluations for s in slides), "seconds": sum(s.seconds for s in slides)}


def seams(images: Sequence[np.ndarray], pitch: int, joints: Sequence[Joints]) -> Row:
    """How joints show in images: step8, its z, and the largest jump, over images and directions.

    Args:
        images: uint8 (h, w, 3); the middle counts, at most 4096 px a side.
        pitch: distance of joints of one phase.
        joints: of each image.

    Returns:
        "step8", root mean square of the ratios, 1 = none; "z", mean of the robust z; "jump", the largest
        ratio of one-pixel jumps at a single joint, 1 = none.
    """
    scores, jumps = [], []
    for image, phases in zip(images, joints, strict=True):
        part, corner = middle(image)
        for axis, (at, origin) in enumerate(zip(phases, corner, strict=True)):
            scores.append(step8(part, pitch, phases=at, axis=axis, origin=origin))
            energy = jump(part, pitch, axis=axis, origin=origin).energy
            largest = energy[[j % pitch for j in at]].max()
            jumps.append(float(largest / max(float(np.median(energy)), 1e-12)))
    ratio = float(np.sqrt(np.mean(np.square([s.ratio for s in scores]))))
    return {"step8": ratio, "z": float(np.mean([s.z for s in scores])), "jump": max(jumps)}


def middle(image: np.ndarray, side: int = LARGEST_SCORED) -> tuple[np.ndarray, tuple[int, int]]:
    """The middle of an image, and where it lies."""
    y, x = (max(0, length - side) // 2 for length in image.shape[:2])
    return image[y : y + side, x : x + side], (y, x)

"""A stain translator, as built and as published, and what its normalisation does to a picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from benchmarks.ablations.options import Device
from benchmarks.ablations.page import Row
from benchmarks.ablations.sampler import Clock, seams
from benchmarks.published import PublishedKind, render_as_published
from wsigen.evaluation.quality import luminance
from wsigen.geometry import Region, Size
from wsigen.slide.stains import hue_correlation
from wsigen.stain.engine.background import BackgroundMap
from wsigen.stain.engine.render import Compute, Constant, prepare, to_network, to_pixels
from wsigen.stain.engine.statistics import prepare_constant
from wsigen.stain.engine.stream import StreamTranslator
from wsigen.stain.networks.blocks import initialise
from wsigen.stain.networks.generator import Generator
from wsigen.stain.normalise import Axis, Field, LayerStats
from wsigen.stain.normalise.norm import Norm
from wsigen.stain.normalise.tables import KernelKind
from wsigen.stain.stainer import bundled_markers, load_stainer

RANDOM = "random"
_RANDOM_WIDTH, _STRIP = 16, 256


@dataclass(frozen=True)
class Translated:
    """A translated picture and what it took.

    Args:
        image: uint8 (h, w, 3).
        seconds: see `Clock`.
    """

    image: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Translator:
    """A generator, and where it runs.

    Args:
        net: the generator.
        where: device and precision.
        name: what the page calls it.
    """

    net: Generator
    where: Device
    name: str

    @classmethod
    def of(cls, args: argparse.Namespace, where: Device) -> Translator:
        """What the options ask for."""
        markers = bundled_markers()
        name = args.stainer or (markers[0] if markers else RANDOM)
        if name != RANDOM:
            return cls(load_stainer(name, where.device), where, f"stainer {name}")
        # with a gain of 0.02, as training begins, the picture would be one grey
        net = initialise(Generator(width=_RANDOM_WIDTH), gain=1.0).eval().requires_grad_(False)
        return cls(net, where, "a generator with random weights")

    def built(
        self,
        image: np.ndarray,
        norm: Norm,
        *,
        pitch: int,
        tile: int,
        glass: BackgroundMap | None = None,
        constant: Constant | None = None,
    ) -> Translated:
        """As wsigen translates a slide.

        Args:
            image: uint8 (h, w, 3).
            norm: the normaliser.
            pitch: of the statistics, px.
            tile: side of the tiles, px.
            glass: where it is bare glass.
            constant: statistics of the whole picture, measured here where they are needed and not given.
        """
        size, clock = Size(*image.shape[:2]), Clock(self.where.device)
        machine = Compute(self.where.device, self.where.dtype)
        if constant is None and norm.is_constant:

            def read(region: Region) -> np.ndarray:
                return image[region.y : region.y1, region.x : region.x1]

            (constant,) = prepare_constant(
                [self.net], read, size, norm, background=glass, pitch=pitch, machine=machine
            )
        stream = StreamTranslator(
            [self.net],
            size,
            norm=norm,
            background=glass,
            pitch=pitch,
            tile=tile,
            device=self.where.device,
            dtype=self.where.dtype,
            constant=None if constant is None else [constant],
        )
        strips = (image[y : y + _STRIP] for y in range(0, size.height, _STRIP))
        rows = [rows for strip in strips for _, rows in stream.push(strip)]
        return Translated(np.concatenate(rows), clock.seconds())

    def published(
        self,
        image: np.ndarray,
        kind: PublishedKind,
        *,
        patch: int,
        kernel: KernelKind = "constant",
        size: int = 3,
    ) -> Translated:
        """As the publications do it, patch by patch with mirrored margins."""
        clock = Clock(self.where.device)
        layers = prepare(self.net, self.where.device, self.where.dtype)
        x = self.tensor(image)[0]
        out = to_pixels(render_as_published(layers, x, kind, patch=patch, kernel=kernel, size=size))
        return Translated(out.cpu().numpy(), clock.seconds())

    def measure(self, image: np.ndarray) -> list[LayerStats]:
        """Statistics of a picture, by itself."""
        layers = prepare(self.net, self.where.device, self.where.dtype)
        return layers.measure(self.tensor(image))

    def tensor(self, image: np.ndarray) -> torch.Tensor:
        """A picture as the network takes it, (1, 3, h, w)."""
        pixels = torch.from_numpy(np.ascontiguousarray(image))[None].to(self.where.device)
        return to_network(pixels, self.where.dtype)


def everywhere(stats: Sequence[LayerStats]) -> list[Field]:
    """Statistics of one picture as those of the whole slide."""
    alone = Axis((0.0,))
    return [Field(s.mean[None], s.inv_std[None], alone, alone, "nearest") for s in stats]


def reduced(image: np.ndarray, side: int) -> np.ndarray:
    """A thumbnail whose longer side is as given: areas averaged, aspect kept, sides multiples of 4."""
    scale = min(1.0, side / max(image.shape[:2]))
    height, width = (max(4, round(n * scale / 4)) * 4 for n in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def compared(image: np.ndarray, reference: np.ndarray, patch: int) -> Row:
    """What a normaliser does to a picture, beside the same patches normalised by themselves.

    Args:
        image: translated with the normaliser.
        reference: translated patch by patch.
        patch: side of the patches.

    Returns:
        "hue", mean correlation of the patches' hue histograms, 1 = same; "contrast", mean ratio of the
        standard deviations of their luminance, 1 = same; "step8", "z" and "jump" at the patches' joints.
    """
    pairs = list(zip(patches_of(image, patch), patches_of(reference, patch), strict=True))
    hues = [hue_correlation(ours, theirs) for ours, theirs in pairs]
    deviations = [[float(luminance(p).std()) for p in pair] for pair in pairs]
    row: Row = {"hue": float(np.nanmean(hues))}
    row["contrast"] = float(np.mean([ours / max(theirs, 1e-6) for ours, theirs in deviations]))
    return row | seams([image], patch, [([0], [0])])


def patches_of(image: np.ndarray, patch: int) -> list[np.ndarray]:
    """Whole patches from the origin, row by row."""
    return [
        np.ascontiguousarray(image[y : y + patch, x : x + patch])
        for y in range(0, image.shape[0] - patch + 1, patch)
        for x in range(0, image.shape[1] - patch + 1, patch)
    ]

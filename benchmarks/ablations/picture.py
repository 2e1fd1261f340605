"""The H&E picture that is translated: a piece of a real slide, or a texture made up."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from wsigen.errors import InvalidValueError
from wsigen.geometry import Region
from wsigen.slide.read import open_slide
from wsigen.slide.stains import EOSIN, HAEMATOXYLIN
from wsigen.slide.tissue import background_colour, tissue_mask
from wsigen.stain.engine.background import BackgroundMap, background_map

CELL = 16


@dataclass(frozen=True)
class Picture:
    """A picture to translate.

    Args:
        image: uint8 (h, w, 3), whole patches.
        mpp: µm/px.
        name: what the page calls it.
    """

    image: np.ndarray
    mpp: float
    name: str

    @classmethod
    def of(cls, args: argparse.Namespace) -> Picture:
        """What the options ask for: the middle of the slide, or a texture."""
        patch = args.patch
        side = args.size // patch * patch
        if side < 2 * patch:
            raise InvalidValueError(f"--size must be at least two patches of {patch} px, got {args.size}")
        if args.slide is None:
            return cls(texture(side), args.mpp, "a made-up texture")
        slide = open_slide(args.slide)
        height, width = (int(n * slide.mpp / args.mpp) for n in (slide.size.height, slide.size.width))
        high, wide = (min(n // patch * patch, side) for n in (height, width))
        if min(high, wide) < 2 * patch:
            raise InvalidValueError(
                f"{args.slide} has {height} × {width} px at {args.mpp:g} µm/px; two patches are the least"
            )
        corner = Region((height - high) // 2, (width - wide) // 2, high, wide)
        return cls(slide.read_region(corner, args.mpp), args.mpp, Path(args.slide).name)

    @property
    def glass(self) -> BackgroundMap:
        """Where it is bare glass."""
        height, width = (n // CELL for n in self.image.shape[:2])
        overview = cv2.resize(self.image, (width, height), interpolation=cv2.INTER_AREA)
        mask = tissue_mask(overview, CELL * self.mpp)
        return background_map(overview, background_colour(overview, mask), CELL)


def add_picture(parser: argparse.ArgumentParser, *, size: int, patch: int) -> None:
    """Options of an ablation of the stain translator.

    Args:
        parser: to add to.
        size: default side of the picture, px.
        patch: default side of the patches, px.
    """
    parser.set_defaults(dtype="float32")
    parser.add_argument("--slide", type=Path, help="H&E slide; default a made-up texture")
    parser.add_argument("--size", type=int, default=size, help="of the picture, from the middle of the slide")
    parser.add_argument("--patch", type=int, default=patch, help="side of the patches that are normalised")
    parser.add_argument("--mpp", type=float, default=0.5, help="µm/px of the picture")
    parser.add_argument("--stainer", help="marker, folder, or random; default a bundled one, or random")


def describe(picture: Picture, patch: int) -> str:
    """In words: what, how large, how many patches."""
    height, width = picture.image.shape[:2]
    grid = f"{height // patch} × {width // patch} patches of {patch} px"
    return f"{picture.name}, {height} × {width} px at {picture.mpp:g} µm/px, {grid}"


def texture(side: int, seed: int = 0) -> np.ndarray:
    """Haematoxylin and eosin as smooth noise of several scales, the coarsest as large as the picture."""
    rng = np.random.default_rng(seed)
    amounts = [sum(_noise(side, 2.0**-i, rng) * weight for i, weight in _OCTAVES) for _ in range(2)]
    nuclei = np.maximum(_noise(side, 4 / side, rng) - 1, 0)
    haematoxylin = np.clip(0.25 + 0.12 * amounts[0] + 0.5 * nuclei, 0, None)
    eosin = np.clip(0.35 + 0.12 * amounts[1], 0, None)
    density = haematoxylin[..., None] * np.array(HAEMATOXYLIN) + eosin[..., None] * np.array(EOSIN)
    return np.clip(np.rint(245 * 10.0**-density), 0, 255).astype(np.uint8)


_OCTAVES = ((0, 1.0), (2, 0.7), (4, 0.5), (6, 0.5))


def _noise(side: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Of variance 1, correlated over ``scale`` of the side."""
    cells = max(2, round(1 / scale)) + 2
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    fine = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return (fine - fine.mean()) / max(float(fine.std()), 1e-6)

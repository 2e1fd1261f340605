"""Statistics of a slide's stain: features of the tissue on a thumbnail.

Background is left out: with it, a section with much background would count as pale, and the amount of
background would be transferred instead of the stain.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from torch.nn.functional import avg_pool2d

from wsigen.errors import SlideError
from wsigen.geometry import Region, Size
from wsigen.nn.images import to_unit
from wsigen.slide.mask import Mask
from wsigen.slide.read import SlideReader
from wsigen.slide.tissue import is_grey, tissue_mask
from wsigen.stain.style.network import STRIDE, Encoder, FeatureStats, feature_stats

LARGEST, SMALLEST = 1024, 256  # roots of the number of pixels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of a slide and where its tissue is.

    Attributes:
        image: uint8 (h, w, 3), areas averaged, aspect kept.
        tissue: bool (h, w).
        mpp: its µm/px.
    """

    image: np.ndarray
    tissue: np.ndarray
    mpp: float


@runtime_checkable
class Extent(Protocol):
    """Anything that has a size and a scale, such as a slide."""

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        ...

    @property
    def mpp(self) -> float:
        """µm/px."""
        ...


def thumbnail_mpps(slides: Sequence[Extent]) -> tuple[float, ...]:
    """Return µm/px of comparable thumbnails: the same for all slides, where their sizes allow.

    Features depend on scale, so the finest µm/px is chosen that all slides have and at which none has more
    than 1024² pixels; a slide that would have less than 256² pixels is read finer.

    Args:
        slides: to be compared.
    """
    extents = [math.sqrt(s.size.area) * s.mpp for s in slides]
    common = max(max(extents) / LARGEST, *(s.mpp for s in slides))
    return tuple(max(s.mpp, min(common, e / SMALLEST)) for s, e in zip(slides, extents, strict=True))


def read_thumbnail(slide: SlideReader, mpp: float, mask: Mask | None = None) -> Thumbnail:
    """Read the whole slide at a given µm/px, and find its tissue.

    Args:
        slide: any.
        mpp: µm/px, not below the slide's own.
        mask: outside which tissue does not count, in the slide's pixels; None for no such limit.

    Raises:
        SlideError: the file is gone or damaged.
    """
    height, width = (max(1, round(n * slide.mpp / mpp)) for n in (slide.size.height, slide.size.width))
    image = slide.read_region(Region(0, 0, height, width), mpp)
    tissue = tissue_mask(image, mpp)
    if mask is not None:
        tissue &= mask.at(mpp / slide.mpp).read(Region(0, 0, height, width))
    return Thumbnail(image, tissue, mpp)


def stain_stats(encoder: Encoder, thumbnail: Thumbnail) -> FeatureStats:
    """Measure statistics of relu4_1 over the tissue; a feature counts by the tissue in its 8×8 pixels.

    Where there is no tissue at all, every pixel counts.

    Args:
        encoder: on the device to compute on.
        thumbnail: of one slide.

    Returns:
        For a batch of one, on the encoder's device.

    Memory:
        About 600 MiB for 1024² pixels and VGG-19's width.
    """
    tissue = thumbnail.tissue if thumbnail.tissue.any() else np.ones_like(thumbnail.tissue)
    height, width = tissue.shape
    pad = [(0, max(2 * STRIDE, -(-n // STRIDE) * STRIDE) - n) for n in (height, width)]
    image = np.pad(thumbnail.image, (*pad, (0, 0)), mode="edge")
    device = next(encoder.parameters()).device
    pixels = to_unit(rearrange(torch.from_numpy(image).to(device), "h w c -> 1 c h w"))
    counted = torch.from_numpy(np.pad(tissue, pad)).to(device)[None, None].float()
    with torch.inference_mode():
        stats = feature_stats(encoder(pixels), avg_pool2d(counted, STRIDE), covariance=True)
    assert stats.covariance is not None
    return FeatureStats(stats.mean.clone(), stats.std.clone(), stats.covariance.clone())


def compare_stains(
    encoder: Encoder, content: SlideReader, reference: SlideReader, mask: Mask | None = None
) -> tuple[FeatureStats, FeatureStats]:
    """Measure statistics of a slide and of its reference, on comparable thumbnails.

    Args:
        encoder: on the device to compute on.
        content: the slide to be changed.
        reference: the slide whose stain is wanted.
        mask: of the slide to be changed, outside which its tissue does not count.

    Raises:
        SlideError: the reference holds no tissue, or a file is damaged.
    """
    mpps = thumbnail_mpps((content, reference))
    if max(mpps) > 2 * min(mpps):
        log.warning(
            "extents differ, so %s is read at %.3g µm/px and %s at %.3g; a reference that shows more of its "
            "slide makes the comparison fairer",
            content.path,
            mpps[0],
            reference.path,
            mpps[1],
        )
    mine, wanted = read_thumbnail(content, mpps[0], mask), read_thumbnail(reference, mpps[1])
    if is_grey(wanted.image):
        raise SlideError(reference.path, "is grey, and its stain is wanted; give another --like, in RGB")
    if not wanted.tissue.any():
        raise SlideError(reference.path, "holds no tissue; give another --like")
    if not mine.tissue.any():
        log.warning("%s: no tissue found; statistics are those of the whole picture", content.path)
    return stain_stats(encoder, mine), stain_stats(encoder, wanted)

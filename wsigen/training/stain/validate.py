"""Validation of a stainer: pictures of held-out patches, and their stain compared with that of real ones."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image
from torch import nn

from wsigen.config.domains import StainRunConfig
from wsigen.data.domains import TARGET_STREAM, Domains
from wsigen.data.index import SlideIndex
from wsigen.data.patches import PatchDataset, PatchKey
from wsigen.nn.images import to_pixels, to_unit
from wsigen.slide.stains import (
    DensitySummary,
    dab_summary,
    haematoxylin_correlation,
    hue_correlation,
    kl_divergence,
)

SEED = 2**31  # the same patches in every run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """Patches for validation, the same every time.

    Attributes:
        source: to translate.
        target: real ones of the stain that translations should look like.
        held_out: by domain, whether they are of slides that are kept from training.
    """

    source: UInt8[torch.Tensor, "n 3 h w"]
    target: UInt8[torch.Tensor, "n 3 h w"]
    held_out: dict[str, bool]


def make_patches(config: StainRunConfig, index: SlideIndex, seed: int, *, augment: bool) -> PatchDataset:
    """Return the patches of one domain.

    Args:
        config: the run.
        index: its slides.
        seed: of the draws.
        augment: rotate and reflect.
    """
    data = config.data
    return PatchDataset(
        index,
        seed=seed,
        mpp_range=data.mpp_range,
        mpp_sampling=data.mpp_sampling,
        anywhere_fraction=data.anywhere_fraction,
        augment=augment,
        weight=data.weight,
        min_tissue=data.min_tissue,
    )


def draw_held_out(config: StainRunConfig, domains: Domains) -> HeldOut:
    """Draw patches of validation slides; of training slides, with a warning, where a domain has none.

    Args:
        config: the run.
        domains: all slides.
    """
    kept = domains.split("val")
    held_out = {"source": bool(kept.source.entries), "target": bool(kept.target.entries)}
    for name, there in held_out.items():
        if not there:
            log.warning("no slide of data.%s is kept for validation; it looks at training slides", name)
    train = domains.split("train")
    return HeldOut(
        _patches(config, kept.source if held_out["source"] else train.source, SEED),
        _patches(config, kept.target if held_out["target"] else train.target, SEED ^ TARGET_STREAM),
        held_out,
    )


def _patches(config: StainRunConfig, index: SlideIndex, seed: int) -> torch.Tensor:
    patches = make_patches(config, index, seed, augment=False)
    return torch.stack([patches[PatchKey(i, config.data.patch_size)].image for i in range(config.val_images)])


@torch.inference_mode()
def translate(
    net: nn.Module, source: UInt8[torch.Tensor, "n 3 h w"], device: torch.device, batch: int = 4
) -> UInt8[torch.Tensor, "n 3 h w"]:
    """Translate pictures; return them on the CPU.

    Args:
        net: the generator.
        source: the pictures.
        device: where to compute.
        batch: pictures at a time.
    """
    out = [net(to_unit(x.to(device))).float().cpu() for x in source.split(batch)]
    return to_pixels(torch.cat(out))


def stain_statistics(kept: HeldOut, translated: UInt8[torch.Tensor, "n 3 h w"]) -> dict[str, Any]:
    """Measure DAB density of translations and target, the distance of their distributions, hue and structure.

    Args:
        kept: the patches.
        translated: the source patches, translated.

    Returns:
        ``dab`` and ``dab_target``: mean, p90 (optical density) and positive (share of the area);
        ``dab_kl``: KL(target ‖ translations) of their distributions; ``hue_correlation`` of both;
        ``haematoxylin_correlation`` of each translation with its source, their mean; ``held_out``.
    """
    source, real, made = (_pixels(x) for x in (kept.source, kept.target, translated))
    target, dab = (reduce(add, [dab_summary(image) for image in images]) for images in (real, made))
    kept_nuclei = [haematoxylin_correlation(he, ihc) for he, ihc in zip(source, made, strict=True)]
    return {
        "dab": _numbers(dab),
        "dab_target": _numbers(target),
        "dab_kl": round(kl_divergence(target.counts, dab.counts), 4),
        "hue_correlation": _finite(hue_correlation(real, made)),
        "haematoxylin_correlation": _finite(float(np.mean(kept_nuclei))),
        "held_out": kept.held_out,
    }


def _numbers(summary: DensitySummary) -> dict[str, float]:
    return {
        "mean": round(summary.mean, 4),
        "p90": round(summary.p90, 4),
        "positive": round(summary.positive_ratio, 4),
    }


def _finite(value: float) -> float | None:
    """JSON knows no NaN, which a correlation with a constant is."""
    return round(value, 4) if np.isfinite(value) else None


def _pixels(images: UInt8[torch.Tensor, "n 3 h w"]) -> np.ndarray:
    return rearrange(images, "b c h w -> b h w c").contiguous().numpy()


def save_sheet(path: Path, kept: HeldOut, translated: UInt8[torch.Tensor, "n 3 h w"], columns: int) -> None:
    """Write a PNG with a row of source patches, one of their translations, and one of target patches.

    Args:
        path: the PNG.
        kept: the patches.
        translated: the source patches, translated.
        columns: how many of each.
    """
    rows = [
        np.concatenate(list(_pixels(x[:columns])), axis=1) for x in (kept.source, translated, kept.target)
    ]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path)

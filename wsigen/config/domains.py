"""Options of every training on two sets of slides: translation and style transfer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wsigen.config.check import check


@dataclass(frozen=True, kw_only=True)
class StainDataConfig:
    """Slides of two stains, unpaired, and how to cut patches from them.

    Args:
        source: slides to translate from: a folder, a slide, a pattern such as "he/bs25_*.tif", an index made
            by ``wsigen index``, or a list of folders, slides and patterns.
        target: slides of the stain to translate to, given in the same way.
        table: CSV for both domains with columns slide, and optionally mpp, group, split.
        patch_size: side of the patches, px.
        batch: images of each domain per update, over all processes.
        mpp_range: smallest and largest µm/px of training; equal for a single one.
        mpp_sampling: "log-uniform" or "uniform".
        weight: draw slides by area of "tissue", or equally ("slide").
        min_tissue: share of a patch that must be tissue; both domains should show equally much background.
        anywhere_fraction: share of patches placed without regard to tissue.
        val_fraction: share of the slide groups of both domains for validation, unless the table has splits.
        workers: loader processes per training process; 0 loads in the training process.
    """

    source: list[str] | str
    target: list[str] | str
    table: Path | None = None
    patch_size: int = 512
    batch: int = 1
    mpp_range: tuple[float, float] = (0.5, 0.5)
    mpp_sampling: str = "log-uniform"
    weight: Literal["tissue", "slide"] = "tissue"
    min_tissue: float = 0.0
    anywhere_fraction: float = 0.0
    val_fraction: float = 0.1
    workers: int = 1

    def __post_init__(self) -> None:
        low, high = self.mpp_range
        check(0 < low <= high, "data.mpp_range", self.mpp_range, "two numbers with 0 < smallest <= largest")
        known = ("log-uniform", "uniform")
        check(
            self.mpp_sampling in known, "data.mpp_sampling", self.mpp_sampling, f"one of {', '.join(known)}"
        )
        for name in ("source", "target"):
            check(bool(getattr(self, name)), f"data.{name}", repr(getattr(self, name)), "slides")
        fits = self.patch_size >= 32 and self.patch_size % 4 == 0
        check(fits, "data.patch_size", self.patch_size, "a multiple of 4, at least 32")
        check(self.batch >= 1, "data.batch", self.batch, ">= 1")
        check(0 <= self.min_tissue <= 1, "data.min_tissue", self.min_tissue, "in [0, 1]")
        check(0 <= self.anywhere_fraction <= 1, "data.anywhere_fraction", self.anywhere_fraction, "in [0, 1]")
        check(0 <= self.val_fraction < 1, "data.val_fraction", self.val_fraction, "in [0, 1)")
        check(self.workers >= 0, "data.workers", self.workers, ">= 0")


@dataclass(frozen=True, kw_only=True)
class StainOptimConfig:
    """Adam with a constant, then linearly decaying learning rate, for generators and discriminators.

    Args:
        lr: learning rate of the first part.
        constant: share of the run with that rate.
        betas: Adam's running-average coefficients.
        ema_sigma_rel: relative width of the weight average (Karras et al. 2024, section 3.1).
    """

    lr: float = 2e-4
    constant: float = 0.5
    betas: tuple[float, float] = (0.5, 0.999)
    ema_sigma_rel: float = 0.1

    def __post_init__(self) -> None:
        check(self.lr > 0, "optim.lr", self.lr, "> 0")
        check(0 <= self.constant <= 1, "optim.constant", self.constant, "in [0, 1]")
        check(all(0 <= b < 1 for b in self.betas), "optim.betas", self.betas, "in [0, 1)")
        check(0 < self.ema_sigma_rel <= 0.28, "optim.ema_sigma_rel", self.ema_sigma_rel, "in (0, 0.28]")

    def rate(self, network: str) -> float:
        """Return the learning rate of the first part for a network, named as in `Method.optimizers`."""
        del network
        return self.lr


@dataclass(frozen=True, kw_only=True)
class StainRunConfig:
    """Options of every run on two sets of slides.

    Args:
        data: slides of both stains and how to cut them.
        optim: optimiser.
        kimg: thousands of images to train on.
        seed: determines everything random.
        run_dir: output folder; default ``runs/<config's name>``. A run with a checkpoint is resumed.
        mixed_precision: "bf16" or "no", on CPU and GPU.
        compile: run the networks through ``torch.compile``.
        report_every: updates between lines in stats.jsonl.
        checkpoint_every: minutes between checkpoints.
        validate_every: thousands of images between validations.
        val_images: images of each domain in validation.
        preview_images: number of them to show in pictures.
        tracker: name of an accelerate tracker ("tensorboard", "wandb", …) or none.
    """

    data: StainDataConfig
    optim: StainOptimConfig = field(default_factory=StainOptimConfig)
    kimg: float = 400.0
    seed: int = 0
    run_dir: Path | None = None
    mixed_precision: str = "bf16"
    compile: bool = False
    report_every: int = 50
    checkpoint_every: float = 10.0
    validate_every: float = 10.0
    val_images: int = 32
    preview_images: int = 6
    tracker: str | None = None

    def __post_init__(self) -> None:
        check(self.kimg > 0, "kimg", self.kimg, "> 0")
        check(0 <= self.seed < 2**62, "seed", self.seed, "between 0 and 2**62")
        check(self.mixed_precision in ("bf16", "no"), "mixed_precision", self.mixed_precision, "bf16 or no")
        check(self.checkpoint_every > 0, "checkpoint_every", self.checkpoint_every, "> 0 minutes")
        check(self.report_every >= 1, "report_every", self.report_every, ">= 1")
        check(self.validate_every > 0, "validate_every", self.validate_every, "> 0")
        check(self.val_images >= 1, "val_images", self.val_images, ">= 1")
        shown = 1 <= self.preview_images <= self.val_images
        check(shown, "preview_images", self.preview_images, "between 1 and val_images")

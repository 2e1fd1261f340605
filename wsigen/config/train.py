"""Options of the training of a denoiser."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from wsigen.config.check import check


@dataclass(frozen=True, kw_only=True)
class PatchGroup:
    """One patch size of the training mix.

    Args:
        size: side, px.
        batch: images per update, over all processes.
        weight: how often this size is drawn, relative to the others.
        mpp_range: smallest and largest µm/px of these patches; default ``data.mpp_range``.
    """

    size: int = 128
    batch: int = 16
    weight: float = 1.0
    mpp_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check(self.size > 0, "data.patches.size", self.size, "> 0")
        check(self.batch > 0, "data.patches.batch", self.batch, "> 0")
        check(self.weight > 0, "data.patches.weight", self.weight, "> 0")
        if self.mpp_range is not None:
            _check_range("data.patches.mpp_range", self.mpp_range)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation beyond the eight orientations of a square; see ``wsigen.data.augment``.

    Args:
        rotate: share of patches that are rotated by an arbitrary angle.
        stretch: largest anisotropic stretch of a patch; 0.2 makes one axis up to 20 % longer.
        stain: standard deviation of the logarithm of the factor of each stain's density; 0.1 is about the
            variation within one laboratory.
    """

    rotate: float = 0.0
    stretch: float = 0.0
    stain: float = 0.0

    def __post_init__(self) -> None:
        check(0 <= self.rotate <= 1, "data.augment.rotate", self.rotate, "in [0, 1]")
        check(0 <= self.stretch <= 0.5, "data.augment.stretch", self.stretch, "in [0, 0.5]")
        check(0 <= self.stain <= 0.5, "data.augment.stain", self.stain, "in [0, 0.5]")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Slides to train on, and how to cut them.

    Args:
        slides: a folder of slides, one slide, or an index made by ``wsigen index``.
        table: CSV with columns slide, and optionally mpp, group, split, finest_mpp, class.
        patches: patch sizes, mixed by weight.
        mpp_range: smallest and largest µm/px to train at; a patch size may have a part of it.
        mpp_sampling: "log-uniform", or "uniform" as in Harb et al. 2024.
        anywhere_fraction: share of patches placed anywhere, background included.
        augment: augmentation of patches.
        val_fraction: share of slide groups kept for validation, unless the table says which.
        class_column: column of the table with the slides' classes, such as class; the denoiser is then
            conditioned on them. Of an index its classes. Default: no classes.
        class_dropout: share of patches whose class is hidden, for classifier-free guidance.
        workers: loader processes per training process; 0 loads in the training process.
    """

    slides: Path
    table: Path | None = None
    patches: list[PatchGroup] = field(default_factory=lambda: [PatchGroup()])
    mpp_range: tuple[float, float] = (0.25, 150.0)
    mpp_sampling: str = "log-uniform"
    anywhere_fraction: float = 0.05
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    val_fraction: float = 0.1
    class_column: str | None = None
    class_dropout: float = 0.1
    workers: int = 1

    def __post_init__(self) -> None:
        _check_range("data.mpp_range", self.mpp_range)
        low, high = self.mpp_range
        for group in self.patches:
            smallest, largest = group.mpp_range or self.mpp_range
            within = f"within data.mpp_range {self.mpp_range}"
            check(low <= smallest < largest <= high, "data.patches.mpp_range", group.mpp_range, within)
        known = ("log-uniform", "uniform")
        check(
            self.mpp_sampling in known, "data.mpp_sampling", self.mpp_sampling, f"one of {', '.join(known)}"
        )
        check(0 <= self.anywhere_fraction <= 1, "data.anywhere_fraction", self.anywhere_fraction, "in [0, 1]")
        check(0 < self.val_fraction < 1, "data.val_fraction", self.val_fraction, "in (0, 1)")
        check(0 <= self.class_dropout <= 1, "data.class_dropout", self.class_dropout, "in [0, 1]")
        check(len(self.patches) > 0, "data.patches", self.patches, "at least one patch size")
        check(self.workers >= 0, "data.workers", self.workers, ">= 0")


def _check_range(flag: str, mpp_range: tuple[float, float]) -> None:
    low, high = mpp_range
    check(0 < low < high, flag, mpp_range, "two numbers with 0 < smallest < largest")


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """Shape of the network; see ``wsigen.nn.denoiser.Denoiser``.

    Args:
        patchify: side of the pixel block that becomes one cell of the UNet.
        block_out_channels: channels of each UNet level, multiples of 32.
        layers_per_block: residual blocks per level.
        pixel_channels: channels of the full-resolution stem.
        context_channels: channels per pixel passed from the UNet to the full-resolution path.
    """

    patchify: int = 4
    block_out_channels: tuple[int, ...] = (96, 160, 224)
    layers_per_block: int = 1
    pixel_channels: int = 12
    context_channels: int = 12

    def __post_init__(self) -> None:
        check(self.patchify >= 1, "model.patchify", self.patchify, ">= 1")
        multiples = len(self.block_out_channels) > 0 and all(
            c > 0 and c % 32 == 0 for c in self.block_out_channels
        )
        check(
            multiples, "model.block_out_channels", self.block_out_channels, "multiples of 32, one per level"
        )


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Noise levels and weighting (Karras et al. 2022, table 1; Karras et al. 2024, eq. 21).

    Args:
        P_mean: mean of ln σ in training.
        P_std: standard deviation of ln σ.
        sigma_data: standard deviation of the images in [-1, 1].
        uncertainty: learn a weight per (σ, µm/px), as EDM2 does.
    """

    P_mean: float = -1.2
    P_std: float = 1.2
    sigma_data: float = 0.5
    uncertainty: bool = False

    def __post_init__(self) -> None:
        check(self.P_std > 0, "loss.P_std", self.P_std, "> 0")
        check(self.sigma_data > 0, "loss.sigma_data", self.sigma_data, "> 0")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam with an inverse-square-root learning rate (Karras et al. 2024, eq. 67) and a linear end.

    Args:
        lr: highest learning rate.
        warmup: updates of linear warm-up.
        decay_from: update from which the rate falls as 1/√t; 0 keeps it constant.
        cooldown: share of the run at its end over which the rate also falls to 0, linearly.
        betas: Adam's running-average coefficients.
        grad_clip: largest gradient norm.
        ema_sigma_rel: relative width of the weight average.
    """

    lr: float = 4e-4
    warmup: int = 200
    decay_from: int = 4000
    cooldown: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    grad_clip: float = 1.0
    ema_sigma_rel: float = 0.1

    def __post_init__(self) -> None:
        check(self.lr > 0, "optim.lr", self.lr, "> 0")
        check(self.warmup >= 0, "optim.warmup", self.warmup, ">= 0")
        check(all(0 <= b < 1 for b in self.betas), "optim.betas", self.betas, "in [0, 1)")
        check(0 <= self.cooldown <= 1, "optim.cooldown", self.cooldown, "in [0, 1]")
        check(self.grad_clip > 0, "optim.grad_clip", self.grad_clip, "> 0")
        check(0 < self.ema_sigma_rel <= 0.28, "optim.ema_sigma_rel", self.ema_sigma_rel, "in (0, 0.28]")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run of the denoiser.

    Args:
        data: slides and how to cut them.
        model: shape of the network.
        loss: noise levels and weighting.
        optim: optimiser.
        kimg: thousands of images to train on.
        seed: random seed of weights, data and noise.
        run_dir: output folder; default ``runs/<config's name>``. If it holds a checkpoint, the run continues.
        init: initial weights instead of random ones: "default", a snapshot folder, or a hub id.
        mixed_precision: "bf16" or "no", on CPU and GPU.
        accumulation: micro-batches per update.
        compile: run the network through ``torch.compile``.
        report_every: updates between lines in stats.jsonl.
        checkpoint_every: minutes between checkpoints.
        validate_every: thousands of images between validations, at the most frequent patch size.
        val_images: validation images per band of µm/px.
        preview_mpp: µm/px of the samples drawn at each validation.
        tracker: name of an accelerate tracker ("tensorboard", "wandb", …) or none.
    """

    data: DataConfig
    model: DenoiserConfig = field(default_factory=DenoiserConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    kimg: float = 1000.0
    seed: int = 0
    run_dir: Path | None = None
    init: str | None = None
    mixed_precision: str = "bf16"
    accumulation: int = 1
    compile: bool = False
    report_every: int = 50
    checkpoint_every: float = 10.0
    validate_every: float = 50.0
    val_images: int = 32
    preview_mpp: tuple[float, ...] = (0.5, 2.0, 8.0, 32.0)
    tracker: str | None = None

    def __post_init__(self) -> None:
        check(self.kimg > 0, "kimg", self.kimg, "> 0")
        check(0 <= self.seed < 2**63, "seed", self.seed, "between 0 and 2**63")
        check(self.mixed_precision in ("bf16", "no"), "mixed_precision", self.mixed_precision, "bf16 or no")
        check(all(m > 0 for m in self.preview_mpp), "preview_mpp", self.preview_mpp, "positive µm/px")
        check(self.checkpoint_every > 0, "checkpoint_every", self.checkpoint_every, "> 0 minutes")
        check(self.accumulation >= 1, "accumulation", self.accumulation, ">= 1")
        check(self.report_every >= 1, "report_every", self.report_every, ">= 1")
        check(self.validate_every > 0, "validate_every", self.validate_every, "> 0")
        check(self.val_images >= 1, "val_images", self.val_images, ">= 1")
        stride = self.model.patchify * 2 ** (len(self.model.block_out_channels) - 1)
        for group in self.data.patches:
            check(
                group.size % stride == 0,
                "data.patches.size",
                group.size,
                f"a multiple of {stride} (patchify * 2**(levels - 1)) for this network",
            )

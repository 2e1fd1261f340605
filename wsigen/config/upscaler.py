"""Options of the training of an upscaler."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from wsigen.config.check import check
from wsigen.config.train import DataConfig


@dataclass(frozen=True, kw_only=True)
class UpscalerConfig:
    """Shape of the network; see ``wsigen.nn.upscaler.Upscaler``.

    Args:
        channels: features at the guide's resolution and at each coarser one, each half of the one before.
        blocks: residual blocks at each resolution.
        head_channels: features of the head at the guide's and at the output's resolution.
        noise_channels: channels of the noise, at the guide's resolution.
        k: factor between guide and output.
    """

    channels: tuple[int, ...] = (48, 96, 128)
    blocks: tuple[int, ...] = (2, 3, 2)
    head_channels: tuple[int, int] = (48, 24)
    noise_channels: int = 9
    k: int = 2

    def __post_init__(self) -> None:
        check(len(self.channels) > 0, "model.channels", self.channels, "at least one number")
        same = len(self.blocks) == len(self.channels)
        check(same, "model.blocks", self.blocks, f"{len(self.channels)} numbers, one per entry of channels")
        check(min((*self.channels, *self.head_channels)) > 0, "model.channels", self.channels, "> 0")
        check(min(self.blocks) >= 0, "model.blocks", self.blocks, ">= 0")
        check(self.noise_channels >= 1, "model.noise_channels", self.noise_channels, ">= 1")
        check(self.k >= 2, "model.k", self.k, ">= 2")


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """Shape of the discriminator; see ``wsigen.nn.discriminator.Discriminator``.

    Args:
        channels: features at strides 2, 4, 8, …, multiples of 8.
        projected: features of the heads over those of a network trained on ImageNet, a multiple of 8; 0 for
            no such heads. Needs ``pip install 'wsigen[upscaler]'``.
    """

    channels: tuple[int, ...] = (48, 96, 144, 192)
    projected: int = 0

    def __post_init__(self) -> None:
        fits = len(self.channels) >= 2 and all(c > 0 and c % 8 == 0 for c in self.channels)
        check(fits, "discriminator.channels", self.channels, "two or more multiples of 8")
        fits = self.projected >= 0 and self.projected % 8 == 0
        check(fits, "discriminator.projected", self.projected, "0 or a multiple of 8")


@dataclass(frozen=True, kw_only=True)
class UpscalerLossConfig:
    """Terms of the upscaler's loss besides the adversarial one, and the origin of its guides.

    Args:
        guide: weight of |A x - y|, the relaxed constraint of Harb et al. 2024: k × k means follow the guide.
        l1: weight of |x - real|, where the guide is the real image reduced.
        features: weight of feature matching with the discriminator's features, likewise.
        energy: weight of the difference of log local energy, in the two finest octaves.
        relief: weight of the difference of the skewness of derivatives, against embossed nuclei.
        spectrum: weight of the difference of log power by frequency and direction, against cells in rows.
        symmetry: weight of |T G(y, z) - G(T y, T z)| for shifts and the symmetries T of the square.
        symmetry_every: updates between two with that term.
        r1: weight γ/2 of the discriminator's gradient at real images (Mescheder et al. 2018).
        r1_every: apply the r1 term once in this many updates, weighted as many times.
        depth: largest number of the upscaler's own stages that make a guide; larger ones are likelier.
        through: share of the updates whose gradients also change the own stages that make a guide.
        sampled: share of the updates, of those that allow it, whose guides ``guides.denoiser`` sampled; their
            images are held to the guide, to the power of real ones and to the discriminator.
        sampled_guide: weight of |A x - y| there; a smaller one lets the upscaler correct a stage 0.
        guide_noise: largest standard deviation of the noise of the coarsest guide, in each of two octaves;
            small ones are likelier.
    """

    guide: float = 10.0
    l1: float = 2.0
    features: float = 1.0
    energy: float = 0.1
    relief: float = 5.0
    spectrum: float = 4.0
    symmetry: float = 20.0
    symmetry_every: int = 2
    r1: float = 0.1
    r1_every: int = 16
    depth: int = 3
    through: float = 0.0
    sampled: float = 0.5
    sampled_guide: float = 4.0
    guide_noise: float = 0.08

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 1 if name.endswith("_every") else 0
            check(value >= least, f"loss.{name}", value, f">= {least}")
        check(self.sampled <= 1, "loss.sampled", self.sampled, "at most 1")
        check(self.through <= 1, "loss.through", self.through, "at most 1")


@dataclass(frozen=True, kw_only=True)
class SampledGuidesConfig:
    """Guides that a denoiser samples before the run, as the upscaler meets them in whole slides.

    Args:
        denoiser: "default", a snapshot folder or a hub id; None for guides of real images alone.
        count: number of images, sampled once and kept in the run folder.
        size: their side, px; that of the guides is at most this.
        mpp_range: of their µm/px, spread evenly in the logarithm.
    """

    denoiser: str | None = None
    count: int = 512
    size: int = 32
    mpp_range: tuple[float, float] = (16.0, 70.0)

    def __post_init__(self) -> None:
        check(self.count >= 1, "guides.count", self.count, ">= 1")
        check(self.size >= 1, "guides.size", self.size, ">= 1")
        low, high = self.mpp_range
        check(0 < low < high, "guides.mpp_range", self.mpp_range, "LOW < HIGH, both above 0")


@dataclass(frozen=True, kw_only=True)
class UpscalerOptimConfig:
    """Adam at a constant rate that falls linearly to 0 at the end.

    Args:
        lr: learning rate of the upscaler.
        discriminator_lr: learning rate of the discriminator (two time scales, Heusel et al. 2017).
        cooldown: share of the run, at its end, over which the rate falls to 0.
        betas: Adam's running-average coefficients.
        ema_sigma_rel: relative width of the weight average (Karras et al. 2024, section 3.1).
    """

    lr: float = 1e-4
    discriminator_lr: float = 1e-4
    cooldown: float = 0.2
    betas: tuple[float, float] = (0.5, 0.99)
    ema_sigma_rel: float = 0.05

    def __post_init__(self) -> None:
        check(self.lr > 0, "optim.lr", self.lr, "> 0")
        check(self.discriminator_lr > 0, "optim.discriminator_lr", self.discriminator_lr, "> 0")
        check(0 <= self.cooldown <= 1, "optim.cooldown", self.cooldown, "in [0, 1]")
        check(all(0 <= b < 1 for b in self.betas), "optim.betas", self.betas, "in [0, 1)")
        check(0 < self.ema_sigma_rel <= 0.28, "optim.ema_sigma_rel", self.ema_sigma_rel, "in (0, 0.28]")

    @property
    def rates(self) -> dict[str, float]:
        """Learning rates of the upscaler G and the discriminator D."""
        return {"G": self.lr, "D": self.discriminator_lr}


@dataclass(frozen=True, kw_only=True)
class UpscalerTrainConfig:
    """One training run of the upscaler.

    Args:
        data: slides and how to cut them.
        method: always "upscaler".
        model: shape of the network.
        discriminator: shape of the discriminator.
        loss: terms of the loss.
        guides: guides that a denoiser samples.
        optim: optimisers.
        kimg: thousands of images to train on.
        seed: random seed of weights, data and noise.
        run_dir: output folder; default ``runs/<config's name>``. If it holds a checkpoint, the run continues.
        init: initial weights of the upscaler instead of random ones: a snapshot folder or a hub id.
        mixed_precision: "bf16" or "no", on CPU and GPU.
        compile: run the networks through ``torch.compile``.
        report_every: updates between lines in stats.jsonl.
        checkpoint_every: minutes between checkpoints.
        validate_every: thousands of images between validations.
        val_images: validation images per band of µm/px.
        preview_mpp: µm/px of the real overviews from which whole chains of stages are drawn.
        tracker: name of an accelerate tracker ("tensorboard", "wandb", …) or none.
    """

    data: DataConfig
    method: Literal["upscaler"] = "upscaler"
    model: UpscalerConfig = field(default_factory=UpscalerConfig)
    discriminator: CriticConfig = field(default_factory=CriticConfig)
    loss: UpscalerLossConfig = field(default_factory=UpscalerLossConfig)
    guides: SampledGuidesConfig = field(default_factory=SampledGuidesConfig)
    optim: UpscalerOptimConfig = field(default_factory=UpscalerOptimConfig)
    kimg: float = 1000.0
    seed: int = 0
    run_dir: Path | None = None
    init: str | None = None
    mixed_precision: str = "no"
    compile: bool = False
    report_every: int = 50
    checkpoint_every: float = 10.0
    validate_every: float = 10.0
    val_images: int = 32
    preview_mpp: float = 8.0
    tracker: str | None = None

    def __post_init__(self) -> None:
        check(self.kimg > 0, "kimg", self.kimg, "> 0")
        check(0 <= self.seed < 2**62, "seed", self.seed, "between 0 and 2**62")
        check(self.mixed_precision in ("bf16", "no"), "mixed_precision", self.mixed_precision, "bf16 or no")
        check(self.checkpoint_every > 0, "checkpoint_every", self.checkpoint_every, "> 0 minutes")
        check(self.report_every >= 1, "report_every", self.report_every, ">= 1")
        check(self.validate_every > 0, "validate_every", self.validate_every, "> 0")
        check(self.val_images >= 1, "val_images", self.val_images, ">= 1")
        check(self.preview_mpp > 0, "preview_mpp", self.preview_mpp, "> 0 µm/px")
        check(
            self.data.class_column is None,
            "data.class_column",
            self.data.class_column,
            "left out: the upscaler follows its guide, whose class the denoiser decides",
        )
        stride = max(self.least_size(0), 2 ** len(self.discriminator.channels))
        for group in self.data.patches:
            fits = group.size % stride == 0
            check(fits, "data.patches.size", group.size, f"a multiple of {stride} for these networks")

    def least_size(self, depth: int) -> int:
        """Return the divisor of patch sizes whose guide comes from ``depth`` stages before."""
        return int(self.model.k ** (depth + 1) * 2 ** (len(self.model.channels) - 1))

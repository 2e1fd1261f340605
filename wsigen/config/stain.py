"""Options of the training of a stainer, by method, and of ``wsigen import-stainer``.

The defaults are the published hyper-parameters: CUT and FastCUT (Park et al. 2020), CycleGAN (Zhu et al.
2017), L-LSeSim (Zheng et al. 2021). One of their epochs counts as a thousand images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wsigen.config.check import check
from wsigen.config.domains import StainOptimConfig, StainRunConfig
from wsigen.config.style import AdainConfig


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Shape of the generator; see ``wsigen.stain.networks.generator.Generator``.

    Args:
        family: how resolution is halved and doubled: "cut", "cyclegan", "cut-antialias-up",
            "cut-antialias-down" or "urust".
        width: channels of the first layer.
        blocks: residual blocks.
        affine: learn a scale and a shift in every normalisation.
        dropout: drop half of each residual block's activations in training.
    """

    family: str = "cut"
    width: int = 64
    blocks: int = 9
    affine: bool = False
    dropout: bool = False

    def __post_init__(self) -> None:
        check(self.width >= 1, "generator.width", self.width, ">= 1")
        check(self.blocks >= 0, "generator.blocks", self.blocks, ">= 0")


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Shape of the PatchGAN; see ``wsigen.stain.networks.discriminator.PatchDiscriminator``.

    Args:
        width: channels of the first layer.
        layers: halvings of the resolution; 3 give a receptive field of 70 × 70 px.
        antialias: blur when halving.
    """

    width: int = 64
    layers: int = 3
    antialias: bool = False

    def __post_init__(self) -> None:
        check(self.width >= 1, "discriminator.width", self.width, ">= 1")
        check(self.layers >= 1, "discriminator.layers", self.layers, ">= 1")


@dataclass(frozen=True, kw_only=True)
class GanOptimConfig(StainOptimConfig):
    """Adam with a constant, then linearly decaying learning rate.

    Args:
        lr: learning rate of the first part.
        discriminator_lr: learning rate of the discriminators; by default lr, as published.
        constant: share of the run with these rates.
        betas: Adam's running-average coefficients.
        ema_sigma_rel: relative width of the weight average (Karras et al. 2024, section 3.1).
    """

    discriminator_lr: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.discriminator_lr is None or self.discriminator_lr > 0
        check(fits, "optim.discriminator_lr", self.discriminator_lr, "> 0, or null for optim.lr")

    def rate(self, network: str) -> float:
        """Return the learning rate of the first part: the discriminators' for "D"."""
        return self.discriminator_lr if network == "D" and self.discriminator_lr else self.lr


@dataclass(frozen=True, kw_only=True)
class CutLossConfig:
    """Adversarial and PatchNCE losses (Park et al. 2020, eq. 5); the defaults are CUT's.

    Args:
        lambda_gan: weight of the least-squares adversarial loss.
        lambda_nce: λ_X, weight of PatchNCE between input and output: 1 in the paper, 0.5 in CUT's code.
        lambda_identity: λ_Y, weight of PatchNCE between a target image and its translation: 1 in the paper,
            0.5 in CUT's code; 0 skips that translation.
        layers: layers of the generator's encoder whose features are compared.
        tau: temperature of the softmax.
        places: locations compared per image and layer.
        heads: hidden units of the projection head of each layer.
        all_negatives: take negatives from all images of a process's batch, not only from the query's own
            (nce_includes_all_negatives_from_minibatch of CUT's code).
        flip_equivariance: flip half of the inputs and flip the features of their outputs back (FastCUT).
    """

    lambda_gan: float = 1.0
    lambda_nce: float = 1.0
    lambda_identity: float = 1.0
    layers: tuple[int, ...] = (0, 4, 8, 12, 16)
    tau: float = 0.07
    places: int = 256
    heads: int = 256
    all_negatives: bool = False
    flip_equivariance: bool = False

    def __post_init__(self) -> None:
        for name in ("lambda_gan", "lambda_nce", "lambda_identity"):
            check(getattr(self, name) >= 0, f"loss.{name}", getattr(self, name), ">= 0")
        rising = list(self.layers) == sorted(set(self.layers)) and len(self.layers) > 0
        check(rising, "loss.layers", self.layers, "rising layer numbers")
        check(self.tau > 0, "loss.tau", self.tau, "> 0")
        check(self.places >= 2, "loss.places", self.places, ">= 2")
        check(self.heads >= 1, "loss.heads", self.heads, ">= 1")


@dataclass(frozen=True, kw_only=True)
class StainTrainConfig(StainRunConfig):
    """Options of every method that trains a generator against a discriminator.

    Args:
        marker: marker of the target stain, such as "SYN"; recorded in the snapshot.
        generator: shape of the generator.
        discriminator: shape of the discriminator.
        optim: optimiser.
    """

    marker: str | None = None
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optim: GanOptimConfig = field(default_factory=GanOptimConfig)


def _blurred() -> DiscriminatorConfig:
    return DiscriminatorConfig(antialias=True)


@dataclass(frozen=True, kw_only=True)
class CutConfig(StainTrainConfig):
    """Contrastive unpaired translation (Park et al. 2020).

    Args:
        method: "cut".
        loss: weights of the losses.
    """

    method: Literal["cut"] = "cut"
    loss: CutLossConfig = field(default_factory=CutLossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=_blurred)


@dataclass(frozen=True, kw_only=True)
class FastCutConfig(StainTrainConfig):
    """The light version of CUT (Park et al. 2020, section 4.1): no identity loss, half as long.

    Args:
        method: "fastcut".
        loss: weights of the losses.
    """

    method: Literal["fastcut"] = "fastcut"
    loss: CutLossConfig = field(
        default_factory=lambda: CutLossConfig(lambda_nce=10.0, lambda_identity=0.0, flip_equivariance=True)
    )
    discriminator: DiscriminatorConfig = field(default_factory=_blurred)
    optim: GanOptimConfig = field(default_factory=lambda: GanOptimConfig(constant=0.75))
    kimg: float = 200.0


@dataclass(frozen=True, kw_only=True)
class CycleGanLossConfig:
    """Adversarial, cycle and identity losses (Zhu et al. 2017, eq. 3 and section 5.2).

    Args:
        lambda_cycle: λ, weight of the cycle consistency of both directions.
        lambda_identity: weight of the identity losses, relative to λ; 0 skips them.
        pool: past generated images that each discriminator is shown; 0 for none.
    """

    lambda_cycle: float = 10.0
    lambda_identity: float = 0.5
    pool: int = 50

    def __post_init__(self) -> None:
        for name in ("lambda_cycle", "lambda_identity", "pool"):
            check(getattr(self, name) >= 0, f"loss.{name}", getattr(self, name), ">= 0")


@dataclass(frozen=True, kw_only=True)
class CycleGanConfig(StainTrainConfig):
    """Cycle-consistent translation (Zhu et al. 2017), which also learns to translate back.

    Args:
        method: "cyclegan".
        loss: weights of the losses.
    """

    method: Literal["cyclegan"] = "cyclegan"
    loss: CycleGanLossConfig = field(default_factory=CycleGanLossConfig)
    generator: GeneratorConfig = field(default_factory=lambda: GeneratorConfig(family="cyclegan"))
    kimg: float = 200.0


@dataclass(frozen=True, kw_only=True)
class LSeSimLossConfig:
    """Adversarial and spatially correlative losses (Zheng et al. 2021).

    Where the paper leaves a number open, the default is that of its code.

    Args:
        lambda_gan: weight of the least-squares adversarial loss.
        lambda_spatial: weight of the spatially correlative loss.
        learned: train heads on the features (LSeSim), or use the features as they are (FSeSim).
        vgg: "torchvision" to download its VGG16 weights, or a file that holds them.
        layers: VGG16's layers whose self-similarity is compared.
        width: channels of the heads; by default a quarter of their layer's, at least 32.
        places: locations compared per image and layer.
        patch: side of the window that a location is compared with, in feature pixels of each layer.
        strongest: share of each window that is compared: the places most similar to its centre in the output.
        tau: temperature of the heads' contrastive loss.
        other_negatives: take negatives of the heads' loss from an image of the other domain too.
        distance: "cosine" or "l1".
        strength: strength of the colour augmentation that heads are trained with, in [0, 1).
        pool: past generated images that the discriminator is shown; 0 for none.
    """

    lambda_gan: float = 1.0
    lambda_spatial: float = 10.0
    learned: bool = True
    vgg: str = "torchvision"
    layers: tuple[str, ...] = ("relu3_1", "relu4_1", "relu4_3")
    width: int | None = None
    places: int = 256
    patch: int = 64
    strongest: float = 0.25
    tau: float = 0.07
    other_negatives: bool = True
    distance: Literal["cosine", "l1"] = "cosine"
    strength: float = 0.4
    pool: int = 50

    def __post_init__(self) -> None:
        for name in ("lambda_gan", "lambda_spatial", "pool"):
            check(getattr(self, name) >= 0, f"loss.{name}", getattr(self, name), ">= 0")
        for name, least in (("places", 2), ("patch", 2)):
            check(getattr(self, name) >= least, f"loss.{name}", getattr(self, name), f">= {least}")
        check(self.width is None or self.width >= 1, "loss.width", self.width, ">= 1, or null")
        check(0 < self.strongest <= 1, "loss.strongest", self.strongest, "in (0, 1]")
        check(len(self.layers) > 0, "loss.layers", self.layers, "at least one layer")
        check(self.tau > 0, "loss.tau", self.tau, "> 0")
        check(0 <= self.strength < 1, "loss.strength", self.strength, "in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class LSeSimConfig(StainTrainConfig):
    """Translation that keeps the self-similarity of images (Zheng et al. 2021).

    Args:
        method: "lsesim".
        loss: weights of the losses.
    """

    method: Literal["lsesim"] = "lsesim"
    loss: LSeSimLossConfig = field(default_factory=LSeSimLossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=_blurred)
    optim: GanOptimConfig = field(default_factory=lambda: GanOptimConfig(lr=1e-4))


@dataclass(frozen=True, kw_only=True)
class ImportStainerConfig:
    """One call of ``wsigen import-stainer``.

    Args:
        checkpoint: file with the weights, such as latest_net_G.pth; .pth, .pt or .safetensors.
        out: folder to write the stainer to.
        decoder: decoder.pth of AdaIN or WCT style transfer; the checkpoint is then its encoder,
            vgg_normalised.pth.
        marker: marker that the output shows, such as SYN; becomes part of file names.
        mpp: µm/px of the training images.
        patch_size: side of the training images, px.
        key: name of the generator, such as netG_A, if the file holds several.
        norm: whether layers have an instance norm; by default where convolutions have a bias or norms have
            weights, as in the authors' code. Files cannot tell it from none otherwise.
        dtype: precision of the stored weights.
        overwrite: replace an existing stainer.
    """

    checkpoint: Path
    out: Path
    decoder: Path | None = None
    marker: str | None = None
    mpp: float | None = None
    patch_size: int = 512
    key: str | None = None
    norm: Literal["instance", "none"] | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    overwrite: bool = False


STAIN_METHODS: dict[str, type[Any]] = {
    "cut": CutConfig,
    "fastcut": FastCutConfig,
    "cyclegan": CycleGanConfig,
    "lsesim": LSeSimConfig,
    "adain": AdainConfig,
}
"""Methods that train a stainer, and their options."""

"""The denoiser D(x; σ, µm/px): a UNet behind space-to-depth, with a thin path at full resolution around it.

A p×p block of pixels becomes one cell of 3p² channels, so that no wide layer runs at full resolution. At low
noise the network must pass on 3p² nearly independent noise values per cell, more than a narrow first level
can; the full-resolution path does this: a 3×3 stem whose features are joined to the UNet's output before two
3×3 convolutions, modulated by σ and µm/px. Pixels are never encoded, so a linear constraint on them stays
exact.

A denoiser of classes adds a learnt vector for each class to the sinusoids of µm/px, and one for no class,
which classifier-free guidance compares with (Ho & Salimans 2022).

Preconditioning is by octaves of wavelength (`wsigen.diffusion.spectrum`), with strengths of detail that
depend on µm/px.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import Timesteps, get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DModel
from jaxtyping import Float, Int64
from torch import Tensor, nn

from wsigen.diffusion.precondition import precondition
from wsigen.diffusion.spectrum import combine, enlarged, std_at
from wsigen.errors import InvalidValueError
from wsigen.nn.rounding import make_steady, silu
from wsigen.nn.snapshot import load_snapshot, resolve

OctaveStd = Sequence[Sequence[float]]
"""σ_k: rows for the octaves, finest first, and the residual; columns luminance and two colour differences."""

# A factor e in σ or µm/px moves the argument of the sinusoids by this; their periods are 2π to 20,000π.
EMBEDDING_SCALE = 25.0
# The vectors of classes begin at 0, and Adam moves a weight by about its rate: without this factor they would
# take ten times as many updates to reach the size of the sinusoids that they are added to.
CLASS_SCALE = 10.0


class Denoiser(ModelMixin, ConfigMixin):
    """EDM denoiser conditioned on the noise level, on the physical pixel size, and perhaps on a class.

    Fully convolutional except for attention at the lowest resolution: height and width may be any multiples
        of
    ``stride``. The mpp embedding is that of 25·ln(mpp): with the raw number 0.3 and 0.5 µm/px would hardly
    differ.

    Args:
        patchify: p, side of the pixel block that becomes one cell of the UNet.
        block_out_channels: channels of each UNet level, multiples of 32.
        layers_per_block: residual blocks per UNet level.
        pixel_channels: channels of the full-resolution stem.
        context_channels: channels per pixel that the UNet hands to the full-resolution path.
        sigma_data: standard deviation of the images, for the input's scale.
        octave_std: σ_k of clean images, see ``set_octave_std``; None: all equal to ``sigma_data``, as in EDM.
        octave_mpp: µm/px of the tables; None: one table for all µm/px.
        patch_sizes: patch sizes of training, px; a record for the sampler, the network accepts others.
        mpp_range: smallest and largest µm/px of training.
        background: colour of the empty slide, 8-bit RGB.
        classes: names of the classes that it is conditioned on; none by default.
    """

    @register_to_config
    def __init__(
        self,
        patchify: int = 4,
        block_out_channels: Sequence[int] = (96, 160, 224),
        layers_per_block: int = 1,
        pixel_channels: int = 12,
        context_channels: int = 12,
        sigma_data: float = 0.5,
        octave_std: OctaveStd | Sequence[OctaveStd] | None = None,
        octave_mpp: Sequence[float] | None = None,
        patch_sizes: Sequence[int] = (128,),
        mpp_range: Sequence[float] = (0.25, 150.0),
        background: Sequence[int] = (243, 243, 243),
        classes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        levels = len(block_out_channels)
        self.unet = UNet2DModel(
            in_channels=3 * patchify**2,
            out_channels=context_channels * patchify**2 + 3,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            down_block_types=("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
            attention_head_dim=32,
            class_embed_type="timestep",
        )
        make_steady(self.unet)
        embedding = block_out_channels[0]
        self.unet.time_proj = _Sinusoids(embedding, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.pixel_stem = nn.Conv2d(3, pixel_channels, 3, padding=1)
        joined = pixel_channels + context_channels
        self.pixel_modulation = nn.Sequential(
            nn.Linear(2 * embedding, embedding), nn.SiLU(), nn.Linear(embedding, 2 * joined)
        )
        self.pixel_hidden = nn.Conv2d(joined, joined, 3, padding=1)
        self.pixel_out = nn.Conv2d(joined, 3, 3, padding=1)
        self.class_embedding = nn.Embedding(len(classes) + 1, embedding) if classes else None
        if self.class_embedding is not None:  # weights without classes go on as they are
            nn.init.zeros_(self.class_embedding.weight)
        self._keep_std(octave_std, octave_mpp)
        with torch.no_grad():  # an untrained network has F = 0
            for layer, outputs in ((self.pixel_out, slice(None)), (self.unet.conv_out, slice(-3, None))):
                layer.weight[outputs] = 0
                if layer.bias is not None:
                    layer.bias[outputs] = 0

    @property
    def stride(self) -> int:
        """Height and width must be multiples of this, px."""
        return self.config["patchify"] * 2 ** (len(self.config["block_out_channels"]) - 1)

    @property
    def octaves(self) -> int:
        """Number of octaves: how often images of any accepted size can be halved."""
        return (self.stride & -self.stride).bit_length() - 1  # the lowest bit that is set: factors of two

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by their numbers."""
        return tuple(self.config["classes"])

    def class_number(self, name: str) -> int:
        """Return the number of a class.

        Raises:
            InvalidValueError: there is no such class; lists them, the nearest first.
        """
        if name in self.classes:
            return self.classes.index(name)
        if not self.classes:
            raise InvalidValueError(
                f"class {name!r}: this model has no classes; train one with data.class_column"
            )
        lower = {known.lower(): known for known in self.classes}
        near = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=1)]
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise InvalidValueError(f"class must be one of {', '.join(self.classes)}, got {name!r}{meant}")

    def set_octave_std(
        self, std: OctaveStd | Sequence[OctaveStd], mpp: Sequence[float] | None = None
    ) -> None:
        """Set the σ_k of the preconditioning.

        Args:
            std: σ_k of clean images: rows for the octaves, finest first, and the residual, columns luminance
                and two colour differences (`wsigen.diffusion.spectrum`). With ``mpp``, one such table each.
            mpp: µm/px of the tables, increasing; see `wsigen.diffusion.spectrum.std_at`.

        Raises:
            InvalidValueError: ``mpp`` does not increase, or does not match the tables.
        """
        self._keep_std(std, mpp)
        self.register_to_config(octave_std=std, octave_mpp=None if mpp is None else list(mpp))

    def octave_std(self, mpp: Float[Tensor, " b"]) -> Float[Tensor, "*b parts 3"]:
        """Return σ_k of the preconditioning at each µm/px; one table if it is the same at all.

        Args:
            mpp: µm/px of each image, > 0.
        """
        table, nodes = self.get_buffer("_octave_std"), self._buffers["_octave_mpp"]
        return table if nodes is None else std_at(mpp.float(), nodes, table)

    def _keep_std(self, std: OctaveStd | Sequence[OctaveStd] | None, mpp: Sequence[float] | None) -> None:
        values = torch.tensor(std or [[self.config["sigma_data"]] * 3])
        _check_table(values, mpp)
        self.register_buffer("_octave_std", values, persistent=False)  # the configuration holds it
        self.register_buffer("_octave_mpp", None if mpp is None else torch.tensor(mpp), persistent=False)

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        sigma: Float[Tensor, " b"],
        mpp: Float[Tensor, " b"],
        class_labels: Int64[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Return D_x, the expected clean image given the noisy one (Karras et al. 2022, eq. 7).

        Args:
            x: clean + sigma * noise, clean in [-1, 1].
            sigma: noise level of each image, > 0.
            mpp: µm/px of each image, > 0.
            class_labels: number of each image's class, that of the last plus 1 for none; None: none for all.

        Returns:
            float32, whatever the precision of the network.
        """
        x, sigma = x.float(), sigma.float()
        # c_in and c_noise only: c_skip and c_out are each octave's own, in `combine`
        c = precondition(sigma, self.config["sigma_data"])
        F_x = self.raw(c.c_in[:, None, None, None] * x, 4 * c.c_noise, mpp.float().log(), class_labels)
        return combine(x, F_x, sigma, self.octave_std(mpp))

    def raw(
        self,
        x: Float[Tensor, "b 3 h w"],
        log_sigma: Float[Tensor, " b"],
        log_mpp: Float[Tensor, " b"],
        class_labels: Int64[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Return F_x, the network without preconditioning: luminance and two colour differences.

        Args:
            x: noisy images, scaled to unit variance.
            log_sigma: ln σ.
            log_mpp: ln of µm/px.
            class_labels: as for `forward`.
        """
        p = self.config["patchify"]
        noise_label = EMBEDDING_SCALE * log_sigma
        shown = self.unet.time_proj(EMBEDDING_SCALE * log_mpp)
        if self.class_embedding is not None:
            if class_labels is None:
                class_labels = torch.full_like(log_mpp, len(self.config["classes"]), dtype=torch.int64)
            shown = shown + CLASS_SCALE * self.class_embedding(class_labels)
        cells = F.pixel_unshuffle(x, p).contiguous(memory_format=torch.channels_last)
        out = self.unet(cells, noise_label, class_labels=shown, return_dict=False)[0]
        # Three further channels: a smooth image, which the full-resolution path need not carry.
        colour = enlarged(out[:, -3:].float(), p)
        labels = torch.cat([self.unet.time_proj(noise_label), shown], dim=1)
        scale, shift = self.pixel_modulation(labels)[:, :, None, None].chunk(2, dim=1)
        stem = self.pixel_stem(x.contiguous(memory_format=torch.channels_last))
        h = torch.cat([stem, F.pixel_shuffle(out[:, :-3], p)], dim=1)
        h = silu(h) * (1 + scale) + shift  # 1 + scale: no modulation at the start
        h = silu(self.pixel_hidden(h))
        return colour + self.pixel_out(h).float()


class _Sinusoids(Timesteps):
    """Sinusoids (b, c) of numbers (b,); what has been embedded already, with its class, passes unchanged."""

    def forward(self, timesteps: Tensor) -> Tensor:
        return timesteps if timesteps.ndim == 2 else super().forward(timesteps)


def _check_table(values: Tensor, mpp: Sequence[float] | None) -> None:
    if mpp is None:
        fits, expected = values.ndim == 2, "(parts, 3)"
    else:
        rises = all(0 < a < b for a, b in pairwise([*mpp, float("inf")]))
        if not rises:
            raise InvalidValueError(f"octave_mpp must be increasing µm/px > 0, got {list(mpp)}")
        fits, expected = values.ndim == 3 and len(values) == len(mpp), f"({len(mpp)}, parts, 3)"
    if not (fits and values.shape[-1] == 3):
        raise InvalidValueError(f"octave_std must be a table of {expected}, got {tuple(values.shape)}")


def load_denoiser(model: str | Path = "default", device: torch.device | str = "cpu") -> Denoiser:
    """Load a denoiser to sample with: float32 weights, channels last, evaluation mode, no gradients.

    Args:
        model: "default", a folder, or a hub id; see ``resolve``.
        device: where to put it.

    Raises:
        SnapshotError: it is missing, truncated, does not match its config, or contains NaN.
    """
    net = load_snapshot(Denoiser, resolve(model), device)
    return net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


class Uncertainty(nn.Module):
    """The learnt log-variance u(σ, µm/px) of EDM2's loss weighting (Karras et al. 2024, section 2.1).

    A linear map of sinusoids of ln σ and ln µm/px, 0 at the start. Used in training only.

    Args:
        channels: sinusoids for each of σ and µm/px.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.channels = channels
        self.linear = nn.Linear(2 * channels, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, sigma: Float[Tensor, " b"], mpp: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the log-variance of the loss at each image's noise level and µm/px."""
        features = [get_timestep_embedding(EMBEDDING_SCALE * v.log(), self.channels) for v in (sigma, mpp)]
        return self.linear(torch.cat(features, dim=1)).squeeze(1)

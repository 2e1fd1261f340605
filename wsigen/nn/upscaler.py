"""The upscaler x = G(y, z; µm/px): the next stage of the cascade from its guide and noise, in one evaluation.

Convolutions only: no attention and no statistics over space, so that a pixel depends on a square of known
radius and tiles with a halo of that radius are exact. Three resolutions (that of the guide, a half and a
quarter of it) give context at little cost; the output is enlarged before it is convolved, since pixel shuffle
leaves a pattern with the period of its factor (Odena et al. 2016). What the network adds is added to the
bilinear guide. Each block is modulated by µm/px (FiLM, Perez et al. 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from wsigen.diffusion.spectrum import enlarged
from wsigen.nn.rounding import silu

EMBEDDING = 64
"""Channels of the µm/px embedding."""


class ScaleEmbedding(nn.Module):
    """Embeds ln µm/px by sinusoids and two linear layers.

    Args:
        channels: of the embedding.
        frequencies: number of sinusoids; their periods in ln µm/px go from 28 to 1.4.
    """

    def __init__(self, channels: int, frequencies: int = 12) -> None:
        super().__init__()
        self.register_buffer("_rates", torch.linspace(-1.5, 1.5, frequencies).exp(), persistent=False)
        self.hidden = nn.Linear(2 * frequencies, 64)
        self.out = nn.Linear(64, channels)

    def forward(self, mpp: Float[Tensor, " b"]) -> Float[Tensor, "b channels"]:
        """Embed µm/px > 0."""
        phase = mpp.float().log()[:, None] * self.get_buffer("_rates")
        return self.out(silu(self.hidden(torch.cat([phase.sin(), phase.cos()], dim=1))))


class Block(nn.Module):
    """x + g · conv(SiLU((1 + scale) · conv(SiLU(x)) + shift)), scale and shift by µm/px."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(EMBEDDING, 2 * channels)
        # small: blocks begin near the identity
        self.gain = nn.Parameter(torch.full((1, channels, 1, 1), 0.1))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b_or_1 e"]
    ) -> Float[Tensor, "b c h w"]:
        """Return features of the same shape."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        return x + self.gain * self.conv2(silu(torch.addcmul(shift, self.conv1(silu(x)), 1 + scale)))


class Upscaler(ModelMixin, ConfigMixin):
    """The network that makes a stage from the one above.

    Args:
        channels: features at the guide's resolution, and at each coarser one; one entry a resolution.
        blocks: residual blocks at each resolution; those of the guide's on the way down and up again.
        head_channels: features at the guide's and at the output's resolution in the head.
        noise_channels: channels of z; by default 3(k² - 1), the dimensions that the guide leaves
            undetermined.
        k: factor between the stages.
        mpp_range: smallest and largest µm/px of the output in training.
        background: colour of the empty slide, 8-bit RGB.
    """

    @register_to_config
    def __init__(
        self,
        channels: Sequence[int] = (48, 96, 128),
        blocks: Sequence[int] = (2, 3, 2),
        head_channels: Sequence[int] = (48, 24),
        noise_channels: int = 9,
        k: int = 2,
        mpp_range: Sequence[float] = (0.25, 80.0),
        background: Sequence[int] = (243, 243, 243),
    ) -> None:
        super().__init__()
        first, (wide, thin) = channels[0], head_channels
        self.embedding = ScaleEmbedding(EMBEDDING)
        self.stem = nn.Conv2d(3 + noise_channels, first, 3, padding=1)
        self.down_blocks = nn.ModuleList(_blocks(c, n) for c, n in zip(channels, blocks, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(channels))
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(channels))
        self.up_blocks = _blocks(first, blocks[0])
        self.head = nn.Conv2d(first, wide, 3, padding=1)
        self.fine1 = nn.Conv2d(wide, thin, 3, padding=1)
        self.fine2 = nn.Conv2d(thin, thin, 3, padding=1)
        self.out = nn.Conv2d(thin, 3, 3, padding=1)

    @property
    def k(self) -> int:
        """Factor between guide and output."""
        return self.config["k"]

    @property
    def noise_channels(self) -> int:
        """Channels of z."""
        return self.config["noise_channels"]

    @property
    def stride(self) -> int:
        """Guides begin at, and are as high and wide as, multiples of this, px."""
        return 2 ** (len(self.config["channels"]) - 1)

    @property
    def radius(self) -> int:
        """Largest distance in guide pixels at which an output pixel depends on the input.

        Counted layer by layer: a 3×3 convolution at a resolution of 1/s adds s guide pixels, and going down
        and up again reaches to the end of a cell of s pixels.
        """
        blocks = self.config["blocks"]
        at_guide = 1 + 2 * blocks[0] + 2 * blocks[0] + 1
        coarser = sum(2 * n * 2**i for i, n in enumerate(blocks[1:], start=1))
        fine = -(-3 // self.k)
        return at_guide + coarser + (self.stride - 1) + fine

    def forward(
        self,
        y: Float[Tensor, "b 3 h w"],
        z: Float[Tensor, "b n h w"],
        mpp: Float[Tensor, " b_or_1"],
    ) -> Float[Tensor, "b 3 kh kw"]:
        """Make the next stage.

        Args:
            y: guides in [-1, 1]; height and width are multiples of ``stride``.
            z: unit Gaussian noise, ``noise_channels`` of it.
            mpp: µm/px of the result, > 0; one for all, (1,), or one for each.

        Returns:
            float32, about [-1, 1], whatever the precision of the network.
        """
        e = self.embedding(mpp)
        x = self.stem(torch.cat([y, z], dim=1))
        x = self._level(x, e, 0)
        for block in self.up_blocks:
            x = block(x, e)
        # nearest is exact; bilinear's last bits depend on the number of threads
        x = F.interpolate(silu(self.head(x)), scale_factor=self.k, mode="nearest")
        x = silu(self.fine2(silu(self.fine1(x))))
        return enlarged(y.float(), self.k) + self.out(x).float()

    def _level(self, x: Tensor, e: Tensor, level: int) -> Tensor:
        """Apply the blocks of a resolution and, in a residual branch, those of the coarser ones."""
        for block in self.down_blocks[level]:  # pyright: ignore[reportGeneralTypeIssues]
            x = block(x, e)
        if level < len(self.down):
            coarse = self._level(self.down[level](x), e, level + 1)
            x = x + F.pixel_shuffle(self.up[level](coarse), 2)
        return x


def _blocks(channels: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(Block(channels) for _ in range(count))

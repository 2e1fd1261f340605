"""One update of the upscaler and of its discriminator, and the terms of their losses.

The guide of a training image is made by some of the upscaler's own stages, from the real image reduced: in
sampling it meets its own faults, and must correct them. Gradients flow through these stages in a share
``loss.through`` of the updates: a coarse stage then learns what finer ones need of it, to become real.

The adversarial loss is the hinge loss (Lim & Ye 2017): the discriminator minimises
E[max(0, 1 - D(real))] + E[max(0, 1 + D(drawn))], the upscaler -E[D(drawn)].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wsigen.config.upscaler import UpscalerTrainConfig
from wsigen.diffusion.spectrum import split
from wsigen.nn.discriminator import Discriminator
from wsigen.nn.upscaler import Upscaler
from wsigen.training.loop import Scalars
from wsigen.training.processes import Processes, frozen
from wsigen.training.upscaler.sampled import SampledGuides

Scores = Sequence[Float[Tensor, "b 1 h w"]]

WINDOW = 16
"""Side of the squares, in pixels, over which local energy is taken."""
RINGS = (0.06, 0.09, 0.13, 0.18, 0.25, 0.35, 0.5)
"""Limits of the rings of frequency, in cycles per pixel."""
LEAST_ENERGY = 4e-4
"""Mean square below which detail is not seen: two and a half grey levels."""


def discriminator_hinge(real: Scores, drawn: Scores) -> Float[Tensor, ""]:
    """The discriminator's loss, summed over its heads: 2 a head where it cannot tell."""
    losses = [
        F.relu(1 - r.float()).mean() + F.relu(1 + d.float()).mean() for r, d in zip(real, drawn, strict=True)
    ]
    return torch.stack(losses).sum()


def upscaler_hinge(drawn: Scores) -> Float[Tensor, ""]:
    """The upscaler's adversarial loss, summed over the heads."""
    return -torch.stack([d.float().mean() for d in drawn]).sum()


def feature_difference(drawn: Sequence[Tensor], real: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean |f(drawn) - f(real)|, f the discriminator's features (feature matching, Wang et al. 2018)."""
    differences = [(d.float() - r.float()).abs().mean() for d, r in zip(drawn, real, strict=True)]
    return torch.stack(differences).mean()


def guide_error(x: Float[Tensor, "b c kh kw"], y: Float[Tensor, "b c h w"], k: int) -> Float[Tensor, ""]:
    """Mean |A x - y|, A the mean of k × k pixels: the relaxed constraint (Harb et al. 2024)."""
    return (F.avg_pool2d(x, k) - y).abs().mean()


def energy_difference(
    drawn: Float[Tensor, "b c h w"], real: Float[Tensor, "b c h w"], octaves: int = 2
) -> Float[Tensor, ""]:
    """Mean |ln e(drawn) - ln e(real)|, e the mean square of an octave over squares of `WINDOW` px.

    What a guide leaves open cannot be predicted, but how strong it is there can.

    Args:
        drawn: images; height and width are multiples of `WINDOW`.
        real: the images that their guides come from.
        octaves: how many, finest first.
    """
    differences = []
    pairs = zip(split(drawn, octaves), split(real, octaves), strict=True)
    for i, (d, r) in enumerate(list(pairs)[:octaves]):
        window = WINDOW >> i
        e_d, e_r = (
            # windows overlap by half, so that no place is at a border of all
            (F.avg_pool2d(part.square(), window, window // 2) + LEAST_ENERGY).log()
            for part in (d, r)
        )
        differences.append((e_d - e_r).abs().mean())
    return torch.stack(differences).sum()


def relief_difference(
    drawn: Float[Tensor, "b c h w"], real: Float[Tensor, "b c h w"], octaves: int = 2
) -> Float[Tensor, ""]:
    """Mean |s(drawn) - s(real)|, s the skewness of the derivative of an image's lightness along a direction.

    Relief lit from one side has steep bright flanks on that side. A discriminator that sees one image at a
    time cannot forbid it, since some real images, turned at random, have a little of it.

    Args:
        drawn: images.
        real: the images that their guides come from.
        octaves: at how many scales, finest first.
    """
    differences = []
    d, r = drawn.mean(1, keepdim=True), real.mean(1, keepdim=True)
    for _ in range(octaves):
        differences.append((_skewness(d) - _skewness(r)).abs().mean())
        d, r = F.avg_pool2d(d, 2), F.avg_pool2d(r, 2)
    return torch.stack(differences).sum()


def spectrum_difference(drawn: Float[Tensor, "b c h w"], real: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Mean |ln p(drawn) - ln p(real)|, p a batch's power in rings of frequency and four directions.

    Cells packed in rows along the grid of pixels have more power along the axes than along the diagonals, as
    no batch of real images has; each image alone could be real.

    Args:
        drawn: images.
        real: the images that their guides come from.
    """
    window, bins = _window(*drawn.shape[-2:], drawn.device), _bins(*drawn.shape[-2:], drawn.device)

    def power(x: Tensor) -> Tensor:
        lightness = x.float().mean(1)
        centred = (lightness - lightness.mean((1, 2), keepdim=True)) * window
        spectrum = torch.fft.rfft2(centred, norm="ortho").abs().square().mean(0).flatten()
        return bins @ spectrum

    return ((power(drawn) + LEAST_ENERGY).log() - (power(real) + LEAST_ENERGY).log()).abs().mean()


@cache
def _window(h: int, w: int, device: torch.device) -> Float[Tensor, "h w"]:
    """A Hann window, which leaves the mean power as it is."""
    window = torch.hann_window(h)[:, None] * torch.hann_window(w)
    return (window / window.square().mean().sqrt()).to(device)


@cache
def _bins(h: int, w: int, device: torch.device) -> Float[Tensor, "bins coefficients"]:
    """Weights that average the coefficients of a real Fourier transform over each ring and direction."""
    fy, fx = torch.meshgrid(torch.fft.fftfreq(h), torch.fft.rfftfreq(w), indexing="ij")
    # a wave and its opposite are one: angles modulo 180°
    radius, angle = torch.hypot(fy, fx), torch.rad2deg(torch.atan2(fy, fx)) % 180
    masks = [
        (radius >= low) & (radius < high) & ((angle - direction + 22.5) % 180 < 45)
        for low, high in pairwise(RINGS)
        for direction in (0, 45, 90, 135)
    ]
    return torch.stack([(mask / mask.sum()).flatten() for mask in masks]).to(device)


def _skewness(x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 4"]:
    """Of the differences of neighbours along rows, columns and both diagonals."""
    steps = (
        x[..., 1:] - x[..., :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
    moments = [(s.square().mean((1, 2, 3)), s.pow(3).mean((1, 2, 3))) for s in steps]
    return torch.stack([third / (second + LEAST_ENERGY) ** 1.5 for second, third in moments], dim=1)


def turned(x: Float[Tensor, "b c h w"], turns: int, *, flip: bool) -> Float[Tensor, "b c h w"]:
    """One of the eight symmetries of the square: mirrored or not, then quarter turns."""
    return torch.rot90(x.flip(3) if flip else x, turns, (2, 3))


class UpscalerUpdate:
    """The two networks, their optimisers, and what an update does.

    Args:
        config: the run.
        net: the upscaler.
        processes: of the run.
        sampled: guides that a denoiser sampled; None for those of real images alone.

    Attributes:
        nets: "G", the upscaler, and "D", the discriminator.
        optimizers: one for each.

    Determinism:
        Noise and the choice of how many own stages precede follow from (seed, image number) and
        (seed, update): not from batches, processes, or where a run was resumed.
    """

    def __init__(
        self,
        config: UpscalerTrainConfig,
        net: Upscaler,
        processes: Processes,
        sampled: SampledGuides | None = None,
    ) -> None:
        self.config, self.loss, self.processes, self.sampled = config, config.loss, processes, sampled
        torch.manual_seed(config.seed + 1)
        self.G, self.D = net, Discriminator(**asdict(config.discriminator))
        self.nets = nn.ModuleDict({"G": self.G, "D": self.D})
        self.optimizers = {
            name: torch.optim.Adam(self.nets[name].parameters(), lr=lr, betas=config.optim.betas)
            for name, lr in config.optim.rates.items()
        }

    def __call__(
        self, x: Float[Tensor, "b 3 h w"], mpp: Float[Tensor, " b"], numbers: Sequence[int], update: int
    ) -> Scalars:
        """Change the weights once: the discriminator's, then the upscaler's.

        Args:
            x: real images in [-1, 1].
            mpp: their µm/px.
            numbers: their running numbers.
            update: this one's number, from 0.

        Returns:
            Losses to report, detached; the upscaler's, "loss", first.
        """
        rng = np.random.Generator(np.random.Philox(key=[self.config.seed, update], counter=2))
        depth, turns, flip = self._depth(x.shape[-1], rng), int(rng.integers(4)), bool(rng.integers(2))
        shift = (int(rng.integers(self.G.stride)), int(rng.integers(self.G.stride)))
        noise = _Noise(self.config.seed, numbers, x.device)
        sampled = self._sampled_depth(x, mpp, rng)
        depth = depth if sampled is None else sampled
        with torch.set_grad_enabled(self.loss.through > 0 and bool(rng.random() < self.loss.through)):
            guide, y, above = self._guide(x, mpp, depth, noise, rng, sampled=sampled is not None)
        z = self._z(noise, y)
        with self.processes.autocast():
            drawn = self.G(y, z, mpp)
        judged, features = self._train_discriminator(x, drawn.detach(), mpp, update)
        # gradients pass through the discriminator; it gets none itself
        with self.processes.autocast(), frozen(self.D):
            seen = self.D(drawn, mpp)
        losses = {"adversarial": upscaler_hinge(seen.scores)}
        losses["guide"] = guide_error(drawn, guide, self.G.k) + above
        losses["spectrum"] = spectrum_difference(drawn, x)
        total = losses["adversarial"] + self.loss.spectrum * losses["spectrum"]
        if sampled is not None:  # there is no real image of this guide to compare with
            total = total + self.loss.sampled_guide * losses["guide"]
            losses |= dict.fromkeys(("l1", "energy", "relief", "features"), total.new_tensor(torch.nan))
        else:
            losses["l1"] = (drawn - x).abs().mean()
            losses["energy"] = energy_difference(drawn, x)
            losses["relief"] = relief_difference(drawn, x)
            losses["features"] = feature_difference(seen.features, features)
            names = ("guide", "energy", "relief", *(("l1", "features") if depth == 0 else ()))
            total = total + sum(getattr(self.loss, name) * losses[name] for name in names)
        if self.loss.symmetry and update % self.loss.symmetry_every == 0:
            total = total + self.loss.symmetry * self._symmetry(drawn, y.detach(), z, mpp, shift, turns, flip)
        self.processes.apply(total, self.optimizers["G"])
        return {
            name: value.detach() for name, value in {"loss": total, "discriminator": judged, **losses}.items()
        }

    def _depth(self, size: int, rng: np.random.Generator) -> int:
        """How many own stages precede, of those that images of this size can be reduced for.

        More of them are likelier: the first stage from a real image is soon learnt, faults add up later.
        """
        fit = [d for d in range(self.loss.depth + 1) if size % self.config.least_size(d) == 0]
        shares = np.cumsum([d + 1 for d in fit])
        return fit[int(np.searchsorted(shares / shares[-1], rng.random(), side="right"))]

    def _sampled_depth(self, x: Tensor, mpp: Tensor, rng: np.random.Generator) -> int | None:
        """How many own stages follow a guide that the denoiser sampled; None for one of real images."""
        if self.sampled is None or rng.random() >= self.loss.sampled:
            return None
        k, size = self.G.k, x.shape[-1]
        for depth in range(self.loss.depth + 1):
            fits = size % self.config.least_size(depth) == 0
            if fits and self.sampled.fits(mpp * k ** (depth + 1), size // k ** (depth + 1)):
                return depth
        return None

    def _guide(
        self,
        x: Tensor,
        mpp: Tensor,
        depth: int,
        noise: _Noise,
        rng: np.random.Generator,
        *,
        sampled: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The guide that the drawn image is held to, the one that is given, and the stages' guide error.

        The guide that is given has noise from before the first own stage: specks that a stage 0 has on
        background would become tissue, and the upscaler learns to remove them (conditioning augmentation, Ho
        et al. 2022).
        """
        k = self.G.k
        if sampled:
            assert self.sampled is not None, "a depth was found for it"
            clean = self.sampled.draw(mpp * k ** (depth + 1), x.shape[-1] // k ** (depth + 1), rng).to(x)
        else:
            clean = F.avg_pool2d(x, k ** (depth + 1))
        strength = self.loss.guide_noise * noise.uniform().square()[:, None, None, None]
        y = clean + strength * noise.specks(clean.shape[1:])
        error = y.new_zeros(())
        if depth == 0:
            return clean, y, error
        held = clean
        with self.processes.autocast():
            for above in range(depth, 0, -1):
                # Each in a frame of its own: else a bias of direction adds up from stage to stage.
                dims = [dim for dim in (2, 3) if rng.random() < 0.5]
                y = self.G(y.flip(dims), self._z(noise, y), mpp * k**above).flip(dims).clamp(-1, 1)
                if y.requires_grad:
                    error = error + guide_error(y, held, k)
                held = y
        return y, y, error

    def _z(self, noise: _Noise, y: Tensor) -> Tensor:
        return noise.normal((self.G.noise_channels, *y.shape[2:]))

    def _train_discriminator(
        self, x: Tensor, drawn: Tensor, mpp: Tensor, update: int
    ) -> tuple[Tensor, list[Tensor]]:
        """One step: the discriminator's hinge loss, and what it saw of the real images before."""
        with self.processes.autocast():
            both = self.D(torch.cat([x, drawn.to(x)]), torch.cat([mpp, mpp]))
        real, fake = zip(*(s.chunk(2) for s in both.scores), strict=True)
        loss = judged = discriminator_hinge(real, fake)
        if self.loss.r1 and update % self.loss.r1_every == 0:
            # applied seldom, as much stronger (lazy regularisation, Karras et al. 2020)
            loss = loss + self.loss.r1 / 2 * self.loss.r1_every * self._gradient_penalty(x, mpp)
        self.processes.apply(loss, self.optimizers["D"])
        return judged, [f.chunk(2)[0].detach() for f in both.features]

    def _gradient_penalty(self, x: Tensor, mpp: Tensor) -> Tensor:
        """R1: E ‖∇D(real)‖² (Mescheder et al. 2018), of the scores' means over places."""
        x = x.detach().requires_grad_(True)
        score = torch.stack([s.float().mean((1, 2, 3)).sum() for s in self.D(x, mpp).scores]).sum()
        (gradient,) = torch.autograd.grad(score, x, create_graph=True)
        return gradient.square().sum((1, 2, 3)).mean()

    def _symmetry(
        self, drawn: Tensor, y: Tensor, z: Tensor, mpp: Tensor, shift: tuple[int, int], turns: int, flip: bool
    ) -> Tensor:
        """|T G(y, z) - G(T y, T z)|, T a shift, then a symmetry of the square.

        Without symmetries, nuclei end as relief lit from one side. Without shifts, patterns stay that are
        locked to the grid of the coarser resolutions (cf. Zhang 2019).
        """
        (h, w), k, stride = y.shape[2:], self.G.k, self.G.stride
        cut = stride if min(h, w) > stride else 0
        top, left = shift if cut else (0, 0)

        def moved(x: Tensor, k: int = 1) -> Tensor:
            part = x[..., k * top : k * (top + h - cut), k * left : k * (left + w - cut)]
            return turned(part, turns, flip=flip)

        with self.processes.autocast():
            again = self.G(moved(y), moved(z), mpp)
        # The border knows less of its surroundings in the part than in the whole.
        border = k * ((min(h, w) - cut) // 4)
        inside = (..., slice(border, -border or None), slice(border, -border or None))
        return (moved(drawn, k)[inside] - again[inside]).abs().mean()


class _Noise:
    """Random numbers of a batch, each image's own stream keyed by (seed, number)."""

    def __init__(self, seed: int, numbers: Sequence[int], device: torch.device) -> None:
        self._device = device
        self._streams = [
            # SplitMix64's multipliers: neighbouring seeds and numbers get streams that share nothing
            torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + n * 0xBF58476D1CE4E5B9 + 2) % 2**63)
            for n in numbers
        ]

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Unit Gaussian, (b, *shape)."""
        drawn = torch.stack([torch.randn(tuple(shape), generator=g) for g in self._streams])
        return drawn.to(self._device, non_blocking=True)

    def specks(self, shape: Sequence[int]) -> Tensor:
        """Gaussian noise of two octaves, the finest and the next, of unit variance each; (b, *shape)."""
        fine, (c, h, w) = self.normal(shape), shape
        coarse = self.normal((c, (h + 1) // 2, (w + 1) // 2))
        return fine + F.interpolate(coarse, scale_factor=2, mode="nearest")[..., :h, :w]

    def uniform(self) -> Tensor:
        """In [0, 1), (b,)."""
        return torch.stack([torch.rand((), generator=g) for g in self._streams]).to(self._device)

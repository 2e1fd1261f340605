"""Spatially correlative losses (Zheng et al. 2021), which keep the self-similarity of an image.

Of features f (of a fixed network such as VGG, at some layers) take the cosine of a place i with all places of
the window of N_p = p × p around it (section 3.1), which is a picture of the local structure:

    S_i = f_i^T f_*                    f centred over the image, then of unit length

FSeSim compares input x and output y at N random places: the mean over i of 1 − cos(S_i(x), S_i(y)),
or the mean of |S_i(x) − S_i(y)|. Both are invariant to f → a f + b, a > 0, b a constant per channel, as a
global change of colour is to first approximation; the paper leaves the centring open.

LSeSim (section 3.2) puts a trained head of two 1 × 1 convolutions on the features, so that they learn which
structures to tell apart. It is trained so that S_i of an image finds S⁺_i, that of the image in other
colours, among those of all N places, with τ = 0.07:

    −log( exp(cos(S_i, S⁺_i) / τ) / Σ_k exp(cos(S_i, S⁺_k) / τ) )

The generator is trained with LSGAN + λ times the distance above, λ = 10, N = 256, on relu3_1, relu4_1 and
relu4_3 of VGG16.

From the authors' code, where the paper leaves them open: windows of p = 64; distances over the quarter of a
window that is most similar to its centre in the output; heads of a quarter of a layer's channels, at least
32; similarities of an image of the other domain as further negatives, both of S_i and of S⁺_i.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from wsigen.errors import InvalidValueError
from wsigen.stain.losses.cut import draw_places, info_nce, take_places
from wsigen.stain.networks.blocks import initialise

DISTANCES = ("cosine", "l1")
_SHORTEST = 1e-4  # features shorter than this are not stretched to unit length: their direction is rounding


def window_places(places: Int[Tensor, "b n"], size: tuple[int, int], patch: int) -> Int[Tensor, "b n p"]:
    """Return row-major indices of all locations in the window around each location.

    Args:
        places: row-major indices of the centres.
        size: (height, width) of the feature map.
        patch: side of the window; smaller where the map is smaller, moved inwards at the map's edge.
    """
    (h, w), device = size, places.device
    rows, cols = min(patch, h), min(patch, w)
    top = (places // w - rows // 2).clamp(0, h - rows)
    left = (places % w - cols // 2).clamp(0, w - cols)
    inside = torch.arange(rows, device=device)[:, None] * w + torch.arange(cols, device=device)
    return (top * w + left)[:, :, None] + inside.flatten()


def self_similarity(
    features: Float[Tensor, "b c h w"], places: Int[Tensor, "b n"], patch: int = 32
) -> Float[Tensor, "b n p"]:
    """Return S_i at the given locations, in [-1, 1], float32 also under autocast.

    Args:
        features: of one layer.
        places: row-major indices i.
        patch: side of the window, in places of this layer.

    Memory:
        n·h·w similarities of each image at a time, 17 MB for 256 places of 128 × 128: a matrix product with
        the whole map is faster, and smaller, than collecting p² vectors for each place.
    """
    with torch.autocast(features.device.type, enabled=False):
        f = features.float()
        # features are mostly positive: not centred, all would be alike
        f = F.normalize(f - f.mean(dim=(2, 3), keepdim=True), dim=1, eps=_SHORTEST)
        everywhere = take_places(f, places) @ f.flatten(2)
        return everywhere.gather(2, window_places(places, (f.shape[2], f.shape[3]), patch))


def distance(
    made: Float[Tensor, "b n p"],
    wanted: Float[Tensor, "b n p"],
    kind: str = "cosine",
    strongest: float = 1.0,
) -> Float[Tensor, ""]:
    """Return the difference of structure, 0 (none) to 2.

    Args:
        made: self-similarities S of the output.
        wanted: of the input, the same places.
        kind: "cosine" or "l1".
        strongest: share in (0, 1] of each window that is compared: where the output is most similar to the
            window's centre. Which places these are has no gradient.
    """
    if strongest < 1:
        compared = made.topk(max(1, int(strongest * made.shape[2])), dim=2).indices
        made, wanted = made.gather(2, compared), wanted.gather(2, compared)
    if kind == "l1":
        return (made - wanted).abs().mean()
    return (1 - F.cosine_similarity(made, wanted, dim=2)).mean()


class SpatialCorrelation(nn.Module):
    """FSeSim, or LSeSim with ``learned``. Its parameters are those of the heads; FSeSim has none.

    Args:
        channels: of the features of each layer, in order.
        learned: put trained heads on the features.
        width: channels of the heads; None for a quarter of their layer's, at least 32.
        places: N, places per image and layer.
        patch: p, side of the windows, in places of each layer.
        tau: temperature τ of ``contrast``.
        kind: distance, "cosine" or "l1".
        strongest: share of each window that the distance is taken over.

    Raises:
        InvalidValueError: a value is out of its range.

    Determinism:
        Places are those of ``draw_places``: they depend on seed, image number and layer alone. The heads'
        first weights are those of ``initialise`` (normal, 0.02): always the same.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        learned: bool = False,
        width: int | None = None,
        places: int = 256,
        patch: int = 64,
        tau: float = 0.07,
        kind: str = "cosine",
        strongest: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value, least in (("places", places, 2), ("patch", patch, 2), ("width", width, 1)):
            if value is not None and value < least:
                raise InvalidValueError(f"{name} must be at least {least}, got {value}")
        if tau <= 0:
            raise InvalidValueError(f"tau must be positive (0.07 in LSeSim), got {tau}")
        if not 0 < strongest <= 1:
            raise InvalidValueError(f"strongest must be in (0, 1], got {strongest}")
        if kind not in DISTANCES:
            raise InvalidValueError(f"no distance {kind!r}; choose from {', '.join(DISTANCES)}")
        self.channels = tuple(channels)
        self.places, self.patch, self.tau = places, patch, tau
        self.kind, self.strongest = kind, strongest
        self.heads = nn.ModuleList(_head(c, width) for c in (self.channels if learned else ()))
        initialise(self.heads, kind="normal")

    def forward(
        self,
        made: Sequence[Float[Tensor, "b _c _h _w"]],
        source: Sequence[Float[Tensor, "b _c _h _w"]],
        *,
        seed: int,
        image_numbers: Sequence[int],
    ) -> Float[Tensor, ""]:
        """Return the generator's loss: mean over layers of the distance, 0 to 2.

        Args:
            made: features of the output, one map per layer; only they get gradients, not the heads.
            source: features of the input, the same layers.
            seed: the run's seed.
            image_numbers: running number of each image of the batch.
        """
        places = self._places(made, seed, image_numbers)
        with torch.no_grad():
            wanted = self._similarities(source, places, train=False)
        found = self._similarities(made, places, train=False)
        pairs = zip(found, wanted, strict=True)
        return torch.stack([distance(s, t, self.kind, self.strongest) for s, t in pairs]).mean()

    def contrast(
        self,
        features: Sequence[Float[Tensor, "b _c _h _w"]],
        recoloured: Sequence[Float[Tensor, "b _c _h _w"]],
        others: Sequence[Float[Tensor, "b _c _h _w"]] | None = None,
        *,
        seed: int,
        image_numbers: Sequence[int],
    ) -> Float[Tensor, ""]:
        """Return the heads' loss: mean over layers, images and locations of the contrastive loss, ≥ 0.

        Args:
            features: of an image; get no gradient.
            recoloured: of the same image with other colours (``photometric``); get no gradient.
            others: of another image, for more negatives at the same places; get no gradient.
            seed: the run's seed.
            image_numbers: running number of each image of the batch.

        Raises:
            InvalidValueError: there are no heads to train.
        """
        if not self.heads:
            raise InvalidValueError(
                "the fixed spatially correlative loss has nothing to train; set learned=True"
            )
        places = self._places(features, seed, image_numbers)
        unit = [
            [F.normalize(s, dim=2, eps=1e-7) for s in self._similarities(maps, places, train=True)]
            for maps in ([f.detach() for f in m] for m in (features, recoloured, others) if m is not None)
        ]
        losses = [info_nce(v, k, self.tau, *more).mean() for v, k, *more in zip(*unit, strict=True)]
        return torch.stack(losses).mean()

    def _places(self, maps: Sequence[Tensor], seed: int, image_numbers: Sequence[int]) -> list[Tensor]:
        return [
            draw_places(seed, image_numbers, layer, f.shape[2] * f.shape[3], self.places).to(
                f.device, non_blocking=True
            )
            for layer, f in enumerate(maps)
        ]

    def _similarities(self, maps: Sequence[Tensor], places: list[Tensor], *, train: bool) -> list[Tensor]:
        got = tuple(f.shape[1] for f in maps)
        if got != self.channels:
            raise InvalidValueError(f"the loss was made for {self.channels} channels, got features of {got}")
        heads = self.heads or [None] * len(maps)
        return [
            self_similarity(_apply(head, f, train), p, self.patch)
            for head, f, p in zip(heads, maps, places, strict=True)
        ]


def _head(channels: int, width: int | None) -> nn.Module:
    width = width or max(32, channels // 4)
    return nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1))


def _apply(head: nn.Module | None, features: Tensor, train: bool) -> Tensor:
    if head is None:
        return features
    if train:
        return head(features)
    # gradients pass through to the features, and leave the head as it is
    fixed = {name: parameter.detach() for name, parameter in head.named_parameters()}
    return functional_call(head, fixed, (features,))


_STREAM = 0x434F4C  # keeps these draws apart from others of the same seed and image number


def colour_map(contrast: float, saturation: float, hue: float) -> np.ndarray:
    """Return the 3 × 3 matrix contrast · (P + saturation · (cos θ (I − P) + sin θ K)).

    P projects onto the grey axis u, K is the matrix of v → u × v: θ turns the hue, and greys stay grey.

    Args:
        contrast: 1 for no change.
        saturation: 1 for no change, 0 for greys.
        hue: angle θ in radians, 0 for no change.
    """
    grey = np.full((3, 3), 1 / 3)
    turn = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return contrast * (grey + saturation * (math.cos(hue) * (np.eye(3) - grey) + math.sin(hue) * turn))


def photometric(
    images: Float[Tensor, "b 3 h w"], *, seed: int, image_numbers: Sequence[int], strength: float = 0.4
) -> Float[Tensor, "b 3 h w"]:
    """Recolour each image at random: x' = `colour_map` · x + brightness, clamped to [-1, 1].

    Args:
        images: in [-1, 1].
        seed: the run's seed, ≥ 0.
        image_numbers: running number of each image, ≥ 0.
        strength: contrast and saturation are in 1 ± strength, brightness in ± strength / 2, the hue is turned
            by ± strength · π; in [0, 1).

    Raises:
        InvalidValueError: ``strength`` is out of its range.

    Determinism:
        The colours of an image depend on (seed, image number, strength) alone.
    """
    if not 0 <= strength < 1:
        raise InvalidValueError(f"strength must be in [0, 1), got {strength}")
    maps, shifts = [], []
    for number in image_numbers:
        rng = np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, 0, _STREAM]))
        contrast, saturation, brightness, hue = rng.uniform(-strength, strength, 4)
        maps.append(colour_map(1 + contrast, 1 + saturation, math.pi * hue))
        shifts.append(brightness / 2)
    matrix = torch.from_numpy(np.stack(maps)).to(images.device, torch.float32)
    shift = torch.tensor(shifts, dtype=torch.float32, device=images.device)[:, None, None, None]
    with torch.autocast(images.device.type, enabled=False):
        turned = torch.einsum("bij,bjhw->bihw", matrix, images.float())
        return (turned + shift).clamp(-1, 1)

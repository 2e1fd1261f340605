"""Patchwise contrastive loss of CUT (Park et al. 2020, eq. 2 and 3), with negatives from within the image.

At S places of each of L layers of the generator's encoder, a small network H_l makes unit vectors of the
features: queries v from the output G(x), keys k from the input x. A query must find the key of its own place
among those of the S places of the same image:

    ℓ(v_s, k) = −log( exp(v_s·k_s / τ) / Σ_t exp(v_s·k_t / τ) )

PatchNCE is the mean of ℓ over l, s and images. The authors' code can also take the negatives from all images
of a batch (nce_includes_all_negatives_from_minibatch), and halves both PatchNCE terms where there are two:
λ_X = λ_Y = ½ in the words of the paper. CUT's objective (eq. 5) is LSGAN + λ_X PatchNCE(x, G(x)) +
λ_Y PatchNCE(y, G(y)) with λ_X = λ_Y = 1; FastCUT has λ_X = 10, λ_Y = 0. τ = 0.07, S = 256, H_l has two layers
of 256 units, and the layers are 0, 4, 8, 12, 16 of the generator. No gradient flows through the keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from wsigen.errors import InvalidValueError
from wsigen.stain.networks.blocks import initialise

_STREAM = 0x4E4345  # keeps these draws apart from others of the same seed and image number


def draw_places(
    seed: int, image_numbers: Sequence[int], layer: int, pixels: int, count: int = 256
) -> Int[Tensor, "b n"]:
    """Draw different locations of a feature map for each image.

    Args:
        seed: the run's seed, ≥ 0.
        image_numbers: running number of each image of the batch, ≥ 0.
        layer: which of the loss's layers it is for.
        pixels: places there are, h·w.
        count: places wanted, S; all of them, in some order, where there are fewer.

    Returns:
        Row-major indices in [0, pixels), int64, on the CPU; none twice in an image.

    Determinism:
        The draw depends on (seed, image number, layer, pixels, count) alone: not on the batch, on the number
        of processes or on where the run was resumed.
    """
    places = [
        np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, layer, _STREAM])).choice(
            pixels, size=min(count, pixels), replace=False
        )
        for number in image_numbers
    ]
    return torch.from_numpy(np.stack(places))


def take_places(features: Float[Tensor, "b c h w"], places: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
    """Return the feature vectors at row-major locations of each image, without copying the map."""
    width = features.shape[3]
    image = torch.arange(len(features), device=features.device)[:, None]
    return rearrange(features, "b c h w -> b h w c")[image, places // width, places % width]


def info_nce(
    query: Float[Tensor, "b n c"],
    key: Float[Tensor, "b n c"],
    tau: float = 0.07,
    others: Float[Tensor, "b m c"] | None = None,
) -> Float[Tensor, "b n"]:
    """Return ℓ of each query (eq. 2), ≥ 0; log n where all keys are equal. Float32, also under autocast.

    Args:
        query: n unit vectors of each image.
        key: n unit vectors of each image, the s-th the positive of the s-th query, the others its negatives.
        tau: temperature τ > 0.
        others: m unit vectors that neither a query nor its key should resemble: the sum over t also runs over
            v_s·o_t and k_s·o_t, as in the code of Zheng et al. 2021.
    """
    with torch.autocast(query.device.type, enabled=False):
        v, k = query.float(), key.float()
        logits = v @ k.transpose(1, 2)
        if others is not None:
            o = others.float().transpose(1, 2)
            logits = torch.cat([logits, v @ o, k @ o], dim=2)
        logits = logits / tau
        own = torch.arange(query.shape[1], device=query.device).expand(query.shape[:2])
        return F.cross_entropy(logits.transpose(1, 2), own, reduction="none")


class PatchProjector(nn.Module):
    """H: for each layer two linear layers with a ReLU between, then division by the length.

    Args:
        channels: of each layer's features, in order; all parameters are there from the start.
        width: units of both linear layers, and length of the vectors.

    Determinism:
        First weights are those of ``initialise`` (Xavier, gain 0.02, as published): always the same. The
        vectors are normalised, so the gain does not change them; a small one makes H learn faster.
    """

    def __init__(self, channels: Sequence[int], width: int = 256) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(c, width), nn.ReLU(), nn.Linear(width, width)) for c in self.channels
        )
        initialise(self)

    def forward(
        self, features: Sequence[Float[Tensor, "b _c _h _w"]], places: Sequence[Int[Tensor, "b _n"]]
    ) -> list[Float[Tensor, "b _n width"]]:
        """Return unit vectors, float32, at the given locations of each layer.

        Raises:
            InvalidValueError: the features are not of the layers that the heads were made for.
        """
        got = tuple(f.shape[1] for f in features)
        if got != self.channels:
            raise InvalidValueError(
                f"PatchNCE heads were made for {self.channels} channels, got features of {got}"
            )
        taken = [take_places(f, p) for f, p in zip(features, places, strict=True)]
        return [
            F.normalize(head(t).float(), dim=-1, eps=1e-7) for head, t in zip(self.heads, taken, strict=True)
        ]


class PatchNCE(nn.Module):
    """PatchNCE of a whole encoder. Its parameters are those of H; train them with the generator's.

    Args:
        channels: of the features of each layer, in order.
        width: units of H and length of the vectors.
        places: S, places per image and layer.
        tau: temperature τ.
        all_negatives: take negatives from all images of the batch, not only from the query's own.

    Raises:
        InvalidValueError: a number is out of its range.

    Determinism:
        Places are those of ``draw_places``: they depend on seed, image number and layer alone.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        width: int = 256,
        places: int = 256,
        tau: float = 0.07,
        all_negatives: bool = False,
    ) -> None:
        super().__init__()
        if places < 2:
            raise InvalidValueError(f"places must be at least 2 (one key and one negative), got {places}")
        if tau <= 0:
            raise InvalidValueError(f"tau must be positive (0.07 in CUT), got {tau}")
        self.projector = PatchProjector(channels, width)
        self.places = places
        self.tau = tau
        self.all_negatives = all_negatives

    def forward(
        self,
        query: Sequence[Float[Tensor, "b _c _h _w"]],
        key: Sequence[Float[Tensor, "b _c _h _w"]],
        *,
        seed: int,
        image_numbers: Sequence[int],
    ) -> Float[Tensor, ""]:
        """Return the mean of ℓ over layers, images and locations, ≥ 0.

        Args:
            query: features of the output, one map per layer; gradients flow into them.
            key: features of the input, the same layers; get no gradient.
            seed: the run's seed.
            image_numbers: running number of each image of the batch.
        """
        places = [
            draw_places(seed, image_numbers, layer, f.shape[2] * f.shape[3], self.places).to(
                f.device, non_blocking=True
            )
            for layer, f in enumerate(query)
        ]
        with torch.no_grad():
            keys = self.projector(key, places)
        queries = self.projector(query, places)
        if self.all_negatives:
            # as places of one image: those of the other images become negatives
            queries, keys = ([v.flatten(0, 1)[None] for v in vectors] for vectors in (queries, keys))
        losses = [info_nce(v, k, self.tau).mean() for v, k in zip(queries, keys, strict=True)]
        return torch.stack(losses).mean()

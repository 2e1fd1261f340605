"""Rendering as the papers do: patch by patch, with margins that are mirrored instead of real.

For comparison, not for use: the seams of this are what `NormLayers.render` with a field over the whole
slide avoids. Two of their causes are here on purpose. A margin of 16 mirrored pixels is all that a patch sees
beyond its edge, where the receptive field reaches 93; and the field of a patch is stretched over its margins,
so that two patches do not agree at their joint. Blank patches give NaN where no epsilon is added.

Where a paper leaves a number open, it is that of its authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from wsigen.errors import InvalidValueError
from wsigen.stain.normalise.field import Axis, Field, Positions
from wsigen.stain.normalise.layers import NormLayers
from wsigen.stain.normalise.tables import KernelKind, Table, kernel_average

PublishedKind = Literal["in", "tin", "kin", "dn", "dn-paper"]


@dataclass(frozen=True)
class Statistics:
    """How a publication computes statistics.

    σ = sqrt(variance + eps) + std_eps.

    Args:
        eps: added to variances.
        correction: 1 for the unbiased variance.
        std_eps: added to standard deviations.
    """

    eps: float
    correction: int
    std_eps: float = 0.0


PUBLISHED: dict[PublishedKind, Statistics] = {
    "in": Statistics(1e-5, 0),  # Ulyanov et al. 2016, and training
    "tin": Statistics(1e-5, 1),  # Chen et al. 2022 (URST)
    "kin": Statistics(0.0, 1),  # Ho et al. 2022
    "dn": Statistics(0.0, 1, 1e-7),  # Ho et al. 2024, as published in code
    "dn-paper": Statistics(0.0, 1, 1e-7),  # the same, as written
}

THUMBNAIL = 1024
"""Shorter side of the thumbnail of Chen et al. 2022 (in their code, the height), px."""


@dataclass(frozen=True)
class PatchAxis(Axis):
    """The weights of the paper on dense normalisation, for the nodes before, of and after a patch.

    v_k = kN/(N - 1), k = 0 … N - 1, takes two nodes to N pixels with weights v_k/N = k/(N - 1), so each pair
    begins and ends exactly on its nodes; of the 2N pixels of two pairs, the N in the centre are the patch.
    """

    def linear(self, at: Float64[Tensor, " n"]) -> Positions:
        """Positions of the N pixels of a patch, which depend on their number alone."""
        n = len(at)
        index = torch.arange(n) + n // 2
        weight = (index % n).double() / max(n - 1, 1)
        return Positions(torch.div(index, n, rounding_mode="floor"), weight.float())


@torch.inference_mode()
def render_as_published(
    net: nn.Module | NormLayers,
    image: Float[Tensor, "3 h w"],
    kind: PublishedKind,
    *,
    patch: int = 512,
    margin: int = 16,
    kernel: KernelKind = "constant",
    size: int = 3,
    thumbnail: int = THUMBNAIL,
    statistics: Statistics | None = None,
) -> Float[Tensor, "3 h w"]:
    """An image translated as in the publications, seams included.

    Args:
        net: a network with instance norms.
        image: in [-1, 1]; height and width are multiples of ``patch``.
        kind: "in" (each patch by itself), "tin" (statistics of a thumbnail), "kin" (kernel over the patches'
            statistics), "dn" (bilinear: feature i of N lies at (i + ½)/N - ½ patches from the patch's centre)
            or "dn-paper" (bilinear with the weights as written, `PatchAxis`).
        patch: side of a patch, px.
        margin: mirrored pixels around each patch, in the statistics and the result alike.
        kernel: for "kin".
        size: of that kernel, odd.
        thumbnail: for "tin", shorter side of the thumbnail, px; a smaller image is enlarged to it.
        statistics: in place of the publication's own (`PUBLISHED`).

    Memory: the image and its result.

    Raises:
        InvalidValueError: an unknown kind, or an image that is not made of whole patches.
    """
    height, width = image.shape[1:]
    if kind not in PUBLISHED or height % patch or width % patch or not min(height, width):
        raise InvalidValueError(
            f"render_as_published needs a kind of {', '.join(PUBLISHED)} and whole patches of {patch} px, "
            f"got {kind!r} and {height} x {width}"
        )
    layers = net if isinstance(net, NormLayers) else NormLayers(net)
    how = statistics or PUBLISHED[kind]
    grid = (height // patch, width // patch)
    cut = _Patches(image, patch, margin)
    if kind == "tin":
        tables = _tables(layers, [_thumbnail(image, thumbnail)], (1, 1), how)
    else:
        tables = _tables(layers, [cut(r, c) for r in range(grid[0]) for c in range(grid[1])], grid, how)
    if kind == "kin":
        tables = [kernel_average(*table, kind=kernel, size=size) for table in tables]
    out = torch.empty_like(image)
    for r in range(grid[0]):
        for c in range(grid[1]):
            fields = [_field(table, kind, r, c, patch + 2 * margin) for table in tables]
            done = layers.render(cut(r, c), fields, [(0, 0)])[0, :, margin:, margin:]
            rows, cols = slice(r * patch, (r + 1) * patch), slice(c * patch, (c + 1) * patch)
            out[:, rows, cols] = done[:, :patch, :patch]
    return out


@dataclass(frozen=True)
class _Patches:
    """The patches of an image, each with margins that mirror it."""

    image: Float[Tensor, "3 h w"]
    patch: int
    margin: int

    def __call__(self, r: int, c: int) -> Float[Tensor, "1 3 n n"]:
        y, x = r * self.patch, c * self.patch
        part = self.image[None, :, y : y + self.patch, x : x + self.patch]
        return F.pad(part, [self.margin] * 4, mode="reflect")


def _thumbnail(image: Float[Tensor, "3 h w"], side: int) -> Float[Tensor, "1 3 _ _"]:
    """The image with its shorter side as given and its aspect kept, bicubic as Pillow resizes by default.

    Sides are rounded to multiples of 4, which networks take.
    """
    scale = side / min(image.shape[1:])
    size = [max(4, round(n * scale / 4) * 4) for n in image.shape[1:]]
    return F.interpolate(image[None], size=size, mode="bicubic", antialias=True).clamp(-1, 1)


def _tables(
    layers: NormLayers, patches: Sequence[Tensor], grid: tuple[int, int], how: Statistics
) -> list[tuple[Table, Table]]:
    """Mean and 1/σ of each layer on the grid of patches."""
    measured = [
        layers.measure(p, eps=how.eps, std_eps=how.std_eps, correction=how.correction) for p in patches
    ]
    return [
        (
            torch.cat([stats[i].mean for stats in measured]).unflatten(0, grid),
            torch.cat([stats[i].inv_std for stats in measured]).unflatten(0, grid),
        )
        for i in range(len(measured[0]))
    ]


def _field(table: tuple[Table, Table], kind: PublishedKind, r: int, c: int, side: int) -> Field:
    """The field that one patch sees, in its own coordinates; the table's edges are replicated."""
    if kind in ("in", "tin", "kin"):
        alone = Axis((side / 2,))
        last = (len(table[0]) - 1, table[0].shape[1] - 1)
        mean, inv_std = (t[min(r, last[0]), min(c, last[1])][None, None] for t in table)
        return Field(mean, inv_std, alone, alone, "nearest")
    mean, inv_std = (_around(t, r, c) for t in table)
    three = (-0.5 * side, 0.5 * side, 1.5 * side)
    axis = PatchAxis(three) if kind == "dn-paper" else Axis(three)
    return Field(mean, inv_std, axis, axis)


def _around(table: Table, r: int, c: int) -> Float[Tensor, "3 3 c"]:
    rows, cols = (
        (torch.arange(-1, 2) + i).clamp_(0, n - 1)
        for i, n in zip((r, c), (table.shape[0], table.shape[1]), strict=True)
    )
    return table[rows[:, None].to(table.device), cols.to(table.device)]

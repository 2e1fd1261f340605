"""Kinds of normalisation: which statistics normalise a pixel of a slide.

A kind is one class in `NORMALISERS`. The engine, the plan, ``--norm`` and the provenance ask it for all that
differs between kinds; nothing else names one.

The statistics themselves are those of training: biased variance, and the layers' own ε = 1e-5 added to it.
The authors of KIN, TIN (URST) and dense normalisation take the unbiased variance, KIN no ε, and dense
normalisation adds 1e-7 to σ. A generator has learned on the former, and without an ε blank patches give NaN.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from wsigen.errors import InvalidValueError
from wsigen.stain.normalise.field import Interpolation
from wsigen.stain.normalise.tables import KernelKind, Table, fill_nodes, kernel_average, kernel_weights

Scope = Literal["tile", "nodes", "slide"]
"""What statistics are measured on: each tile by itself, nodes ahead of rendering, or the whole slide."""

T = TypeVar("T")


@dataclass(frozen=True)
class Norm:
    """How a slide is normalised: a kind and its options, recorded in the provenance.

    Args:
        kind: a name in `NORMALISERS`.
        kernel: "constant" or "gaussian", of "kin".
        size: of that kernel, patches, odd; or "inf" for the whole slide. 3 is what the authors of KIN use.
        granularity: "dn" interpolates once for so many feature pixels a side.

    Raises:
        InvalidValueError: a value out of range.
    """

    kind: str = "dn"
    kernel: KernelKind = "constant"
    size: int | Literal["inf"] = 3
    granularity: int = 1

    def __post_init__(self) -> None:
        if self.kind not in NORMALISERS:
            raise InvalidValueError(f"norm must be one of {', '.join(NORMALISERS)}, got {self.kind!r}")
        if self.size != "inf":
            kernel_weights(self.kernel, self.size)
        if self.granularity < 1:
            raise InvalidValueError(f"granularity must be at least 1, got {self.granularity}")

    @classmethod
    def parse(cls, text: str) -> Norm:
        """Parse a name: of a kind, and its options after hyphens, such as kin-gaussian-7.

        Raises:
            InvalidValueError: no such name.
        """
        for kind, normaliser in NORMALISERS.items():
            match = re.fullmatch(kind + normaliser.pattern, text)
            if match:
                options: dict[str, Any] = {
                    name: int(value) if value.isdecimal() else value
                    for name, value in match.groupdict().items()
                    if value is not None
                }
                return cls(kind, **options)
        names = [name for normaliser in NORMALISERS.values() for name in normaliser.names]
        raise InvalidValueError(f"norm must be such as {', '.join(names[:-1])} or {names[-1]}, got {text!r}")

    @property
    def normaliser(self) -> Normaliser:
        """What the engine asks."""
        return NORMALISERS[self.kind](self)

    @property
    def is_constant(self) -> bool:
        """Whether the whole slide has the same statistics, which must be known before it is translated."""
        return self.normaliser.scope == "slide"

    @property
    def is_local(self) -> bool:
        """Whether statistics are measured at nodes, ahead of rendering."""
        return self.normaliser.scope == "nodes"


class Normaliser:
    """A kind of normalisation: by default, a pixel has the statistics of the node whose cell holds it.

    Args:
        norm: with the options of this kind.
    """

    names: ClassVar[tuple[str, ...]] = ()
    """Examples of what `Norm.parse` takes, for messages."""

    pattern: ClassVar[str] = ""
    """Regular expression of what may follow the kind; its groups are fields of `Norm`."""

    interpolation: ClassVar[Interpolation] = "nearest"
    """How a pixel's statistics follow from the nodes around it."""

    def __init__(self, norm: Norm) -> None:
        self.norm = norm

    @property
    def scope(self) -> Scope:
        """What statistics are measured on."""
        return "nodes"

    @property
    def reach(self) -> int:
        """Nodes to either side that a node's final statistics depend on: one, since it may be filled."""
        return 1

    def finish(
        self, mean: Table, inv_std: Table, confidence: Float[Tensor, "rows cols"]
    ) -> tuple[Table, Table]:
        """Return the final statistics of nodes: filled from those beside them where there is no tissue.

        Args:
            mean: of all layers, as measured. It may be a window of a taller table: rows nearer than `reach`
                to an end of the window are right only where that is the table's own.
            inv_std: 1/σ, likewise.
            confidence: of the nodes.
        """
        return fill_nodes(mean, inv_std, confidence)

    def whole_slide(self, thumbnail: Callable[[], T], nodes: Callable[[], T]) -> T:
        """Return the statistics of a slide, for the scope "slide": call one of the two.

        Args:
            thumbnail: measures a thumbnail, its longer side 512 px.
            nodes: averages mean and σ of all nodes by their confidence.
        """
        raise NotImplementedError


class Patchwise(Normaliser):
    """Each patch with its halo by itself, which shows seams (IN)."""

    names = ("in",)

    @property
    def scope(self) -> Scope:
        """The tiles, of which there is one for each patch."""
        return "tile"


class Thumbnail(Normaliser):
    """The statistics of a thumbnail (Chen et al. 2022, URST)."""

    names = ("tin",)

    @property
    def scope(self) -> Scope:
        """The slide."""
        return "slide"

    def whole_slide(self, thumbnail: Callable[[], T], nodes: Callable[[], T]) -> T:
        """Return the statistics of the thumbnail."""
        return thumbnail()


class Kernelised(Normaliser):
    """Averages of the patches around, by patch (Ho et al. 2022)."""

    names = ("kin", "kin-5", "kin-gaussian-7", "kin-inf")
    pattern = r"(?:-(?P<kernel>constant|gaussian))?(?:-(?P<size>\d+|inf))?"

    @property
    def scope(self) -> Scope:
        """The nodes, or the slide where the kernel is infinite."""
        return "slide" if self.norm.size == "inf" else "nodes"

    @property
    def reach(self) -> int:
        """One node by filling, and half of the kernel."""
        return 1 + (0 if self.norm.size == "inf" else self.norm.size // 2)

    def finish(
        self, mean: Table, inv_std: Table, confidence: Float[Tensor, "rows cols"]
    ) -> tuple[Table, Table]:
        """Fill, then average over nodes that are filled or measured on tissue; leave nodes far from any."""
        mean, inv_std = fill_nodes(mean, inv_std, confidence)
        assert self.norm.size != "inf"
        if self.norm.size == 1:
            return mean, inv_std
        # known: nodes with tissue, and their eight neighbours, which were filled
        known = max_pool2d((confidence > 0).float()[None], 3, stride=1, padding=1)[0] > 0
        share = known[:, :, None].to(mean)
        weighted = torch.cat([mean * share, share / inv_std, share], 2)
        # σ of 1 everywhere: the kernel averages values as it averages means
        sums, _ = kernel_average(
            weighted, torch.ones_like(weighted), kind=self.norm.kernel, size=self.norm.size
        )
        centre, std, weight = sums.split([mean.shape[2], mean.shape[2], 1], dim=2)
        return torch.where(weight > 0, centre / weight, mean), torch.where(weight > 0, weight / std, inv_std)

    def whole_slide(self, thumbnail: Callable[[], T], nodes: Callable[[], T]) -> T:
        """Return the average over all nodes."""
        return nodes()


class Dense(Normaliser):
    """A field, linear between the patches' statistics (Ho et al. 2024)."""

    names = ("dn", "dn-8")
    pattern = r"(?:-(?P<granularity>\d+))?"
    interpolation = "linear"


NORMALISERS: dict[str, type[Normaliser]] = {
    "in": Patchwise,
    "tin": Thumbnail,
    "kin": Kernelised,
    "dn": Dense,
}
"""All kinds by name."""

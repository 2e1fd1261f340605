"""Which statistics normalise a pixel of a slide: of its patch, of patches around, of the whole slide."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from wsigen.errors import InvalidValueError
from wsigen.stain.normalise.kernel import KernelKind, kernel_weights

NormKind = Literal["dn", "kin", "tin", "in"]

_TEXT = re.compile(r"(dn|kin|tin|in)(?:-(constant|gaussian))?(?:-(\d+|inf))?")


@dataclass(frozen=True)
class Norm:
    """How a slide is normalised.

    Args:
        kind: "dn" a field, linear between the patches' statistics (Ho et al. 2024); "kin" averages of the
            patches around, by patch (Ho et al. 2022); "tin" those of a thumbnail (Chen et al. 2022); "in"
            those of each patch with its halo alone, which shows seams.
        kernel: "constant" or "gaussian", of "kin".
        size: of that kernel, patches, odd; or "inf" for the whole slide. 3 is what the authors of KIN use.
        granularity: "dn" interpolates once for so many feature pixels a side.

    Raises:
        InvalidValueError: a value out of range.
    """

    kind: NormKind = "dn"
    kernel: KernelKind = "constant"
    size: int | Literal["inf"] = 3
    granularity: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(NormKind):
            raise InvalidValueError(f"norm must be one of {', '.join(get_args(NormKind))}, got {self.kind!r}")
        if self.size != "inf":
            kernel_weights(self.kernel, self.size)
        if self.granularity < 1:
            raise InvalidValueError(f"granularity must be at least 1, got {self.granularity}")

    @classmethod
    def parse(cls, text: str) -> Norm:
        """What a name stands for: in, tin, kin, kin-5, kin-gaussian-7, kin-inf, dn, dn-8 (granularity 8).

        Raises:
            InvalidValueError: no such name.
        """
        match = _TEXT.fullmatch(text)
        kind, kernel, number = match.groups() if match else (None, None, None)
        extra = kernel is not None or number is not None
        plain = kind == "kin" or (kind == "dn" and not kernel and number != "inf") or not extra
        if match is None or not plain:
            raise InvalidValueError(
                f"norm must be in, tin, kin, kin-5, kin-gaussian-7, kin-inf, dn or dn-8, say, got {text!r}"
            )
        if kind == "dn":
            return cls("dn", granularity=int(number or 1))
        size = "inf" if number == "inf" else int(number or 3)
        return cls(kind, kernel or "constant", size)  # type: ignore[arg-type]

    @property
    def is_constant(self) -> bool:
        """Whether the whole slide has the same statistics, which must be known before it is translated."""
        return self.kind == "tin" or (self.kind == "kin" and self.size == "inf")

    @property
    def is_local(self) -> bool:
        """Whether statistics are measured at nodes, ahead of rendering."""
        return self.kind in ("dn", "kin") and not self.is_constant

    @property
    def reach(self) -> int:
        """Nodes to either side that a node's final statistics depend on: one by filling, more by a kernel."""
        return 1 + (int(self.size) // 2 if self.kind == "kin" and self.size != "inf" else 0)

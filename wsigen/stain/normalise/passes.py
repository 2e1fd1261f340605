"""What norm layers do in a forward pass: measure their input, or normalise it with fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from wsigen.errors import InvalidValueError
from wsigen.stain.normalise.field import Field, LayerStats
from wsigen.stain.normalise.fused import Places, apply_field
from wsigen.stain.normalise.moments import instance_normalise
from wsigen.stain.normalise.slide_norm import Call, SlideNorm


class PassFinished(Exception):
    """Ends a forward pass early: all statistics are known."""


class NormPass:
    """One forward pass, which must call the norm layers as the first one did.

    Args:
        batch: tiles that the network was given.
        names: name of each layer.
        calls: of the first pass; None in the first.
    """

    def __init__(self, batch: int, names: Mapping[nn.Module, str], calls: Sequence[Call] | None) -> None:
        self.batch, self.names, self.calls, self.done = batch, names, calls, 0

    def __call__(self, layer: SlideNorm, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the layer's output.

        Raises:
            InvalidValueError: ``x`` is not a batch of tiles, or the layer was not called here before.
        """
        name, index, overwrite = self.names[layer], self.done, False
        if x.ndim != 4 or x.shape[0] != self.batch:
            raise InvalidValueError(
                f"layer {name} normalises a tensor of shape {tuple(x.shape)}; it must be given "
                f"one (channels, height, width) for each of the {self.batch} tiles of a batch"
            )
        if self.calls is not None:
            expected = self.calls[index].name if index < len(self.calls) else "no further layer"
            if expected.partition(":")[0] != name:
                raise InvalidValueError(
                    f"the network called norm layer {name} where it called {expected} before; statistics are "
                    "stored by order of calls, which must not depend on the input"
                )
            overwrite = self.calls[index].overwrite
        self.done += 1
        return self.normalise(index, layer, x, overwrite)

    def normalise(self, index: int, layer: SlideNorm, x: Tensor, overwrite: bool) -> Tensor:
        """Return the normalised input of one call.

        Args:
            index: of the call.
            layer: that is called.
            x: its input, (b, c, h, w).
            overwrite: the result may replace the input.
        """
        raise NotImplementedError

    @property
    def watched(self) -> bool:
        """Whether this is the first pass, which must run operation by operation."""
        return self.calls is None


class MeasuringPass(NormPass):
    """Plain instance normalisation that keeps the statistics.

    Args:
        batch: tiles that the network was given.
        names: name of each layer.
        calls: of the first pass; None in the first.
        statistics_only: end the pass with its last statistics (by `PassFinished`).
        eps: added to variances, in place of the layers' own.
        std_eps: added to standard deviations.
        correction: 0 for the biased variance, 1 for the unbiased one.
    """

    def __init__(
        self,
        batch: int,
        names: Mapping[nn.Module, str],
        calls: Sequence[Call] | None,
        *,
        statistics_only: bool = False,
        eps: float | None = None,
        std_eps: float = 0.0,
        correction: int = 0,
    ) -> None:
        super().__init__(batch, names, calls)
        self.statistics_only, self.eps, self.std_eps = statistics_only, eps, std_eps
        self.correction = correction
        self.stats: list[LayerStats] = []

    def normalise(self, index: int, layer: SlideNorm, x: Tensor, overwrite: bool) -> Tensor:
        """Normalise each tile with its own statistics; in place where nothing else needs the input."""
        out, mean, inv_std = instance_normalise(
            x,
            layer.eps if self.eps is None else self.eps,
            layer.weight_and_bias,
            std_eps=self.std_eps,
            correction=self.correction,
            overwrite=overwrite,
            fuse=not self.watched,
        )
        self.stats.append(LayerStats(mean, inv_std))
        if self.statistics_only and self.calls is not None and len(self.stats) == len(self.calls):
            raise PassFinished
        return out


class RenderingPass(NormPass):
    """Normalisation with fields, each tile at its position.

    Args:
        batch: tiles that the network was given.
        names: name of each layer.
        calls: of the first pass; None in the first.
        fields: by call.
        origins: (y, x) of each tile on the slide.
        size: (height, width) of the tiles, image pixels.
    """

    def __init__(
        self,
        batch: int,
        names: Mapping[nn.Module, str],
        calls: Sequence[Call] | None,
        *,
        fields: Sequence[Field],
        origins: Sequence[tuple[int, int]],
        size: tuple[int, int],
    ) -> None:
        super().__init__(batch, names, calls)
        self.fields, self.origins, self.size = fields, origins, size
        self._found: dict[tuple, Places] = {}

    def normalise(self, index: int, layer: SlideNorm, x: Tensor, overwrite: bool) -> Tensor:
        """Normalise with the field of this call."""
        field = self._field(index, layer, x.shape[1])
        places, affine = self._places(field, (x.shape[2], x.shape[3])), layer.weight_and_bias
        return apply_field(x, field, places, affine, overwrite=overwrite, fuse=not self.watched)

    def _field(self, index: int, layer: nn.Module, channels: int) -> Field:
        if index >= len(self.fields):
            raise InvalidValueError(
                f"the network calls more norm layers than there are fields ({len(self.fields)}); "
                f"{self.names[layer]} has none"
            )
        field = self.fields[index]
        if field.channels != channels:
            raise InvalidValueError(
                f"layer {self.names[layer]} has {channels} channels, but its field {field.channels}: "
                "fields go by the order in which measure returns statistics"
            )
        return field

    def _places(self, field: Field, features: tuple[int, int]) -> Places:
        """Where the tiles lie, found once for all layers of one size."""
        key = (field.rows, field.cols, field.interpolation, field.granularity, features)
        if key not in self._found:
            down, right = (pixels_per_feature(p, n) for p, n in zip(self.size, features, strict=True))
            self._found[key] = Places(
                [
                    (
                        field.locate(field.rows, origin=y, scale=down, count=features[0]),
                        field.locate(field.cols, origin=x, scale=right, count=features[1]),
                    )
                    for y, x in self.origins
                ]
            )
        return self._found[key]


def pixels_per_feature(pixels: int, features: int) -> float:
    """Return image pixels per feature pixel along one side of a tile.

    A whole number (or one over a whole number) where sizes differ by rounding alone: 255 pixels give 127 or
    128 features of 2 pixels each, wherever the tile lies.
    """
    if features > pixels:
        return 1 / pixels_per_feature(features, pixels)
    scale = max(1, round(pixels / features))
    return float(scale) if abs(pixels - scale * features) < scale else pixels / features

"""Ways to interpolate the statistics of dense normalisation (Ho et al. 2024, table 4): time and difference.

    python benchmarks/ablations/interpolation.py --sizes 128 256 512

Writes interpolation.md and interpolation.png; the last line is one JSON object with the table's rows.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.ablations.figure import Panel, draw_panels
from benchmarks.ablations.options import Device, options
from benchmarks.ablations.page import Column, Page, Row
from benchmarks.ablations.sampler import Clock
from wsigen.stain.networks.generator import Generator
from wsigen.stain.normalise.blocks import block_size
from wsigen.stain.normalise.field import Axis, Field, Positions
from wsigen.stain.normalise.fused import Places, apply_field

TEXT = """
All norm layers of a generator, for one patch, with the statistics of the 3 × 3 patches around it, in four
ways. *Pixel by pixel*: four nodes, weighted, for one pixel after another, as the formula reads. *Matrix
product*: a matrix of weights, a row a pixel and a column a node, times the nodes. *Weights precomputed*: the
same, and one matrix serves all layers of a size. *As built*: along rows first, then along columns, block by
block and together with the normalisation. All results are normalised features, so that the times hold the
subtraction and the product too; that of pixel by pixel is taken on some pixels and scaled.

*Seconds*: of all layers together, the least of some runs. *Difference*: the largest from the same in float64,
where features and means are of standard deviation 1. *Temporary*: bytes of weights and fields that exist at
once, of the largest layer.
"""
COLUMNS = (
    Column("patch", "patch, px", "d"),
    Column("way", "way"),
    Column("seconds", "seconds", ".3g"),
    Column("difference", "difference", ".1e"),
    Column("temporary", "temporary, MiB", ".3g"),
)
PIXELS = 64
"""Pixels of each layer that pixel by pixel is timed on."""
MIB = 2**20


@dataclass(frozen=True)
class Layer:
    """Input of a norm layer for the middle one of 3 × 3 patches, and their statistics.

    Args:
        x: features (c, n, n).
        mean: of the patches, (3, 3, c).
        inv_std: 1/σ of the patches, (3, 3, c).
        at: the nodes before the n rows (or columns), and the weights of the nodes after them.
        times: such layers in the network.
    """

    x: Tensor
    mean: Tensor
    inv_std: Tensor
    at: Positions
    times: int

    @property
    def tables(self) -> tuple[Tensor, Tensor]:
        """Means and 1/σ."""
        return self.mean, self.inv_std


def main(argv: Sequence[str] | None = None) -> Row:
    """Interpolate in every way, measure, write."""
    argv = sys.argv[1:] if argv is None else argv
    parser = options(__doc__)
    parser.set_defaults(dtype="float32")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[128, 256, 512], help="sides of the patch, px"
    )
    parser.add_argument("--family", default="cut", help="of the generator")
    parser.add_argument("--width", type=int, default=64, help="of the generator")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    where = Device.of(args)
    rows = [
        row
        for side in args.sizes
        for row in measure(layers(Generator(args.family, args.width), side, where), args.repeats, where)
    ]
    lines = {}
    for way in WAYS:
        own = [row for row in rows if row["way"] == way]
        lines[way] = ([row["patch"] for row in own], [row["seconds"] for row in own])
    panel = Panel(title="seconds a patch", x="side of the patch, px", lines=lines, log="xy")
    draw_panels([panel], args.out / "interpolation.png")
    page = Page(
        name="interpolation",
        title="Interpolation of dense normalisation",
        text=TEXT,
        columns=COLUMNS,
        rows=rows,
    )
    return page.write(args.out, argv, where)


def layers(net: nn.Module, side: int, where: Device) -> list[Layer]:
    """Inputs of the norm layers of a network for a patch, one of each shape.

    Args:
        net: with instance norms; only the shapes of its features matter.
        side: of the patch, px.
        where: they are.
    """
    shapes: Counter[tuple[int, int]] = Counter()
    ghost = net.to("meta")
    for layer in ghost.modules():
        if isinstance(layer, nn.InstanceNorm2d):
            layer.register_forward_hook(lambda _, given, __: shapes.update([given[0].shape[1:3]]))
    ghost(torch.empty((1, 3, side, side), device="meta"))
    random = torch.Generator().manual_seed(0)
    found = []
    for (channels, n), times in shapes.items():
        x, mean, spread = (
            torch.randn(shape, generator=random) for shape in ((channels, n, n), *[(3, 3, channels)] * 2)
        )
        nodes = Axis((-0.5 * n, 0.5 * n, 1.5 * n))
        at = nodes.linear(torch.arange(n, dtype=torch.float64) + 0.5)
        x, mean, inv_std = (t.to(where.device) for t in (x, mean, torch.exp(0.2 * spread)))
        found.append(Layer(x, mean, inv_std, at, times))
    return found


def measure(found: Sequence[Layer], repeats: int, where: Device) -> list[Row]:
    """One row for each way.

    Args:
        found: the layers for one patch.
        repeats: runs of which the fastest counts.
        where: they are.
    """
    exact = [_exact(layer) for layer in found]
    side = max(layer.x.shape[1] for layer in found)
    rows = []
    for way, (prepare, normalise, temporary) in WAYS.items():
        seconds, difference = 0.0, 0.0
        prepared = [prepare(layer) for layer in found]
        for layer, given, wanted in zip(found, prepared, exact, strict=True):
            runs = [_timed(normalise, layer, given, where) for _ in range(repeats)]
            share = layer.x.shape[1] ** 2 / PIXELS if way == "pixel by pixel" else 1.0
            seconds += min(run for run, _ in runs) * share * layer.times
            if way == "pixel by pixel":
                rows_, cols = _pixels(layer)
                wanted = wanted[:, rows_, cols]
            difference = max(difference, float((runs[-1][1] - wanted).abs().max()))
        largest = max(found, key=lambda layer: layer.x.numel())
        row: Row = {"patch": side, "way": way, "seconds": seconds, "difference": difference}
        rows.append(row | {"temporary": temporary(largest) / MIB})
    return rows


def _timed(normalise: Callable, layer: Layer, given: object, where: Device) -> tuple[float, Tensor]:
    """Seconds of one run, and what it made."""
    clock = Clock(where.device)
    done = normalise(layer, given)
    return clock.seconds(), done


def _exact(layer: Layer) -> Tensor:
    """The normalised features in float64."""
    along = _weights(layer.at).double().to(layer.x.device)
    mean, inv_std = (torch.einsum("yr,xs,rsc->cyx", along, along, t.double()) for t in layer.tables)
    return (layer.x.double() - mean) * inv_std


def _weights(at: Positions) -> Tensor:
    """Weights of the three nodes along one axis, (n, 3)."""
    rows, weights = torch.arange(len(at.before)), torch.zeros(len(at.before), 3)
    weights[rows, at.before] = 1 - at.weight
    weights[rows, at.before + 1] = at.weight
    return weights


def _pixels(layer: Layer) -> tuple[Tensor, Tensor]:
    """Rows and columns of the pixels that are timed."""
    rows, cols = torch.randint(layer.x.shape[1], (2, PIXELS), generator=torch.Generator().manual_seed(1))
    return rows, cols


def pixel_by_pixel(layer: Layer, _: None) -> Tensor:
    """Some of the pixels, (c, `PIXELS`)."""
    before, weight = layer.at.before.tolist(), layer.at.weight.tolist()
    values = []
    for y, x in zip(*(p.tolist() for p in _pixels(layer)), strict=True):
        (i, v), (j, w) = (before[y], weight[y]), (before[x], weight[x])
        mean, inv_std = (
            (1 - v) * (1 - w) * t[i, j]
            + (1 - v) * w * t[i, j + 1]
            + v * (1 - w) * t[i + 1, j]
            + v * w * t[i + 1, j + 1]
            for t in layer.tables
        )
        values.append((layer.x[:, y, x] - mean) * inv_std)
    return torch.stack(values, dim=1)


def node_weights(layer: Layer) -> Tensor:
    """Weights of the nine nodes at every pixel, (n · n, 9)."""
    along = _weights(layer.at).to(layer.x.device)
    return (along[:, None, :, None] * along[None, :, None, :]).reshape(-1, 9)


def matrix_product(layer: Layer, weights: Tensor | None) -> Tensor:
    """All pixels, (c, n, n); the weights are computed where they are not given."""
    weights = node_weights(layer) if weights is None else weights
    mean, inv_std = ((weights @ t.flatten(0, 1)).T.view_as(layer.x) for t in layer.tables)
    return (layer.x - mean) * inv_std


def built(layer: Layer, places: Places) -> Tensor:
    """All pixels, (c, n, n), as the translator does it."""
    axis = Axis((0.0, 1.0, 2.0))  # where pixels lie is in ``places``
    return apply_field(layer.x[None], Field(layer.mean, layer.inv_std, axis, axis), places)[0]


def _none(layer: Layer) -> None:
    return None


def _places(layer: Layer) -> Places:
    return Places([(layer.at, layer.at)])


def _fields(layer: Layer) -> int:
    """Bytes of the weights and of two fields over a patch."""
    channels, n, _ = layer.x.shape
    return 4 * n * n * (9 + 2 * channels)


def _lines(layer: Layer) -> int:
    """Bytes of nodes interpolated along rows, and of one block."""
    channels, n, _ = layer.x.shape
    return 4 * (2 * 3 * channels * n + block_size(layer.x))


WAYS: dict[str, tuple[Callable, Callable, Callable[[Layer], int]]] = {
    "pixel by pixel": (_none, pixel_by_pixel, lambda layer: 8 * layer.x.shape[0]),
    "matrix product": (_none, matrix_product, _fields),
    "weights precomputed": (node_weights, matrix_product, _fields),
    "as built": (_places, built, _lines),
}
"""Name to what is computed once, the way itself, and the bytes that it takes."""


if __name__ == "__main__":
    main()

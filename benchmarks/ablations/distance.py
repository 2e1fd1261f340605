"""How alike the normalisation statistics of two patches are, by their distance (Ho et al. 2022, figure S1).

    python benchmarks/ablations/distance.py --slide SLIDE --size 1024 --patch 128

Writes distance.md and distance.png; the last line is one JSON object with the table's rows.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.ablations.figure import Panel, draw_panels
from benchmarks.ablations.options import Device, options
from benchmarks.ablations.page import Column, Page, Row
from benchmarks.ablations.picture import Picture, add_picture, describe
from benchmarks.ablations.translator import Translator
from wsigen.errors import InvalidValueError
from wsigen.geometry import Region
from wsigen.stain.normalise import LayerStats

LEAST_TISSUE = 0.5
TEXT = """
Means and σ of every norm layer are measured on each patch of a grid by itself, and compared between all
pairs of patches that show tissue. *Similarity*: correlation over the pairs of one distance, with every
channel's statistic standardised over the patches first: 1 = equal, 0 = no more alike than any two patches
of the picture. It is given for means, for ln σ, and for the layers before, in and after the residual
blocks. *Cosine*: of each layer's raw vector of means and σ, averaged over layers; high for any two
patches, because most of the vector is common to all. That KIN and DN average and interpolate statistics
rests on the first row being above the others.
"""
GROUPS = ("down", "blocks", "up")
COLUMNS = (
    Column("distance", "distance, patches", ".2f"),
    Column("um", "µm", ".0f"),
    Column("pairs", "pairs", ",d"),
    Column("similarity", "similarity", ".3f"),
    Column("mean", "means", ".3f"),
    Column("std", "ln σ", ".3f"),
    *(Column(group, f"{group}", ".3f") for group in GROUPS),
    Column("cosine", "cosine", ".4f"),
)


def main(argv: Sequence[str] | None = None) -> Row:
    """Measure all patches, compare all pairs, write."""
    argv = sys.argv[1:] if argv is None else argv
    parser = options(__doc__)
    add_picture(parser, size=1024, patch=128)
    args = parser.parse_args(argv)
    where, picture = Device.of(args), Picture.of(args)
    translator = Translator.of(args, where)
    places, stats = measured(translator, picture, args.patch)
    rows = [
        {"um": float(row["distance"]) * args.patch * picture.mpp, **row} for row in by_distance(places, stats)
    ]
    _draw(rows, args.out / "distance.png")
    described = f"{describe(picture, args.patch)}, {len(places)} of them with tissue"
    page = Page(
        name="distance",
        title="Statistics and distance",
        text=f"{TEXT.strip()}\n\nPicture: {described}; measured with {translator.name}.",
        columns=COLUMNS,
        rows=rows,
    )
    return page.write(args.out, argv, where)


def measured(translator: Translator, picture: Picture, patch: int) -> tuple[np.ndarray, list[LayerStats]]:
    """Statistics of the patches with tissue.

    Returns:
        (row, column) of each patch, int (n, 2); and by layer the statistics of n patches.

    Raises:
        InvalidValueError: fewer than four patches with tissue.
    """
    rows, cols = (n // patch for n in picture.image.shape[:2])
    glass = picture.glass
    regions = [Region(r * patch, c * patch, patch, patch) for r in range(rows) for c in range(cols)]
    regions = [region for region in regions if glass.fraction(region) >= LEAST_TISSUE]
    if len(regions) < 4:
        raise InvalidValueError(f"{picture.name} has {len(regions)} patches with tissue, four are the least")
    found = [translator.measure(picture.image[r.y : r.y1, r.x : r.x1]) for r in regions]
    joined = [
        LayerStats(torch.cat([s.mean for s in layer]), torch.cat([s.inv_std for s in layer]))
        for layer in zip(*found, strict=True)
    ]
    return np.array([(r.y // patch, r.x // patch) for r in regions]), joined


def by_distance(places: np.ndarray, stats: Sequence[LayerStats]) -> list[Row]:
    """Mean similarities of pairs, by their distance rounded to whole patches.

    Args:
        places: (row, column) of n patches, (n, 2).
        stats: by layer, of n patches.
    """
    means = np.stack([_alike(s.mean) for s in stats])
    deviations = np.stack([_alike(-s.inv_std.log()) for s in stats])
    layers = (means + deviations) / 2
    kinds = {
        "similarity": layers.mean(axis=0),
        "mean": means.mean(axis=0),
        "std": deviations.mean(axis=0),
        "cosine": _cosine(stats),
    }
    kinds |= {g: layers[part].mean(axis=0) for g, part in zip(GROUPS, _PARTS, strict=True)}
    first, second = np.triu_indices(len(places), 1)
    apart = np.hypot(*(places[first] - places[second]).T)
    rows: list[Row] = []
    for whole in np.unique(np.rint(apart)):
        chosen = np.rint(apart) == whole
        row: Row = {"distance": float(apart[chosen].mean()), "pairs": int(chosen.sum())}
        pairs = first[chosen], second[chosen]
        rows.append(row | {kind: float(values[pairs].mean()) for kind, values in kinds.items()})
    return rows


_PARTS = (slice(0, 3), slice(3, -2), slice(-2, None))


def _alike(values: torch.Tensor) -> np.ndarray:
    """Mean over channels of the products of standardised values: (n, n)."""
    x = values.double().cpu().numpy()
    deviation = x.std(axis=0)
    z = (x - x.mean(axis=0))[:, deviation > 0] / deviation[deviation > 0]
    return z @ z.T / max(1, z.shape[1])


def _cosine(stats: Sequence[LayerStats]) -> np.ndarray:
    """Mean over layers of the cosine between raw vectors of means and σ: (n, n)."""
    vectors = [torch.cat([s.mean, 1 / s.inv_std], dim=1).double().cpu().numpy() for s in stats]
    units = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors]
    return np.mean([unit @ unit.T for unit in units], axis=0)


def _draw(rows: Sequence[Row], path: Path) -> None:
    x = [row["distance"] for row in rows]
    names = {"mean": "means", "std": "ln σ"} | {group: f"layers: {group}" for group in GROUPS}
    lines = {name: (x, [row[key] for row in rows]) for key, name in names.items()}
    title = "similarity, 0 = any two patches"
    panels = [
        Panel(title=title, x="distance, patches", lines=lines, levels={"any two": 0.0}),
        Panel(title="cosine", x="distance, patches", lines={"cosine": (x, [row["cosine"] for row in rows])}),
    ]
    draw_panels(panels, path)


if __name__ == "__main__":
    main()

"""Sizes of the thumbnail that TIN takes its statistics from (Chen et al. 2022, URST, figure 8).

    python benchmarks/ablations/thumbnails.py --slide SLIDE --size 1024 --patch 256

Writes thumbnails.md and thumbnails.png; the last line is one JSON object with the table's rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from benchmarks.ablations.figure import Panel, draw_panels
from benchmarks.ablations.options import Device, options
from benchmarks.ablations.page import Column, Page, Row
from benchmarks.ablations.picture import Picture, add_picture, describe
from benchmarks.ablations.sampler import Clock
from benchmarks.ablations.translator import Translator, compared, everywhere, reduced
from wsigen.stain.normalise import LayerStats
from wsigen.stain.normalise.norm import Norm

TEXT = """
TIN normalises a whole slide with the statistics of one thumbnail. Here its longer side varies; the last
row is the picture itself, whose statistics are exact. *Scale*: µm/px of the thumbnail. *Mean off* and *σ
off* compare with the exact statistics, averaged over channels and layers: difference of the means in
units of σ, and factor between the σ (1 = same). *Apart*: root mean square difference of the translated
picture from that with exact statistics, grey levels. *Hue* (correlation) and *contrast* (ratio) compare
each patch with the same patch normalised by itself, as in training; *step8* is the seam score at the
joints of patches (1 = no seam). *Seconds*: of measuring the thumbnail.
"""
COLUMNS = (
    Column("side", "thumbnail, px", "d"),
    Column("mpp", "scale, µm/px", ".3g"),
    Column("mean_off", "mean off", ".3f"),
    Column("std_off", "σ off", ".3f"),
    Column("apart", "apart", ".2f"),
    Column("hue", "hue", ".3f"),
    Column("contrast", "contrast", ".3f"),
    Column("step8", "step8", ".3f"),
    Column("z", "z", ".1f"),
    Column("seconds", "seconds", ".2f"),
)


def main(argv: Sequence[str] | None = None) -> Row:
    """Translate with every thumbnail, measure, write."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    where, picture = Device.of(args), Picture.of(args)
    translator = Translator.of(args, where)
    image, longest = picture.image, max(picture.image.shape[:2])
    reference = translator.published(image, "in", patch=args.patch).image
    exact = translator.measure(image)
    truth = _translated(translator, picture, exact, args.patch)
    rows: list[Row] = []
    for side in sorted({*(s for s in args.sides if s < longest), longest}):
        clock = Clock(where.device)
        stats = translator.measure(reduced(image, side))
        row: Row = {"side": side, "mpp": picture.mpp * longest / side, "seconds": clock.seconds()}
        done = _translated(translator, picture, stats, args.patch)
        row["mean_off"], row["std_off"] = off(stats, exact)
        row["apart"] = float(np.sqrt(np.square(done.astype(float) - truth).mean()))
        rows.append(row | compared(done, reference, args.patch))
    _draw(rows, args)
    page = Page(
        name="thumbnails",
        title="Thumbnail sizes of TIN",
        text=f"{TEXT.strip()}\n\nPicture: {describe(picture, args.patch)}, translated by {translator.name}.",
        columns=COLUMNS,
        rows=rows,
    )
    return page.write(args.out, argv, where)


def off(stats: Sequence[LayerStats], exact: Sequence[LayerStats]) -> tuple[float, float]:
    """How statistics of one picture differ from exact ones, over all layers.

    Returns:
        Mean over channels and layers of |mean - exact mean| / exact σ; and the factor between the σ, the
        geometric mean of the larger over the smaller.
    """
    pairs = list(zip(stats, exact, strict=True))
    means = [float(((a.mean - b.mean).abs() * b.inv_std).mean()) for a, b in pairs]
    factors = [float((a.inv_std / b.inv_std).log().abs().mean()) for a, b in pairs]
    return float(np.mean(means)), float(np.exp(np.mean(factors)))


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    add_picture(parser, size=1024, patch=256)
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[64, 128, 256, 512, 768], help="longer sides, px"
    )
    return parser


def _translated(
    translator: Translator, picture: Picture, stats: Sequence[LayerStats], patch: int
) -> np.ndarray:
    norm, fields = Norm("tin"), everywhere(stats)
    return translator.built(picture.image, norm, pitch=patch, tile=2 * patch, constant=fields).image


def _draw(rows: Sequence[Row], args: argparse.Namespace) -> None:
    sides = [row["side"] for row in rows]

    def panel(title: str, keys: dict[str, str]) -> Panel:
        lines = {name: (sides, [row[key] for row in rows]) for key, name in keys.items()}
        return Panel(title=title, x="longer side of the thumbnail, px", lines=lines, log="x")

    panels = [
        panel("statistics, 0 and 1 = exact", {"mean_off": "mean off, σ", "std_off": "σ off, factor"}),
        panel("apart, grey levels", {"apart": "apart"}),
        panel("beside IN, 1 = nothing lost", {"hue": "hue", "contrast": "contrast"}),
    ]
    draw_panels(panels, args.out / "thumbnails.png")


if __name__ == "__main__":
    main()

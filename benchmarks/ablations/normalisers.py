"""IN, TIN, KIN and DN, with kernel sizes and granularities, as built and as published.

    python benchmarks/ablations/normalisers.py --slide SLIDE --size 1024 --patch 256

(Ho et al. 2022, tables 1 to 3; Ho et al. 2024, figure 7.) Writes normalisers.md and normalisers.png; the last
line is one JSON object with the table's rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.ablations.figure import draw_sheet
from benchmarks.ablations.options import Device, options
from benchmarks.ablations.page import Column, Page, Row
from benchmarks.ablations.picture import Picture, add_picture, describe
from benchmarks.ablations.real import SEED
from benchmarks.ablations.sampler import seams
from benchmarks.ablations.translator import Translated, Translator, compared, patches_of
from benchmarks.published import PublishedKind
from wsigen.errors import InvalidValueError
from wsigen.evaluation.quality import Niqe, piqe, sobel
from wsigen.evaluation.sets import allot, load_set
from wsigen.evaluation.spots import Reader, spots
from wsigen.evaluation.tilings import difference
from wsigen.stain.normalise.norm import Norm
from wsigen.stain.normalise.tables import KernelKind

IHC = Path("../shared/data/ihc")
IHC_PATTERN = "bs25_*_SYN_roi*.tif"
CROP = 128
TEXT = """
The same picture, translated by the same network with one normaliser after another. *As published*: patch
by patch, with mirrored margins of 16 px. *As built*: with real pixels around each tile, and statistics as
fields over the slide. The H&E itself is scored too: what shows there is no seam. KIN has a kernel and its
size in patches (inf: all), DN a granularity: it interpolates once for so many feature pixels. The
shorter side of TIN's thumbnail is 1024 px as published, the longer one 512 px as built.

*step8* (1 = no seam), its robust *z*, and *jump* (1 = none) are taken at the joints of the patches.
*Tiling*: the largest difference, in grey levels, between tiles of one patch and of two. *Hue*
(correlation of hue histograms) and *contrast* (ratio of standard deviations) compare each patch with the
same patch normalised by itself (IN as published), which is what the network was trained to do: 1 =
nothing lost. *Sobel* (sharpness) and *PIQE* (low is good) are those of KIN and DN; *NIQE* (low is good)
has a fit of its own and compares within this table, not with papers. They do not see seams.
"""
COLUMNS = (
    Column("how", "how"),
    Column("norm", "normaliser"),
    Column("step8", "step8", ".3f"),
    Column("z", "z", ".1f"),
    Column("jump", "jump", ".3f"),
    Column("tiling", "tiling", "g"),
    Column("hue", "hue", ".3f"),
    Column("contrast", "contrast", ".3f"),
    Column("sobel", "Sobel", ".2f"),
    Column("niqe", "NIQE", ".2f"),
    Column("piqe", "PIQE", ".1f"),
    Column("seconds", "seconds", ".1f"),
)
SHOWN = ("in", "tin", "kin-constant-3", "dn")


@dataclass(frozen=True)
class Setting:
    """One row.

    Args:
        how: "as built" or "as published".
        norm: name of the normaliser.
        translate: does it, with tiles of so many patches.
    """

    how: str
    norm: str
    translate: Callable[[int], Translated]


def main(argv: Sequence[str] | None = None) -> Row:
    """Translate with every normaliser, measure, write."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    where, picture = Device.of(args), Picture.of(args)
    translator = Translator.of(args, where)
    niqe, notes = _niqe(args, picture.mpp)
    reference = translator.published(picture.image, "in", patch=args.patch).image
    source: Row = {"how": "not translated", "norm": "H&E"}
    rows, crops = [source | seams([picture.image], args.patch, [([0], [0])])], {}
    for setting in settings(args, translator, picture):
        done = setting.translate(1)
        row: Row = {"how": setting.how, "norm": setting.norm, "seconds": done.seconds}
        row |= compared(done.image, reference, args.patch) | quality(done.image, args.patch, niqe)
        if setting.how == "as built" and setting.norm != "in":
            row["tiling"] = difference(done.image, setting.translate(2).image).largest
        rows.append(row)
        if setting.norm in SHOWN:
            crops.setdefault(setting.how, {"H&E": _crop(picture.image)})[setting.norm] = _crop(done.image)
    draw_sheet(crops, args.out / "normalisers.png")
    page = Page(
        name="normalisers",
        title="Normalisers",
        text=f"{TEXT.strip()}\n\nPicture: {describe(picture, args.patch)}, translated by {translator.name}.",
        columns=COLUMNS,
        rows=rows,
        notes=notes,
    )
    return page.write(args.out, argv, where)


def settings(args: argparse.Namespace, translator: Translator, picture: Picture) -> list[Setting]:
    """All normalisers that were asked for."""
    kernels = [f"kin-{kind}-{size}" for kind in ("constant", "gaussian") for size in args.kernels]
    dense = ["dn" if g == 1 else f"dn-{g}" for g in args.granularities]
    image, patch, glass = picture.image, args.patch, picture.glass

    def built(norm: str) -> Setting:
        def translate(tiles: int) -> Translated:
            tile = tiles * patch
            return translator.built(image, Norm.parse(norm), pitch=patch, tile=tile, glass=glass)

        return Setting("as built", norm, translate)

    def published(name: str, kind: PublishedKind, kernel: KernelKind = "constant", size: int = 3) -> Setting:
        def translate(_: int) -> Translated:
            return translator.published(image, kind, patch=patch, kernel=kernel, size=size)

        return Setting("as published", name, translate)

    kin = [published(f"kin-constant-{size}", "kin", size=size) for size in args.kernels[:2]]
    return [
        *(published(kind, kind) for kind in ("in", "tin")),
        *kin,
        *(published(kind, kind) for kind in ("dn", "dn-paper")),
        *map(built, ("in", "tin", *kernels, "kin-inf", *dense)),
    ]


def quality(image: np.ndarray, patch: int, niqe: Niqe | None) -> Row:
    """The measures of KIN and DN."""
    row: Row = {"sobel": sobel(image), "piqe": float(np.mean([piqe(p) for p in patches_of(image, patch)]))}
    if niqe:
        row["niqe"] = niqe.score(image)
    return row


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    add_picture(parser, size=1024, patch=256)
    parser.add_argument("--kernels", type=int, nargs="+", default=[3, 5, 7, 11], help="of KIN, patches")
    parser.add_argument("--granularities", type=int, nargs="+", default=[1, 4, 16, 64], help="of DN")
    parser.add_argument(
        "--ihc", nargs="*", help=f"real slides of the stain, for NIQE; default {IHC}/{IHC_PATTERN}, if there"
    )
    parser.add_argument("--ihc-patches", type=int, default=64)
    return parser


def _niqe(args: argparse.Namespace, mpp: float) -> tuple[Niqe | None, list[str]]:
    """NIQE's Gaussian from real IHC patches; or None, and why."""
    given = args.ihc if args.ihc is not None else [str(p) for p in sorted(IHC.glob(IHC_PATTERN))]
    if not given:
        return None, ["without real slides of the stain there is no NIQE"]
    ihc = load_set("ihc", given)
    groups = ihc.groups(args.patch, mpp)
    places = spots(list(ihc.entries), allot(groups, args.patch, mpp, args.ihc_patches), mpp, args.patch)
    try:
        return Niqe.fit(map(Reader(SEED), places)), [f"NIQE is fitted on {len(places)} real patches"]
    except InvalidValueError as error:
        return None, [f"no NIQE: {error}"]


def _crop(image: np.ndarray) -> np.ndarray:
    """Around the joint of four patches in the middle."""
    y, x = (n // 2 - CROP // 2 for n in image.shape[:2])
    return image[y : y + CROP, x : x + CROP]


if __name__ == "__main__":
    main()

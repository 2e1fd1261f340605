"""FID, domain differentiation and seams of the normalisers (Ho et al. 2024, table 1), beside real slides.

    python benchmarks/ablations/domains.py --source "HE/*_roi*.tif" --target "IHC/*_SYN_roi*.tif"

Writes domains.md and domains.png; the last line is one JSON object with the table's rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.ablations.figure import draw_sheet
from benchmarks.ablations.options import Device, options
from benchmarks.ablations.page import Column, Page, Row
from benchmarks.ablations.picture import Picture
from benchmarks.ablations.real import HALVES, SEED, Judge
from benchmarks.ablations.sampler import seams
from benchmarks.ablations.translator import Translator, patches_of
from benchmarks.published import PublishedKind
from wsigen.errors import InvalidValueError
from wsigen.evaluation.features import load_extractor
from wsigen.evaluation.seam_classifier import CropClassifier, Training, seam_crops
from wsigen.evaluation.sets import SlideSet, load_set
from wsigen.evaluation.spots import Reader
from wsigen.evaluation.windows import SeamGrid
from wsigen.stain.normalise.norm import Norm

SHARED = Path("../shared/data")
SOURCE, TARGET = "he/ice1_*_roi*.tif", "ihc/bs25_*_SYN_roi*.tif"
CROP, CROPS = 64, 48
DESCRIBED = 128
PUBLISHED: tuple[PublishedKind, ...] = ("in", "tin", "kin", "dn")
TEXT = """
H&E pictures, translated by the same network with one normaliser after another, beside real slides of the
stain. *As published*: patch by patch, with mirrored margins. *As built*: with real pixels around each tile,
and statistics as fields over the slide. The first row is the H&E itself, the last one real slides beside real
slides: the best that can be expected.

*Fréchet*: distance of the features of patches, joints included, to those of as many real ones of the stain;
it compares with a published FID only with Inception's features. *Domain differentiation*: a small network
learns to tell real H&E from real IHC; share of crops that it takes for IHC, over joints and within patches.
Where joints show, fewer pass over them. *step8* (1 = no seam) is taken at the joints of the patches.
"""
COLUMNS = (
    Column("how", "how"),
    Column("norm", "normaliser"),
    Column("distance", "Fréchet", ".1f"),
    Column("distance_95", "95 %"),
    Column("over", "taken for IHC, over joints", ".2f"),
    Column("inside", "within patches", ".2f"),
    Column("step8", "step8", ".3f"),
    Column("seconds", "seconds", ".1f"),
)


@dataclass(frozen=True)
class Bench:
    """What all normalisers are judged by.

    Args:
        judge: real patches of the stain.
        net: knows H&E from IHC.
        patch: side of the patches that are normalised, px.
    """

    judge: Judge
    net: CropClassifier
    patch: int

    def row(self, images: Sequence[np.ndarray]) -> Row:
        """Figures of translated pictures, uint8 (h, w, 3)."""
        described = [patch for image in images for patch in patches_of(image, DESCRIBED)]
        row = self.judge.distance(described) | seams(images, self.patch, [([0], [0])] * len(images))
        grid = SeamGrid("patches", self.patch)
        crops = [seam_crops(image, grid, CROPS, size=CROP, seed=SEED + i) for i, image in enumerate(images)]
        for key, kind in zip(("over", "inside"), zip(*crops, strict=True), strict=True):
            row[key] = self.share(np.concatenate(kind))
        return row

    def share(self, crops: np.ndarray) -> float:
        """Share of crops, uint8 (n, s, s, 3), that are taken for IHC."""
        return float((self.net.classify(crops) > 0).mean())


def main(argv: Sequence[str] | None = None) -> Row:
    """Translate with every normaliser, measure, write."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    where, pictures = Device.of(args), _pictures(args)
    translator = Translator.of(args, where)
    count = len(pictures) * (args.size // DESCRIBED) ** 2
    he, ihc = (load_set(name, paths) for name, paths in (("H&E", args.source), ("IHC", args.target)))
    real = _crops(ihc, args.mpp, DESCRIBED, HALVES * count)
    judge = Judge([image for image, _ in real], [group for _, group in real], load_extractor(args.features))
    kept, held = zip(*(_split(s, args.mpp, args.crops) for s in (he, ihc)), strict=True)
    training = Training(updates=args.updates, device=where.device)
    bench = Bench(judge, training.fit(kept[1], kept[0]), args.patch)
    source = [picture.image for picture in pictures]
    rows: list[Row] = [{"how": "not translated", "norm": "H&E"} | bench.row(source)]
    shown = {"": {"H&E": _middle(source[0])}}
    settings: list[tuple[str, PublishedKind]] = [
        (how, kind) for how in ("as published", "as built") for kind in PUBLISHED
    ]
    for how, norm in settings:
        done = [_translated(translator, picture, how, norm, args.patch) for picture in pictures]
        rows.append({"how": how, "norm": norm} | bench.row([image for image, _ in done]))
        rows[-1]["seconds"] = sum(seconds for _, seconds in done)
        shown.setdefault(how, {})[norm] = _middle(done[0][0])
    rows.append({"how": "real", "norm": "IHC", "inside": bench.share(held[1])} | judge.floor(count))
    draw_sheet(shown, args.out / "domains.png")
    wrong = bench.share(held[0])
    notes = [f"of real H&E crops that were not learnt from, {wrong:.0%} are taken for IHC", *judge.cautions]
    names = ", ".join(picture.name for picture in pictures)
    page = Page(
        name="domains",
        title="Normalisers beside real slides",
        text=f"{TEXT.strip()}\n\nPictures: {names}, {args.size} × {args.size} px at {args.mpp:g} µm/px, "
        f"patches of {args.patch} px, {count} patches of {DESCRIBED} px a side, translated by "
        f"{translator.name}.",
        columns=COLUMNS,
        rows=rows,
        notes=notes,
    )
    return page.write(args.out, argv, where)


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.set_defaults(dtype="float32")
    paths = {"source": (SOURCE, "H&E slides"), "target": (TARGET, "real slides of the stain")}
    for name, (pattern, what) in paths.items():
        found = [str(path) for path in sorted(SHARED.glob(pattern))]
        parser.add_argument(
            f"--{name}", nargs="+", default=found, help=f"{what}; default {SHARED / pattern}, if there"
        )
    parser.add_argument("--pictures", type=int, default=2, help="that are translated, one a slide")
    parser.add_argument("--size", type=int, default=768, help="of each, from the middle of the slide")
    parser.add_argument("--patch", type=int, default=256, help="side of the patches that are normalised")
    parser.add_argument("--mpp", type=float, default=0.5, help="µm/px")
    parser.add_argument("--stainer", help="marker, folder, or random; default a bundled one, or random")
    parser.add_argument("--features", default="weight-free", help="as for `wsigen evaluate`")
    parser.add_argument("--crops", type=int, default=240, help="of each domain, to learn from and to test on")
    parser.add_argument(
        "--updates", type=int, default=300, help="of the network that tells the domains apart"
    )
    return parser


def _pictures(args: argparse.Namespace) -> list[Picture]:
    """The pictures to translate, of different slides.

    Raises:
        InvalidValueError: no slides, or one that is too small.
    """
    for name in ("source", "target"):
        if not getattr(args, name):
            raise InvalidValueError(f"--{name} names no slides; give files, folders or patterns")
    entries = load_set("H&E", args.source).entries[: args.pictures]
    found = [Picture.of(argparse.Namespace(**{**vars(args), "slide": entry.path})) for entry in entries]
    small = [p.name for p in found if p.image.shape[:2] != (args.size, args.size)]
    if small or args.size % DESCRIBED:
        raise InvalidValueError(
            f"--size must be a multiple of {DESCRIBED} that fits into every slide at {args.mpp:g} µm/px, got "
            f"{args.size}, which does not fit {', '.join(small) or 'whole patches'}; pass a smaller one"
        )
    return found


def _translated(
    translator: Translator, picture: Picture, how: str, norm: PublishedKind, patch: int
) -> tuple[np.ndarray, float]:
    """A picture translated with a normaliser, and the seconds that it took."""
    if how == "as published":
        done = translator.published(picture.image, norm, patch=patch)
    else:
        normaliser = Norm.parse(norm)
        done = translator.built(picture.image, normaliser, pitch=patch, tile=patch, glass=picture.glass)
    return done.image, done.seconds


def _crops(slides: SlideSet, mpp: float, side: int, count: int) -> list[tuple[np.ndarray, str]]:
    """Patches on tissue, uint8 (side, side, 3), slide by slide, and their cases."""
    reader = Reader(SEED)
    return [(reader(place), place.entry.group) for place in slides.spots(side, mpp, count)]


def _split(slides: SlideSet, mpp: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops to learn from, and the last fifth, to test on."""
    crops = np.stack([image for image, _ in _crops(slides, mpp, CROP, count)])
    kept = max(1, len(crops) * 4 // 5)
    return crops[:kept], crops[kept:]


def _middle(image: np.ndarray) -> np.ndarray:
    """Around a joint near the middle."""
    y, x = (n // 2 - DESCRIBED // 2 for n in image.shape[:2])
    return image[y : y + DESCRIBED, x : x + DESCRIBED]


if __name__ == "__main__":
    main()

"""Options of ``wsigen index``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsigen.config.check import check, parse_region


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """One call of ``wsigen index``.

    Args:
        slides: a folder of slides, or one slide.
        out: the index to write, a .parquet file; the contact sheet gets the same name and .png.
        table: CSV with columns slide, and any of mpp, group, split, class, for what the files do not say.
        val_fraction: share of slide groups kept for validation, unless the table says which.
        class_column: column of the table with the slides' classes; default: class, if it is there.
        mask: part of the slide to take patches from: GeoJSON of QuPath, or a PNG or TIFF that is 0 elsewhere;
            of several slides, a folder with a mask named like each.
        mask_class: class of the polygons that count, as QuPath names it; default: all.
        region: take patches from this region alone, as X,Y,WIDTH,HEIGHT in level-0 pixels.
        patch_size: side of the patches that the summary counts, px.
        overwrite: replace an existing index.
    """

    slides: Path
    out: Path = Path("index.parquet")
    table: Path | None = None
    val_fraction: float = 0.1
    class_column: str | None = None
    mask: Path | None = None
    mask_class: str | None = None
    region: str | None = None
    patch_size: int = 256
    overwrite: bool = False

    def __post_init__(self) -> None:
        check(
            self.mask_class is None or self.mask is not None, "--mask", self.mask, "given with --mask-class"
        )
        if self.region is not None:
            parse_region(self.region)
        check(self.patch_size >= 1, "--patch-size", self.patch_size, "at least 1 px")
        fits = self.out.suffix == ".parquet"
        check(fits, "--out", self.out, f"a .parquet file such as {self.out.with_suffix('.parquet')}")

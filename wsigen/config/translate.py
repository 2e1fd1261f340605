"""Options of ``wsigen translate``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wsigen.config.check import check, check_mpp, parse_region
from wsigen.errors import InvalidValueError
from wsigen.runtime import parse_bytes

_MARKER = re.compile(r"\w[\w+.-]*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class TranslateSlidesConfig:
    """One call of ``wsigen translate``, for one slide or many.

    Args:
        slide: H&E slides and folders of slides, one or several: any format that wsigen reads, PNG and JPEG
            included. Of a folder, sub-folders are kept below --out.
        stainer: "SYN" (bundled), a snapshot folder or a hub id; several separated by commas, a slide is read
            once.
        marker: marker in the file name; several separated by commas, one per stainer; default: their own.
        like: reference H&E slide whose stain is transferred; replaces stainer.
        style: style model for ``like``: a snapshot folder or a hub id.
        strength: of ``like``, from 0 (the slide as the model reproduces it) to 1.
        transfer: of ``like``: "adain" transfers means and standard deviations of features, "wct" (whitening
            and colouring) also how they vary together.
        like_mpp: µm/px of the slide in ``like``, if the file does not state it.
        like_series: number of the image in ``like``, for a TIFF or OME-Zarr that holds several.
        norm: normalisation: "dn" (dense, interpolated), "kin" (kernel-averaged), "tin" (whole slide), "in"
            (per patch, shows seams). Also kin-5, kin-gaussian-7, kin-inf, and dn-8 for granularity 8.
        stats_pitch: px from one patch of statistics to the next; 2048 is faster, but colour adapts less to
            the tissue.
        out: folder to write to.
        name: base name of the files of a single slide, default the slide's without _HE.
        mpp: µm/px of slides for which neither the file nor the table states it.
        table: CSV with columns slide, and any of mpp, series, z, for what the files do not say.
        region: translate only this region, as X,Y,WIDTH,HEIGHT in level-0 pixels; its pixels are those of the
            whole slide.
        mask: part of the slide to translate, background elsewhere: GeoJSON of QuPath, or a PNG or TIFF that
            is 0 elsewhere; of several slides, a folder with a mask named like each.
        mask_class: class of the polygons that count, as QuPath names it; default: all.
        series: number of the slide's image, for a TIFF or OME-Zarr that holds several.
        z: number of the slide's focus plane, from 0, for an OME-TIFF or OME-Zarr that holds several.
        icc: "srgb" to convert the slide's colours by its ICC profile; default: as they are stored.
        tile: side of the tiles, px; the result is the same for any.
        batch_size: tiles per network call.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto", "float32" or "bfloat16": precision of the network; in float32 on the CPU, any tile
            gives the same bytes.
        memory: limit for rows on the host and, on the CPU, the network, such as 4GiB.
        layout: "linked-ome", "generic" or "lossless".
        overwrite: replace a slide of the same name.
        skip_damaged: show damaged tiles of the slide as background, and say how many; default: stop there.
        dry_run: print the plan (memory, disk, time) without making the slide.
    """

    slide: list[Path] | Path
    stainer: str | None = None
    marker: str | None = None
    like: Path | None = None
    style: str | None = None
    strength: float = 1.0
    transfer: Literal["adain", "wct"] = "adain"
    like_mpp: float | None = None
    like_series: int | None = None
    norm: str = "dn"
    stats_pitch: int = 512
    out: Path = Path("slides")
    name: str | None = None
    mpp: float | None = None
    table: Path | None = None
    region: str | None = None
    mask: Path | None = None
    mask_class: str | None = None
    series: int | None = None
    z: int | None = None
    icc: Literal["srgb"] | None = None
    tile: int | Literal["auto"] = "auto"
    batch_size: int | Literal["auto"] = "auto"
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    memory: str = "4GiB"
    layout: Literal["linked-ome", "generic", "lossless"] = "linked-ome"
    overwrite: bool = False
    skip_damaged: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.like is None:
            self._check_stainer()
        else:
            self._check_like()
        check_mpp(self.mpp, "--mpp")
        numbers = (("--series", self.series), ("--z", self.z), ("--like-series", self.like_series))
        for name, value in numbers:
            check(value is None or value >= 0, name, value, "a number from 0 on")
        pitch = self.stats_pitch
        check(pitch >= 512 and pitch % 4 == 0, "--stats-pitch", pitch, "a multiple of 4, at least 512 px")
        stride = 4 if self.like is None else 8
        fits = self.tile == "auto" or (int(self.tile) >= 64 and int(self.tile) % stride == 0)
        check(fits, "--tile", self.tile, f"auto or a multiple of {stride}, at least 64 px")
        fits = self.batch_size == "auto" or int(self.batch_size) >= 1
        check(fits, "--batch-size", self.batch_size, "auto or >= 1")
        plain = self.name is None or self.name == Path(self.name).name != ""
        check(plain, "--name", self.name, "a plain file name")
        for marker in self.markers or ():
            check(
                _MARKER.fullmatch(marker) is not None, "--marker", repr(marker), "letters, digits and + - . _"
            )
        parse_bytes(self.memory)
        several = isinstance(self.slide, list) and len(self.slide) > 1
        check(self.name is None or not several, "--name", self.name, "left out with several slides")
        check(
            self.mask_class is None or self.mask is not None, "--mask", self.mask, "given with --mask-class"
        )
        if self.region is not None:
            parse_region(self.region)
            check(
                self.norm.startswith("dn"), "--norm", self.norm, "dn with --region, without the whole slide"
            )

    def _check_stainer(self) -> None:
        check(bool(self.stainer), "--stainer", self.stainer, "a bundled name (SYN), a folder or a hub id")
        unused = {"style": None, "strength": 1.0, "transfer": "adain", "like_mpp": None, "like_series": None}
        for name, default in unused.items():
            value = getattr(self, name)
            check(value == default, f"--{name.replace('_', '-')}", value, "left out without --like")

    def _check_like(self) -> None:
        for name, default in (("stainer", None), ("marker", None), ("norm", "dn"), ("stats_pitch", 512)):
            value = getattr(self, name)
            check(value == default, f"--{name.replace('_', '-')}", value, "left out with --like")
        check(bool(self.style), "--style", self.style, "the folder or hub id of a style model, with --like")
        check(0 <= self.strength <= 1, "--strength", self.strength, "in [0, 1]")
        check_mpp(self.like_mpp, "--like-mpp")

    def of(self, slide: Path, out: Path) -> TranslateConfig:
        """Return the configuration of one of the slides.

        Args:
            slide: the file.
            out: folder to write to.
        """
        return TranslateConfig(**{**vars(self), "slide": slide, "out": out})

    @property
    def markers(self) -> tuple[str, ...] | None:
        """The given markers, one for each stainer; None if none were given."""
        return None if self.marker is None else split_list(self.marker)


@dataclass(frozen=True, kw_only=True)
class TranslateConfig(TranslateSlidesConfig):
    """Translation of one slide; see `TranslateSlidesConfig`.

    Args:
        slide: the H&E slide.
    """

    slide: Path


def split_list(text: str) -> tuple[str, ...]:
    """Split a text at commas and strip spaces."""
    return tuple(part.strip() for part in text.split(","))


def split_paths(text: str, flag: str) -> tuple[str, ...]:
    """Split names and paths at commas.

    Args:
        text: to be split.
        flag: that it was given with, for the message.

    Raises:
        InvalidValueError: a comma is part of a path that exists.
    """
    parts = text.split(",")
    for first in range(len(parts)):
        for last in range(first + 2, len(parts) + 1):
            path = ",".join(parts[first:last]).strip()
            if Path(path).exists():
                fix = "rename it, or link to it under another name"
                raise InvalidValueError(
                    f"{flag} takes several names separated by commas, and the path {path} holds one; {fix}"
                )
    return split_list(text)

"""What a run starts from: the H&E slide that is translated, or the picture in place of stage 0."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsigen.config.check import is_positive
from wsigen.errors import AmbiguousSlideError, InvalidValueError, MissingMppError, SlideError
from wsigen.geometry import Size
from wsigen.slide.mpp import UNKNOWN
from wsigen.slide.parts import named_after, pixel_files, slide_stem
from wsigen.slide.read import WholeSlide, open_slide
from wsigen.slide.tiff_backend import check_complete
from wsigen.slide.view import WHOLE, View, choose

SIZE, STAGES = 2048, 6
"""Defaults of a slide that is not made from an overview."""

_CHUNK = 2**22
_SAME = 0.01  # relative: µm/px within 1 % are taken for the same


def open_source(path: Path, mpp: float | None = None, *, view: View = WHOLE, prefix: str = "") -> WholeSlide:
    """Open a slide to translate, or to take the stain from.

    Args:
        path: any slide or picture that `wsigen.slide.read` opens.
        mpp: µm/px, for a file that does not state it.
        view: which image of the file.
        prefix: of the options that set ``mpp`` and ``view``, for messages: "like-" for --like-mpp.

    Raises:
        SlideError: missing, damaged, cut off, or of an unknown format.
        AmbiguousSlideError: it holds several images and ``view`` chooses none.
        MissingMppError: neither the file nor ``mpp`` gives µm/px.
    """
    try:
        slide = _open(path, mpp, view, prefix)
    except MissingMppError as error:
        raise MissingMppError(path, f"{UNKNOWN}; pass --{prefix}mpp") from error
    check_complete(slide.path)
    return slide


def _open(path: Path, mpp: float | None, view: View, prefix: str) -> WholeSlide:
    """Open a slide; errors that ask for a choice name the option of this prefix."""
    try:
        return open_slide(path, mpp, view)
    except AmbiguousSlideError as error:
        reason = error.reason.replace(choose("--series", "N"), choose(f"--{prefix}series", "N"))
        if prefix and "--z" in reason:
            reason = reason.partition(";")[0] + "; save one of them as a file of its own"
        raise AmbiguousSlideError(path, reason) from error
    except InvalidValueError as error:
        raise InvalidValueError(str(error).replace("--series", f"--{prefix}series")) from error


def source_name(path: Path) -> str:
    """Return the name of a slide without its endings and _HE: ``a_HE.ome.tif`` → ``a``."""
    stem = slide_stem(path)
    return stem.removesuffix("_HE") or stem


def source_facts(slide: WholeSlide) -> dict[str, Any]:
    """Return what identifies a slide's pixels: name, size, µm/px, SHA-256 of the file, and a chosen view.

    Of a slide in several files (DICOM, MIRAX, OME-Zarr), all of them are hashed, one after the other.

    Raises:
        SlideError: it cannot be read, or is not the file any more that was opened.
    """
    digest = hashlib.sha256()
    try:
        for file in pixel_files(slide.path):
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
    except OSError as error:
        raise SlideError(slide.path, f"cannot be read ({error.strerror or error})") from error
    slide.check_same()  # the hash must be that of the pixels
    size = {"height": slide.size.height, "width": slide.size.width}
    facts = {"slide": named_after(slide.path).name, **size, "mpp": slide.mpp, "sha256": digest.hexdigest()}
    return facts | slide.view.facts()


def mask_facts(mask: Path, mask_class: str | None) -> dict[str, Any]:
    """Return what identifies a mask: name, SHA-256 of the file, and a chosen class.

    Raises:
        SlideError: it cannot be read.
    """
    try:
        digest = hashlib.sha256(mask.read_bytes()).hexdigest()
    except OSError as error:
        raise SlideError(mask, f"cannot be read ({error.strerror or error})") from error
    chosen = {} if mask_class is None else {"mask_class": mask_class}
    return {"mask": mask.name, "mask_sha256": digest, **chosen}


@dataclass(frozen=True, eq=False)
class Overview:
    """A picture of a whole slide, in place of stage 0.

    Args:
        pixels: uint8 (height, width, 3).
        mpp: µm/px.
        facts: what identifies its pixels, see `source_facts`.
    """

    pixels: np.ndarray
    mpp: float
    facts: Mapping[str, Any]

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return Size(*self.pixels.shape[:2])


def open_overview(path: Path, mpp: float | None = None, series: int | None = None) -> Overview:
    """Read a picture to start from.

    Args:
        path: any slide or picture that `wsigen.slide.read` opens.
        mpp: µm/px, for a file that does not state it.
        series: number of its image, for a TIFF or OME-Zarr that holds several.

    Raises:
        SlideError: missing, damaged, or of an unknown format.
        AmbiguousSlideError: it holds several images and ``series`` chooses none.
        MissingMppError: neither the file nor ``mpp`` gives µm/px.
        InvalidValueError: the file states another µm/px than ``mpp``, or has no image ``series``.

    Memory: the picture.
    """
    view = View(series)
    try:
        # without --overview-mpp first, to see whether the file contradicts it
        slide = _open(path, None, view, "overview-")
        if mpp is not None and not (is_positive(mpp) and abs(slide.mpp / mpp - 1) <= _SAME):
            got = f"{mpp:g}" if is_positive(mpp) else repr(mpp)
            raise InvalidValueError(
                f"--overview-mpp must be that of {path}, whose metadata say {slide.mpp:g} µm/px, got {got}; "
                "leave it out, or correct the file"
            )
    except MissingMppError as error:
        if mpp is None:
            raise MissingMppError(
                path, f"{UNKNOWN}; pass --overview-mpp, such as --overview-mpp 8"
            ) from error
        slide = _open(path, mpp, view, "overview-")
    pixels = slide.read_region(slide.size.region, slide.mpp)
    return Overview(pixels, slide.mpp, source_facts(slide))


def size_and_stages(
    overview: Overview | None, *, size: Size | None, stages: int | None, k: int, mpp: float
) -> tuple[Size, int]:
    """Return the size of a slide and the number of its stages; what is not given follows from the overview.

    Args:
        overview: picture in place of stage 0, if any.
        size: that is asked for.
        stages: number of upscalings that is asked for.
        k: factor between the stages.
        mpp: µm/px of the slide.

    Raises:
        InvalidValueError: size, stages and µm/px do not fit the overview.
    """
    if overview is None:
        return size or Size.square(SIZE), STAGES if stages is None else stages
    fitting = max(1, round(math.log(max(overview.mpp / mpp, 1), k)))  # stages after which --mpp is nearest
    count = fitting if stages is None else stages
    if count < 1:
        raise InvalidValueError(f"--stages must be at least 1 with --overview, got {count}; pass --stages 1")
    reached = overview.mpp / k**count
    if abs(reached / mpp - 1) > _SAME:
        near = " or ".join(f"{overview.mpp / k**n:g}" for n in (fitting + 1, fitting, fitting - 1) if n > 0)
        other = f", or --stages {fitting}" if count != fitting else ""
        raise InvalidValueError(
            f"--mpp must be what an overview of {overview.mpp:g} µm/px reaches: {reached:g} µm/px after "
            f"{count} stages of {k}, got {mpp:g}; pass --mpp {near}{other}"
        )
    whole = overview.size.times(k**count)
    if size is not None and size != whole:
        raise InvalidValueError(
            f"--size must be that of the overview, {overview.size} px, times {k}**stages ({k}**{count}), "
            f"got {size}; pass --size {whole}, or leave it out"
        )
    return whole, count

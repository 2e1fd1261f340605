"""A picture that a slide starts from, in the place of stage 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsigen.errors import InvalidValueError, MissingMppError, SlideError
from wsigen.slide.read import open_slide
from wsigen.synthesis.source import source_facts

SIZE, STAGES = 2048, 4
"""Of slides that nothing else is said about."""

_SAME = 0.01


@dataclass(frozen=True, eq=False)
class Overview:
    """A picture of a whole slide.

    Args:
        pixels: uint8 (side, side, 3).
        mpp: µm/px.
        facts: what says which pixels it has: name, size, µm/px and SHA-256 of the file.
    """

    pixels: np.ndarray
    mpp: float
    facts: Mapping[str, Any]

    @property
    def side(self) -> int:
        """Pixels."""
        return len(self.pixels)


def open_overview(path: Path, mpp: float | None = None) -> Overview:
    """Read a picture to start from.

    Args:
        path: whatever `wsigen.slide.read` opens.
        mpp: µm/px, for a file that does not say.

    Raises:
        SlideError: missing, damaged, of an unknown format, or not square.
        MissingMppError: nobody knows its µm/px.
        InvalidValueError: the file says another µm/px than ``mpp``.

    Memory: the picture.
    """
    try:
        slide = open_slide(path)
        if mpp is not None and abs(slide.mpp / mpp - 1) > _SAME:
            raise InvalidValueError(
                f"--overview-mpp must be that of {path}, whose metadata say {slide.mpp:g} µm/px, got "
                f"{mpp:g}; leave it out, or mend the file"
            )
    except MissingMppError as error:
        if mpp is None:
            raise MissingMppError(
                path, "µm/px is not in its metadata; pass --overview-mpp, such as --overview-mpp 8"
            ) from error
        slide = open_slide(path, mpp)
    height, width = slide.size.height, slide.size.width
    if height != width:
        side = min(height, width)
        raise SlideError(
            path,
            f"an overview must be square, this one is {height} px high and {width} px wide; crop it to "
            f"{side} × {side} px, or pad it with the colour of its background",
        )
    pixels = slide.read_region(slide.size.region, slide.mpp)
    return Overview(pixels, slide.mpp, source_facts(slide))


def size_and_stages(
    overview: Overview | None, *, size: int | None, stages: int | None, k: int, mpp: float
) -> tuple[int, int]:
    """Side of a slide and number of its stages, as far as they are not said.

    Args:
        overview: that it starts from; None where stage 0 is sampled.
        size: side that is asked for.
        stages: number of upscalings that is asked for.
        k: factor between the stages.
        mpp: µm/px of the slide.

    Raises:
        InvalidValueError: size, stages and µm/px do not go with the overview.
    """
    if overview is None:
        return SIZE if size is None else size, STAGES if stages is None else stages
    fitting = max(1, round(math.log(max(overview.mpp / mpp, 1), k)))
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
    side = overview.side * k**count
    if size is not None and size != side:
        raise InvalidValueError(
            f"--size must be the side of the overview, {overview.side} px, times {k}**stages ({k}**{count}), "
            f"got {size}; pass --size {side}, or leave it out"
        )
    return side, count

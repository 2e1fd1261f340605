"""Options of ``wsigen convert``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wsigen.config.check import check_mpp

SlideFormat = Literal["dicom", "ome-zarr"]
"""Formats that slides are converted to."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """One call of ``wsigen convert``.

    Args:
        slides: folders, slides, or patterns such as "slides/*.ome.tif", one or several.
        format: "dicom" for DICOM whole-slide images, "ome-zarr" for OME-Zarr 0.5.
        out: folder to write to; slides that are there already are left alone.
        mpp: µm/px of slides that do not state it.
    """

    slides: list[str] | str
    format: SlideFormat = "dicom"
    out: Path = Path("converted")
    mpp: float | None = None

    def __post_init__(self) -> None:
        check_mpp(self.mpp, "--mpp")

"""Convert slides to DICOM and OME-Zarr, each whole or not at all."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from math import log2, prod
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from wsigen.config.convert import SlideFormat
from wsigen.errors import InvalidValueError
from wsigen.files import disk_errors, make_folder, sync_folder
from wsigen.slide.levels import FileSlide, Slide
from wsigen.slide.provenance import beside, read_provenance
from wsigen.slide.read import WholeSlide, open_slide
from wsigen.slide.stored import StoredTiles, stored_tiles

Progress = Callable[[int], object]
"""Takes the number of pixels that were written."""
_TOLERANCE = 0.02
_HE = "_HE"


@dataclass(frozen=True, kw_only=True)
class Export:
    """A slide to be written in another format.

    Attributes:
        slide: its pixels.
        path: of its file, for messages.
        pixel_um: height and width of a pixel of level 0 in µm.
        study: name of the tissue, which slides of other stains share.
        name: of the slide.
        stain: such as "H&E" or "SYN".
        number: among the slides of the tissue, from 1.
        stored: tiles of its file; None where there are none that can be copied.
        facts: provenance; empty for slides that no model made.
    """

    slide: Slide
    path: Path
    pixel_um: tuple[float, float]
    study: str
    name: str
    stain: str
    number: int = 1
    stored: StoredTiles | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def synthetic(self) -> bool:
        """Whether a model made the slide."""
        return bool(self.facts.get("synthetic"))

    @classmethod
    def of_file(cls, slide: WholeSlide) -> Export:
        """Return a slide in a file; ``a_HE.ome.tif`` and ``a_IHC-SYN.ome.tif`` have the study ``a``.

        Args:
            slide: the file.
        """
        name, facts = beside(slide.path, "").name, read_provenance(slide.path)
        marker = facts.get("marker")
        study = name.removesuffix(_HE)
        if marker:
            study = name.removesuffix(f"_IHC-{marker}")
        return cls(
            slide=FileSlide(slide),
            path=slide.path,
            pixel_um=slide.pixel_um or (slide.mpp, slide.mpp),
            study=study,
            name=name,
            stain=str(marker or "H&E"),
            stored=stored_tiles(slide),
            facts=facts,
        )


Writer = Callable[[Export, Path, Progress], None]


def convert(files: Sequence[Path], form: SlideFormat, out: Path, mpp: float | None = None) -> list[Path]:
    """Write slides in files in another format; those that exist already are left alone.

    Args:
        files: of the slides.
        form: the format.
        out: folder that they are written into.
        mpp: µm/px of slides that do not state it.

    Returns:
        See `write_as`, one for each slide.

    Raises:
        InvalidValueError: a package is not installed, two slides have one name, or µm/px are not known.
        SlideError: a slide cannot be read.
        OutputError: the disk refuses.
    """
    first: dict[str, Path] = {}
    for file in files:
        name = beside(file, "").name
        if name in first:
            raise InvalidValueError(f"{file} and {first[name]} would both become {name}; rename one")
        first[name] = file
    studies: Counter[str] = Counter()
    written = []
    for file in files:
        export = Export.of_file(open_slide(file, mpp))
        studies[export.study] += 1
        written.append(write_as(form, replace(export, number=studies[export.study]), out))
    return written


def write_as(form: SlideFormat, export: Export, out: Path) -> Path:
    """Write a slide in another format, unless it exists already.

    The slide has its name when it is whole; what an interrupted call left is written again.

    Args:
        form: the format.
        export: the slide.
        out: folder that it is written into.

    Returns:
        The folder of the slide: ``OUT/NAME`` with the files of a DICOM series, or ``OUT/NAME.ome.zarr``.

    Raises:
        InvalidValueError: a package is not installed.
        SlideError: the slide is damaged.
        OutputError: the disk refuses.
    """
    write, suffix = _writer(form)
    path = out / f"{export.name}{suffix}"
    if path.exists():
        return path
    make_folder(out)
    temporary = path.with_name(f".{path.name}.partial")
    pixels = sum(prod(export.slide.level_dimensions[level]) for level, _ in power_levels(export.slide))
    with (
        disk_errors(path),
        tqdm(total=pixels, desc=path.name, unit="px", unit_scale=True) as bar,
    ):
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir()
        write(export, temporary, bar.update)
        temporary.rename(path)
        sync_folder(out)
    return path


def power_levels(slide: Slide) -> list[tuple[int, int]]:
    """Return the levels whose factor to level 0 is a power of two, with that factor."""
    levels = []
    for level, downsample in enumerate(slide.level_downsamples):
        factor = 2 ** round(log2(downsample))
        if abs(downsample / factor - 1) <= _TOLERANCE:
            levels.append((level, factor))
    return levels


def _writer(form: SlideFormat) -> tuple[Writer, str]:
    module, package, function, suffix = {
        "dicom": ("dicom_write", "wsidicom", "write_dicom", ""),
        "ome-zarr": ("zarr_write", "zarr", "write_zarr", ".ome.zarr"),
    }[form]
    try:
        return getattr(import_module(f"wsigen.slide.{module}"), function), suffix
    except ImportError as error:
        extra = "dicom" if form == "dicom" else "zarr"
        raise InvalidValueError(
            f"--format {form} needs {package}, which is not installed; pip install 'wsigen[{extra}]', with "
            "Python 3.11 or later"
        ) from error

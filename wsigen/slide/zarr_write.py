"""Write slides as OME-Zarr 0.5: https://ngff.openmicroscopy.org/specifications/0.5/. Importing needs zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from wsigen.files import disk_errors
from wsigen.geometry import Region
from wsigen.slide.convert import Export, Progress, power_levels
from wsigen.slide.ome import RGB
from wsigen.slide.pyramid import ceil_div

VERSION = "0.5"
CHUNK, SHARD = 512, 4096
"""Sides in px of what is compressed as one, and of what is in one file."""
_COLOURS = ("FF0000", "00FF00", "0000FF")


def write_zarr(export: Export, folder: Path, progress: Progress) -> None:
    """Write a slide as a group with an array (c, y, x) for each level, without loss.

    Args:
        export: the slide.
        folder: new or empty.
        progress: called for every block.

    Raises:
        SlideError: the slide is damaged.
        OutputError: the disk refuses.

    Memory: a few times 4096 × 4096 pixels, whatever the size of the slide.
    """
    levels = power_levels(export.slide)
    with disk_errors(folder):
        group = zarr.open_group(folder, mode="w", zarr_format=3)
        for number, (level, _) in enumerate(levels):
            _write_level(group, str(number), export, level, progress)
        # last: a group without them is no slide
        group.attrs.update(
            {"ome": metadata(export, [factor for _, factor in levels]), "wsigen": export.facts}
        )


def metadata(export: Export, factors: list[int]) -> dict[str, Any]:
    """Return the NGFF metadata of a slide.

    Args:
        export: the slide.
        factors: of its levels to level 0.
    """
    height, width = export.pixel_um

    def transformations(factor: int) -> list[dict[str, Any]]:
        # coordinates are those of pixel centres, and a coarser pixel lies in the middle of those it averages
        shift = (factor - 1) / 2
        scale = {"type": "scale", "scale": [1.0, height * factor, width * factor]}
        return [scale, {"type": "translation", "translation": [0.0, height * shift, width * shift]}]

    channels = [
        {
            "label": name.capitalize(),
            "color": colour,
            "active": True,
            "window": {"min": 0, "max": 255, "start": 0, "end": 255},
        }
        for name, colour in zip(RGB, _COLOURS, strict=True)
    ]
    space = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    multiscale = {
        "name": export.name,
        "axes": [{"name": "c", "type": "channel"}, *space],
        "datasets": [
            {"path": str(i), "coordinateTransformations": transformations(factor)}
            for i, factor in enumerate(factors)
        ],
        "type": "mean",
    }
    return {
        "version": VERSION,
        "multiscales": [multiscale],
        "omero": {"channels": channels, "rdefs": {"model": "color"}},
    }


def _write_level(group: zarr.Group, name: str, export: Export, level: int, progress: Progress) -> None:
    width, height = export.slide.level_dimensions[level]
    shard = min(SHARD, CHUNK * ceil_div(max(width, height), CHUNK))
    array = group.create_array(
        name,
        shape=(3, height, width),
        dtype="uint8",
        chunks=(3, CHUNK, CHUNK),
        shards=(3, shard, shard),
        dimension_names=["c", "y", "x"],
    )
    for y in range(0, height, shard):
        for x in range(0, width, shard):
            block = Region(y, x, min(shard, height - y), min(shard, width - x))
            pixels = export.slide.read(block, level)
            array[:, block.y : block.y1, block.x : block.x1] = np.ascontiguousarray(pixels.transpose(2, 0, 1))
            progress(block.size.area)

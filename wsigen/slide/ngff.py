"""Metadata of OME-Zarr (NGFF 0.4 and 0.5): axes, µm/px, and which channels are red, green and blue.

Specification: https://ngff.openmicroscopy.org/specifications/0.5/index.html. Nothing here reads pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsigen.slide.ome import RGB, name_of_colour, unit_um

# Labels that converters give to channels without a name.
_NO_LABEL = re.compile(r"(channel[\s_:]*)?\d*", re.IGNORECASE)


@dataclass(frozen=True)
class Multiscale:
    """One image of OME-Zarr.

    Attributes:
        name: may be empty.
        axes: their names, one letter each, such as "tczyx".
        arrays: paths of its levels in the group, finest first.
        mpp: µm/px along y and x, unchecked; None if not stated in a unit of length.
        order: which channels are red, green and blue.
        unclear: why its pixels cannot be read without guessing; empty if they can.
    """

    name: str
    axes: str
    arrays: tuple[str, ...]
    mpp: tuple[float, float] | None
    order: tuple[int, ...] = (0, 1, 2)
    unclear: str = ""


def metadata_of(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the NGFF metadata of a group: version 0.5 keeps them under ``ome``."""
    return attributes.get("ome", attributes)


def multiscales(metadata: Mapping[str, Any]) -> list[Multiscale]:
    """Return the images of a group.

    Raises:
        ValueError: metadata that are not to NGFF 0.4 or 0.5, saying what is missing.
    """
    return [_multiscale(one, metadata) for one in metadata.get("multiscales", ())]


def _multiscale(one: Mapping[str, Any], metadata: Mapping[str, Any]) -> Multiscale:
    axes, datasets = one.get("axes"), one.get("datasets")
    version = one.get("version", metadata.get("version", "of no stated version"))
    if not axes or not datasets or not all(isinstance(axis, Mapping) and "name" in axis for axis in axes):
        raise ValueError(f"OME-Zarr {version} without axes and datasets as 0.4 and 0.5 describe them")
    names = [str(axis["name"]).lower() for axis in axes]
    order, unclear = _order(metadata.get("omero", {}).get("channels", ()))
    if not {"y", "x"} <= set(names) <= set("tczyx") or len(set(names)) < len(names):
        unclear = f"has axes {', '.join(names)}; expected y, x and c, and perhaps t and z of one each"
    elif "c" not in names:
        unclear = "has no channel axis; expected 3 channels, RGB"
    scale = [a * b for a, b in zip(_scale(one, names), _scale(datasets[0], names), strict=True)]
    sizes = {name: s * _unit(axis) for name, axis, s in zip(names, axes, scale, strict=True)}
    mpp = (sizes["y"], sizes["x"]) if {"y", "x"} <= set(names) else (0.0, 0.0)
    return Multiscale(
        str(one.get("name") or ""),
        "".join(names),
        tuple(str(dataset["path"]) for dataset in datasets),
        mpp if min(mpp) > 0 else None,
        order,
        unclear,
    )


def _scale(holder: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    for transform in holder.get("coordinateTransformations", ()):
        if transform.get("type") == "scale":
            scale = [float(factor) for factor in transform.get("scale", ())]
            if len(scale) == len(names):
                return scale
            raise ValueError(f"OME-Zarr whose scale has {len(scale)} factors for {len(names)} axes")
    return [1.0] * len(names)


def _unit(axis: Mapping[str, Any]) -> float:
    """Return an axis' unit in µm; 0 where it has none, or none of length."""
    return unit_um(str(axis.get("unit", ""))) or 0.0


def _order(channels: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, ...], str]:
    """Return which channels are red, green and blue, in order unless labels or colours say otherwise."""
    labels = [str(channel.get("label") or "").strip() for channel in channels]
    colours = [str(channel.get("color") or "").lstrip("#") for channel in channels]
    named = [
        name_of_colour("" if _NO_LABEL.fullmatch(label) else label, colour[:6])
        for label, colour in zip(labels, colours, strict=True)
    ]
    if sorted(named) == sorted(RGB):
        return tuple(named.index(colour) for colour in RGB), ""
    if all(_NO_LABEL.fullmatch(label) for label in labels) and not any(colours):
        return (0, 1, 2), ""
    listed = ", ".join(label or colour for label, colour in zip(labels, colours, strict=True))
    fix = "if they are its colours, label them Red, Green and Blue in omero.channels; else save it as RGB"
    return (0, 1, 2), f"has channels {listed}, not red, green and blue; {fix}"

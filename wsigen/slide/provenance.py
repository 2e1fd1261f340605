"""Provenance: how a slide was made, stored in the file and in a JSON beside it.

Every file states that it is synthetic. Nothing here depends on time, machine or path but the number of
threads, so that the same run gives the same bytes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsigen import __version__

SOFTWARE = f"wsigen {__version__}"
NOTICE = "synthetic whole-slide image: made by a diffusion model, shows no patient, not for diagnosis"
_SLIDE_SUFFIXES = (".ome.tiff", ".ome.tif", ".ome.zarr", ".tiff", ".tif", ".zarr")
_NAMESPACE = uuid.UUID("b2f7c0de-5d1e-5b8a-9a53-77736967656e")


def complete_provenance(provenance: Mapping[str, Any], mpp: float, height: int, width: int) -> dict[str, Any]:
    """Add the facts that every slide must state to those of the caller.

    Args:
        provenance: JSON-like facts (model hash, seed, preset, …); they may nest. A ``notice`` among them
            replaces the one about synthetic slides.
        mpp: µm/px of level 0.
        height: of level 0, in pixels.
        width: of level 0, in pixels.

    Returns:
        A dict that starts with ``synthetic: True``.
    """
    facts = {"synthetic": True, "notice": NOTICE, "software": SOFTWARE, "mpp": mpp}
    return {**facts, "height": height, "width": width, **provenance, "synthetic": True}


def flatten(provenance: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested facts to text: ``{"model": {"sha256": "ab"}}`` → ``{"model.sha256": "ab"}``."""
    flat: dict[str, str] = {}
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def ome_metadata(
    provenance: Mapping[str, Any], mpp: float, name: str, pixel_um: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Return metadata for tifffile's OME-XML: pixel size, notice, and all facts as a MapAnnotation.

    Args:
        provenance: from `complete_provenance`.
        mpp: µm/px of level 0.
        name: of the image.
        pixel_um: height and width of a pixel of level 0 in µm, where they differ.
    """
    height, width = pixel_um or (mpp, mpp)
    flat = {plain_text(key): plain_text(value) for key, value in flatten(provenance).items()}
    return {
        "axes": "YXS",
        "Name": plain_text(name),
        "Description": plain_text(provenance.get("notice", NOTICE)),
        "Creator": SOFTWARE,
        "UUID": str(uuid.uuid5(_NAMESPACE, json.dumps([name, flat], sort_keys=True))),
        "PhysicalSizeX": width,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": height,
        "PhysicalSizeYUnit": "µm",
        "MapAnnotation": {"Namespace": "wsigen/provenance", "Value": flat},
    }


def description(provenance: Mapping[str, Any]) -> str:
    """Return the facts as one line of ASCII, for readers that refuse XML in ImageDescription."""
    line = "; ".join(f"{key} = {value}" for key, value in flatten(provenance).items())
    ascii_line = plain_text(line).encode("ascii", "backslashreplace").decode()
    return ascii_line.replace("<", "(").replace(">", ")")


def provenance_json(provenance: Mapping[str, Any]) -> bytes:
    """Return the facts as an indented JSON file."""
    return (json.dumps(provenance, indent=2, ensure_ascii=False, default=str) + "\n").encode()


def read_provenance(slide: Path) -> dict[str, Any]:
    """Return the facts from the JSON beside a slide; empty where there is no readable one."""
    try:
        facts = json.loads(beside(slide, ".json").read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def patch_grids(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the grids of the sampler's last steps, as ``joints`` in a slide's provenance names them.

    Args:
        facts: as they nest, or from `flatten`.

    Returns:
        For each grid its ``name``, the distance at which its lines repeat (``pitch``) and the first of them
        (``rows``, ``cols``), in px of level 0. Empty where there is none: other programs may use the word
        ``joints`` for something else.
    """
    joints = facts.get("joints")
    if isinstance(joints, str):
        try:
            joints = json.loads(joints)
        except (ValueError, RecursionError):
            return []
    found = [grid for grid in joints if _is_grid(grid)] if isinstance(joints, list) else []
    return [
        {
            "name": str(grid.get("name") or f"{grid['pitch']} px seams"),
            **{key: grid[key] for key in ("pitch", "rows", "cols")},
        }
        for grid in found
    ]


def _is_grid(grid: Any) -> bool:
    if not isinstance(grid, dict) or not isinstance(grid.get("pitch"), int) or grid["pitch"] < 2:
        return False
    lines = [grid.get(axis) for axis in ("rows", "cols")]
    return all(
        isinstance(found, list) and found and all(isinstance(j, int) for j in found) for found in lines
    )


def beside(slide: Path, suffix: str) -> Path:
    """Return the name of a file beside a slide: ``a_HE.ome.tif`` and ``.json`` → ``a_HE.json``."""
    for ending in _SLIDE_SUFFIXES:
        if slide.name.lower().endswith(ending):
            return slide.with_name(slide.name[: -len(ending)] + suffix)
    return slide.with_name(slide.name + suffix)


def bare_name(path: Path) -> str:
    """Return a file's name without a slide's endings, or else its suffix: ``a_HE.ome.tif`` → ``a_HE``."""
    name = beside(path, "").name
    return path.stem if name == path.name else name


def plain_text(text: str) -> str:
    """Replace control characters, which XML cannot hold, by spaces."""
    return "".join(c if c.isprintable() else " " for c in text)

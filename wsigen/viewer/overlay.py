"""Annotations in GeoJSON, as QuPath writes and reads it: shapes in pixels of level 0, with classes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wsigen.errors import PathError
from wsigen.slide.geojson import class_of, features

MOST_BYTES = 512 * 2**20
_PALETTE = ("#e6550d", "#3182bd", "#31a354", "#756bb1", "#d6409f", "#b8860b", "#008b8b", "#a63603")
_DEPTHS = {
    "Point": 0,
    "MultiPoint": 1,
    "LineString": 1,
    "MultiLineString": 2,
    "Polygon": 2,
    "MultiPolygon": 3,
}


def read_overlay(path: Path) -> list[dict[str, Any]]:
    """Return the shapes of a GeoJSON file.

    Args:
        path: a FeatureCollection, a Feature, a geometry, or a list of Features as older QuPath wrote it.

    Returns:
        For each shape its ``kind`` ("point", "line" or "polygon"), ``parts`` (lists of (x, y) in pixels of
        level 0; of a polygon its rings), ``class`` and ``color`` ("#rrggbb").

    Raises:
        PathError: it cannot be read, or is no GeoJSON.

    Source: RFC 7946; classes as in QuPath's ``classification`` with ``color`` or ``colorRGB``.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise PathError(path, f"larger than {MOST_BYTES >> 20} MiB; export fewer annotations")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise PathError(path, f"cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise PathError(path, f"not JSON ({error}); export it as GeoJSON") from error
    try:
        return [shape for feature in features(content) for shape in _shapes(feature)]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = f"not GeoJSON ({type(error).__name__}: {error}); export it from QuPath as GeoJSON"
        raise PathError(path, reason) from error


def _shapes(feature: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    geometry, properties = feature["geometry"], feature.get("properties") or {}
    if geometry is None:
        return
    said = properties.get("classification") or {}
    name = str(class_of(feature) or properties.get("name") or "unclassified")
    look = {"class": name, "color": _color(said) or _color(properties) or _own_color(name)}
    for kind, parts in _parts(geometry):
        yield {"kind": kind, "parts": parts, **look}


def _parts(geometry: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _parts(part)
        return
    if kind not in _DEPTHS:
        raise ValueError(f"no geometry is called {kind!r}")
    points = _points(geometry["coordinates"], _DEPTHS[kind])
    if "Point" in kind:
        yield "point", [points if _DEPTHS[kind] else [points]]
    elif "Line" in kind:
        yield "line", points if kind == "MultiLineString" else [points]
    else:
        for polygon in points if kind == "MultiPolygon" else [points]:
            yield "polygon", polygon


def _points(coordinates: Any, depth: int) -> Any:
    if depth:
        return [_points(inner, depth - 1) for inner in coordinates]
    x, y = float(coordinates[0]), float(coordinates[1])
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"a point must be finite, got {coordinates}")
    return [x, y]


def _color(properties: Mapping[str, Any]) -> str | None:
    color, packed = properties.get("color"), properties.get("colorRGB")
    if isinstance(color, list) and len(color) >= 3:
        red, green, blue = (min(255, max(0, int(c))) for c in color[:3])
        return f"#{red:02x}{green:02x}{blue:02x}"
    return f"#{packed & 0xFFFFFF:06x}" if isinstance(packed, int) else None


def _own_color(name: str) -> str:
    return _PALETTE[sum(name.encode()) % len(_PALETTE)]

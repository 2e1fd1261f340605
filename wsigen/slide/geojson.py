"""GeoJSON as QuPath writes it (RFC 7946): features, and their classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def features(content: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the features of a FeatureCollection, a list as older QuPath wrote it, a Feature or a geometry.

    Args:
        content: as ``json.loads`` returns it.

    Raises:
        KeyError, TypeError, ValueError: it is no GeoJSON.
    """
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        content = content["features"]
    for one in content if isinstance(content, list) else [content]:
        if "type" not in one:
            raise ValueError("neither a feature nor a geometry: it has no type")
        yield one if one["type"] == "Feature" else {"geometry": one}


def class_of(feature: Mapping[str, Any]) -> str | None:
    """Return the class of a feature as QuPath shows it, "Tumor: Positive"; None if it has none."""
    said = (feature.get("properties") or {}).get("classification")
    if isinstance(said, dict):
        return ": ".join(said["names"]) if "names" in said else said.get("name")
    return said

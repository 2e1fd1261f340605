"""Every measure of the report: what it is called, what it is, and what good looks like in plain words."""

from __future__ import annotations

from wsigen.evaluate.catalogue.measure import SECTIONS, Better, Measure
from wsigen.evaluate.catalogue.patches import PATCHES
from wsigen.evaluate.catalogue.slides import SLIDES

__all__ = ["MEASURES", "SECTIONS", "Better", "Measure", "of_section"]

MEASURES: dict[str, Measure] = {**PATCHES, **SLIDES}


def of_section(section: str) -> list[str]:
    """Keys of a section's measures, in their order."""
    return [key for key, measure in MEASURES.items() if measure.section == section]

"""The report as files: the page with its pictures and plots, and the values."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from wsigen.evaluation.inputs import PAGE, VALUES
from wsigen.evaluation.report import plots
from wsigen.evaluation.report.page import render
from wsigen.evaluation.results import Report
from wsigen.evaluation.topics import METRICS, of_section
from wsigen.files import write_bytes

PLOTTED = ("fidelity", "diversity", "realism", "quality", "nuclei")


def write_report(report: Report, folder: Path) -> Path:
    """Write ``report.json`` and ``index.html``, each whole or not at all.

    Args:
        report: to write.
        folder: created where missing.

    Returns:
        Path of the page.

    Raises:
        OutputError: the folder cannot be written to.
    """
    values = json.dumps(report.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    page = render(illustrated(report))
    write_bytes(folder / VALUES, values.encode())
    write_bytes(folder / PAGE, page)
    return folder / PAGE


def illustrated(report: Report) -> Report:
    """Return the report with its plots among the pictures."""
    names = [s.name for s in report.sets]
    found: dict[str, bytes] = {}
    for section in PLOTTED:
        keys = [k for k in of_section(section) if plots.has(report.sets, k)]
        if keys:
            found[f"plot {section}"] = plots.by_scale(report, keys)
    if plots.has(report.sets, "power"):
        found["plot spectrum"] = plots.spectrum(report)
    profiles = report.curves.get("seam profiles")
    if profiles and any(profiles.values()):
        found["plot seams"] = plots.seam_profiles(profiles)
    if "nearest" in report.curves:
        found["plot privacy"] = plots.distributions(
            report.curves["nearest"],
            f"distance to the nearest real patch, {report.scales[0]:g} µm/px",
            "1 - correlation of signatures",
            top=1.2,
        )
    if "densities" in report.curves:
        other = "eosin" if report.config["stain"] == "he" else "brown"
        titles = [METRICS[f"{k}_mean"].title.partition(",")[0] for k in ("haematoxylin", other)]
        found["plot stain"] = plots.densities(report.curves["densities"], names, titles)
    return replace(report, pictures={**report.pictures, **found})

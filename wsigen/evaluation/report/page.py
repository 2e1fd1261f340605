"""The report as values and as one page that needs nothing else: no network, no script, pictures inside."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from wsigen.evaluation.estimate import Estimate
from wsigen.evaluation.inputs import PAGE, VALUES
from wsigen.evaluation.report.plots import illustrated
from wsigen.evaluation.results import Report, SetReport, warned
from wsigen.evaluation.topics import INTRODUCTIONS, METRICS, SECTIONS, of_section
from wsigen.files import write_bytes


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


def render(report: Report) -> bytes:
    """Return the page, UTF-8; a function of the report."""
    page = environment().get_template("page.html.j2")
    options = json.dumps(report.config, indent=2, ensure_ascii=False)
    return (page.render(report=report, options=options) + "\n").encode()


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """Return the page's templates: everything they print is escaped."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("wsigen.evaluation.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters |= {"number": number, "interval": interval, "times": times}
    found.globals |= {
        "METRICS": METRICS,
        "SECTIONS": SECTIONS,
        "INTRODUCTIONS": INTRODUCTIONS,
        "of_section": of_section,
        "notes": notes,
        "data_url": data_url,
        "places": places,
        "glance": glance,
    }
    return found


def number(value: float | None) -> str:
    """Format three significant digits, without an exponent where possible; a dash for what is no number."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    # digits after the point that make three significant ones
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}" if digits <= 7 else f"{value:.2e}"
    return text.replace("-", "−")


def interval(estimate: Estimate | None) -> str:
    """Format the 95 % interval; empty where it has no width."""
    if estimate is None or not estimate.low < estimate.high:
        return ""
    return f"{number(estimate.low)} … {number(estimate.high)}"


def times(excess: float | None) -> str:
    """Format a distance from the floor, in 95 % half-widths."""
    return "" if excess is None else f"{max(excess, 0.0):.1f} ×"


def data_url(picture: bytes) -> str:
    """Encode an SVG or JPEG for an ``img``."""
    kind = "svg+xml" if picture.lstrip()[:1] == b"<" else "jpeg"
    return f"data:image/{kind};base64,{b64encode(picture).decode()}"


def notes(report: Report) -> list[str]:
    """Return what to bear in mind: warnings, slides left out, and warnings of rows."""
    left_out = [f"{s.name}: left out {r}" for s in (*report.references, *report.sets) for r in s.left_out]
    # warning to set to rows: sets often share a warning
    found: dict[str, dict[str, list[str]]] = {}
    for one in report.sets:
        for warning, rows in warned(one.results).items():
            found.setdefault(warning, {})[one.name] = rows
    lines = []
    for warning, by_set in found.items():
        # name the sets and rows that it is about, where those are few
        names = "" if len(by_set) == len(report.sets) else f"{', '.join(by_set)}: "
        rows = list(dict.fromkeys(row for some in by_set.values() for row in some))
        lines.append(names + warning + (f" ({'; '.join(rows)})" if len(rows) <= 3 else ""))
    return list(dict.fromkeys([*report.warnings, *left_out, *lines]))


def places(report: Report, key: str) -> list[dict[str, Any]]:
    """Return the table rows of one metric: one per µm/px and label, with the results of all sets."""
    where = list(dict.fromkeys((r.mpp, r.label) for s in report.sets for r in s.results if r.key == key))
    by_scale = any(mpp is not None for mpp, _ in where)
    found = []
    for mpp, label in where:
        results = [s.find(key, mpp, label) for s in report.sets]
        scale = f"{mpp:g}" if mpp is not None else "all" if by_scale and not label else ""
        floor = next((r.floor for r in results if r is not None and r.floor is not None), None)
        name = " · ".join(part for part in (scale, label) if part)
        found.append({"name": name, "results": results, "floor": floor})
    return found


def glance(one: SetReport, section: str) -> dict[str, Any] | None:
    """Return the result of a section that is furthest from its floor; None where the set has no rows there.

    ``worst`` is None where there is no verdict; ``undecided`` counts the values without one.
    """
    results = [r for r in one.results if r.metric.section == section]
    if not results:
        return None
    ranked = [r for r in one.ranked() if r.metric.section == section]
    measured = sum(r.value is not None for r in results)
    worst = ranked[0] if ranked else None
    return {"worst": worst, "measured": measured > 0, "undecided": measured - len(ranked)}

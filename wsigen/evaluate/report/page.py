"""The report as one page that needs nothing else: no network, no script, pictures inside."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable
from html import escape
from importlib import resources

from wsigen.evaluate.catalogue import MEASURES, SECTIONS, of_section
from wsigen.evaluate.report.tables import (
    counts_table,
    glance_table,
    section_table,
    slides_table,
    worst_table,
)
from wsigen.evaluate.results import Report, warned

INTRODUCTIONS = {
    "fidelity": "Features of patches of each set beside those of real slides. Patches are crops of whole "
    "slides, taken at each µm/px from wherever tissue is, so that detail is judged at every scale, and not "
    "only the overview: with Inception's features the Fréchet distance at a µm/px is the crop-FID of Harb et "
    "al. (2024). Fréchet and kernel distance compare the sets as wholes; precision and density ask of each "
    "patch whether it could be real.",
    "diversity": "A set can look real and show the same few things over and over. Recall and coverage ask "
    "of each real patch whether the set has its like.",
    "realism": "A linear classifier learns to tell the set from real patches, and is asked about patches "
    "(of other slides, where there are several) that it has not seen.",
    "spectrum": "Power of detail by wavelength, as a multiple of that of the real slides.",
    "phase": "What no spectrum sees: whether waves are in step, as outlines, fibres and nuclei are. Noise "
    "with the spectrum of tissue has no edges and little coherence; nuclei embossed from one side have "
    "relief.",
    "stain": "Amounts of stain by colour deconvolution, in optical density, and hues.",
    "quality": "Measures of pictures that know nothing of tissue. None of them sees seams. Rows of twins "
    "stand beside real slides of their stain.",
    "nuclei": "Counted and measured by classical segmentation, in the same way on both sides; good for "
    "comparing, not for counting.",
    "scale": "A slide's finest detail, averaged, should be what its overview shows. A slide that wsigen "
    "made is compared with the overview that it grew from, which lies beside it; and every slide with that "
    "which its file stores, where rounding and compression alone disagree.",
    "seams": "The step across the lines on which a slide was joined, beside that across all other lines, "
    "within windows of whole slides. Twins stand beside the slides that they were translated from. Slides "
    "of one name in two sets are compared pixel by pixel: one image made with other tiles must not differ.",
    "privacy": "How near the patches of a set come to real ones, beside how near patches of different real "
    "slides come to one another. Neighbours on the same slide (or case) do not count between real and real.",
    "pairs": "The IHC twin of each H&E slide, at the same places: are nuclei still where they were, and is "
    "the stain that of real IHC slides?",
}


def render(report: Report) -> bytes:
    """The page, UTF-8.

    Determinism: a function of the report.
    """
    css = resources.files("wsigen.evaluate.report").joinpath("style.css").read_text(encoding="utf-8")
    names = [s.name for s in report.sets]
    title = f"{', '.join(names)} against real slides"
    parts = [_head(report, title), _glance(report), _notes(report), _patches(report)]
    parts += [_section(report, key) for key in SECTIONS]
    parts += [_definitions(report), _made(report)]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{css}</style></head>'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    ).encode()


def _head(report: Report, title: str) -> str:
    real = report.references[0]
    total = sum(report.counts.values())
    scales = ", ".join(f"{m:g}" for m in report.scales)
    lead = (
        f"{total} patches of {report.config['patch']} px a side at {scales} µm/px, from tissue; "
        f"{len(real.slides)} real slides of {len({s.group for s in real.slides})} groups. "
        f"Features: {report.features['name']}, {report.features['dimensions']} dimensions."
    )
    links = "".join(
        f'<a href="#{key}">{escape(question)}</a>' for key, question in SECTIONS.items() if _has(report, key)
    )
    return f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p><nav>{links}</nav>'


def _glance(report: Report) -> str:
    parts = ["<h2>At a glance</h2>"]
    for name, worst in report.worst().items():
        said = "no verdict, since no floor can judge" if worst is None else str(worst)
        good = f" {worst.result.measure.good}" if worst and worst.beyond_chance else ""
        parts.append(f'<div class="worst"><p><b>{escape(name)}</b>: {escape(said)}.{escape(good)}</p></div>')
    parts.append(
        "<p class='lead'>Every value stands beside its floor: the same measure between halves of the real "
        "slides, which is what a perfect set would get. Distances from the floor are in half-widths of both "
        "95 % intervals together: up to 1 × is chance "
        '(<span class="dot good"></span>as real), up to 3 × <span class="dot off"></span>off, beyond that '
        '<span class="dot far"></span>far off. Where real slides are too few, or too unlike one another, '
        'to tell good from bad, there is <span class="dot none"></span>no verdict. '
        "Of a hundred measures a few are beyond 1 × by chance; "
        "slides of other organs or of another scanner than the real ones are off, however real they are.</p>"
    )
    parts.append(glance_table(report))
    titles = [f"<h3>{escape(s.name)}: furthest from the floor</h3>" for s in report.sets]
    tables = [title + worst_table(one) for title, one in zip(titles, report.sets, strict=True)]
    return "".join([*parts, *tables])


def _notes(report: Report) -> str:
    left_out = [f"{s.name}: left out {r}" for s in (*report.references, *report.sets) for r in s.left_out]
    lines = [*report.warnings, *left_out]
    lines += _of_results(report)
    if not lines:
        return ""
    return f'<div class="note"><p>Read the numbers with this in mind</p>{_list(dict.fromkeys(lines))}</div>'


def _of_results(report: Report) -> list[str]:
    """The different warnings of results, with the sets and rows that they are about, where those are few."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in report.sets:
        for warning, rows in warned(one.results).items():
            found.setdefault(warning, {})[one.name] = rows
    lines = []
    for warning, by_set in found.items():
        names = "" if len(by_set) == len(report.sets) else f"{', '.join(by_set)}: "
        rows = list(dict.fromkeys(row for some in by_set.values() for row in some))
        lines.append(names + warning + (f" ({'; '.join(rows)})" if len(rows) <= 3 else ""))
    return lines


def _patches(report: Report) -> str:
    parts = ["<h2>Side by side</h2>", counts_table(report)]
    for mpp in report.scales:
        parts.append(f"<h3>{mpp:g} µm/px</h3>")
        names = ("real", *(s.name for s in report.sets))
        parts += [_picture(report, f"patches {name} {mpp:g}", name) for name in names]
    return "".join(parts)


def _section(report: Report, key: str) -> str:
    if not _has(report, key):
        return ""
    parts = [f'<h2 id="{key}">{escape(SECTIONS[key])}</h2><p class="lead">{INTRODUCTIONS[key]}</p>']
    parts.append(_picture(report, f"plot {key}", "", plot=True))
    parts.append(section_table(report, of_section(key)))
    for name, caption in _extras(report, key):
        parts.append(_picture(report, name, caption))
    return "".join(parts)


def _extras(report: Report, key: str) -> list[tuple[str, str]]:
    """Sheets that belong to a section, and what stands above them."""
    if key == "privacy":
        patches = [
            (
                f"neighbours {one.name} {mpp:g}",
                f"{one.name}, {mpp:g} µm/px: the patches most like a real place (above), turned as they "
                "match, and that place (below); distance 0 is the same, unrelated ones are mostly beyond 0.5",
            )
            for one in report.sets
            for mpp in report.scales
        ]
        wholes = [
            (
                f"overviews {one.name}",
                f"{one.name}, whole slides: those most like a real slide (above), turned as they match, and "
                "that slide (below), with their distance: 0 is the same picture",
            )
            for one in report.sets
        ]
        return [*patches, *wholes]
    if key == "pairs":
        return [(name, "H&E above, its IHC twin below") for name in report.pictures if name == "pairs"]
    return []


def _picture(report: Report, name: str, caption: str, *, plot: bool = False) -> str:
    data = report.pictures.get(name)
    if data is None:
        return ""
    kind = "svg+xml" if data.lstrip()[:1] == b"<" else "jpeg"
    source = f"data:image/{kind};base64,{b64encode(data).decode()}"
    shown = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    below = "".join(f"<span>{escape(c)}</span>" for c in report.captions.get(name, ()))
    below = f'<div class="names">{below}</div>' if below else ""
    mark = ' class="plot"' if plot else ""
    return f'<figure{mark}>{shown}<img alt="{escape(caption or name)}" src="{source}">{below}</figure>'


def _definitions(report: Report) -> str:
    used = {r.key for s in report.sets for r in s.results}
    items = "".join(
        f"<dt>{escape(m.title)}</dt><dd>{escape(m.source)}</dd>" for key, m in MEASURES.items() if key in used
    )
    return f"<h2>Definitions</h2><dl>{items}</dl>"


def _made(report: Report) -> str:
    config = json.dumps(report.config, indent=2, ensure_ascii=False)
    versions = ", ".join(f"{k} {v}" for k, v in report.versions.items())
    return (
        "<h2>How this was made</h2>"
        f"<details><summary>Slides</summary>{slides_table(report)}</details>"
        f"<details><summary>Options</summary><pre>{escape(config)}</pre></details>"
        f'<p class="small">{escape(versions)}. All values: report.json beside this page.</p>'
    )


def _has(report: Report, section: str) -> bool:
    return any(r.measure.section == section for s in report.sets for r in s.results)


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"

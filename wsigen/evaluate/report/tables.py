"""Tables of the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from wsigen.evaluate.catalogue import MEASURES, SECTIONS
from wsigen.evaluate.estimate import Estimate
from wsigen.evaluate.report.words import interval, judged, number, times
from wsigen.evaluate.results import Report, Result, SetReport
from wsigen.evaluate.verdict import VERDICTS


def section_table(report: Report, keys: Sequence[str]) -> str:
    """All values of some measures: a row per µm/px (or grid), a column per set, the floor beside them."""
    rows = [row for key in keys for row in _measure_rows(report, key)]
    if not rows:
        return ""
    names = "".join(f"<th>{escape(s.name)}</th>" for s in report.sets)
    head = f'<tr><th>measure</th><th class="mpp">µm/px</th>{names}<th>real against real</th></tr>'
    return f"<table>{head}{''.join(rows)}</table>"


def glance_table(report: Report) -> str:
    """Of each section and set the measure that is furthest above its floor."""
    names = "".join(f"<th>{escape(s.name)}</th>" for s in report.sets)
    rows = []
    for section, question in SECTIONS.items():
        cells = [_glance(one, section) for one in report.sets]
        if any(cells):
            link = f'<a href="#{section}">{escape(question)}</a>'
            columns = "".join(f"<td>{c or _dot('none') + 'not measured'}</td>" for c in cells)
            rows.append(f'<tr><td class="name">{link}</td>{columns}</tr>')
    return f"<table><tr><th>question</th>{names}</tr>{''.join(rows)}</table>"


def worst_table(one: SetReport, most: int = 6) -> str:
    """What of a set is furthest above its floor."""
    ranked = [r for r in one.ranked() if (r.excess or 0) > 1][:most]
    if not ranked and not one.ranked():
        return "<p>No verdict: no floor can judge.</p>"
    if not ranked:
        return "<p>Nothing is worse than between real and real, beyond chance.</p>"
    rows = [
        f"<tr><td>{_dot(r.verdict.state)}{escape(r.name)}</td><td class='value'>{times(r.excess)}</td>"
        f"<td class='value'>{number(r.value and r.value.value)}</td>"
        f"<td class='value'>{number(r.floor and r.floor.value)}</td></tr>"
        for r in ranked
    ]
    head = "<tr><th>measure</th><th>distance</th><th>value</th><th>real against real</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def counts_table(report: Report) -> str:
    """How many patches a side at which µm/px."""
    scales = "".join(f'<th class="count">{m:g} µm/px</th>' for m in report.scales)
    cells = "".join(f'<td class="count">{report.counts[f"{m:g}"]}</td>' for m in report.scales)
    rows = [f"<tr><td>compared, of each set and of real</td><td></td>{cells}</tr>"]
    for one in [*report.references, *report.sets]:
        totals = [sum(s.patches.get(f"{m:g}", 0) for s in one.slides) for m in report.scales]
        drawn = "".join(f'<td class="count">{t}</td>' for t in totals)
        groups = len({s.group for s in one.slides})
        what = f"{len(one.slides)} slides, {groups} groups"
        rows.append(f"<tr><td>{escape(one.name)}</td><td>{what}</td>{drawn}</tr>")
    return f"<table><tr><th>patches drawn</th><th></th>{scales}</tr>{''.join(rows)}</table>"


def slides_table(report: Report) -> str:
    """Every slide and what it gave."""
    scales = "".join(f'<th class="count">{m:g} µm/px</th>' for m in report.scales)
    rows = []
    for one in [*report.references, *report.sets]:
        for slide in one.slides:
            cells = (slide.patches.get(f"{m:g}", 0) for m in report.scales)
            drawn = "".join(f'<td class="count">{c or "·"}</td>' for c in cells)
            rows.append(
                f"<tr><td>{escape(one.name)}</td><td>{escape(slide.slide)}</td>"
                f"<td>{escape(slide.group)}</td><td class='mpp'>{slide.mpp:.4g}</td>{drawn}</tr>"
            )
    head = f"<tr><th>set</th><th>slide</th><th>group</th><th class='mpp'>µm/px</th>{scales}</tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _measure_rows(report: Report, key: str) -> list[str]:
    measure = MEASURES[key]
    places = list(dict.fromkeys((r.mpp, r.label) for s in report.sets for r in s.results if r.key == key))
    unit = f", {escape(measure.unit)}" if measure.unit else ""
    name = f"<b>{escape(measure.title)}</b>{unit}<span class='small'>{escape(measure.good)}</span>"
    rows = []
    for i, (mpp, label) in enumerate(places):
        found = [s.find(key, mpp, label) for s in report.sets]
        values = "".join(_value_cell(r) for r in found)
        floor = next((r.floor for r in found if r is not None and r.floor is not None), None)
        first = f'<td class="name" rowspan="{len(places)}">{name}</td>' if i == 0 else ""
        pooled = "all" if any(m is not None for m, _ in places) and not label else ""
        where = " · ".join(p for p in (pooled if mpp is None else f"{mpp:g}", escape(label)) if p)
        mark = ' class="same"' if i < len(places) - 1 else ""
        rows.append(
            f'<tr{mark}>{first}<td class="mpp">{where}</td>{values}'
            f'<td class="value">{_estimate(floor)}</td></tr>'
        )
    return rows


def _value_cell(result: Result | None) -> str:
    if result is None:
        return "<td></td>"
    if result.value is None:
        return f'<td>{_dot("none")}<span class="why">{escape(" ".join(result.warnings))}</span></td>'
    found = result.verdict
    title = "; ".join(part for part in (judged(found), result.samples, *result.warnings) if part)
    why = f'<span class="why"> {escape(judged(found))}</span>' if found.why else ""
    return f'<td class="value" title="{escape(title)}">{_dot(found.state)}{_estimate(result.value)}{why}</td>'


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    range_ = interval(estimate)
    return f"{number(estimate.value)}" + (f'<span class="ci">{range_}</span>' if range_ else "")


def _glance(one: SetReport, section: str) -> str:
    results = [r for r in one.results if r.measure.section == section]
    ranked = [r for r in one.ranked() if r.measure.section == section]
    if not ranked:
        measured = any(r.value is not None for r in results)
        return "" if not results else f"{_dot('none')}{'no verdict' if measured else 'not measured'}"
    worst = ranked[0]
    state = worst.verdict.state
    if state == "good":
        blind = sum(r.value is not None for r in results) - len(ranked)
        few = f"<span class='small'>{blind} values without a verdict</span>" if blind else ""
        return f"{_dot(state)}as between real and real{few}"
    which = f"<span class='small'>{escape(worst.name)}, {times(worst.excess)}</span>"
    return f"{_dot(state)}{VERDICTS[state]}{which}"


def _dot(state: str) -> str:
    return f'<span class="dot {state}"></span>'

"""The report of a study: one page that needs nothing else, and its tables as CSV."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wsigen.config.study import StudyReportConfig
from wsigen.evaluation.report.page import data_url
from wsigen.evaluation.report.pictures import sheet
from wsigen.evaluation.report.plots import COLOURS, INK, REAL, STYLE
from wsigen.files import write_bytes
from wsigen.study.automatic import read_image
from wsigen.study.results import MIDDLE, Results, evaluate, sample_size
from wsigen.study.statistics import Interval, wilson
from wsigen.study.store import AnswerStore
from wsigen.study.study import Study, load_key, load_study

SHOWN = 6  # images in a row
QUARTERS = 4
_GREY, _BLUE, _RED = REAL, COLOURS[0], COLOURS[1]


def report_study(config: StudyReportConfig) -> Path:
    """Write the report of a study: index.html, answers.csv, readers.csv and items.csv.

    Args:
        config: of the report.

    Returns:
        Path of the page.

    Raises:
        PathError: there is no study, no key or no answer.
        OutputError: the folder cannot be written to.
    """
    study = load_study(config.study)
    key, store = load_key(study), AnswerStore(study, create=False)
    try:
        answers = store.answers()
    finally:
        store.close()
    results = evaluate(study, key, answers, config.seed)
    folder = config.out or study.folder / "report"
    tables = {"answers": _flat(results.answers), "readers": reader_table(results), "items": results.items}
    for name, table in tables.items():
        write_bytes(folder / f"{name}.csv", table.to_csv(index=False).encode())
    write_bytes(folder / "index.html", render(results))
    return folder / "index.html"


def render(results: Results) -> bytes:
    """Return the page, UTF-8; a function of the results and of the images of the study."""
    found = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("wsigen.study"), jinja2.PackageLoader("wsigen.evaluation.report")]
        ),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters |= {"percent": percent, "interval": interval, "decimal": decimal}
    found.globals |= {"data_url": data_url, "nan": math.isnan, "verdict": verdict}
    page = found.get_template("report.html.j2")
    plots, pictures = make_plots(results), make_sheets(results)
    values = {"plots": plots, "sheets": pictures, "hints": sample_size(results)}
    return (page.render(results=results, study=results.study, **values) + "\n").encode()


def reader_table(results: Results) -> pd.DataFrame:
    """Return one row a reader, the last of all of them; intervals as columns NAME, NAME_low and NAME_high."""
    rows = []
    for reader in (*results.readers, results.pooled):
        row: dict[str, Any] = {}
        for name, value in vars(reader).items():
            if isinstance(value, Interval):
                row |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
            else:
                row["reader" if name == "name" else name] = value
        rows.append(row)
    return pd.DataFrame(rows)


def percent(value: float) -> str:
    """Format a share; a dash for what is no number."""
    return "–" if math.isnan(value) else f"{100 * value:.0f} %".replace("-", "−")


def decimal(value: float, digits: int = 2) -> str:
    """Format a number; a dash for what is none."""
    return "–" if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def interval(found: Interval, style: str = "percent") -> str:
    """Format the 95 % interval; empty where there is none."""
    if math.isnan(found.low):
        return ""
    if style == "percent":
        return f"{100 * found.low:.0f} … {100 * found.high:.0f}".replace("-", "−")
    return f"{decimal(found.low)} … {decimal(found.high)}"


def verdict(results: Results) -> str:
    """Return a sentence on whether readers can tell; empty where there is no interval."""
    low, high = results.accuracy.low, results.accuracy.high
    if math.isnan(low):
        return ""
    if low <= 0.5 <= high:
        return "Chance is within the interval: as far as these answers show, readers cannot tell."
    return "Readers can tell." if low > 0.5 else "Readers are wrong more often than by chance."


def make_plots(results: Results) -> dict[str, tuple[bytes, str]]:
    """Return the plots, SVG, and captions, by name."""
    kind, found = results.study.kind, {}
    if kind == "slider":
        found["scores"] = (
            _svg([_distribution, _by_reader, _roc], results),
            "Left: how often each score was given to real and to synthetic images. Middle: by reader, "
            "median and quartiles. Right: ROC curves of the readers; the diagonal is chance.",
        )
    if kind == "quality":
        found["choices"] = (
            _svg([_method_bars(question) for question in results.study.questions], results),
            "Share of answers that chose a translation, with 95 % Wilson intervals; the line is chance.",
        )
        return found
    found["readers"] = (
        _svg([_forest, _over_time, _times], results),
        "Left: accuracy of the readers with 95 % Wilson intervals; of all, over readers and items. "
        "Middle and right: accuracy and median time by quarters of a reader's items, in order.",
    )
    return found


def make_sheets(results: Results) -> list[tuple[str, bytes, list[str]]]:
    """Return rows of images that readers believed most and least: title, JPEG, and a caption for each."""
    study, items = results.study, results.items
    if study.kind == "slider":
        made, real = (
            items[items.truth == t].sort_values("score", kind="stable") for t in ("synthetic", "real")
        )
        chosen = [
            ("Synthetic images that were believed most", made[::-1]),
            ("Synthetic images that were believed least", made),
            ("Real images that were believed least", real),
        ]
        return [_sheet(study, title, rows, lambda row: f"score {row.score:.0f}") for title, rows in chosen]
    if study.kind == "quality":
        top = items.assign(
            most=items.votes.str.extract(r" (\d+)", expand=False).astype(float) / items.answers
        )
        rows = top.sort_values("most", ascending=False, kind="stable")
        title = "Items on which readers agreed most: source above, translations below"
        return [_sheet(study, title, rows, lambda row: row.votes)]
    if study.kind == "paired":
        chosen = [
            ("Wrong pairs that were taken for right most often", items[items.truth == "another place"]),
            ("Right pairs that were taken for wrong most often", items[items.truth == "one place"]),
        ]
    else:
        chosen = [("Pairs in which the synthetic image (below) was taken for real most often", items)]
        chosen.append(("Pairs in which it was taken for real least often", items))
    sheets = []
    for i, (title, rows) in enumerate(chosen):
        ordered = rows.sort_values("right", ascending=study.kind == "paired" or i == 0, kind="stable")
        sheets.append(
            _sheet(study, title, ordered, lambda row: f"{1 - row.right:.0%} of {row.answers} wrong")
        )
    return sheets


def _sheet(
    study: Study, title: str, rows: pd.DataFrame, caption: Callable[[Any], str]
) -> tuple[str, bytes, list[str]]:
    some = list(rows.head(SHOWN).itertuples())
    columns = [[read_image(study, code) for code in row.images.split()] for row in some]
    return title, sheet(columns) if columns else b"", [caption(row) for row in some]


# ---- plots


def _svg(draws: Sequence[Callable[[Axes, Results], None]], results: Results) -> bytes:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.7 * len(draws), 2.9), layout="constrained")
        for axes, draw in zip(np.atleast_1d(figure.subplots(1, len(draws))), draws, strict=True):
            draw(axes, results)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _counted(results: Results) -> pd.DataFrame:
    return results.answers[~results.answers.training & (results.answers.showing == 1)]


def _distribution(axes: Axes, results: Results) -> None:
    counted = _counted(results)
    edges = np.linspace(0, 100, 11).tolist()
    sets = [counted[counted.truth == name].score for name in ("real", "synthetic")]
    weights = [np.full(len(one), 100 / max(1, len(one))) for one in sets]
    axes.hist(sets, edges, weights=weights, color=[_GREY, _RED], label=["real", "synthetic"], rwidth=0.9)
    axes.axvline(MIDDLE, color=INK, linewidth=0.6, linestyle=":")
    axes.set(
        title="Scores",
        xlabel="0 certainly synthetic … 100 certainly real",
        ylabel="% of answers",
        xlim=(0, 100),
    )
    axes.legend()


def _by_reader(axes: Axes, results: Results) -> None:
    counted, names = _counted(results), [r.name for r in results.readers]
    for k, (truth, colour) in enumerate((("real", _GREY), ("synthetic", _RED))):
        for i, name in enumerate(names):
            scores = counted[(counted.reader == name) & (counted.truth == truth)].score.to_numpy()
            if not len(scores):
                continue
            at, (low, middle, high) = i + (k - 0.5) * 0.34, np.quantile(scores, [0.25, 0.5, 0.75])
            jitter = np.linspace(-0.1, 0.1, len(scores))
            axes.plot(at + jitter, np.sort(scores), ".", color=colour, markersize=2.5, alpha=0.7)
            axes.plot([at, at], [low, high], color=colour, linewidth=5, alpha=0.45, solid_capstyle="butt")
            axes.plot([at - 0.14, at + 0.14], [middle, middle], color=INK, linewidth=1.2)
    axes.axhline(MIDDLE, color=INK, linewidth=0.6, linestyle=":")
    axes.set(title="Scores by reader", xlabel="reader", ylim=(-3, 103))
    axes.set_xticks(range(len(names)), names)
    axes.grid(axis="x", visible=False)


def _roc(axes: Axes, results: Results) -> None:
    counted = _counted(results)
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8)
    for i, reader in enumerate(results.readers):
        own = counted[counted.reader == reader.name]
        levels = np.concatenate([[np.inf], np.sort(own.score.unique())[::-1]])
        x, y = (
            [np.mean(own[own.truth == truth].score >= level) for level in levels]
            for truth in ("synthetic", "real")
        )
        label = f"{reader.name}: {decimal(reader.auc.value)}"
        axes.plot(x, y, color=COLOURS[i % len(COLOURS)], linewidth=1.2, label=label if i < 6 else None)
    axes.set(
        title="ROC and AUC", xlabel="synthetic taken for real", ylabel="real taken for real", aspect="equal"
    )
    axes.legend(loc="lower right", fontsize=7.5)


def _forest(axes: Axes, results: Results) -> None:
    rows = [*((r.name, r.accuracy) for r in results.readers), ("all", results.accuracy)]
    for i, (name, found) in enumerate(rows):
        colour = INK if name == "all" else _BLUE
        axes.plot([100 * found.low, 100 * found.high], [i, i], color=colour, linewidth=1.4)
        axes.plot(100 * found.value, i, "o", color=colour, markersize=4.5)
    axes.axvline(50, color=_GREY, linewidth=0.8)
    axes.set(title="Accuracy", xlabel="% right; 50 is chance", ylabel="reader", xlim=(0, 100))
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()


def _quarter(counted: pd.DataFrame) -> pd.Series:
    place = counted.groupby("reader").number.rank() - 1
    return (QUARTERS * place // counted.groupby("reader").number.transform("size")).astype(int)


def _over_time(axes: Axes, results: Results) -> None:
    counted = _counted(results)
    for quarter, part in counted.groupby(_quarter(counted)):
        right = part.right.dropna()
        found = wilson(int(right.sum()), len(right))
        at = int(str(quarter)) + 1
        axes.plot([at, at], [100 * found.low, 100 * found.high], color=_BLUE, linewidth=1.4)
        axes.plot(at, 100 * found.value, "o", color=_BLUE, markersize=4.5)
    axes.axhline(50, color=_GREY, linewidth=0.8)
    axes.set(
        title="Accuracy over time", xlabel="quarter of a reader's items", ylabel="% right", ylim=(0, 100)
    )
    axes.set_xticks(range(1, QUARTERS + 1))


def _times(axes: Axes, results: Results) -> None:
    counted = _counted(results)
    quarters = _quarter(counted)
    for i, reader in enumerate(results.readers):
        own = counted[counted.reader == reader.name]
        medians = own.seconds.groupby(quarters).median()
        axes.plot(
            medians.index + 1, medians, ".-", color=COLOURS[i % len(COLOURS)], linewidth=1, label=reader.name
        )
    axes.set(title="Time of an answer", xlabel="quarter of a reader's items", ylabel="s, median")
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(1, QUARTERS + 1))
    if len(results.readers) <= 6:
        axes.legend(title="reader", fontsize=7.5)


def _method_bars(question: str) -> Callable[[Axes, Results], None]:
    def draw(axes: Axes, results: Results) -> None:
        rows = [c for c in results.choices if c.question == question]
        for i, choice in enumerate(rows):
            share = choice.share
            axes.barh(i, 100 * share.value, height=0.6, color=COLOURS[i % len(COLOURS)], alpha=0.8)
            axes.plot([100 * share.low, 100 * share.high], [i, i], color=INK, linewidth=1.2)
        axes.axvline(100 / len(rows), color=_GREY, linewidth=0.8)
        axes.set(title=_wrapped(question), xlabel="% of answers", xlim=(0, 100))
        axes.set_yticks(range(len(rows)), [choice.method for choice in rows])
        axes.invert_yaxis()

    return draw


def _wrapped(text: str, width: int = 34) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    """Return the answers with texts in place of lists."""
    return table.assign(
        decision=table.decision.str.join("; "),
        value=table.value.map(lambda v: " ".join(v) if isinstance(v, list) else v),
    )

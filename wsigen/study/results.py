"""The answers of a study against its key: of each reader, pooled, and of each item."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wsigen.errors import PathError
from wsigen.study.statistics import (
    NONE,
    Interval,
    answers_needed,
    auc_interval,
    difference,
    kappa_interval,
    pooled_auc,
    pooled_share,
    wilson,
)
from wsigen.study.store import Answer
from wsigen.study.study import ANSWERS, REAL, Study

MIDDLE = 50  # of the slider: above it an image is taken for real, below for synthetic


@dataclass(frozen=True)
class ReaderResult:
    """What one reader answered; training does not count, repeats count for ``same`` and ``apart`` alone.

    Attributes:
        name: "1", "2", … as in readers.csv.
        answered: number of trials, of ``total``.
        total: number of trials.
        accuracy: share of right answers, Wilson; of quality none. A slider at 50 does not count.
        auc: area under the ROC curve of the slider, bootstrap over items.
        taken: share of synthetic images taken for real, Wilson; of paired, of wrong pairs taken for right.
        same: share of repeated items answered alike, Wilson.
        apart: mean difference of the slider between both answers to a repeated item.
        learning: accuracy in the second half of the items less that in the first, Newcombe.
        seconds: median time of an answer.
        faster: median time in the second half over that in the first.
        left: share of answers that chose the first image of 2afc, A, Wilson.
    """

    name: str
    answered: int
    total: int
    accuracy: Interval
    auc: Interval
    taken: Interval
    same: Interval
    apart: float
    learning: Interval
    seconds: float
    faster: float
    left: Interval


@dataclass(frozen=True)
class Choice:
    """How often a translation was chosen as the best.

    Attributes:
        question: that was asked.
        method: its name.
        share: of all answers, Wilson.
        bootstrap: the same share, bootstrap over readers and items.
    """

    question: str
    method: str
    share: Interval
    bootstrap: Interval


@dataclass(frozen=True)
class Results:
    """Everything that the report shows.

    Attributes:
        study: that was answered.
        answers: one row an answer, training included; see `answer_table`.
        readers: who answered something that counts.
        pooled: all readers as one.
        accuracy: of all readers, bootstrap over readers and items.
        auc: mean of the readers, bootstrap over readers and items.
        agreement: question to Fleiss' κ, bootstrap over items.
        choices: of quality.
        items: one row an item; see `item_table`.
        notes: what to bear in mind.
    """

    study: Study
    answers: pd.DataFrame
    readers: tuple[ReaderResult, ...]
    pooled: ReaderResult
    accuracy: Interval
    auc: Interval
    agreement: dict[str, Interval]
    choices: tuple[Choice, ...]
    items: pd.DataFrame
    notes: tuple[str, ...]


def evaluate(study: Study, key: dict[str, Any], answers: Sequence[Answer], seed: int = 0) -> Results:
    """Compare answers with the key.

    Args:
        study: that was answered.
        key: of it.
        answers: of its readers.
        seed: of the bootstrap.

    Raises:
        PathError: there are no answers that count.
    """
    table = answer_table(study, key, answers)
    counted = table[~table.training & (table.showing == 1)]
    if counted.empty:
        raise PathError(
            study.folder / ANSWERS, f"no answers yet; collect some: wsigen study serve {study.folder}"
        )
    total = len(study.items) + len(study.training) + len(study.repeats)
    names = list(dict.fromkeys(counted.reader))
    readers = tuple(_reader(name, table[table.reader == name], study, total, seed) for name in names)
    right = _matrix(counted, "right")
    scores, real = _matrix(counted, "score"), counted.groupby("item").truth.first().eq(REAL).to_numpy()
    return Results(
        study=study,
        answers=table,
        readers=readers,
        pooled=_reader("all", table[table.reader.isin(names)], study, total * len(study.readers), seed),
        accuracy=pooled_share(right, seed),
        auc=pooled_auc(scores, real, seed) if study.kind == "slider" else NONE,
        agreement=_agreement(study, counted, seed),
        choices=tuple(_choices(study, key, counted, seed)),
        items=item_table(study, key, counted),
        notes=tuple(_notes(study, table, readers, total)),
    )


def answer_table(study: Study, key: dict[str, Any], answers: Sequence[Answer]) -> pd.DataFrame:
    """Return one row an answer.

    Columns: reader (as in readers.csv), number, item, showing, training, truth, value, decision (a text for
    each question, "" where undecided), right (1, 0, NaN), score (of the slider), seconds, side (of 2afc, 0
    left), at, views.
    """
    names = {code: str(i) for i, code in enumerate(study.readers, start=1)}
    rows = []
    for answer in answers:
        truth = key["items"][answer.item]
        decision = _decision(study.kind, key, answer.value)
        right = (
            math.nan
            if study.kind == "quality" or not decision[0]
            else float(decision[0] == _said(study.kind, truth))
        )
        rows.append(
            {
                "reader": names[answer.reader],
                "number": answer.number,
                "item": answer.item,
                "showing": answer.showing,
                "training": answer.training,
                "truth": _said(study.kind, truth),
                "value": answer.value,
                "decision": decision,
                "right": right,
                "score": float(answer.value) if study.kind == "slider" else math.nan,
                "seconds": answer.seconds,
                "side": answer.choices.index(answer.value) if study.kind == "2afc" else math.nan,
                "at": answer.at,
                "views": answer.views,
            }
        )
    columns = "reader number item showing training truth value decision right score seconds side at views"
    table = pd.DataFrame(rows, columns=columns.split())
    return table.astype({"training": bool, "showing": int}).sort_values(["reader", "number"], key=_order)


def item_table(study: Study, key: dict[str, Any], counted: pd.DataFrame) -> pd.DataFrame:
    """Return one row an item that was answered.

    Columns: item, truth, answers, right (share), score (mean of the slider), votes (answers to the first
    question by method), images and slides (texts).
    """
    images = {item.code: item.images for item in study.items}
    rows = []
    for item, given in counted.groupby("item", sort=False):
        codes = images[str(item)]
        votes = given.decision.str[0].value_counts()
        rows.append(
            {
                "item": item,
                "truth": given.truth.iloc[0],
                "answers": len(given),
                "right": given.right.mean(),
                "score": given.score.mean(),
                "votes": "; ".join(f"{name} {count}" for name, count in votes.items()),
                "images": " ".join(codes),
                "slides": " ".join(key["images"][code]["slide"] for code in codes),
            }
        )
    return pd.DataFrame(rows)


def sample_size(results: Results) -> list[str]:
    """Return sentences about how many items make an accuracy known to ±10 %."""
    if results.study.kind == "quality":
        share, what = max(c.share.value for c in results.choices), "the share of a translation"
    else:
        share, what = results.pooled.accuracy.value, "the accuracy"
    if math.isnan(share):
        return []
    found = [
        f"{answers_needed(share)} answers of one reader make {what} known to ±10 % (Wilson, at "
        f"{100 * share:.0f} %), "
        f"{answers_needed(0.5)} whatever it is."
    ]
    half, items = results.accuracy.half, len(results.items)
    if not math.isnan(half) and half > 0:
        needed = math.ceil(items * (half / 0.1) ** 2)
        more = "enough" if needed <= items else f"about {needed} items of the same readers would make ±10 %"
        found.append(
            f"Over readers and items together it is known to ±{100 * half:.0f} % from {items} items and "
            f"{len(results.readers)} readers: {more}. Where readers differ, more readers help."
        )
    return found


def _reader(name: str, table: pd.DataFrame, study: Study, total: int, seed: int) -> ReaderResult:
    counted = table[~table.training & (table.showing == 1)]
    halves = _halves(counted)
    known = counted[counted.right.notna()]
    fooled = known[known.truth.isin(["synthetic", "another place"])]
    both = _repeated(table)
    return ReaderResult(
        name=name,
        answered=len(table),
        total=total,
        accuracy=_share(known.right == 1),
        auc=_auc(counted, seed) if study.kind == "slider" and name != "all" else NONE,
        taken=_share(fooled.right == 0) if study.kind != "2afc" else _share(known.right == 0),
        same=_share(both.same),
        apart=float(both.apart.mean()),
        learning=difference(*(half.right.dropna().to_numpy() for half in halves)),
        seconds=float(counted.seconds.median()),
        faster=float(halves[1].seconds.median() / halves[0].seconds.median()) if len(halves[0]) else math.nan,
        left=_share(counted.side == 0) if study.kind == "2afc" else NONE,
    )


def _auc(counted: pd.DataFrame, seed: int) -> Interval:
    return auc_interval(counted.score.to_numpy(), counted.truth.eq(REAL).to_numpy(), seed)


def _halves(counted: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the first and the second half of every reader's answers."""
    place = counted.groupby("reader").number.rank()
    size = counted.groupby("reader").number.transform("size")
    return counted[place <= size / 2], counted[place > size / 2]


def _repeated(table: pd.DataFrame) -> pd.DataFrame:
    """Return for every repeated item (and question) whether both answers are alike, and how far apart."""
    first, second = (table[~table.training & (table.showing == n)] for n in (1, 2))
    both = first.merge(second, on=["reader", "item"], suffixes=("_1", "_2"))
    same = [
        a == b
        for x, y in zip(both.decision_1, both.decision_2, strict=True)
        for a, b in zip(x, y, strict=True)
    ]
    apart = (both.score_1 - both.score_2).abs()
    return pd.DataFrame({"same": pd.Series(same, dtype=bool), "apart": apart})


def _agreement(study: Study, counted: pd.DataFrame, seed: int) -> dict[str, Interval]:
    found = {}
    for k, question in enumerate(study.questions):
        decisions = counted.decision.str[k]
        counts = pd.crosstab(counted.item, decisions).to_numpy()
        counts = counts[counts.sum(axis=1) >= 2]
        found[question] = kappa_interval(counts, seed) if len(counts) else NONE
    return found


def _choices(study: Study, key: dict[str, Any], counted: pd.DataFrame, seed: int) -> list[Choice]:
    if study.kind != "quality":
        return []
    methods = [key["images"][code]["set"] for code in study.items[0].images[1:]]
    found = []
    for k, question in enumerate(study.questions):
        for method in methods:
            chosen = counted.assign(chosen=counted.decision.str[k].eq(method).astype(float))
            bootstrap = pooled_share(_matrix(chosen, "chosen"), seed)
            found.append(Choice(question, method, _share(chosen.chosen == 1), bootstrap))
    return found


def _notes(study: Study, table: pd.DataFrame, readers: Sequence[ReaderResult], total: int) -> list[str]:
    notes = []
    silent = len(study.readers) - len(readers)
    if silent:
        notes.append(f"{silent} of {len(study.readers)} readers have not answered an item that counts.")
    unfinished = [f"{r.name} ({r.answered} of {total})" for r in readers if r.answered < total]
    if unfinished:
        notes.append(f"Readers that have not finished: {', '.join(unfinished)}.")
    again = int((table.views > 1).sum())
    if again:
        notes.append(f"{again} items were shown more than once before the answer, as after an interruption.")
    undecided = int((table[~table.training].decision.str[0] == "").sum())
    if undecided:
        notes.append(
            f"{undecided} sliders stand at {MIDDLE}: neither right nor wrong, and left out of the accuracy."
        )
    if len(readers) == 1:
        notes.append(
            "There is one reader: intervals say nothing about other readers, and there is no agreement."
        )
    return notes


def _matrix(counted: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as readers × items, NaN where there is no answer; items in sorted order."""
    return counted.pivot(index="reader", columns="item", values=column).to_numpy(float)


def _share(chosen: pd.Series) -> Interval:
    return wilson(int(chosen.sum()), len(chosen))


def _decision(kind: str, key: dict[str, Any], value: Any) -> list[str]:
    """Return what an answer says, a text for each question."""
    decide: dict[str, Callable[[], list[str]]] = {
        "slider": lambda: ["" if value == MIDDLE else "real" if value > MIDDLE else "synthetic"],
        "2afc": lambda: [key["images"][value]["set"]],
        "paired": lambda: [_said(kind, value)],
        "quality": lambda: [key["images"][code]["set"] for code in value],
    }
    return decide[kind]()


def _said(kind: str, truth: Any) -> str:
    """Return what is right, as `_decision` says it."""
    if kind == "paired":
        return "one place" if truth else "another place"
    return {"slider": truth, "2afc": REAL, "quality": ""}[kind]


def _order(column: pd.Series) -> pd.Series:
    return column.astype(int)

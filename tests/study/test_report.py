"""The report recovers what readers of known skill can, and says what is missing."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from tests.study.studies import MPP, SIZE, Skilled, config, make, write_set, write_sources
from wsigen.cli import main
from wsigen.config.study import StudyMakeConfig, StudyReportConfig
from wsigen.errors import PathError
from wsigen.study.automatic import read_study
from wsigen.study.report import report_study, verdict
from wsigen.study.results import evaluate, sample_size
from wsigen.study.statistics import wilson
from wsigen.study.store import Answer, AnswerStore
from wsigen.study.study import load_key

SKILLS = (0.5, 0.75, 0.95)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    return {name: write_set(folder, name, odd=name == "real") for name in ("real", "synthetic")}


def read_by_all(study, skills=SKILLS):
    for i, (code, skill) in enumerate(zip(study.readers, skills, strict=False)):
        read_study(study.folder, code, Skilled(skill, seed=i + 1))
    store = AnswerStore(study, create=False)
    answers = store.answers()
    store.close()
    return evaluate(study, load_key(study), answers)


@pytest.fixture(scope="module")
def slider(slides, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "s"
    study = make(config(**slides, out=out, count=80, training=4, repeats=20))
    return read_by_all(study)


def test_the_skill_of_each_reader_lies_in_its_interval(slider):
    for reader, skill in zip(slider.readers, SKILLS, strict=True):
        assert reader.accuracy.low <= skill <= reader.accuracy.high
        assert (reader.answered, reader.total) == (104, 104)
        # Scores are uniform on the chosen side: AUC = s² + 2 s (1 − s) / 2 = s
        assert reader.auc.low <= skill <= reader.auc.high
        assert reader.auc.value == pytest.approx(skill, abs=0.12)
        # Answers to a repeat agree where both are right or both wrong.
        assert reader.same.low <= skill**2 + (1 - skill) ** 2 <= reader.same.high
    assert slider.readers[2].apart < slider.readers[0].apart
    assert slider.pooled.learning.low < 0 < slider.pooled.learning.high


def test_all_readers_together(slider):
    mean = float(np.mean(SKILLS))
    assert slider.accuracy.low < mean < slider.accuracy.high
    assert slider.accuracy.value == slider.pooled.accuracy.value
    assert slider.accuracy.half > 2 * slider.pooled.accuracy.half  # since the readers differ
    assert slider.auc.value == pytest.approx(np.mean([r.auc.value for r in slider.readers]))
    assert slider.auc.low < mean < slider.auc.high
    (kappa,) = slider.agreement.values()
    # Two readers agree beyond chance by (2 s − 1)(2 t − 1) where both halves are alike.
    pairs = [(2 * SKILLS[i] - 1) * (2 * SKILLS[j] - 1) for i in range(3) for j in range(i)]
    assert kappa.value == pytest.approx(np.mean(pairs), abs=0.12)
    assert slider.notes == ()


def test_accuracy_by_hand(slides, tmp_path):
    """Eight items: a reader gives 60 to all, so is right on the four that are real."""
    study = make(config(**slides, out=tmp_path / "s", count=8, repeats=2, readers=1))
    key = load_key(study)
    answers = [
        Answer(study.readers[0], t.number, t.item.code, t.showing, False, t.choices,
               {1: 60, 2: 45}[t.showing], 1.0 + t.number, "", 1)
        for t in study.trials(study.readers[0])
    ]  # fmt: skip
    found = evaluate(study, key, answers)
    (reader,) = found.readers
    assert reader.accuracy == wilson(4, 8)
    assert reader.taken == wilson(4, 4)
    assert reader.auc.value == 0.5
    assert (reader.same, reader.apart) == (wilson(0, 2), 15)
    firsts = [1.0 + t.number for t in study.trials(study.readers[0]) if t.showing == 1]
    assert reader.seconds == np.median(firsts)
    assert reader.faster == np.median(firsts[4:]) / np.median(firsts[:4])
    assert [k for k in found.agreement.values() if not math.isnan(k.value)] == []
    assert any("one reader" in note for note in found.notes)
    order = [a.number for a in answers if a.showing == 1]
    taught = [
        a._replace(value=90 if (key["items"][a.item] == "real") == (a.number >= order[4]) else 10)
        for a in answers
    ]
    (pupil,) = evaluate(study, key, taught).readers
    assert pupil.learning.value == 1
    assert pupil.learning.low > 0.3
    middle = [a._replace(value=50) for a in answers]
    assert math.isnan(evaluate(study, key, middle).readers[0].accuracy.value)
    assert "10 sliders stand at 50" in " ".join(evaluate(study, key, middle).notes)


def test_2afc(slides, tmp_path):
    study = make(config(**slides, out=tmp_path / "s", kind="2afc", count=40))
    found = read_by_all(study)
    for reader, skill in zip(found.readers, SKILLS, strict=True):
        assert reader.accuracy.low <= skill <= reader.accuracy.high
        assert math.isnan(reader.auc.value)
    assert found.pooled.left.low <= 0.5 <= found.pooled.left.high  # the side does not tell
    assert (found.answers.right == (found.answers.decision.str[0] == "real")).all()


def test_paired_and_quality(tmp_path):
    he, translated = write_sources(tmp_path, methods=3)
    values = {"source": he, "mpp": MPP, "size": SIZE, "readers": 3}
    paired = make(
        StudyMakeConfig(kind="paired", translation=translated["m0"], out=tmp_path / "p", count=40, **values)
    )
    found = read_by_all(paired)
    for reader, skill in zip(found.readers, SKILLS, strict=True):
        assert reader.accuracy.low <= skill <= reader.accuracy.high
        assert reader.taken.low <= 1 - skill <= reader.taken.high
    given = [f"{name}={path}" for name, paths in translated.items() for path in paths]
    quality = make(StudyMakeConfig(kind="quality", translation=given, out=tmp_path / "q", count=30, **values))
    found = read_by_all(quality, (0.8, 0.8, 0.8))
    assert [c.method for c in found.choices[:3]] == ["m0", "m1", "m2"]
    best, *others = found.choices[:3]
    assert best.share.low <= 0.8 <= best.share.high
    assert best.bootstrap.low <= 0.8 <= best.bootstrap.high
    assert sum(c.share.value for c in found.choices[:3]) == pytest.approx(1)
    assert all(0.02 < c.share.value < 0.2 for c in others)
    assert list(found.agreement) == list(quality.questions)
    assert math.isnan(found.accuracy.value)
    page = report_study(StudyReportConfig(study=quality.folder)).read_text(encoding="utf-8")
    assert "Which translation shows the fewest tile borders?" in page


def test_sample_size_follows_from_the_intervals(slider):
    one, both = sample_size(slider)
    assert re.search(r"^7\d answers of one reader make the accuracy known to ±10 %.* 93 whatever", one)
    half = slider.accuracy.half
    assert f"±{100 * half:.0f} % from 80 items and 3 readers" in both
    assert f"about {math.ceil(80 * (half / 0.1) ** 2)} items" in both


# ---- the files


class Page(HTMLParser):
    """Tags, whether they close, what a browser would load, and the text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.loads, self.text = [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.text += "\n" if tag == "p" else ""
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if "style" not in self.open else ""


def test_page_and_tables(slider, capsys):
    main.main(["study", "report", str(slider.study.folder)])
    folder = slider.study.folder / "report"
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert not {"script", "link", "iframe"} & set(page.seen)
    assert all(load.startswith("data:image/") for load in page.loads)
    assert page.seen.count("img") == 2 + 3
    for reader in slider.readers:
        assert f"{100 * reader.accuracy.value:.0f} %" in page.text
        assert f"{100 * reader.accuracy.low:.0f} … {100 * reader.accuracy.high:.0f}" in page.text
        assert f"{reader.auc.value:.2f}" in page.text
    assert verdict(slider) in page.text
    assert "Synthetic images that were believed most" in page.text
    assert not re.search(r"[a-z.]\.[A-Z]", page.text.replace("CSV", ""))  # no space lost between sentences
    answers = pd.read_csv(folder / "answers.csv")
    assert len(answers) == 3 * 104
    counted = answers[~answers.training & (answers.showing == 1)]
    assert counted.right.mean() == pytest.approx(slider.accuracy.value)
    assert ((counted.value > 50) == (counted.truth == "real")).mean() == counted.right.mean()
    readers = pd.read_csv(folder / "readers.csv").set_index("reader")
    assert list(readers.index) == ["1", "2", "3", "all"]
    assert readers.accuracy_low["2"] == pytest.approx(slider.readers[1].accuracy.low)
    items = pd.read_csv(folder / "items.csv")
    assert len(items) == 80
    assert items.right.mean() == pytest.approx(slider.accuracy.value)
    assert not any(code in page.text for code in slider.study.readers)  # who answers stays with readers.csv


def test_a_study_that_is_under_way_is_reported_as_such(slides, tmp_path):
    study = make(config(**slides, out=tmp_path / "s", count=8, training=2))
    with pytest.raises(PathError, match=r"answers\.sqlite: no answers yet; collect some: wsigen study serve"):
        report_study(StudyReportConfig(study=study.folder))
    store = AnswerStore(study)
    reader = study.readers[0]
    store.add(reader, 0, 70, 1)
    with pytest.raises(PathError, match="no answers yet"):  # training alone
        report_study(StudyReportConfig(study=study.folder))
    for number in range(1, 5):
        store.show(reader)
        store.show(reader)
        store.add(reader, number, 70, 1)
    page = Page(report_study(StudyReportConfig(study=study.folder)).read_text(encoding="utf-8"))
    store.close()
    for line in (
        "2 of 3 readers have not answered an item that counts.",
        "Readers that have not finished: 1 (5 of 10).",
        "4 items were shown more than once before the answer, as after an interruption.",
        "1 of 3 readers, 3 of 8 items answered",
    ):
        assert line in page.text

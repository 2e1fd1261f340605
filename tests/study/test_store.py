"""Answers are durable, in order, once, and of their own study; studies that cannot be read are named."""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import replace

import pytest

from tests.commands import ROOT
from tests.study.studies import Skilled, config, write_set
from wsigen.errors import InvalidValueError, OutputError, PathError
from wsigen.files import only_process
from wsigen.study.automatic import read_image, read_study
from wsigen.study.make import make_study
from wsigen.study.store import AnswerStore
from wsigen.study.study import check_answer, load_key, load_study


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    return {name: write_set(folder, name, odd=name == "real", count=1) for name in ("real", "synthetic")}


@pytest.fixture
def study(slides, tmp_path):
    return make_study(config(**slides, out=tmp_path / "s", count=4, training=2, repeats=2, readers=2))


@pytest.fixture
def store(study):
    store = AnswerStore(study)
    yield store
    store.close()


def test_answers_come_back_as_they_were_given_in_a_new_store(study, store):
    reader, other = study.readers
    trials = study.trials(reader)
    for trial in trials[:3]:
        assert store.show(reader) == trial
        assert store.add(reader, trial.number, 30 + trial.number, 1.5) == trial
    again = AnswerStore(study)
    found = again.answers()
    assert [(a.number, a.item, a.value, a.seconds, a.training, a.showing, a.views) for a in found] == [
        (t.number, t.item.code, 30 + t.number, 1.5, t.training, t.showing, 1) for t in trials[:3]
    ]
    assert [a.choices for a in found] == [t.choices for t in trials[:3]]
    assert again.trial(reader) == trials[3]
    assert again.progress(reader) == (3, 8)
    assert again.progress(other) == (0, 8)
    again.close()


def test_it_is_as_durable_as_sqlite_can_be(study, store):
    pragmas = {
        name: store._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
    }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2}  # 2 is FULL
    # Another process sees an answer as soon as it is stored.
    store.add(study.readers[0], 0, 5, 1)
    with sqlite3.connect(study.folder / "answers.sqlite") as db:
        assert db.execute("SELECT value FROM answers").fetchall() == [("5",)]
    db.close()


def test_an_answer_that_is_sent_twice_counts_once_and_nobody_skips(study, store):
    reader = study.readers[0]
    store.add(reader, 0, 10, 1)
    store.add(reader, 0, 90, 1)
    assert [(a.number, a.value) for a in store.answers()] == [(0, 10)]
    for number in (2, 7, -1, 99):
        with pytest.raises(InvalidValueError, match=f"the next item is 1, got an answer to {number}"):
            store.add(reader, number, 10, 1)
    for trial in study.trials(reader)[1:]:
        store.add(reader, trial.number, 50, 1)
    assert store.trial(reader) is None
    assert store.show(reader) is None


def test_items_that_were_shown_again_are_counted(study, store):
    reader = study.readers[0]
    for _ in range(3):
        store.show(reader)
    store.add(reader, 0, 10, 1)
    assert [a.views for a in store.answers()] == [3]


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("slider", [0, 100, 55.5], [-1, 101, True, None, "50", float("nan"), [50]]),
        ("2afc", ["a", "b", "c"], ["d", 0, None, ["a"]]),
        ("quality", [["b", "c"], ["c", "c"]], [["a", "b"], ["b"], "bc", ["b", "c", "b"], None]),
        ("paired", [True, False], [1, 0, "true", None]),
    ],
)
def test_only_answers_are_answers(study, kind, right, wrong):
    asked = replace(study, kind=kind, questions=("one", "two"))
    item = study.items[0]._replace(images=("a", "b", "c"))
    for value in right:
        check_answer(asked, item, value)
    for value in wrong:
        with pytest.raises(InvalidValueError, match="the answer must be"):
            check_answer(asked, item, value)


def test_unknown_readers_are_refused(store):
    for ask in (store.progress, store.show, lambda code: store.add(code, 0, 1, 1)):
        with pytest.raises(InvalidValueError, match=r"no reader has the code 'NOBODY'; .* readers\.csv"):
            ask("NOBODY")


def test_answers_of_another_study_are_left_alone(slides, study, store, tmp_path):
    other = make_study(config(**slides, out=tmp_path / "other", count=2))
    store.close()
    (other.folder / "answers.sqlite").write_bytes((study.folder / "answers.sqlite").read_bytes())
    with pytest.raises(PathError, match=f"answers of study {study.id}, got study {other.id}; move"):
        AnswerStore(other)
    (other.folder / "answers.sqlite").write_bytes(b"not a database, but long enough to look at")
    with pytest.raises(OutputError, match=r"answers\.sqlite: cannot be used \(file is not a database\)"):
        AnswerStore(other)


def test_studies_that_cannot_be_read_are_named(study, tmp_path):
    with pytest.raises(PathError, match=r"none/study\.json: no study here; make one: wsigen study make"):
        load_study(tmp_path / "none")
    path = study.folder / "study.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "version": 7}))
    with pytest.raises(PathError, match=r"study\.json: a study of version 7, this wsigen reads 1; use the"):
        load_study(study.folder)
    path.write_text("{")
    with pytest.raises(PathError, match=r"study\.json: damaged"):
        load_study(study.folder)
    del values["seed"]
    path.write_text(json.dumps(values))
    with pytest.raises(PathError, match=r"damaged .*seed.*; make the study again"):
        load_study(study.folder)


def test_a_key_that_is_missing_or_of_another_study_is_named(study):
    path = study.folder / "key.json"
    key = json.loads(path.read_text())
    path.write_text(json.dumps({**key, "study": "another"}))
    with pytest.raises(PathError, match=f"the key of study another, got study {study.id}"):
        load_key(study)
    path.unlink()
    with pytest.raises(PathError, match=r"key\.json: the key is missing"):
        load_key(study)


def test_automatic_readers_answer_what_is_left(study, store):
    reader = study.readers[0]
    store.add(reader, 0, 10, 1)
    store.close()
    assert read_study(study.folder, reader, Skilled(1.0)) == 7
    assert read_study(study.folder, reader, Skilled(1.0)) == 0
    key, again = load_key(study)["items"], AnswerStore(study)
    for answer in again.answers()[1:]:
        assert (answer.value > 50) == (key[answer.item] == "real")
    again.close()
    with (
        only_process(study.folder, "other"),
        pytest.raises(OutputError, match="this study is being served or read by another process"),
    ):
        read_study(study.folder, study.readers[1], Skilled(1.0))
    (study.folder / "images" / f"{study.items[0].images[0]}.png").unlink()
    with pytest.raises(PathError, match=r"\.png: an image of the study is missing"):
        read_study(study.folder, study.readers[1], Skilled(1.0))


def test_the_reader_of_the_docs_answers_everything(slides, tmp_path, monkeypatch):
    study = make_study(config(**slides, out=tmp_path / "fidelity", kind="2afc", count=3, readers=1))
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("K7QXMHD2", study.readers[0]), "study.md", "exec"), {})
    store = AnswerStore(study)
    assert store.progress(study.readers[0]) == (3, 3)
    for answer in store.answers():
        contrast = {image: read_image(study, image).std() for image in answer.choices}
        assert answer.value == max(contrast, key=contrast.__getitem__)
    store.close()

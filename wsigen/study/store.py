"""The answers of a study: an SQLite file in which every answer is durable before the next item is shown."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from wsigen.errors import InvalidValueError, OutputError, PathError
from wsigen.study.study import ANSWERS, Study, Trial, check_answer

_TABLES = """
CREATE TABLE IF NOT EXISTS study (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS showings (reader TEXT NOT NULL, number INTEGER NOT NULL, at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
  reader TEXT NOT NULL, number INTEGER NOT NULL, item TEXT NOT NULL, showing INTEGER NOT NULL,
  training INTEGER NOT NULL, choices TEXT NOT NULL, value TEXT NOT NULL, seconds REAL NOT NULL,
  at TEXT NOT NULL,
  PRIMARY KEY (reader, number)
);
"""


class Answer(NamedTuple):
    """One answer.

    Attributes:
        reader: code.
        number: of the trial in the reader's order.
        item: code.
        showing: 1, or 2 where the item is repeated.
        training: whether it does not count.
        choices: codes of the images as they stood on the screen.
        value: see `wsigen.study.study.check_answer`.
        seconds: from the images to the answer.
        at: UTC, ISO 8601.
        views: how often the item was shown until it was answered; more than 1 after an interruption.
    """

    reader: str
    number: int
    item: str
    showing: int
    training: bool
    choices: tuple[str, ...]
    value: Any
    seconds: float
    at: str
    views: int


class AnswerStore:
    """The answers of a study. May be used by several threads.

    WAL and ``synchronous=FULL``: a transaction is on disk when it returns, and a report can be made
    meanwhile.

    Args:
        study: whose answers these are.
        create: create the file where it is missing.

    Raises:
        PathError: there is no file, or it holds answers of another study.
        OutputError: it cannot be written to.
    """

    def __init__(self, study: Study, *, create: bool = True) -> None:
        self._study, self._path, self._lock = study, study.folder / ANSWERS, Lock()
        if not create and not self._path.exists():
            raise PathError(self._path, f"no answers yet; collect some: wsigen study serve {study.folder}")
        with _errors(self._path):
            self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=30)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise
        self._trials = {reader: study.trials(reader) for reader in study.readers}

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_TABLES)
        ids = [row[0] for row in self._db.execute("SELECT id FROM study")]
        if not ids:
            self._db.execute("INSERT INTO study VALUES (?)", (self._study.id,))
        elif ids != [self._study.id]:
            reason = f"answers of study {ids[0]}, got study {self._study.id}; move this file away"
            raise PathError(self._path, reason)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def progress(self, reader: str) -> tuple[int, int]:
        """Return how many trials a reader has answered, and how many there are.

        Raises:
            InvalidValueError: there is no such reader.
        """
        trials = self._of(reader)
        with self._lock, _errors(self._path):
            (count,) = self._db.execute("SELECT count(*) FROM answers WHERE reader = ?", (reader,)).fetchone()
        return count, len(trials)

    def trial(self, reader: str) -> Trial | None:
        """Return what a reader has to answer next; None at the end.

        Raises:
            InvalidValueError: there is no such reader.
        """
        done, total = self.progress(reader)
        return self._of(reader)[done] if done < total else None

    def show(self, reader: str) -> Trial | None:
        """Return the same as `trial`, and note that it is shown."""
        trial = self.trial(reader)
        if trial is not None:
            with self._lock, _errors(self._path):
                self._db.execute("INSERT INTO showings VALUES (?, ?, ?)", (reader, trial.number, _now()))
        return trial

    def add(self, reader: str, number: int, value: Any, seconds: float) -> Trial:
        """Store an answer; it is on disk when this returns. A second answer to a trial changes nothing.

        Args:
            reader: code.
            number: of the trial.
            value: see `wsigen.study.study.check_answer`.
            seconds: from the images to the answer.

        Returns:
            The trial that was answered.

        Raises:
            InvalidValueError: there is no such reader, the trial is not the next one, or the value is no
                answer.
            OutputError: it cannot be written.
        """
        trial, trials = self.trial(reader), self._of(reader)
        done = trial.number if trial else len(trials)
        if 0 <= number < done:
            return trials[number]  # sent twice, as after a lost connection
        if trial is None or number != trial.number:
            raise InvalidValueError(f"the next item is {done}, got an answer to {number}; reload the page")
        check_answer(self._study, trial.item, value)
        row = (reader, number, trial.item.code, trial.showing, trial.training, json.dumps(trial.choices))
        with self._lock, _errors(self._path):
            self._db.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, json.dumps(value), seconds, _now()),
            )
        return trial

    def answers(self) -> list[Answer]:
        """Return all answers, by reader and number."""
        query = """SELECT a.*, (
                     SELECT count(*) FROM showings s WHERE s.reader = a.reader AND s.number = a.number
                   ) FROM answers a ORDER BY reader, number"""
        with self._lock, _errors(self._path):
            rows = self._db.execute(query).fetchall()
        return [
            Answer(r, n, item, showing, bool(training), tuple(json.loads(choices)), json.loads(value), *rest)
            for r, n, item, showing, training, choices, value, *rest in rows
        ]

    def _of(self, reader: str) -> list[Trial]:
        if reader not in self._trials:
            raise InvalidValueError(
                f"no reader has the code {reader[:30]!r}; the codes are in readers.csv of the study"
            )
        return self._trials[reader]


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise OutputError(
            path, f"cannot be used ({error}); check disk and permissions, then start again"
        ) from error


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")

# SPDX-License-Identifier: Apache-2.0
"""The state of an annotation project in one SQLite file: texts, questions, answers.

Every operation is one transaction, so a killed program leaves the state before or after it. A
question is a pair (text, task); several annotators may answer it. Answers that were given are never
lost: a second answer of the same annotator replaces the first, and the first stays in the journal.
"""

from __future__ import annotations

import contextlib
import csv
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core import files
from nlp import database
from nlp.annotations import DataError
from nlp.annotations.aggregate import TextLabels

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE texts (number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, text TEXT NOT NULL);
CREATE TABLE tasks (number INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL);
CREATE TABLE questions (text INTEGER NOT NULL REFERENCES texts, task INTEGER NOT NULL REFERENCES
  tasks, round INTEGER NOT NULL, reason TEXT NOT NULL, probability REAL, PRIMARY KEY (text, task));
CREATE TABLE answers (text INTEGER NOT NULL, task INTEGER NOT NULL, annotator TEXT NOT NULL,
  value INTEGER NOT NULL, given REAL NOT NULL, PRIMARY KEY (text, task, annotator),
  FOREIGN KEY (text, task) REFERENCES questions);
CREATE TABLE journal (text INTEGER, task INTEGER, annotator TEXT, value INTEGER, given REAL);
CREATE TABLE skipped (text INTEGER NOT NULL, task INTEGER NOT NULL, round INTEGER NOT NULL,
  probability REAL, PRIMARY KEY (text, task));
"""
REASONS = ("start", "relevant", "audit")
_SHOWN = 12  # characters of a column's name in messages


class Question(NamedTuple):
    """A pair to be judged, why, and what the model thought of it (None before there was one)."""

    text: int
    task: int
    reason: str
    probability: float | None = None


class Project:
    """An annotation project; use as a context manager, one process at a time."""

    def __init__(self, path: str | os.PathLike[str]):
        """Opens or creates a project.

        Raises:
          DataError: the file is something else, or damaged.
          core.files.FileInUseError: another process works on it.
        """
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"folder {self.path.parent} does not exist")
        self._stack = contextlib.ExitStack()
        lock = self.path.with_name(self.path.name + ".lock")
        self._stack.enter_context(files.exclusive_lock(lock))
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None)
            self._stack.callback(self._db.close)
            database.prepare(self._db, _SCHEMA, SCHEMA_VERSION, "FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
        except sqlite3.OperationalError as error:  # locked, read-only, a full disk
            self._stack.close()
            raise OSError(f"{self.path} cannot be used: {error}") from error
        except (sqlite3.DatabaseError, database.FormatError) as error:
            self._stack.close()
            raise DataError(f"{self.path} is no annotation project: {error}") from error

    def __enter__(self) -> Project:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._stack.close()

    # --- what there is to annotate

    def add_texts(self, texts: Iterable[tuple[str, str]]) -> int:
        """Adds (id, text) pairs; returns how many were new.

        Raises:
          DataError: an id that is known with another text, or an empty id or text.
        """
        new = 0
        with database.transaction(self._db):
            for name, text in texts:
                if not name or not text.strip():
                    raise DataError(f"text {name!r} is empty or has no id")
                row = self._db.execute("SELECT text FROM texts WHERE id = ?", (name,)).fetchone()
                if row and row[0] != text:
                    raise DataError(f"the id {name!r} stands for another text already")
                if not row:
                    self._db.execute("INSERT INTO texts (id, text) VALUES (?, ?)", (name, text))
                    new += 1
        return new

    def add_tasks(self, names: Sequence[str]) -> None:
        """Adds tasks. Raises DataError if there are others already: questions would be missing."""
        known = self.tasks()
        if known and list(names) != known:
            raise DataError(f"the project has the tasks {known}, got {list(names)}")
        if not names or len(set(names)) != len(names) or not all(names):
            raise DataError(f"expected one or more different task names, got {list(names)}")
        with database.transaction(self._db):
            for name in names if not known else ():
                self._db.execute("INSERT INTO tasks (name) VALUES (?)", (name,))

    def tasks(self) -> list[str]:
        """Names in order."""
        return [r[0] for r in self._db.execute("SELECT name FROM tasks ORDER BY number")]

    def texts(self) -> list[tuple[str, str]]:
        """(id, text) in order of their addition."""
        return list(self._db.execute("SELECT id, text FROM texts ORDER BY number"))

    # --- questions

    def plan(self, questions: Sequence[Question], skipped: Sequence[Question]) -> int:
        """Stores the decisions of a round; texts and tasks by place. Returns the round's number.

        Questions that were planned before stay as they are.
        """
        with database.transaction(self._db):
            last = self._db.execute("SELECT COALESCE(MAX(round), 0) FROM questions").fetchone()[0]
            ask = [(q.text + 1, q.task + 1, last + 1, q.reason, q.probability) for q in questions]
            self._db.executemany("INSERT OR IGNORE INTO questions VALUES (?, ?, ?, ?, ?)", ask)
            skip = [(q.text + 1, q.task + 1, last + 1, q.probability) for q in skipped]
            self._db.executemany("INSERT OR IGNORE INTO skipped VALUES (?, ?, ?, ?)", skip)
        return last + 1

    def decided(self) -> np.ndarray:
        """Places of texts that have been decided on, sorted."""
        rows = self._db.execute("SELECT text FROM questions UNION SELECT text FROM skipped")
        return np.array(sorted(r[0] - 1 for r in rows), int)

    def open_questions(self, answers: int = 1) -> list[tuple[str, str, str, str]]:
        """(text id, text, task, reason) of questions with fewer than `answers` answers."""
        query = """
          SELECT x.id, x.text, t.name, q.reason FROM questions q
          JOIN texts x ON x.number = q.text JOIN tasks t ON t.number = q.task
          LEFT JOIN answers a ON a.text = q.text AND a.task = q.task
          GROUP BY q.text, q.task HAVING COUNT(a.annotator) < ? ORDER BY q.round, q.text, q.task"""
        return list(self._db.execute(query, (answers,)))

    # --- answers

    def add_answers(self, rows: Iterable[tuple[str, str, str, int]]) -> int:
        """Adds (text id, task, annotator, 0 or 1), all or none; returns how many were given.

        Raises:
          DataError: an unknown text or task, a question that was never asked, or another value.
        """
        texts = {r[0]: r[1] for r in self._db.execute("SELECT id, number FROM texts")}
        tasks = {r[0]: r[1] for r in self._db.execute("SELECT name, number FROM tasks")}
        count = 0
        with database.transaction(self._db):
            for text, task, annotator, value in rows:
                if text not in texts or task not in tasks:
                    raise DataError(f"answer to an unknown text or task: {text!r}, {task!r}")
                if value not in (0, 1) or not annotator:
                    raise DataError(f"{text!r}, {task!r}: expected an annotator and 0 or 1")
                values = (texts[text], tasks[task], annotator, value, time.time())
                try:
                    self._db.execute(
                        "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", values
                    )
                except sqlite3.IntegrityError as error:
                    raise DataError(f"{text!r}, {task!r} was never asked") from error
                self._db.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?)", values)
                count += 1
        return count

    def labels(self) -> TextLabels:
        """All answers as shares; NaN where nobody answered."""
        texts, tasks = self.texts(), self.tasks()
        share = np.full((len(texts), len(tasks)), np.nan)
        votes = np.zeros(share.shape, np.int64)
        query = "SELECT text, task, AVG(value), COUNT(*) FROM answers GROUP BY text, task"
        for text, task, mean, count in self._db.execute(query):
            share[text - 1, task - 1], votes[text - 1, task - 1] = mean, count
        return TextLabels(
            self.path.stem, tuple(t for _, t in texts), tuple(i for i, _ in texts), tuple(tasks),
            share, votes,
        )  # fmt: skip

    def audits(self) -> list[tuple[int, int, float, float]]:
        """(text, task, probability, share) of answered audit questions, by place."""
        query = """
          SELECT q.text - 1, q.task - 1, q.probability, AVG(a.value) FROM questions q
          JOIN answers a ON a.text = q.text AND a.task = q.task
          WHERE q.reason = 'audit' GROUP BY q.text, q.task"""
        return list(self._db.execute(query))

    def counts(self) -> dict[str, int]:
        """Numbers of texts, tasks, questions by reason, skipped pairs, answers, annotators."""
        one = lambda query: int(self._db.execute(query).fetchone()[0])
        found = {name: one(f"SELECT COUNT(*) FROM {name}")
                 for name in ("texts", "tasks", "questions", "skipped", "answers")}  # fmt: skip
        found["annotators"] = one("SELECT COUNT(DISTINCT annotator) FROM answers")
        found["rounds"] = one("SELECT COALESCE(MAX(round), 0) FROM questions")
        for reason in REASONS:
            query = "SELECT COUNT(*) FROM questions WHERE reason = ?"
            found[reason] = int(self._db.execute(query, (reason,)).fetchone()[0])
        return found


# --- CSV files -----------------------------------------------------------------------------------


def read_rows(path: str | os.PathLike[str], columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a UTF-8 CSV file with at least these columns.

    Raises:
      FileNotFoundError: no such file. DataError: a column is missing, or it is no CSV file.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            csv.field_size_limit(2**27)
            reader = csv.DictReader(file, strict=True)
            header = list(reader.fieldnames or ())
            rows = list(reader)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected a CSV file in UTF-8, got {error}") from error
    except csv.Error as error:
        raise DataError(f"{path}: {error}") from error
    lacking = [c for c in columns if c not in header]
    if lacking:
        # Without a header the first row is a text, and texts are never shown: only its beginnings.
        found = [name[:_SHOWN] for name in header]
        raise DataError(f"{path}: no column {lacking[0]!r} in the first row, which begins {found}")
    if len(set(header)) != len(header):
        raise DataError(f"{path}: two columns have the same name")
    if any(None in row or None in row.values() for row in rows):
        raise DataError(f"{path}: rows must have {len(header)} cells")
    return rows


def write_rows(
    path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """Writes a CSV file atomically."""
    with files.atomic_write(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)

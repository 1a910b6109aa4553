# SPDX-License-Identifier: Apache-2.0
"""One schema for annotator-level data: texts, annotators, tasks, and a table of annotations.

An annotation is one annotator's answers about one text: for every task the index of a class, or
`MISSING`. Texts and annotators are numbered from 0; tables are NumPy arrays, so a million
annotations take 12 MB and are selected by index.

Dimensions: N annotations, X texts, U annotators, T tasks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nlp.evaluation.sources import DataError

MISSING = -1  # class index of an answer that was not given
DUPLICATES = ("error", "first", "mode")

__all__ = [
    "DUPLICATES", "MISSING", "AnnotationSet", "DataError", "Task", "build", "merge_duplicates",
    "pseudonyms",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Task:
    """One question that annotators answer about a text.

    Attributes:
      name: unique among the tasks of a set.
      classes: names of the possible answers.
      values: number that stands for each class in means and deviations; by default its index.
    """

    name: str
    classes: tuple[str, ...] = ("no", "yes")
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise DataError(f"task {self.name!r} needs two or more different classes")
        if self.values and len(self.values) != len(self.classes):
            raise DataError(f"task {self.name!r}: {len(self.values)} values for its classes")

    @property
    def numbers(self) -> np.ndarray:
        """The value of each class, float64 [C]."""
        return np.asarray(self.values or range(len(self.classes)), np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotationSet:
    """Annotations of texts by annotators; see the module.

    Attributes:
      name: of the data set.
      texts: the texts, X of them; may hold texts that nobody annotated.
      text_ids, annotator_ids: names in the source, unique.
      tasks: T of them.
      text, annotator: int32 [N], who and what.
      labels: int16 [N, T], class indices or `MISSING`.
      groups: for each text a language or topic, or ().
      splits: for each text a part that the source assigns ("present", "past", ...), or ().
    """

    name: str
    texts: tuple[str, ...]
    text_ids: tuple[str, ...]
    annotator_ids: tuple[str, ...]
    tasks: tuple[Task, ...]
    text: np.ndarray
    annotator: np.ndarray
    labels: np.ndarray
    groups: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key, kind in (("text", np.int32), ("annotator", np.int32), ("labels", np.int16)):
            object.__setattr__(self, key, _narrowed(self.name, key, getattr(self, key), kind))
        _check(self)

    def __len__(self) -> int:
        return len(self.text)

    @property
    def classes(self) -> tuple[int, ...]:
        """Number of classes of each task."""
        return tuple(len(task.classes) for task in self.tasks)

    def values(self) -> np.ndarray:
        """Numbers that the answers stand for, float64 [N, T]; NaN where missing."""
        columns = [
            np.where(column >= 0, task.numbers[np.maximum(column, 0)], np.nan)
            for task, column in zip(self.tasks, self.labels.T, strict=True)
        ]
        return np.stack(columns, axis=1) if columns else np.zeros((len(self), 0))

    def select(self, rows: np.ndarray) -> AnnotationSet:
        """The same texts and annotators with some annotations: indices or a mask of N."""
        return dataclasses.replace(
            self,
            text=self.text[rows],
            annotator=self.annotator[rows],
            labels=self.labels[rows],
        )

    def with_tasks(self, names: Sequence[str]) -> AnnotationSet:
        """The same annotations, only some tasks; those that answer none of them are left out."""
        known = [task.name for task in self.tasks]
        if unknown := sorted(set(names) - set(known)):
            raise ValueError(f"unknown tasks {unknown}; {self.name} has {known}")
        columns = [known.index(name) for name in names]
        labels = self.labels[:, columns]
        kept = (labels != MISSING).any(axis=1)
        chosen = tuple(self.tasks[i] for i in columns)
        return dataclasses.replace(
            self,
            tasks=chosen,
            text=self.text[kept],
            annotator=self.annotator[kept],
            labels=labels[kept],
        )


def _narrowed(name: str, key: str, table: np.ndarray, kind: type) -> np.ndarray:
    """A table of whole numbers as `kind`; a cast alone would make classes of NaN and fractions."""
    given = np.asarray(table)
    if given.dtype.kind not in "iub":
        raise DataError(f"{name}: {key} must be whole numbers, got {given.dtype}")
    limits = np.iinfo(kind)
    if given.size and (given.min() < limits.min or given.max() > limits.max):
        raise DataError(f"{name}: {key} must be in {limits.min} ... {limits.max}")
    return np.ascontiguousarray(given, kind)


def _check(data: AnnotationSet) -> None:
    """Raises DataError for the first thing that is wrong."""
    n, tasks = len(data.text), len(data.tasks)
    if data.text.shape != (n,) or data.annotator.shape != (n,) or data.labels.shape != (n, tasks):
        raise DataError(
            f"{data.name}: expected text [N], annotator [N], labels [N, {tasks}], got"
            f" {data.text.shape}, {data.annotator.shape}, {data.labels.shape}"
        )
    if not tasks or len({task.name for task in data.tasks}) != tasks:
        raise DataError(f"{data.name}: expected one or more tasks with different names")
    for what, names in (("text", data.text_ids), ("annotator", data.annotator_ids)):
        if len(set(names)) != len(names):
            raise DataError(f"{data.name}: two {what}s have the same id")
    if len(data.text_ids) != len(data.texts):
        raise DataError(f"{data.name}: {len(data.text_ids)} ids for {len(data.texts)} texts")
    for what, extra in (("groups", data.groups), ("splits", data.splits)):
        if extra and len(extra) != len(data.texts):
            raise DataError(f"{data.name}: {len(extra)} {what} for {len(data.texts)} texts")
    for what, index, size in (
        ("text", data.text, len(data.texts)),
        ("annotator", data.annotator, len(data.annotator_ids)),
    ):
        if n and (index.min() < 0 or index.max() >= size):
            raise DataError(f"{data.name}: {what} indices must be in 0 ... {size - 1}")
    for task, column in zip(data.tasks, data.labels.T, strict=True):
        if n and (column.min() < MISSING or column.max() >= len(task.classes)):
            raise DataError(
                f"{data.name}: labels of {task.name!r} must be {MISSING} (missing) or in"
                f" 0 ... {len(task.classes) - 1}, got {column.min()} ... {column.max()}"
            )


def build(
    name: str,
    tasks: Sequence[Task],
    texts: Mapping[str, str],
    rows: Iterable[tuple[str, str, Sequence[int]]],
    *,
    duplicates: str = "error",
    groups: Mapping[str, str] | None = None,
    splits: Mapping[str, str] | None = None,
) -> AnnotationSet:
    """Makes a set from records with ids.

    Texts that are equal word for word become one. Rows without any answer are left out. Annotators
    are numbered in order of their first appearance.

    Args:
      name, tasks: of the set.
      texts: text id -> text; also texts that nobody annotated.
      rows: (text id, annotator id, class index for every task or `MISSING`).
      duplicates: what to do if an annotator judged a text twice: "error", keep the "first", or the
        "mode" of each task (the smallest of several).
      groups, splits: text id -> its group or part, for all texts or none.

    Raises:
      DataError: a row about an unknown text, a label that is no class, or a second judgement where
        `duplicates` is "error".
    """
    first: dict[str, int] = {}
    ids: list[str] = []
    place = {}
    for text_id, text in texts.items():
        if text not in first:
            first[text] = len(ids)
            ids.append(text_id)
        place[text_id] = first[text]
    people: dict[str, int] = {}
    table: list[tuple[int, int]] = []
    answers: list[Sequence[int]] = []
    for text_id, person, labels in rows:
        if text_id not in place:
            raise DataError(f"{name}: an annotation of the unknown text {text_id!r}")
        if len(labels) != len(tasks):
            raise DataError(f"{name}: {len(labels)} labels for {len(tasks)} tasks")
        if any(label != MISSING for label in labels):
            table.append((place[text_id], people.setdefault(person, len(people))))
            answers.append(labels)
    where = np.asarray(table, np.int32).reshape(-1, 2)
    of_texts = lambda extra: tuple(extra[i] for i in ids) if extra else ()
    data = AnnotationSet(
        name,
        tuple(texts[i] for i in ids),
        tuple(ids),
        tuple(people),
        tuple(tasks),
        where[:, 0],
        where[:, 1],
        (np.asarray(answers) if answers else np.zeros(0, np.int16)).reshape(-1, len(tasks)),
        of_texts(groups),
        of_texts(splits),
    )
    return merge_duplicates(data, duplicates)


def merge_duplicates(data: AnnotationSet, how: str = "mode") -> AnnotationSet:
    """At most one annotation for each pair of text and annotator; see `build`.

    Raises:
      DataError: there is a second one and `how` is "error".
    """
    if how not in DUPLICATES:
        raise ValueError(f"duplicates must be one of {DUPLICATES}, got {how!r}")
    pairs = data.text.astype(np.int64) * max(1, len(data.annotator_ids)) + data.annotator
    _, first, inverse, counts = np.unique(
        pairs, return_index=True, return_inverse=True, return_counts=True
    )
    if len(first) == len(data):
        return data
    if how == "error":
        raise DataError(
            f"{data.name}: {len(data) - len(first)} texts are judged twice by one person"
        )
    labels = data.labels.copy()
    if how == "mode":
        by_pair = np.argsort(inverse, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)])
        for pair in np.flatnonzero(counts > 1):
            members = by_pair[starts[pair] : starts[pair + 1]]
            for task, column in enumerate(data.labels[members].T):
                given = column[column != MISSING]
                if len(given):
                    labels[first[pair], task] = np.bincount(given).argmax()
    kept = np.sort(first)
    return dataclasses.replace(
        data, text=data.text[kept], annotator=data.annotator[kept], labels=labels[kept]
    )


def pseudonyms(ids: Sequence[str], key: str) -> tuple[str, ...]:
    """A name for each annotator that tells nothing without the key: HMAC-SHA256, 12 hex digits.

    Raises:
      ValueError: an empty key, which everybody could guess.
    """
    if not key:
        raise ValueError("pseudonyms need a secret key")
    named = [hmac.new(key.encode(), i.encode(), hashlib.sha256).hexdigest()[:12] for i in ids]
    return tuple(f"p{name}" for name in named)

# SPDX-License-Identifier: Apache-2.0
"""Statistics of annotators and texts (Milkowski et al. 2021, Kocon et al. 2021).

Every function takes the whole set and the rows to use (past annotations), so that nothing of a
test part leaks in. Missing answers are dropped first: they are no class. Dimensions: N annotations,
X texts, U annotators, T tasks, C classes.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from nlp.annotations.schema import MISSING, AnnotationSet

Rows = np.ndarray | None
Level = Literal["nominal", "ordinal", "interval"]


def _chosen(data: AnnotationSet, rows: Rows) -> AnnotationSet:
    return data if rows is None else data.select(rows)


def _sums(index: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """Sums of rows [N, T] by index [N] -> [size, T]."""
    columns = [np.bincount(index, column, size) for column in weights.T]
    return np.stack(columns, axis=1)


def _text_moments(data: AnnotationSet, ddof: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(count, mean, deviation) of the values of each text and task, [X, T]; NaN if undefined."""
    values, size = data.values(), len(data.texts)
    given = ~np.isnan(values)
    filled = np.where(given, values, 0.0)
    count = _sums(data.text, given.astype(float), size)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = _sums(data.text, filled, size) / count
        gaps = np.where(given, values - mean[data.text], 0.0)
        spread = np.sqrt(_sums(data.text, gaps**2, size) / (count - ddof))
    return count, mean, np.where(count > ddof, spread, np.nan)


def personal_bias(data: AnnotationSet, rows: Rows = None) -> np.ndarray:
    """Personal emotional bias (PEB): mean z-score of each annotator's answers, [U, T].

    z = (y - mean of the text) / (sample deviation of the text + 1e-8) over the annotators of the
    text. A text with one answer has no deviation and is skipped; annotators without any z have 0.

    Args:
      data: annotations.
      rows: those to use (past ones); None takes all.
    """
    part = _chosen(data, rows)
    _, mean, spread = _text_moments(part, ddof=1)
    z = (part.values() - mean[part.text]) / (spread[part.text] + 1e-8)
    known = ~np.isnan(z)
    people = len(data.annotator_ids)
    count = _sums(part.annotator, known.astype(float), people)
    total = _sums(part.annotator, np.where(known, z, 0.0), people)
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)


def controversy(data: AnnotationSet, rows: Rows = None, kind: str = "entropy") -> np.ndarray:
    """How much annotators of a text disagree, [X, T]; NaN for a text without answers.

    Args:
      data, rows: as in `personal_bias`.
      kind: "entropy" of the answers in nats, or their "std": population deviation of the values.
    """
    part = _chosen(data, rows)
    if kind == "std":
        return _text_moments(part, ddof=0)[2]
    if kind != "entropy":
        raise ValueError(f"kind must be 'entropy' or 'std', got {kind!r}")
    return np.stack([_entropy(_label_counts(part, t)) for t in range(len(data.tasks))], axis=1)


def _label_counts(data: AnnotationSet, task: int) -> np.ndarray:
    """Answers of each class about each text, [X, C]."""
    classes = data.classes[task]
    column = data.labels[:, task]
    given = column != MISSING
    cells = data.text[given].astype(np.int64) * classes + column[given]
    return np.bincount(cells, minlength=len(data.texts) * classes).reshape(-1, classes)


def _entropy(counts: np.ndarray) -> np.ndarray:
    total = counts.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = counts / total
        entropy = -np.where(p > 0, p * np.log(p), 0.0).sum(axis=1)
    return np.where(total[:, 0] > 0, entropy, np.nan)


@dataclasses.dataclass(frozen=True, eq=False)
class Conformity:
    """Agreement of each annotator with the others, all [U, T].

    Attributes:
      general: share of answers equal to the majority's (1 iff the mean exceeds 0.5; ties are 0).
      positive, negative: the same on texts whose majority is 1 or 0.
      weighted: mean share of the text's annotators, oneself included, who gave the same answer.
      weighted_positive, weighted_negative: the same for own answers 1 or 0.
    """

    general: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    weighted: np.ndarray
    weighted_positive: np.ndarray
    weighted_negative: np.ndarray


def conformity(data: AnnotationSet, rows: Rows = None) -> Conformity:
    """Conformity of annotators in binary tasks; 1.0 where an annotator has no such answer.

    Raises:
      ValueError: a task with more than two classes.
    """
    if any(classes != 2 for classes in data.classes):
        raise ValueError("conformity is defined for binary tasks; binarise or select them first")
    part = _chosen(data, rows)
    given = part.labels != MISSING
    answers = np.where(given, part.labels, 0).astype(float)
    size, people = len(data.texts), len(data.annotator_ids)
    count = _sums(part.text, given.astype(float), size)
    mean = np.divide(_sums(part.text, answers, size), count, where=count > 0,
                     out=np.zeros_like(count))[part.text]  # fmt: skip
    majority = mean > 0.5
    equal = (answers > 0) == majority
    same = np.where(answers > 0, mean, 1 - mean)

    def average(score: np.ndarray, where: np.ndarray) -> np.ndarray:
        used = given & where
        n = _sums(part.annotator, used.astype(float), people)
        total = _sums(part.annotator, np.where(used, score, 0.0), people)
        return np.divide(total, n, out=np.ones_like(total), where=n > 0)

    return Conformity(
        average(equal, given),
        average(equal, majority),
        average(equal, ~majority),
        average(same, given),
        average(same, answers > 0),
        average(same, answers == 0),
    )


def most_controversial(
    data: AnnotationSet, rows: np.ndarray, k: int, seed: int | None = None
) -> np.ndarray:
    """At most k rows of each annotator: those of the most controversial texts, or random ones.

    Args:
      data: annotations.
      rows: indices to choose from; controversy (population deviation, mean over tasks) is theirs.
      k: how many for each annotator.
      seed: None takes the most controversial, a number draws at random.

    Returns:
      Sorted indices, a part of `rows`.
    """
    if k < 0:
        raise ValueError(f"k must not be negative, got {k}")
    rows = np.asarray(rows)
    if seed is None:
        with np.errstate(invalid="ignore"):
            spread = np.nan_to_num(controversy(data, rows, "std")).mean(axis=1)
        score = -spread[data.text[rows]]
    else:
        score = np.random.default_rng(seed).random(len(rows))
    order = np.lexsort((score, data.annotator[rows]))
    people = data.annotator[rows][order]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(people)) + 1]) if len(order) else [0]
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    return np.sort(rows[order[rank < k]])


def agreement(data: AnnotationSet, rows: Rows = None, level: Level = "nominal") -> np.ndarray:
    """Krippendorff's alpha of each task, [T]; NaN where no text has two answers or all are equal.

    Args:
      data, rows: as in `personal_bias`.
      level: of measurement: "nominal", "ordinal" or "interval".
    """
    import krippendorff

    part = _chosen(data, rows)
    result = np.full(len(data.tasks), np.nan)
    for t, task in enumerate(data.tasks):
        counts = _label_counts(part, t)
        pairable = counts[counts.sum(axis=1) > 1]
        if (pairable.sum(axis=0) > 0).sum() < 2:
            continue
        domain = task.numbers if level != "nominal" else np.arange(len(task.classes), dtype=float)
        result[t] = krippendorff.alpha(
            value_counts=pairable, value_domain=domain, level_of_measurement=level
        )
    return result

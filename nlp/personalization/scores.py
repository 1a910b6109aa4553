# SPDX-License-Identifier: Apache-2.0
"""Pooled and per-annotator scores of predicted answers, and their spread over seeds.

Pooled macro-F1 also rewards a model for knowing how often each annotator says yes; the mean over
annotators does not. Both are always reported. Macro-F1 has the full list of classes and 0 for
undefined ratios, so that an annotator with one class cannot score above 1 / C. Several questions
are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from core import intervals
from nlp.annotations import MISSING, AnnotationSet
from nlp.evaluation import metrics, stats


def score(data: AnnotationSet, rows: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Scores of predictions [len(rows), T] (-1: no answer) for some annotations.

    Returns:
      pooled (macro-F1 over annotations), personal (mean over annotators of their macro-F1),
      accuracy, annotations, annotators: means over questions, of answers that are not missing.
    """
    predicted = np.asarray(predicted)
    if predicted.shape != (len(rows), len(data.tasks)):
        raise ValueError(
            f"expected predictions {(len(rows), len(data.tasks))}, got {predicted.shape}"
        )
    if not len(rows):
        raise ValueError("there are no annotations to score")
    found = [_score_task(data, rows, predicted, t) for t in range(len(data.tasks))]
    kept = [f for f in found if f]
    if not kept:
        raise ValueError("all answers to score are missing")
    values = {name: float(np.mean([f[name] for f in kept])) for name in kept[0]}
    values["annotations"] = float(sum(f["annotations"] for f in kept))
    values["annotators"] = float(len(np.unique(data.annotator[rows])))
    return values


def _score_task(
    data: AnnotationSet, rows: np.ndarray, predicted: np.ndarray, task: int
) -> dict[str, float]:
    gold = data.labels[rows, task].astype(int)
    given = gold != MISSING
    if not given.any():
        return {}
    n = len(data.tasks[task].classes)
    gold, said = gold[given], predicted[given, task].astype(int)
    sums = metrics.single_statistics(gold, said, (gold == said).astype(float), n)
    names = data.tasks[task].classes
    people = stats.cluster(sums, [str(a) for a in data.annotator[rows][given]])
    value = lambda name, s: metrics.evaluate(name, s, names, "single")
    return {
        "pooled": float(value("macro_f1", sums.sum(0))),
        "personal": float(value("macro_f1", people).mean()),
        "accuracy": float(value("accuracy", sums.sum(0))),
        "annotations": float(given.sum()),
    }


def by_annotator(data: AnnotationSet, rows: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Macro-F1 of each annotator by id, mean over the questions that they answered."""
    found: dict[str, float] = {}
    for person in np.unique(data.annotator[rows]):
        own = data.annotator[rows] == person
        if (data.labels[rows[own]] != MISSING).any():
            name = data.annotator_ids[person]
            found[name] = score(data, rows[own], predicted[own])["personal"]
    return found


class Spread(NamedTuple):
    """Mean over seeds with the half-width of its 95 % t interval."""

    mean: float
    half: float
    n: int

    def __str__(self) -> str:
        half = "" if math.isinf(self.half) else f" ± {100 * self.half:.2f}"
        return f"{100 * self.mean:.2f}{half}"


def spread(values: Sequence[float]) -> Spread:
    """Mean and interval of values of several seeds; one value has an infinite interval."""
    n = len(values)
    if n < 2:
        return Spread(float(np.mean(values)), math.inf, n)
    low, high = intervals.student(values)
    return Spread((low + high) / 2, (high - low) / 2, n)

# SPDX-License-Identifier: Apache-2.0
"""Metrics as functions of summed statistics, with a fixed label list and 0 for undefined ratios.

Every item contributes a vector of counts; a metric is a function of their sum. So a value, its
bootstrap interval (`stats.py`) and the value of each annotator all use the same few lines, and any
number of resamples is one matrix product. An item without a usable answer adds to its gold class
and to no predicted class.

Layouts of the last axis, for n labels:
  single: n * (n + 1) counts, gold by predicted, the last column "no answer"; then hits among the
    first k labels named (for ranked answers).
  multi: per label true positives, gold, predicted; then exact matches, questions.
  value: sums of exact match and of token F1; then questions.
"""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Literal

import numpy as np

Layout = Literal["single", "multi", "value"]
Sums = np.ndarray  # [..., F]
Labels = Sequence[str]


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros_like(top, dtype=np.float64), where=bottom != 0)


# --- statistics of items -------------------------------------------------------------------------


def width(layout: Layout, n: int) -> int:
    """Length F of the vectors."""
    return {"single": n * (n + 1) + 1, "multi": 3 * n + 2, "value": 3}[layout]


def single_statistics(gold: np.ndarray, predicted: np.ndarray, hits: np.ndarray, n: int) -> Sums:
    """One-hot cells: gold [N] in 0..n-1, predicted [N] in -1..n-1 (-1: none), hits [N] 0/1."""
    sums = np.zeros((len(gold), width("single", n)))
    column = np.where(predicted < 0, n, predicted)
    sums[np.arange(len(gold)), gold * (n + 1) + column] = 1
    sums[:, -1] = hits
    return sums


def multi_statistics(
    gold: np.ndarray, predicted: np.ndarray, usable: np.ndarray | None = None
) -> Sums:
    """From label indicator matrices [N, n]; no answer (`usable` [N] false) is no exact match."""
    exact = (gold == predicted).all(axis=1, keepdims=True)
    if usable is not None:
        exact &= usable[:, None]
    parts = [gold & predicted, gold, predicted, exact, np.ones_like(exact)]
    return np.concatenate(parts, axis=1).astype(np.float64)


def value_statistics(exact: np.ndarray, token_f1: np.ndarray) -> Sums:
    """From scores in [0, 1] of every question, both [N]."""
    return np.stack([exact, token_f1, np.ones_like(exact)], axis=1).astype(np.float64)


def confusion(sums: Sums, n: int) -> np.ndarray:
    """[..., n, n + 1] counts, gold by predicted; the last column is "no answer"."""
    return sums[..., :-1].reshape(*sums.shape[:-1], n, n + 1)


# --- counts per class ----------------------------------------------------------------------------


def class_counts(sums: Sums, n: int, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(true positives, gold, predicted) of every label, each [..., n]."""
    if layout == "multi":
        return sums[..., :n], sums[..., n : 2 * n], sums[..., 2 * n : 3 * n]
    cells = confusion(sums, n)
    square = cells[..., :n]
    return np.diagonal(square, axis1=-2, axis2=-1), cells.sum(-1), square.sum(-2)


def _total(sums: Sums, layout: Layout) -> np.ndarray:
    return sums[..., -1] if layout != "single" else sums[..., :-1].sum(-1)


def class_f1(sums: Sums, n: int, layout: Layout) -> np.ndarray:
    """F1 of every label, [..., n]."""
    true, gold, predicted = class_counts(sums, n, layout)
    return _ratio(2 * true, gold + predicted)


def class_precision(sums: Sums, n: int, layout: Layout) -> np.ndarray:
    """Precision of every label, [..., n]."""
    true, _, predicted = class_counts(sums, n, layout)
    return _ratio(true, predicted)


def class_recall(sums: Sums, n: int, layout: Layout) -> np.ndarray:
    """Recall of every label, [..., n]."""
    true, gold, _ = class_counts(sums, n, layout)
    return _ratio(true, gold)


# --- metrics -------------------------------------------------------------------------------------


def _two_class(sums: Sums, n: int, layout: Layout) -> np.ndarray:
    """Mean over labels of the mean F1 of "has it" and "has it not" (arXiv 2312.08198)."""
    true, gold, predicted = class_counts(sums, n, layout)
    absent = sums[..., -1:] - gold - predicted + true
    other = _ratio(2 * absent, 2 * sums[..., -1:] - gold - predicted)
    return ((class_f1(sums, n, layout) + other) / 2).mean(-1)


def _micro(sums: Sums, n: int, layout: Layout) -> np.ndarray:
    true, gold, predicted = class_counts(sums, n, layout)
    return _ratio(2 * true.sum(-1), gold.sum(-1) + predicted.sum(-1))


def _weighted(sums: Sums, n: int, layout: Layout) -> np.ndarray:
    _, gold, _ = class_counts(sums, n, layout)
    return _ratio((class_f1(sums, n, layout) * gold).sum(-1), gold.sum(-1))


def _accuracy(sums: Sums, n: int, layout: Layout) -> np.ndarray:
    if layout == "single":
        true = class_counts(sums, n, layout)[0].sum(-1)
    else:
        true = sums[..., -2] if layout == "multi" else sums[..., 0]
    return _ratio(true, _total(sums, layout))


def evaluate(name: str, sums: Sums, labels: Labels, layout: Layout) -> np.ndarray:
    """Value of a metric.

    Args:
      name: accuracy (exact match where several labels are right), macro_f1, micro_f1,
        weighted_f1, macro_recall, macro_precision, macro_f1_two_class, top_k_accuracy, token_f1,
        "mean_f1:a,b" (mean F1 of the named labels, for instance TweetEval's stance and irony).
      sums: [..., F] summed statistics.
      labels: the task's labels, in class order.
      layout: see the module.

    Returns:
      [...] values in [0, 1].

    Raises:
      ValueError: an unknown metric, or one that the layout does not have.
    """
    n = len(labels)
    plain: dict[str, Callable[[], np.ndarray]] = {"accuracy": lambda: _accuracy(sums, n, layout)}
    if layout == "value":
        plain["token_f1"] = lambda: _ratio(sums[..., 1], sums[..., 2])
    else:
        plain["macro_f1"] = lambda: class_f1(sums, n, layout).mean(-1)
        plain["macro_recall"] = lambda: class_recall(sums, n, layout).mean(-1)
        plain["macro_precision"] = lambda: class_precision(sums, n, layout).mean(-1)
        plain["micro_f1"] = lambda: _micro(sums, n, layout)
        plain["weighted_f1"] = lambda: _weighted(sums, n, layout)
    if layout == "multi":
        plain["macro_f1_two_class"] = lambda: _two_class(sums, n, layout)
    if layout == "single":
        plain["top_k_accuracy"] = lambda: _ratio(sums[..., -1], _total(sums, layout))
    if name in plain:
        return plain[name]()
    kind, _, chosen = name.partition(":")
    if kind == "mean_f1" and layout != "value" and chosen:
        places = [list(labels).index(label) for label in chosen.split(",") if label in labels]
        if len(places) == chosen.count(",") + 1:
            return class_f1(sums, n, layout)[..., places].mean(-1)
    raise ValueError(
        f"unknown metric {name!r} for {layout} answers with labels {list(labels)[:30]};"
        f" known: {', '.join(plain)}, mean_f1:LABEL,..."
    )


# --- free answers --------------------------------------------------------------------------------


def plain_words(text: str) -> list[str]:
    """SQuAD's normalisation: lower case, no punctuation, no articles."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(?:a|an|the)\b", " ", text).split()


def token_f1(answer: str, accepted: Sequence[str]) -> float:
    """SQuAD's token F1, the best over the accepted answers (none accepted: "" is right)."""
    best = 0.0
    for gold in accepted or ("",):
        said, wanted = plain_words(answer), plain_words(gold)
        if not said or not wanted:
            best = max(best, float(said == wanted))
            continue
        common = sum((collections.Counter(said) & collections.Counter(wanted)).values())
        best = max(best, 2 * common / (len(said) + len(wanted)))
    return best


def exact_span(answer: str, accepted: Sequence[str]) -> float:
    """1.0 if the answer equals an accepted one after SQuAD's normalisation."""
    said = plain_words(answer)
    return float(any(said == plain_words(gold) for gold in accepted or ("",)))


def equal_numbers(answer: str, accepted: Sequence[str]) -> float:
    """1.0 if the answer is one of the accepted numbers, compared as decimals."""
    try:
        said = Decimal(answer)
        return float(any(said == Decimal(gold.replace(",", "")) for gold in accepted))
    except InvalidOperation:
        return 0.0

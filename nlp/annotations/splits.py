# SPDX-License-Identifier: Apache-2.0
"""Splits of annotations by texts, by annotators, or as the source assigns them.

By texts: folds of texts; annotators are seen in training, texts of the test are not. By annotators
(past, present, future): a test annotator is known only by the past texts. A split by parts that the
source assigns to texts goes the same way with the source's parts.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from nlp.annotations.schema import AnnotationSet

PARTS = ("present", "past", "future1", "future2")
SHARES = (0.55, 0.15, 0.15, 0.15)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Indices of annotations, each int64 and sorted; they do not overlap, `past` apart.

    Attributes:
      train, validation, test: of models.
      past: of personal statistics; part of `train`.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    past: np.ndarray


def fold_numbers(count: int, folds: int, seed: int = 0) -> np.ndarray:
    """A fold for each of `count` things, shuffled; sizes differ by at most one. int64 [count].

    Raises:
      ValueError: fewer things than folds, or fewer than 3 folds.
    """
    if not 3 <= folds <= count:
        raise ValueError(f"expected 3 <= folds <= {count} (what is split), got {folds}")
    numbers = np.arange(count) % folds
    return np.random.default_rng(seed).permutation(numbers)


def _check_fold(folds: int, test: int) -> None:
    if not 0 <= test < folds:
        raise ValueError(f"test must be in 0 ... {folds - 1}, got {test}")


def text_folds(data: AnnotationSet, folds: int = 10, test: int = 0, seed: int = 0) -> Split:
    """Split by texts: test = fold f, validation = (f + 1) mod F, train = the rest, also as past."""
    _check_fold(folds, test)
    fold = fold_numbers(len(data.texts), folds, seed)[data.text]
    held = (test + 1) % folds
    train = np.flatnonzero((fold != test) & (fold != held))
    return Split(train, np.flatnonzero(fold == held), np.flatnonzero(fold == test), train)


def user_folds(
    data: AnnotationSet,
    folds: int = 10,
    test: int = 0,
    seed: int = 0,
    *,
    parts: np.ndarray | None = None,
    user_fold: np.ndarray | None = None,
) -> Split:
    """Split by annotators with past, present and future texts.

    An annotation is train if its text is past, or present and its annotator in a train fold;
    validation if future1 and its annotator in the validation fold; test if future2 and its
    annotator in the test fold; else unused. Personal statistics come from past texts.

    Args:
      data: annotations.
      folds, test, seed: folds of annotators, as in `text_folds`.
      parts: index into `PARTS` for each text [X]; by default drawn, 55, 15, 15, 15 %.
      user_fold: fold of each annotator [U]; by default drawn.
    """
    _check_fold(folds, test)
    rng = np.random.default_rng(seed)
    if parts is None:
        count = len(data.texts)
        ends = np.round(np.cumsum(SHARES) * count).astype(int)
        parts = rng.permutation(np.searchsorted(ends, np.arange(count), side="right"))
    if user_fold is None:
        user_fold = fold_numbers(len(data.annotator_ids), folds, seed + 1)
    part, fold = np.asarray(parts)[data.text], np.asarray(user_fold)[data.annotator]
    held = (test + 1) % folds
    past = part == PARTS.index("past")
    training_people = (fold != test) & (fold != held)
    train = past | ((part == PARTS.index("present")) & training_people)
    validation = (part == PARTS.index("future1")) & (fold == held)
    tested = (part == PARTS.index("future2")) & (fold == test)
    return Split(*(np.flatnonzero(m) for m in (train, validation, tested, past)))


def assigned_split(data: AnnotationSet, folds: int = 10, test: int = 0, seed: int = 0) -> Split:
    """As the source assigns texts: past/present/future parts, or train/validation/test.

    Args:
      data: with `splits`.
      folds, test, seed: of annotators, see `user_folds`; not used by train/validation/test.

    Raises:
      ValueError: the set has no parts, or unknown ones.
    """
    names = set(data.splits)
    own = np.array(data.splits)
    if names and names <= set(PARTS):
        parts = np.array([PARTS.index(name) for name in data.splits])
        return user_folds(data, folds, test, seed, parts=parts)
    if names and names <= {"train", "validation", "test"}:
        of = own[data.text]
        train, held, tested = (
            np.flatnonzero(of == name) for name in ("train", "validation", "test")
        )
        return Split(train, held, tested, train)
    raise ValueError(f"{data.name}: expected parts {PARTS} or train/validation/test, got {names}")

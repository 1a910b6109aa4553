# SPDX-License-Identifier: Apache-2.0
"""Offline evaluation of model-based acquisition on texts whose answers are all known.

Ten folds: model i is validated on fold i, tested on fold i + 1 and trained on the others; the tests
together predict every text once. "Supervised" models learn what annotators said; "self-supervised"
ones learn the supervised models' out-of-fold predictions, on the same folds. Each of the folds
leaves validation and test out of the training, unlike the public code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from nlp.acquisition import metrics
from nlp.acquisition.heads import Heads, HeadsTask, train_and_predict
from nlp.annotations.splits import fold_numbers


@dataclasses.dataclass(frozen=True, eq=False)
class Folds:
    """Folds of X texts: `number` [X]; masks [F, X] of each model's parts."""

    number: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def make_folds(texts: int, folds: int = 10, seed: int = 0) -> Folds:
    """See the module."""
    number = fold_numbers(texts, folds, seed)
    own = np.arange(folds)[:, None]
    validation, test = number == own, number == (own + 1) % folds
    return Folds(number, ~(validation | test), validation, test)


def out_of_fold(
    vectors: np.ndarray, truth: np.ndarray, targets: np.ndarray, folds: Folds, how: Heads, seed: int
) -> np.ndarray:
    """Predictions of every text by the model that tests it, [X, L].

    Args:
      vectors: [X, D].
      truth: bool [X, L], for the choice of an epoch.
      targets: what models learn, [X, L].
      folds: see `make_folds`.
      how, seed: of the training.
    """
    task = HeadsTask(how, vectors, targets[None], folds.train.astype(np.float32))
    found = train_and_predict(task, vectors, folds.validation, truth, seed)
    joined = np.zeros(truth.shape, np.float32)
    for member, mask in zip(found, folds.test, strict=True):
        joined[mask] = member[mask]
    return joined


@dataclasses.dataclass(frozen=True, eq=False)
class OutOfFold:
    """Out-of-fold predictions [X, L] in [0, 1] of both rounds."""

    supervised: np.ndarray
    self_supervised: np.ndarray


def two_rounds(
    vectors: np.ndarray, truth: np.ndarray, folds: Folds, how: Heads, seed: int = 0
) -> OutOfFold:
    """Supervised predictions, then those of models that learned them (cut at 0.5)."""
    first = out_of_fold(vectors, truth, truth.astype(float), folds, how, seed)
    second = out_of_fold(vectors, truth, (first >= 0.5).astype(float), folds, how, seed)
    return OutOfFold(first, second)


def by_fold(truth: np.ndarray, asked: np.ndarray, number: np.ndarray) -> dict[str, list[float]]:
    """Paper's scores of each fold: f1, f1_positive, aer, aal, mlral, removed."""
    table: dict[str, list[float]] = {}
    for fold in np.unique(number):
        t, p = truth[number == fold], asked[number == fold]
        saved = metrics.saving(t, p)
        row = {
            "f1": metrics.f1_two_class(t, p),
            "f1_positive": metrics.f1_positive(t, p),
            "aer": saved.aer,
            "aal": saved.aal,
            "mlral": saved.mlral,
            "removed": saved.removed,
        }
        for name, value in row.items():
            table.setdefault(name, []).append(value)
    return table


def incremental(
    vectors: np.ndarray, truth: np.ndarray, folds: Folds, how: Heads, seed: int = 0
) -> list[dict[str, float]]:
    """Models that learn from 1, 2, ... folds, tested on one fixed fold (fold 1, validated on 0)."""
    count = len(folds.test)
    usable = [f for f in range(count) if f not in (0, 1)]
    masks = np.stack([np.isin(folds.number, usable[: k + 1]) for k in range(len(usable))]).astype(
        np.float32
    )
    task = HeadsTask(how, vectors, truth[None].astype(float), masks)
    held = np.repeat(folds.validation[:1], len(masks), axis=0)
    found = train_and_predict(task, vectors, held, truth, seed)
    rows = []
    for k, member in enumerate(found):
        test = folds.test[0]
        saved = metrics.saving(truth[test], member[test] >= 0.5)
        f1 = metrics.f1_two_class(truth[test], member[test] >= 0.5)
        rows.append({"folds": k + 1, "texts": float(masks[k].sum()), "f1": f1,
                     "aer": saved.aer, "aal": saved.aal})  # fmt: skip
    return rows


def threshold_sweep(
    vectors: np.ndarray, targets: Sequence[np.ndarray], folds: Folds, how: Heads, seed: int = 0
) -> list[np.ndarray]:
    """Out-of-fold predictions for several definitions of "relevant", all trained at once.

    Args:
      vectors: [X, D].
      targets: bool [X, L] for each threshold.
      folds, how, seed: as in `out_of_fold`.
    """
    if how.stopping != "none":
        raise ValueError("the sweep trains all thresholds at once, without early stopping")
    count = len(folds.train)
    weights = np.tile(folds.train, (len(targets), 1)).astype(np.float32)
    groups = np.repeat(np.arange(len(targets)), count).tolist()
    task = HeadsTask(how, vectors, np.stack(targets).astype(float), weights, groups)
    found = train_and_predict(task, vectors, weights > 0, targets[0], seed)
    joined = [np.zeros(t.shape, np.float32) for t in targets]
    for member, group in enumerate(groups):
        mask = folds.test[member % count]
        joined[group][mask] = found[member][mask]
    return joined


def quality_of_kept(
    vectors: np.ndarray,
    truth: np.ndarray,
    asked: Sequence[np.ndarray],
    folds: Folds,
    how: Heads,
    seed: int = 0,
) -> list[float]:
    """What models are worth that learn only the answers to what was asked.

    A cell that is not asked is taken for a "no", as the paper does. Trained on the folds but two,
    all selections at once; two-class macro-F1 on test fold 1 against the full truth.

    Args:
      vectors: [X, D].
      truth: bool [X, L].
      asked: selections, bool [X, L] each.
      folds, how, seed: of the training.
    """
    targets = np.stack([truth & selection for selection in asked]).astype(float)
    weights = np.repeat(folds.train[:1], len(asked), axis=0).astype(np.float32)
    task = HeadsTask(how, vectors, targets, weights, list(range(len(asked))))
    held = np.repeat(folds.validation[:1], len(asked), axis=0)
    found = train_and_predict(task, vectors, held, truth, seed)
    test = folds.test[0]
    return [metrics.f1_two_class(truth[test], member[test] >= 0.5) for member in found]

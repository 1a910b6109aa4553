# SPDX-License-Identifier: Apache-2.0
"""What is saved and what is lost by asking only some tasks of each text (arXiv 2312.08198).

T and P are 0/1 matrices texts x tasks: what annotators would have said, and what is asked. The
acronyms are the paper's; they are read from its formulas:

  AER     cells with T = 0 and P = 0, of all cells: useless annotations that are avoided
  AAL     cells with T = 1 and P = 0, of the cells with T = 1: wanted annotations that are lost
  MLRAL   mean over tasks of each task's AAL
  removed cells with P = 0 = AER + pi AAL, where pi is the mean of T
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from nlp.evaluation import metrics


@dataclasses.dataclass(frozen=True)
class Saving:
    """Savings and losses of a selection; `benefit` is AER - AAL, `kept` is 1 - AAL."""

    aer: float
    aal: float
    mlral: float
    removed: float

    @property
    def benefit(self) -> float:
        """AER - AAL, the shaded area of the paper's figures."""
        return self.aer - self.aal

    @property
    def kept(self) -> float:
        """Share of positives that are still asked for."""
        return 1.0 - self.aal


def saving(truth: np.ndarray, asked: np.ndarray) -> Saving:
    """Savings of asking `asked` where `truth` is what would be said, both bool [X, L].

    A task without positives loses nothing: its AAL is 0.
    """
    t, p = np.asarray(truth, bool), np.asarray(asked, bool)
    if t.shape != p.shape or t.ndim != 2 or not t.size:
        raise ValueError(f"expected two equal matrices texts x tasks, got {t.shape} and {p.shape}")
    lost, positives = (t & ~p).sum(0), t.sum(0)
    per_task = np.divide(lost, positives, out=np.zeros(len(lost)), where=positives > 0)
    return Saving(
        aer=float((~t & ~p).mean()),
        aal=float(lost.sum() / max(1, positives.sum())),
        mlral=float(per_task.mean()),
        removed=float((~p).mean()),
    )


def f1_two_class(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over tasks of the macro-F1 of "has it" and "has it not": the paper's "F1 macro"."""
    return _f1("macro_f1_two_class", truth, predicted)


def f1_positive(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over tasks of the F1 of "has it"."""
    return _f1("macro_f1", truth, predicted)


def _f1(name: str, truth: np.ndarray, predicted: np.ndarray) -> float:
    sums = metrics.multi_statistics(np.asarray(truth, bool), np.asarray(predicted, bool)).sum(0)
    labels = [str(i) for i in range(truth.shape[1])]
    return float(metrics.evaluate(name, sums, labels, "multi"))


# --- curves --------------------------------------------------------------------------------------


def keep_highest(scores: np.ndarray, removed: float, seed: int = 0) -> np.ndarray:
    """Asks the cells with the highest scores [X, L], so that a share `removed` is not asked.

    Cells with equal scores are taken at random.
    """
    if not 0 <= removed <= 1:
        raise ValueError(f"removed must be in [0, 1], got {removed}")
    ties = np.random.default_rng(seed).random(scores.size)
    order = np.lexsort((ties, scores.reshape(-1)))
    asked = np.ones(scores.size, bool)
    asked[order[: round(removed * scores.size)]] = False
    return asked.reshape(scores.shape)


def curve(
    truth: np.ndarray, scores: np.ndarray, rates: Sequence[float], seed: int = 0
) -> list[Saving]:
    """Savings at each share of removed annotations, by scores [X, L] of the cells."""
    return [saving(truth, keep_highest(scores, rate, seed)) for rate in rates]


def policies(truth: np.ndarray, folds: np.ndarray, model: np.ndarray, seed: int = 0) -> dict:
    """Scores [X, L] of every policy: the model's, and those that it has to beat.

    Args:
      truth: bool [X, L].
      folds: fold of each text [X]; a text's priors come from the other folds.
      model: the model's out-of-fold probabilities [X, L].
      seed: of the random policy.

    Returns:
      {"model", "constant" (each task's rate in training), "random", "oracle"}.
    """
    constant = np.zeros(truth.shape)
    for fold in np.unique(folds):
        constant[folds == fold] = truth[folds != fold].mean(axis=0)
    return {
        "model": model,
        "constant": constant,
        "random": np.random.default_rng([seed, 11]).random(truth.shape),
        "oracle": truth.astype(float),
    }

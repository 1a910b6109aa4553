# SPDX-License-Identifier: Apache-2.0
"""Which annotations to ask for next (active learning); the selectors of the group's code base.

A selector orders candidates: it returns their places, best first. It sees the predicted
probabilities of every class of every question for each candidate, and who and what it is. The
public code has one that sorts by `argsort(confidence)` used as a rank, which permutes instead of
ordering; here values are sorted.

Dimensions: N candidates, T questions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """What may be asked.

    Attributes:
      probabilities: for each question the probabilities of its classes, [N, C] each.
      text, annotator: of each candidate [N].
      asked: how many annotations each text has already [X].
      rng: for random choices and ties.
    """

    probabilities: tuple[np.ndarray, ...]
    text: np.ndarray
    annotator: np.ndarray
    asked: np.ndarray
    rng: np.random.Generator

    def __len__(self) -> int:
        return len(self.text)


Selector = Callable[[Candidates], np.ndarray]


def _ascending(values: np.ndarray, c: Candidates) -> np.ndarray:
    """Places in the order of values; equal values at random."""
    return np.lexsort((c.rng.random(len(c)), values))


def random(c: Candidates) -> np.ndarray:
    """Any order."""
    return c.rng.permutation(len(c))


def least_confident(c: Candidates) -> np.ndarray:
    """Smallest probability of the predicted class, mean over questions."""
    return _ascending(np.mean([p.max(axis=1) for p in c.probabilities], axis=0), c)


def all_confidence(c: Candidates) -> np.ndarray:
    """Smallest cosine distance of the joined probabilities from the vector of all 0.5."""
    joined = np.concatenate(c.probabilities, axis=1)
    cosine = joined.sum(1) / (np.linalg.norm(joined, axis=1) * np.sqrt(joined.shape[1]))
    return _ascending(1 - cosine, c)


def balanced_confidence(c: Candidates) -> np.ndarray:
    """Smallest gap between the two most probable classes, mean over questions."""
    gaps = []
    for p in c.probabilities:
        top = np.sort(p, axis=1)
        gaps.append(top[:, -1] - top[:, -2])
    return _ascending(np.mean(gaps, axis=0), c)


def max_positive(c: Candidates) -> np.ndarray:
    """Largest probability of a class that is not the first ("no"), over all questions."""
    return _ascending(-np.max([p[:, 1:].max(axis=1) for p in c.probabilities], axis=0), c)


def text_confidence(c: Candidates) -> np.ndarray:
    """Mean confidence of a text's candidates; then of the annotator's; least confident first."""
    own = np.mean([p.max(axis=1) for p in c.probabilities], axis=0)
    means = []
    for index in (c.text, c.annotator):
        count = np.bincount(index)
        means.append((np.bincount(index, own) / np.maximum(count, 1))[index])
    return np.lexsort((c.rng.random(len(c)), means[1], means[0]))


def balanced_classes(c: Candidates) -> np.ndarray:
    """Round-robin over the predicted classes of the first question, most confident first."""
    p = c.probabilities[0]
    predicted, sure = p.argmax(axis=1), p.max(axis=1)
    order = np.lexsort((c.rng.random(len(c)), -sure, predicted))
    return order[np.lexsort((predicted[order], _rank_within(predicted[order])))]


def diversity(c: Candidates) -> np.ndarray:
    """Round-robin over texts: those with the fewest annotations first."""
    order = c.rng.permutation(len(c))
    level = c.asked[c.text[order]] + _rank_within(c.text[order])
    return order[np.argsort(level, kind="stable")]


def scaled_diversity(c: Candidates) -> np.ndarray:
    """Confidence times (1 + annotations of the text), smallest first: unsure and little asked."""
    sure = np.mean([p.max(axis=1) for p in c.probabilities], axis=0)
    return _ascending(sure * (1 + c.asked[c.text]), c)


def _rank_within(groups: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... for the members of each group in their order."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ordered)) + 1]).astype(int)
    lengths = np.diff(np.append(starts, len(groups)))
    rank = np.empty(len(groups), int)
    rank[order] = np.arange(len(groups)) - np.repeat(starts, lengths)
    return rank


SELECTORS: dict[str, Selector] = {
    "random": random,
    "least_confident": least_confident,
    "all_confidence": all_confidence,
    "balanced_confidence": balanced_confidence,
    "max_positive": max_positive,
    "text_confidence": text_confidence,
    "balanced_classes": balanced_classes,
    "diversity": diversity,
    "scaled_diversity": scaled_diversity,
}

# SPDX-License-Identifier: Apache-2.0
"""Features of annotators from their past annotations, for the models that take them.

Every function gives [U + 1, L]: row 0 is a stranger, who has what an annotator without a past has.
"""

from __future__ import annotations

import numpy as np

from nlp.annotations import MISSING, AnnotationSet, conformity, personal_bias


def make(model: str, data: AnnotationSet, past: np.ndarray, texts: np.ndarray) -> np.ndarray | None:
    """Features that a model takes, float32 [U + 1, L], or None.

    Args:
      model: see `models.MODELS`.
      data: annotations.
      past: rows that may be used.
      texts: text vectors [X, D].
    """
    if model == "peb":
        return _with_stranger(personal_bias(data, past), 0.0)
    if model == "conformity":
        found = conformity(data, past)
        parts = (found.weighted, found.weighted_positive, found.weighted_negative)
        return _with_stranger(np.concatenate(parts, axis=1), 1.0)
    if model == "past_embeddings":
        return _with_stranger(past_embeddings(data, past, texts), 0.0)
    return None


def _with_stranger(values: np.ndarray, value: float) -> np.ndarray:
    first = np.full((1, values.shape[1]), value)
    return np.concatenate([first, values]).astype(np.float32)


def past_embeddings(data: AnnotationSet, past: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Mean vector of the past texts that each annotator marked 1, then of those marked 0.

    Marks are those of the first task (any class but the first is a 1); zeros where there are none.

    Returns:
      [U, 2 D] float32.
    """
    labels, size = data.labels[past, 0], len(data.annotator_ids)
    means = []
    for wanted in (labels > 0, labels == 0):
        rows = past[wanted & (labels != MISSING)]
        total = np.zeros((size, texts.shape[1]), np.float32)
        for start in range(0, len(rows), 4096):  # bounded memory for many annotations
            block = rows[start : start + 4096]
            np.add.at(total, data.annotator[block], texts[data.text[block]])
        count = np.bincount(data.annotator[rows], minlength=size)
        means.append(total / np.maximum(count, 1)[:, None])
    return np.concatenate(means, axis=1)

# SPDX-License-Identifier: Apache-2.0
"""What all annotators together said of each text: shares of positive answers.

Sets that publish only votes or majorities are read into the same form. Dimensions: X texts, L
labels (a binary task, or one class of several).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from nlp.annotations.schema import MISSING, AnnotationSet, DataError, Task


@dataclasses.dataclass(frozen=True, eq=False)
class TextLabels:
    """Shares of annotators that gave each label.

    Attributes:
      name: of the data set.
      texts: X texts.
      text_ids: their names, unique.
      labels: L names.
      share: float64 [X, L] in [0, 1]; NaN where nobody was asked.
      votes: int64 [X, L], answers behind each share; 0 where it is NaN.
    """

    name: str
    texts: tuple[str, ...]
    text_ids: tuple[str, ...]
    labels: tuple[str, ...]
    share: np.ndarray
    votes: np.ndarray

    def __post_init__(self) -> None:
        shape = (len(self.texts), len(self.labels))
        if self.share.shape != shape or self.votes.shape != shape:
            raise DataError(f"{self.name}: expected share and votes {shape}")
        if len(self.text_ids) != len(self.texts) or len(set(self.text_ids)) != len(self.texts):
            raise DataError(f"{self.name}: every text needs an id of its own")
        known = self.share[~np.isnan(self.share)]
        if known.size and (known.min() < 0 or known.max() > 1):
            raise DataError(f"{self.name}: shares must be in [0, 1]")

    def __len__(self) -> int:
        return len(self.texts)

    def targets(self, theta: float = 0.15) -> np.ndarray:
        """1 where the share is at least `theta` (arXiv 2312.08198), bool [X, L]; unknown is 0."""
        if not 0 <= theta <= 1:
            raise ValueError(f"theta must be in [0, 1], got {theta}")
        # Shares are ratios of counts: 3 / 20 must reach 0.15 in floating point too.
        return np.nan_to_num(self.share, nan=-1.0) >= theta - 1e-9

    def select(self, rows: np.ndarray) -> TextLabels:
        """Some of the texts: indices."""
        picked = np.arange(len(self))[rows]
        return dataclasses.replace(
            self,
            texts=tuple(self.texts[i] for i in picked),
            text_ids=tuple(self.text_ids[i] for i in picked),
            share=self.share[picked],
            votes=self.votes[picked],
        )


def aggregate(data: AnnotationSet, above: float = 0.0, missing: str = "skip") -> TextLabels:
    """Share of annotators whose answer has a value above `above`, for every text and task.

    Args:
      data: single annotations.
      above: ratings above this count as positive (the paper's is 0).
      missing: answers that were not given are left out ("skip"), or count as a "no" where a task is
        only asked of those who said yes to another one.
    """
    if missing not in ("skip", "no"):
        raise ValueError(f"missing must be 'skip' or 'no', got {missing!r}")
    values = data.values()
    given = ~np.isnan(values) if missing == "skip" else np.ones(values.shape, bool)
    positive = given & (np.nan_to_num(values, nan=-np.inf) > above)
    shape = (len(data.texts), len(data.tasks))
    votes, ones = np.zeros(shape), np.zeros(shape)
    np.add.at(votes, data.text, given)
    np.add.at(ones, data.text, positive)
    share = np.divide(ones, votes, out=np.full(shape, np.nan), where=votes > 0)
    names = tuple(task.name for task in data.tasks)
    return TextLabels(data.name, data.texts, data.text_ids, names, share, votes.astype(np.int64))


def one_hot(data: AnnotationSet, task: str) -> AnnotationSet:
    """A task of several classes as one binary task for each class."""
    single = data.with_tasks([task])
    tasks = tuple(Task(name) for name in single.tasks[0].classes)
    column = single.labels[:, 0]
    labels = np.where(column[:, None] == MISSING, MISSING, column[:, None] == np.arange(len(tasks)))
    return dataclasses.replace(single, tasks=tasks, labels=labels)

# SPDX-License-Identifier: Apache-2.0
"""Personal few-shot: which earlier judgements of an annotator the prompt shows.

Random contextual few-shot draws from the annotator's training judgements; most-controversial
few-shot takes those of the texts on which training annotators disagree most (arXiv 2302.10724).
Draws depend on the item and the seed only, so order and number of items do not matter, and the
examples of k shots are the first k of those of more shots.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from nlp.evaluation.records import Item

SELECTIONS = ("random", "controversial")


class Pool:
    """Training judgements by annotator."""

    def __init__(
        self, train: Sequence[Item], labels: Sequence[str], selection: str = "random", seed: int = 0
    ):
        """Takes training items only.

        Args:
          train: single annotators' judgements, of texts that are not asked.
          labels: the task's labels.
          selection: one of `SELECTIONS`.
          seed: of random draws, and of ties between equally controversial texts.
        """
        if selection not in SELECTIONS:
            raise ValueError(f"selection must be one of {SELECTIONS}, got {selection!r}")
        self._selection, self._seed = selection, seed
        self._own: dict[str, list[Item]] = {}
        for item in train:
            if not item.annotator:
                raise ValueError(f"training item {item.id!r} has no annotator")
            self._own.setdefault(item.annotator, []).append(item)
        self._controversy = controversy(train, labels) if selection == "controversial" else {}

    def available(self, item: Item) -> int:
        """How many examples there are for an item."""
        return sum(e.text_id != item.text_id for e in self._own.get(item.annotator, ()))

    def examples(self, item: Item, shots: int) -> list[Item]:
        """The examples for an item.

        Raises:
          ValueError: the annotator has fewer.
        """
        own = [e for e in self._own.get(item.annotator, ()) if e.text_id != item.text_id]
        if len(own) < shots:
            raise ValueError(
                f"annotator {item.annotator!r} has {len(own)} training judgements, {shots} asked"
            )
        return sorted(own, key=lambda e: self._rank(item, e))[:shots]

    def _rank(self, item: Item, example: Item) -> tuple[float, bytes]:
        # Controversial examples are the same for all items of an annotator; ties are drawn.
        about = "" if self._selection == "controversial" else item.id
        draw = hashlib.sha256(f"{self._seed}\0{about}\0{example.id}".encode()).digest()
        return -self._controversy.get(example.text_id, 0.0), draw


def controversy(items: Sequence[Item], labels: Sequence[str]) -> dict[str, float]:
    """Text -> standard deviation (population) of its judgements, averaged over labels."""
    index = {label: i for i, label in enumerate(labels)}
    votes: dict[str, list[np.ndarray]] = {}
    for item in items:
        vector = np.zeros(len(labels))
        for label in item.labels:
            vector[index[label]] = 1
        votes.setdefault(item.text_id, []).append(vector)
    return {text: float(np.std(np.stack(v), axis=0).mean()) for text, v in votes.items()}


def common_subset(items: Sequence[Item], pool: Pool, shots: Sequence[int]) -> list[Item]:
    """Items that have examples for the largest number of shots, so that all are comparable."""
    most = max(shots, default=0)
    return [item for item in items if pool.available(item) >= most]

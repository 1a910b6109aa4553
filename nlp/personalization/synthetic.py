# SPDX-License-Identifier: Apache-2.0
"""Populations of annotators whose ways of judging are known, to see which models can learn them.

A text has a hidden score s; annotators answer "yes" where s exceeds their threshold. "shifted"
annotators have thresholds of their own: models with an annotator's bias learn them. "inverted"
annotators answer the opposite: only a model in which annotator and text interact can learn both
them and the others, additive ones stay at chance when half of the annotators invert.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from nlp.annotations import AnnotationSet, Task

KINDS = ("shifted", "inverted")


@dataclasses.dataclass(frozen=True)
class Population:
    """Sizes of a population.

    Attributes:
      kind: one of `KINDS`.
      texts, annotators, per_text: numbers; every text is judged by `per_text` annotators.
      size: D, entries of a text vector.
      noise: share of answers that are flipped.
      seed: of everything.
    """

    kind: str = "inverted"
    texts: int = 1000
    annotators: int = 20
    per_text: int = 8
    size: int = 16
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {self.kind!r}")
        if not 1 <= self.per_text <= self.annotators:
            raise ValueError(f"expected 1 <= per_text <= {self.annotators}, got {self.per_text}")


def make(how: Population) -> tuple[AnnotationSet, np.ndarray]:
    """A population's annotations and the text vectors [X, D]; half of the annotators differ."""
    rng = np.random.default_rng(how.seed)
    vectors = rng.normal(size=(how.texts, how.size)).astype(np.float32)
    direction = rng.normal(size=how.size)
    score = vectors @ direction / np.linalg.norm(direction)
    odd = np.arange(how.annotators) % 2 == 1
    # The pairs without repetition: each text takes a run of a random circle of annotators.
    circle = rng.permutation(how.annotators)
    start = rng.integers(how.annotators, size=how.texts)
    person = circle[(start[:, None] + np.arange(how.per_text)) % how.annotators].reshape(-1)
    text = np.repeat(np.arange(how.texts), how.per_text)
    threshold = np.where(odd, 1.0, -1.0) if how.kind == "shifted" else np.zeros(how.annotators)
    answer = score[text] > threshold[person]
    if how.kind == "inverted":
        answer ^= odd[person]
    answer ^= rng.random(len(answer)) < how.noise
    ids = tuple(f"text {i}" for i in range(how.texts))
    people = tuple(f"annotator {i}" for i in range(how.annotators))
    data = AnnotationSet(
        how.kind, ids, ids, people, (Task("yes"),), text, person, answer[:, None]
    )  # fmt: skip
    return data, vectors

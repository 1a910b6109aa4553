# SPDX-License-Identifier: Apache-2.0
"""Active learning replayed on a set whose answers are all known.

Every selector starts from the same random annotations, adds a step of its own choice, retrains and
is scored on test texts; all selectors and seeds train together as members of one `HeadsTask`.
Questions with more than two classes become one binary question for each class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from nlp.acquisition.heads import Heads, HeadsTask, probabilities, train, without_stopping
from nlp.acquisition.selectors import SELECTORS, Candidates
from nlp.annotations import MISSING, AnnotationSet, text_folds
from nlp.personalization import scores


@dataclasses.dataclass(frozen=True)
class Simulation:
    """A replay.

    Attributes:
      selectors: of `selectors.SELECTORS`.
      start: random annotations of the beginning. step: added in each round. rounds: how many.
      seeds: repetitions of each selector.
      heads: how the model is trained (linear in the text and in who answers).
    """

    selectors: tuple[str, ...] = tuple(SELECTORS)
    start: int = 100
    step: int = 100
    rounds: int = 8
    seeds: int = 3
    heads: Heads = Heads(epochs=15, batch_size=128)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.selectors) - set(SELECTORS)):
            raise ValueError(f"unknown selectors {unknown}; known: {sorted(SELECTORS)}")
        if min(self.start, self.step, self.rounds, self.seeds) < 1:
            raise ValueError("start, step, rounds and seeds must be at least 1")
        without_stopping(self.heads, "the replay")


def simulate(
    data: AnnotationSet,
    vectors: np.ndarray,
    how: Simulation,
    report: Callable[[str], None] = lambda line: None,
) -> list[dict]:
    """Scores after each round: [{selector, seed, annotations, pooled, personal, positives}].

    Args:
      data: annotations with binary tasks.
      vectors: of texts [X, D].
      how: see `Simulation`.
      report: receives a line for each round.
    """
    if any(classes != 2 for classes in data.classes):
        raise ValueError("the replay wants binary tasks; see annotations.aggregate.one_hot")
    parts = text_folds(data, 5, 0)
    pool = np.concatenate([parts.train, parts.validation])
    members = [(name, seed) for name in how.selectors for seed in range(how.seeds)]
    rngs = [np.random.default_rng([seed, 1]) for _, seed in members]
    chosen = np.zeros((len(members), len(pool)), bool)
    for m, (_, seed) in enumerate(members):  # one start for all selectors of a seed
        first = np.random.default_rng(seed).permutation(len(pool))[: how.start]
        chosen[m, first] = True
    # The annotator is one-hot beside the text vector, scaled to its length 1.
    person = np.eye(len(data.annotator_ids), dtype=np.float32)
    inputs = lambda rows: np.concatenate(
        [vectors[data.text[rows]], person[data.annotator[rows]]], 1
    )
    pool_inputs, test_inputs = inputs(pool), inputs(parts.test)
    answers = np.where(data.labels[pool] == MISSING, np.nan, data.labels[pool])[None]
    table = []
    for number in range(how.rounds):
        task = HeadsTask(how.heads, pool_inputs, answers, chosen.astype(np.float32))
        params = train(task, seed=number)
        tested = probabilities(task, params, test_inputs)
        found = probabilities(task, params, pool_inputs)
        for m, (name, seed) in enumerate(members):
            said = (tested[m] >= 0.5).astype(int)
            values = scores.score(data, parts.test, said)
            positives = float((data.labels[pool[chosen[m]]] == 1).sum())
            table.append(
                {"selector": name, "seed": seed, "annotations": int(chosen[m].sum()),
                 "pooled": values["pooled"], "personal": values["personal"],
                 "positives": positives}
            )  # fmt: skip
            _choose(data, pool, chosen[m], found[m], name, rngs[m], how.step)
        report(f"round {number + 1} of {how.rounds}: {int(chosen[0].sum())} annotations next")
    return table


def _choose(
    data: AnnotationSet,
    pool: np.ndarray,
    chosen: np.ndarray,
    found: np.ndarray,
    selector: str,
    rng: np.random.Generator,
    step: int,
) -> None:
    """Adds up to `step` annotations to `chosen` [pool], by the selector."""
    free = np.flatnonzero(~chosen)
    rows = pool[free]
    candidates = Candidates(
        tuple(np.stack([1 - p, p], axis=1) for p in found[free].T),
        data.text[rows],
        data.annotator[rows],
        np.bincount(data.text[pool[chosen]], minlength=len(data.texts)),
        rng,
    )
    chosen[free[SELECTORS[selector](candidates)[:step]]] = True


def area_under(table: Sequence[dict], selector: str, score: str = "personal") -> list[float]:
    """Mean score over the rounds, for each seed of a selector."""
    seeds = sorted({row["seed"] for row in table if row["selector"] == selector})
    return [
        float(np.mean([r[score] for r in table if (r["selector"], r["seed"]) == (selector, s)]))
        for s in seeds
    ]

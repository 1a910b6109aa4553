# SPDX-License-Identifier: Apache-2.0
"""The usable tool: which (text, task) questions to put to annotators, round by round.

The first round asks all tasks of randomly drawn texts. Later rounds train a predictor on the
answers, predict the texts that have not been decided on, draw a balanced batch of them from
clusters of their predicted task vectors, and ask the tasks whose probability reaches the threshold.
A random share of the other tasks is asked all the same ("audit"): only so can the project know what
it loses.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from nlp.acquisition import deployment
from nlp.acquisition.heads import Heads, HeadsTask, probabilities, train, without_stopping
from nlp.acquisition.store import Project, Question
from nlp.personalization.encoders import Encoder, encode


@dataclasses.dataclass(frozen=True)
class Tool:
    """Settings of the tool.

    Attributes:
      encoder: text vectors; fitted on all texts of the project, which needs no answers.
      heads: how the predictor is trained.
      theta: a task is relevant to a text if this share of annotators says yes.
      threshold: a task is asked if its predicted probability is at least this.
      start: texts of the first round, asked everything.
      audit: share of the tasks below the threshold that are asked all the same.
      clusters: of predicted task vectors, for balanced batches.
      seed: of all draws.
    """

    encoder: Encoder = Encoder()
    heads: Heads = Heads()
    theta: float = 0.15
    threshold: float = 0.15
    start: int = 100
    audit: float = 0.05
    clusters: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("theta", "threshold", "audit"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.start < 1 or self.clusters < 1:
            raise ValueError(f"expected at least 1: {self.start=} {self.clusters=}")
        without_stopping(self.heads, "the tool")


def plan_round(project: Project, how: Tool, texts: int) -> int:
    """Decides on further texts and stores the questions; returns how many texts were decided on.

    Args:
      project: the state.
      how: see `Tool`.
      texts: how many texts to decide on; in the first round `how.start`, if that is more.

    Raises:
      ValueError: there are no texts or tasks, or no answers to learn from after the first round.
    """
    names, tasks = project.texts(), project.tasks()
    if not names or not tasks:
        raise ValueError("the project has no texts or no tasks yet")
    decided = project.decided()
    rng = np.random.default_rng([how.seed, len(decided)])
    free = np.setdiff1d(np.arange(len(names)), decided)
    if not len(free):
        return 0
    if not len(decided):
        first = rng.permutation(free)[: max(texts, how.start)]
        ask = [Question(int(x), t, "start") for x in np.sort(first) for t in range(len(tasks))]
        project.plan(ask, [])
        return len(first)
    probability = predict(project, how)
    wanted = probability >= how.threshold
    cluster = deployment.cluster_vectors(wanted, how.clusters, how.seed)
    drawn = deployment.balanced_draw(cluster, texts, decided, int(rng.integers(2**31)))
    ask, skip = [], []
    for x in sorted(drawn):
        for t in range(len(tasks)):
            p = float(probability[x, t])
            if wanted[x, t]:
                ask.append(Question(x, t, "relevant", p))
            elif rng.random() < how.audit:
                ask.append(Question(x, t, "audit", p))
            else:
                skip.append(Question(x, t, "", p))
    project.plan(ask, skip)
    return len(drawn)


def predict(project: Project, how: Tool) -> np.ndarray:
    """Probability that each task is relevant to each text, [X, L], from the answers so far.

    Raises:
      ValueError: nobody has answered anything yet.
    """
    labels = project.labels()
    known = labels.votes.sum(axis=1) > 0
    if not known.any():
        raise ValueError("there are no answers yet: give some back before the next round")
    vectors = encode(labels.texts, how.encoder)
    targets = np.where(labels.votes > 0, labels.targets(how.theta), np.nan)
    task = HeadsTask(how.heads, vectors, targets[None], known[None].astype(np.float32))
    return probabilities(task, train(task, how.seed), vectors)[0]


def status(project: Project, how: Tool) -> dict[str, Any]:
    """Numbers of the project, and what is saved and lost as far as the audit tells.

    `removed` is the share of decided pairs that are not asked. `positives_lost` estimates how many
    wanted ones are among them: the share of yes in the audit times the skipped pairs; None without
    audit answers. `positives_lost_at_most` takes the upper 95 % limit of that share (Clopper and
    Pearson): an audit without a yes does not mean that nothing is lost. `aal` relates the estimate
    to all wanted pairs, found and lost.
    """
    counts: dict[str, Any] = dict(project.counts())
    decided = counts["questions"] + counts["skipped"]
    counts["open"] = len(project.open_questions())
    counts["removed"] = round(counts["skipped"] / decided, 4) if decided else 0.0
    labels = project.labels()
    found = int((labels.targets(how.theta) & (labels.votes > 0)).sum())
    counts["positives_found"] = found
    audits = project.audits()
    counts["audit_answers"] = len(audits)
    counts["positives_lost"] = counts["positives_lost_at_most"] = counts["aal"] = None
    if audits:
        yes = sum(share >= how.theta - 1e-9 for *_, share in audits)
        lost = yes / len(audits) * counts["skipped"]
        counts["positives_lost"] = round(lost, 1)
        limit = upper_limit(yes, len(audits))
        counts["positives_lost_at_most"] = round(limit * counts["skipped"], 1)
        counts["aal"] = round(lost / (found + lost), 4) if found + lost else 0.0
    return counts


def upper_limit(yes: int, answers: int, level: float = 0.95) -> float:
    """One-sided upper confidence limit of a share (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    return float(beta.ppf(level, yes + 1, answers - yes)) if yes < answers else 1.0

# SPDX-License-Identifier: Apache-2.0
"""What generated texts are worth: classifiers on original, synthetic and joined texts.

Combinations are trained at once, as members of one `HeadsTask`: one binary head for each class,
texts weighted by 1 / share of their class. The original texts alone are trained apart, so that the
vocabulary of a fitted encoder knows no synthetic text where none is learned from. A seed has its
own initial values and order; the texts are the same for all seeds.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nlp.acquisition.heads import (
    Heads,
    HeadsTask,
    probabilities,
    train,
    train_with_stopping,
)
from nlp.augmentation.conversations import KINDS
from nlp.evaluation import metrics, stats
from nlp.personalization.encoders import Encoder, encode
from nlp.personalization.scores import Spread, spread

PyTree = Any

# Name -> (original texts are in, kinds of synthetic ones).
COMBINATIONS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "original": (True, ()),
    **{f"+ {kind}": (True, (kind,)) for kind in KINDS},
    "+ both para": (True, ("para", "para_conv")),
    "+ both insp": (True, ("insp", "insp_lab")),
    "+ all": (True, KINDS),
    **{f"{kind} alone": (False, (kind,)) for kind in KINDS},
}


@dataclasses.dataclass(frozen=True)
class Student:
    """A classifier that is trained: text vectors and heads.

    Attributes:
      name: in tables.
      encoder: of the texts; a fitted one sees the training texts: for "original" those alone,
        for all other combinations original and synthetic ones.
      hidden: units between vectors and classes; 0 is linear.
    """

    name: str = "small"
    encoder: Encoder = Encoder()
    hidden: int = 0


@dataclasses.dataclass(frozen=True)
class Training:
    """How students are trained.

    Attributes:
      seeds: repetitions; the paper's are 5.
      students: see `Student`.
      heads: see `Heads`; its hidden units are the student's. A rule of stopping goes by macro-F1
        on the part "validation". "min_mode" with patience 4 and min_delta 0.001 is the public
        code's defect: it takes a rising score for a falling loss and stops after five epochs.
    """

    seeds: int = 5
    students: tuple[Student, ...] = (Student(),)
    heads: Heads = Heads(epochs=30, batch_size=128)

    def __post_init__(self) -> None:
        if self.seeds < 1 or not self.students:
            raise ValueError(f"expected {self.seeds=} >= 1 and one or more students")


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Labelled texts: `labels` are class indices [n]; `kind` is "" for original texts."""

    texts: tuple[str, ...]
    labels: np.ndarray
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.texts) or len(self.kinds) not in (0, len(self.texts)):
            raise ValueError(f"{len(self.texts)} texts, {len(self.labels)} labels")


def combine(part: Part, classes: int) -> tuple[list[str], np.ndarray]:
    """(names of combinations, weights [M, n]) of a training part with its kinds.

    Every text weighs 1 / share of its class in the combination, mean 1. A combination without
    texts of some kind is left out.
    """
    kinds = np.array(part.kinds or ("",) * len(part.texts))
    names, rows = [], []
    for name, (original, wanted) in COMBINATIONS.items():
        if any(not (kinds == kind).any() for kind in wanted):
            continue
        inside = np.isin(kinds, wanted) | (original & (kinds == ""))
        counts = np.bincount(part.labels[inside], minlength=classes)
        present = np.maximum(counts, 1)
        weight = inside / present[part.labels]
        names.append(name)
        rows.append(weight * inside.sum() / weight.sum())
    return names, np.stack(rows).astype(np.float32)


def compare(
    train_part: Part, held: Mapping[str, Part], labels: Sequence[str], how: Training
) -> list[dict]:
    """Scores of every student, combination and seed.

    Args:
      train_part: original and synthetic texts.
      held: named parts to score, for instance {"validation": ..., "test": ...}; original texts.
      labels: names of the classes.
      how: see `Training`.

    Returns:
      [{student, combination, seed, texts, "<part>_f1", "<part>_accuracy", latency_ms}].
    """
    if how.heads.stopping != "none" and "validation" not in held:
        raise ValueError(f"stopping {how.heads.stopping!r} needs a part 'validation'")
    names, weights = combine(train_part, len(labels))
    own = np.flatnonzero(np.array(train_part.kinds or ("",) * len(train_part.texts)) == "")
    original = Part(tuple(train_part.texts[i] for i in own), train_part.labels[own])
    table = []
    for student in how.students:
        table += _train_members(
            student, original, ["original"], weights[:1, own], held, labels, how
        )
        if names[1:]:
            table += _train_members(student, train_part, names[1:], weights[1:], held, labels, how)
    return table


def _train_members(
    student: Student,
    part: Part,
    names: Sequence[str],
    weights: np.ndarray,
    held: Mapping[str, Part],
    labels: Sequence[str],
    how: Training,
) -> list[dict]:
    """Rows of the combinations `names`, whose weights of the texts of `part` are [M, n]."""
    targets = np.eye(len(labels))[part.labels][None]
    vectors, latency = _encode(student, part, held)
    heads = dataclasses.replace(how.heads, hidden=student.hidden)
    table = []
    for seed in range(how.seeds):
        task = HeadsTask(heads, vectors["train"], targets, weights)
        params = _fit(task, seed, vectors, held, labels)
        rows = [
            {"student": student.name, "combination": name, "seed": seed,
             "texts": int((w > 0).sum()), "latency_ms": latency}
            for name, w in zip(names, weights, strict=True)
        ]  # fmt: skip
        for held_name, gold in held.items():
            found = probabilities(task, params, vectors[held_name]).argmax(axis=2)
            for row, said in zip(rows, found, strict=True):
                row |= _scores(held_name, gold.labels, said, labels)
        table += rows
    return table


def _fit(
    task: HeadsTask,
    seed: int,
    vectors: Mapping[str, np.ndarray],
    held: Mapping[str, Part],
    labels: Sequence[str],
) -> PyTree:
    """Parameters after the training, or at the epochs that the stopping rule chooses."""
    if task.how.stopping == "none":
        return train(task, seed)

    def score(params: PyTree) -> list[float]:
        found = probabilities(task, params, vectors["validation"]).argmax(axis=2)
        gold = held["validation"].labels
        return [_scores("", gold, said, labels)["_f1"] for said in found]

    return train_with_stopping(task, seed, score)


def _encode(
    student: Student, train_part: Part, held: Mapping[str, Part]
) -> tuple[dict[str, np.ndarray], float]:
    """(vectors by part, milliseconds to encode one text)."""
    parts = {"train": train_part, **held}
    texts = [text for part in parts.values() for text in part.texts]
    began = time.process_time()
    joined = encode(texts, student.encoder, np.arange(len(train_part.texts)))
    latency = 1000 * (time.process_time() - began) / len(texts)
    ends = np.cumsum([len(part.texts) for part in parts.values()])
    return dict(zip(parts, np.split(joined, ends[:-1]), strict=True)), latency


def _scores(part: str, gold: np.ndarray, said: np.ndarray, labels: Sequence[str]) -> dict:
    hits = (gold == said).astype(float)
    sums = metrics.single_statistics(gold, said, hits, len(labels)).sum(0)
    return {
        f"{part}_f1": float(metrics.evaluate("macro_f1", sums, labels, "single")),
        f"{part}_accuracy": float(hits.mean()),
    }


@dataclasses.dataclass(frozen=True)
class Gain:
    """What a combination is worth against the original texts.

    Attributes:
      f1: its score. points: paired difference in percentage points over seeds.
      normalised: 100 (new - base) / (100 - base) of the mean scores in percent. The published
        figures show, through a mix of units, something close to `points` instead.
    """

    f1: Spread
    points: Spread
    normalised: float


def gains(table: Sequence[Mapping], student: str, score: str = "test_f1") -> dict[str, Gain]:
    """Gains of every combination of a student over "original"."""
    own: dict[str, list[float]] = {}
    for row in table:
        if row["student"] == student:
            own.setdefault(row["combination"], []).append(row[score])
    if "original" not in own:
        raise ValueError(f"no scores of {student!r} on the original texts")
    base = own["original"]
    found = {}
    for name, values in own.items():
        difference = spread([100 * (v - b) for v, b in zip(values, base, strict=True)])
        normalised = stats.gain(100 * float(np.mean(values)), 100 * float(np.mean(base)))[1]
        found[name] = Gain(spread(values), difference, normalised)
    return found


def best_by_validation(table: Sequence[Mapping], student: str) -> str:
    """The combination with the best mean validation F1; never chosen by test scores."""
    found = gains(table, student, "validation_f1")
    return max(found, key=lambda name: found[name].f1.mean)

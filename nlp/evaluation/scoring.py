# SPDX-License-Identifier: Apache-2.0
"""From parsed answers to scores, under an explicit policy for answers that cannot be used.

Policies:
  strict (default): an answer without a clear label, or with a label outside the set, is wrong.
  drop: such answers are left out, as most tasks of the study did; coverage tells how many.
  ignore_unknown: unknown labels are ignored; what is left counts, even if it is nothing.

Questions that were never answered (errors, texts over the context limit, filtered or stored error
messages) are in no score under any policy; they are counted apart.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from nlp.evaluation import metrics, stats
from nlp.evaluation.parsing import STATUSES, Unit
from nlp.evaluation.records import Item
from nlp.evaluation.tasks import POLICIES, Task

# Statuses whose labels count, by policy.
_USED = {
    "strict": frozenset({"ok", "repaired"}),
    "drop": frozenset({"ok", "repaired", "near_miss"}),
    "ignore_unknown": frozenset({"ok", "repaired", "near_miss", "partial"}),
}


@dataclasses.dataclass(frozen=True)
class Answer:
    """An item with what was answered; `units` is None if there was no answer."""

    item: Item
    units: tuple[Unit, ...] | None
    status: str = "ok"  # of the response


@dataclasses.dataclass(frozen=True)
class Rows:
    """Statistics of the scored questions: `sums` [R, F], and whose they are."""

    sums: np.ndarray
    items: tuple[str, ...]
    texts: tuple[str, ...]
    annotators: tuple[str, ...]
    groups: tuple[str, ...]

    def pick(self, keep: np.ndarray) -> Rows:
        """The rows where `keep` [R] is true."""
        some = lambda names: tuple(n for n, k in zip(names, keep, strict=True) if k)
        names = (self.items, self.texts, self.annotators, self.groups)
        return Rows(self.sums[keep], *(some(n) for n in names))


def rows(task: Task, answers: Sequence[Answer], policy: str = "strict") -> Rows:
    """Statistics of every question that the policy scores."""
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {POLICIES}, got {policy!r}")
    kept = [
        (answer.item, number, gold, _used(unit, policy))
        for answer in answers
        for number, (gold, unit) in enumerate(
            zip(answer.item.gold, answer.units or (), strict=bool(answer.units))
        )
        if _is_scored(unit, policy)
    ]
    sums = _statistics(task, [g for _, _, g, _ in kept], [said for *_, said in kept])
    return Rows(
        sums,
        tuple(f"{item.id}/{number}" if number else item.id for item, number, _, _ in kept),
        tuple(item.text_id or item.id for item, *_ in kept),
        tuple(item.annotator for item, *_ in kept),
        tuple(item.group for item, *_ in kept),
    )


def _is_scored(unit: Unit, policy: str) -> bool:
    if unit.status == "error_text":
        return False
    return policy != "drop" or unit.status in _USED["drop"]


def _used(unit: Unit, policy: str) -> tuple[str, ...] | None:
    return unit.labels if unit.status in _USED[policy] else None


def _statistics(
    task: Task, gold: Sequence[tuple[str, ...]], said: Sequence[tuple[str, ...] | None]
) -> np.ndarray:
    index, n = task.space.index(), len(task.labels)
    if task.layout == "single":
        true = np.array([index[g[0]] for g in gold], np.int64)
        first = np.array([index[s[0]] if s else -1 for s in said], np.int64)
        hits = np.array(
            [float(bool(s) and g[0] in s) for g, s in zip(gold, said, strict=True)]  # type: ignore[operator]
        )
        return metrics.single_statistics(true, first, hits, n)
    if task.layout == "multi":
        usable = np.array([s is not None for s in said], bool)  # a refusal is not "none of them"
        return metrics.multi_statistics(_indicators(gold, index), _indicators(said, index), usable)
    pairs = [(s[0] if s else None, g) for g, s in zip(gold, said, strict=True)]
    exact = {"number": metrics.equal_numbers, "span": metrics.exact_span}.get(
        task.answer, lambda answer, accepted: float(answer in accepted)
    )
    right = np.array([0.0 if a is None else exact(a, g) for a, g in pairs])
    overlap = np.array([0.0 if a is None else metrics.token_f1(a, g) for a, g in pairs])
    return metrics.value_statistics(right, overlap)


def _indicators(labels: Sequence[tuple[str, ...] | None], index: dict[str, int]) -> np.ndarray:
    out = np.zeros((len(labels), len(index)), bool)
    for row, names in enumerate(labels):
        for name in names or ():
            out[row, index[name]] = True
    return out


def score(
    task: Task,
    answers: Sequence[Answer],
    policy: str = "strict",
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """All numbers of one system on one task, ready for JSON.

    Returns:
      asked, answered, scored: questions; coverage: share of the asked ones with a usable answer;
      responses, statuses, extractors: counts; metrics: value and 95 % interval over texts;
      classes: per label gold and predicted counts, precision, recall, F1; confusion; personal:
      mean over annotators with interval over annotators; groups: metric by topic.
    """
    asked = sum(len(a.item.gold) for a in answers)
    units = [unit for a in answers for unit in a.units or ()]
    table = rows(task, answers, policy)
    usable = sum(unit.status in _USED[policy] for unit in units)
    result: dict[str, Any] = {
        "policy": policy,
        "asked": asked,
        "answered": sum(unit.status != "error_text" for unit in units),
        "scored": len(table.items),
        "coverage": usable / asked if asked else 0.0,
        "invalid": len(units) - usable,
        "responses": _counts(a.status for a in answers),
        "statuses": _counts((u.status for u in units), STATUSES),
        "extractors": _counts(u.extractor or "none" for u in units),
        "excess": sum(u.excess for u in units),
    }
    clusters = stats.cluster(table.sums, table.texts)
    result["metrics"] = {
        name: stats.bootstrap(clusters, _measure(task, name), resamples, seed)._asdict()
        for name in (task.metric, *task.also)
    }
    if task.layout != "value":
        result |= _by_class(task, table)
    if task.personal:
        result["personal"] = _personal(task, table, resamples, seed)
    if len(set(table.groups)) > 1:
        result["groups"] = _by_group(task, table)
    return result


def _measure(task: Task, name: str) -> stats.Measure:
    return lambda sums: metrics.evaluate(name, sums, task.labels, task.layout)


def _counts(values: Any, order: Sequence[str] = ()) -> dict[str, int]:
    found = collections.Counter(values)
    names = [n for n in order if n in found] if order else sorted(found)
    return {name: found[name] for name in names}


def _by_class(task: Task, table: Rows) -> dict[str, Any]:
    total, n = table.sums.sum(0), len(task.labels)
    _, gold, predicted = metrics.class_counts(total, n, task.layout)
    columns = {
        "gold": gold,
        "predicted": predicted,
        "precision": metrics.class_precision(total, n, task.layout),
        "recall": metrics.class_recall(total, n, task.layout),
        "f1": metrics.class_f1(total, n, task.layout),
    }
    classes = [
        {"label": label} | {name: float(values[i]) for name, values in columns.items()}
        for i, label in enumerate(task.labels)
    ]
    out: dict[str, Any] = {"classes": classes}
    if task.layout == "single":
        out["confusion"] = metrics.confusion(total, n).astype(int).tolist()
    return out


def _personal(task: Task, table: Rows, resamples: int, seed: int) -> dict[str, Any]:
    """Mean over annotators, each with the full label list."""
    own = stats.cluster(table.sums, table.annotators)
    out: dict[str, Any] = {"annotators": len(own)}
    for name in (task.metric, *task.also):
        values = metrics.evaluate(name, own, task.labels, task.layout)
        out[name] = stats.bootstrap_mean(values, resamples, seed)._asdict() if len(own) else None
    return out


def _by_group(task: Task, table: Rows) -> dict[str, dict[str, float]]:
    out = {}
    for group in sorted(set(table.groups)):
        own = table.sums[[g == group for g in table.groups]]
        names = (task.metric, *task.also)
        out[group] = {"n": float(len(own))} | {
            name: float(_measure(task, name)(own.sum(0))) for name in names
        }
    return out

# SPDX-License-Identifier: Apache-2.0
"""Comparisons on the same questions: models with models, personal prompts with general ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nlp.evaluation import metrics, scoring, stats, tasks
from nlp.evaluation.config import Evaluation
from nlp.evaluation.parsing import Unit
from nlp.evaluation.records import Item
from nlp.evaluation.scoring import Answer, Rows
from nlp.evaluation.tasks import Task
from nlp.evaluation.variant import Variant


def same_rows(first: Rows, second: Rows) -> tuple[Rows, Rows]:
    """The questions that both have, in the order of `first`."""
    places = {
        (i, a): n for n, (i, a) in enumerate(zip(second.items, second.annotators, strict=True))
    }
    names = list(zip(first.items, first.annotators, strict=True))
    keep = np.array([name in places for name in names], bool)
    order = [places[name] for name in names if name in places]
    picked = Rows(
        second.sums[order],
        *(tuple(column[i] for i in order) for column in (
            second.items, second.texts, second.annotators, second.groups)),
    )  # fmt: skip
    return first.pick(keep), picked


def _paired(
    task: Task, first: Sequence[Answer], second: Sequence[Answer], policy: str
) -> tuple[Rows, Rows, stats.Measure]:
    """The questions that both have, and the task's metric as a function of summed statistics."""
    a, b = same_rows(scoring.rows(task, first, policy), scoring.rows(task, second, policy))
    return a, b, lambda s: metrics.evaluate(task.metric, s, task.labels, task.layout)


def one_pair(
    task: Task, first: Sequence[Answer], second: Sequence[Answer], cfg: Evaluation
) -> dict[str, Any]:
    """Second minus first in the task's metric, with interval and tests, over texts."""
    a, b, measure = _paired(task, first, second, cfg.policy)
    if not len(a.items):
        return {"n": 0, "difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "mcnemar": 1.0}
    result = stats.compare(
        stats.cluster(a.sums, a.texts),
        stats.cluster(b.sums, b.texts),
        measure,
        cfg.resamples,
        cfg.seed,
    )
    right = [_right(rows, task) for rows in (a, b)]
    return result._asdict() | {"n": len(a.items), "mcnemar": stats.mcnemar(*right)}


def _right(rows: Rows, task: Task) -> np.ndarray:
    """Whether each question was answered exactly right, [R]."""
    one_each = metrics.evaluate("accuracy", rows.sums, task.labels, task.layout)
    return np.asarray(one_each) >= 1 - 1e-12


def pairs(
    cfg: Evaluation, known: Mapping[str, Task], read: Mapping[str, Mapping[str, Sequence[Answer]]]
) -> list[dict[str, Any]]:
    """All pairs of models on all tasks; p-values of each pair of models corrected over tasks."""
    found: list[dict[str, Any]] = []
    for variant, systems in read.items():
        names = list(systems)
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                entry = one_pair(known[variant], systems[first], systems[second], cfg)
                found.append({"task": variant, "first": first, "second": second, **entry})
    for pair in {(f["first"], f["second"]) for f in found}:
        own = [f for f in found if (f["first"], f["second"]) == pair]
        for entry, p in zip(own, stats.holm([f["p"] for f in own]), strict=True):
            entry["p_holm"] = p
    return found


def gains(
    cfg: Evaluation,
    variants: Sequence[Variant],
    read: Mapping[str, Mapping[str, Sequence[Answer]]],
) -> list[dict[str, Any]]:
    """Personalisation gain of every number of shots over none, pooled and for each annotator.

    Pooled scores reward knowing how often each annotator says yes; the mean over annotators does
    not. Both are given in percentage points and as 100 (P - N) / (100 - N).
    """
    found = []
    by_task: dict[str, dict[int, Variant]] = {}
    for variant in variants:
        if variant.task.personal:
            by_task.setdefault(variant.task.id, {})[variant.shots] = variant
    for shots in by_task.values():
        if 0 not in shots:
            continue
        task = shots[0].task
        for model in read[shots[0].id]:
            general = read[shots[0].id][model]
            for number in sorted(set(shots) - {0}):
                personal = read[shots[number].id][model]
                entry = _gain(task, general, personal, cfg)
                found.append({"task": task.id, "model": model, "shots": number, **entry})
    return found


def _gain(
    task: Task, general: Sequence[Answer], personal: Sequence[Answer], cfg: Evaluation
) -> dict[str, Any]:
    a, b, measure = _paired(task, general, personal, cfg.policy)
    if not len(a.items):
        return {"n": 0}
    own = [stats.cluster(rows.sums, rows.annotators) for rows in (a, b)]
    pooled = [100 * float(measure(rows.sum(0))) for rows in own]
    per_person = [100 * measure(rows) for rows in own]
    mean = [float(values.mean()) for values in per_person]
    spread = stats.bootstrap_mean(per_person[1] - per_person[0], cfg.resamples, cfg.seed)
    test = stats.compare(own[0], own[1], measure, cfg.resamples, cfg.seed)
    points, normal = stats.gain(pooled[1], pooled[0])
    personal_points, personal_normal = stats.gain(mean[1], mean[0])
    return {
        "n": len(a.items),
        "annotators": len(own[0]),
        "pooled": {
            "general": pooled[0], "personal": pooled[1], "points": points, "normalised": normal,
            "low": 100 * test.low, "high": 100 * test.high, "p": test.p,
        },
        "per_annotator": {
            "general": mean[0], "personal": mean[1], "points": personal_points,
            "normalised": personal_normal, "low": spread.low, "high": spread.high,
        },
    }  # fmt: skip


# --- several runs --------------------------------------------------------------------------------


def read_records(path: Path) -> dict[str, list[Answer]]:
    """Parsed answers of a records file, by task variant."""
    found: dict[str, list[Answer]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        item = Item(
            row["item"], {}, tuple(tuple(g) for g in row["gold"]), row["annotator"],
            row["text_id"], row["group"],
        )  # fmt: skip
        units = tuple(
            Unit(
                None if u["labels"] is None else tuple(u["labels"]), u["status"],
                tuple(u["unknown"]), u["extractor"], u["excess"],
            )
            for u in row["units"]
        )  # fmt: skip
        answer = Answer(item, units if row["status"] == "ok" else None, row["status"])
        found.setdefault(row["task"], []).append(answer)
    return found


def runs(cfg: Evaluation, workdirs: Sequence[str]) -> list[dict[str, Any]]:
    """Compares the models of several finished runs on the tasks they share.

    Raises:
      FileNotFoundError: a folder without results.
      ValueError: the same task was asked of other items or with another definition, or a task
        is not defined as it was.
    """
    known = tasks.catalogue(cfg.task_files)
    folders = [str(Path(workdir).resolve()) for workdir in workdirs]
    if len(set(folders)) < len(folders):
        raise ValueError(f"a run cannot be compared with itself, got {list(workdirs)}")
    short = [Path(folder).name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(w).rstrip("/") for w in workdirs]
    read: dict[str, dict[str, list[Answer]]] = {}
    hashes: dict[str, str] = {}
    for run_name, workdir in zip(names, workdirs, strict=True):
        results = Path(workdir) / "results.json"
        if not results.is_file():
            raise FileNotFoundError(f"{workdir} holds no results.json; run the evaluation first")
        for entry in json.loads(results.read_text(encoding="utf-8"))["tasks"]:
            task = known.get(entry["task"])
            if task is None or task.hash != entry["task_hash"]:
                state = "is not defined" if task is None else "has changed since"
                raise ValueError(f"{workdir}: task {entry['task']!r} {state}; see task_files")
            identity = entry["task_hash"] + entry["data_hash"]
            if hashes.setdefault(entry["id"], identity) != identity:
                raise ValueError(f"{workdir}: task {entry['id']!r} differs from the other run's")
        for path in sorted((Path(workdir) / "records").glob("*.jsonl")):
            for variant, own in read_records(path).items():
                name = path.stem if len(workdirs) == 1 else f"{run_name}/{path.stem}"
                read.setdefault(variant, {})[name] = own
    return pairs(cfg, {v: known[v.partition("@")[0]] for v in read}, read)

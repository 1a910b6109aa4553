# SPDX-License-Identifier: Apache-2.0
"""Evaluates model-based acquisition on a data set: tables of the paper, curves of policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core import config as config_lib
from nlp import annotations as corpora
from nlp.acquisition import evaluation, metrics
from nlp.acquisition.heads import REPRODUCTION, Heads
from nlp.acquisition.project import Tool
from nlp.acquisition.simulation import Simulation, simulate
from nlp.annotations.aggregate import TextLabels
from nlp.personalization.encoders import Encoder, encode
from nlp.personalization.scores import spread

RATES = tuple(round(0.05 * i, 2) for i in range(20))
PAPER = 0.4  # "up to 40 % fewer annotations with negligible loss" (arXiv 2312.08198)


@dataclasses.dataclass(frozen=True)
class Acquire:
    """An evaluation.

    Attributes:
      data: a set of `annotations.load_text_labels`. folder: where it lies; "" searches.
      limit: at most so many texts, drawn at random; 0 takes all.
      encoders: text vectors, joined. TF-IDF is fitted on all texts: they are at hand before anybody
        annotates.
      heads: how predictors are trained. reproduce: names of `heads.REPRODUCTION`, trained besides.
      theta, thetas: share of annotators that makes a task relevant, and those of the sweep.
      folds, seed: of texts.
      simulation: active learning on the single annotations of the set; None leaves it out.
      simulation_tasks: its binary tasks.
      tool: settings of the tool, not used by the evaluation.
    """

    data: str
    folder: str = ""
    limit: int = 0
    encoders: tuple[Encoder, ...] = (Encoder(),)
    heads: Heads = Heads()
    reproduce: tuple[str, ...] = ()
    theta: float = 0.15
    thetas: tuple[float, ...] = (0.1, 0.15, 0.2, 0.25)
    folds: int = 10
    seed: int = 0
    simulation: Simulation | None = None
    simulation_tasks: tuple[str, ...] = ()
    tool: Tool = Tool()

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.reproduce) - set(REPRODUCTION)):
            raise ValueError(f"unknown reproduction {unknown}; known: {sorted(REPRODUCTION)}")


def load(cfg: Acquire) -> TextLabels:
    """The texts with the share of annotators that marked each task."""
    data = corpora.load_text_labels(cfg.data, cfg.folder)
    if cfg.limit and len(data) > cfg.limit:
        rows = np.random.default_rng(cfg.seed).permutation(len(data))[: cfg.limit]
        data = data.select(np.sort(rows))
    return data


def vectors(cfg: Acquire, data: TextLabels, folder: str | Path = "") -> np.ndarray:
    """Joined vectors of all encoders, [X, D]."""
    return np.concatenate([encode(data.texts, e, None, folder) for e in cfg.encoders], axis=1)


def run(cfg: Acquire, workdir: str | Path, report: Callable[[str], None] = print) -> dict[str, Any]:
    """All parts of the evaluation; see `report.write` for the files."""
    data = load(cfg)
    x = vectors(cfg, data, Path(workdir) / "vectors")
    truth = data.targets(cfg.theta)
    folds = evaluation.make_folds(len(data), cfg.folds, cfg.seed)
    found = evaluation.two_rounds(x, truth, folds, cfg.heads, cfg.seed)
    report("out-of-fold predictions of both rounds are there")
    rounds = {"supervised": found.supervised, "self-supervised": found.self_supervised}
    results: dict[str, Any] = {
        "schema": 1,
        "config": config_lib.to_dict(cfg),
        "data": {"name": data.name, "texts": len(data), "labels": data.labels,
                 "pi": float(truth.mean()), "rates": truth.mean(0).tolist(),
                 "distinct_truth": len(np.unique(truth, axis=0)),
                 "distinct_predicted": len(np.unique(found.supervised >= 0.5, axis=0))},
        "cut_half": {
            name: _by_fold(truth, p >= 0.5, folds.number) for name, p in rounds.items()
        },
        "curves": _curves(truth, folds, found, cfg.seed),
        "incremental": evaluation.incremental(x, truth, folds, cfg.heads, cfg.seed),
    }  # fmt: skip
    report("curves and the incremental part are there")
    results["thetas"] = _sweep(cfg, data, x, folds)
    results["kept_quality"] = _kept_quality(cfg, x, truth, folds, found.supervised)
    report("sweep over theta and models of what is kept are there")
    for name in cfg.reproduce:
        results.setdefault("reproduced", {})[name] = reproduce(cfg, name, x, truth, folds)
        report(f"reproduced: {name}")
    if cfg.simulation is not None:
        single = corpora.load(cfg.data, cfg.folder)
        if cfg.simulation_tasks:
            single = single.with_tasks(cfg.simulation_tasks)
        texts = np.concatenate(
            [encode(single.texts, e, None, Path(workdir) / "vectors") for e in cfg.encoders], 1
        )
        results["simulation"] = simulate(single, texts, cfg.simulation, report)
    return results


def _by_fold(truth: np.ndarray, asked: np.ndarray, number: np.ndarray) -> dict[str, list[float]]:
    """{score: [mean, standard deviation over folds]}."""
    table = evaluation.by_fold(truth, asked, number)
    return {k: [float(np.mean(v)), float(np.std(v, ddof=1))] for k, v in table.items()}


def _curves(
    truth: np.ndarray, folds: evaluation.Folds, found: evaluation.OutOfFold, seed: int
) -> dict[str, list[dict[str, float]]]:
    """For each policy and share removed: mean over folds of kept positives, with intervals."""
    scores = metrics.policies(truth, folds.number, found.supervised, seed)
    scores["self-supervised"] = found.self_supervised
    table: dict[str, list[dict[str, float]]] = {}
    for name, values in scores.items():
        for rate in RATES:
            asked = metrics.keep_highest(values, rate, seed)
            saved = metrics.saving(truth, asked)
            parts = [
                metrics.saving(truth[folds.number == f], asked[folds.number == f]).kept
                for f in np.unique(folds.number)
            ]
            table.setdefault(name, []).append(
                {"removed": rate, "kept": saved.kept, "aer": saved.aer, "aal": saved.aal,
                 "mlral": saved.mlral, "half": spread(parts).half}
            )  # fmt: skip
    return table


def _sweep(cfg: Acquire, data: TextLabels, x: np.ndarray, folds: evaluation.Folds) -> list[dict]:
    if cfg.heads.stopping != "none":
        return []
    targets = [data.targets(theta) for theta in cfg.thetas]
    found = evaluation.threshold_sweep(x, targets, folds, cfg.heads, cfg.seed)
    rows = []
    for theta, truth, p in zip(cfg.thetas, targets, found, strict=True):
        at = metrics.saving(truth, metrics.keep_highest(p, PAPER, cfg.seed))
        rows.append(
            {"theta": theta, "pi": float(truth.mean()), "kept": at.kept, "mlral": at.mlral,
             "f1_positive": metrics.f1_positive(truth, p >= 0.5),
             "f1": metrics.f1_two_class(truth, p >= 0.5)}
        )  # fmt: skip
    return rows


def _kept_quality(
    cfg: Acquire, x: np.ndarray, truth: np.ndarray, folds: evaluation.Folds, model: np.ndarray
) -> dict[str, Any]:
    """Two-class F1 of models that learn only what is asked, by policy and share removed."""
    if cfg.heads.stopping != "none":
        return {}
    rates = (0.0, 0.2, 0.4, 0.6, 0.8)
    scores = metrics.policies(truth, folds.number, model, cfg.seed)
    names = [n for n in scores if n != "oracle"]
    asked = [metrics.keep_highest(scores[n], r, cfg.seed) for n in names for r in rates]
    found = evaluation.quality_of_kept(x, truth, asked, folds, cfg.heads, cfg.seed)
    own = {n: found[i * len(rates) : (i + 1) * len(rates)] for i, n in enumerate(names)}
    return {"rates": list(rates), "f1": own}


def reproduce(
    cfg: Acquire, name: str, x: np.ndarray, truth: np.ndarray, folds: evaluation.Folds
) -> dict[str, list[float]]:
    """Scores of the supervised round with one of the defects of the public code; cut at logit 0."""
    changes: dict[str, dict[str, Any]] = {
        "softmax_multihot": {"loss": "softmax_multihot"},
        "min_mode": {"stopping": "min_mode", "epochs": min(10, cfg.heads.epochs)},
        "single_task_softmax": {"loss": "softmax_multihot", "single_task": True},
    }
    how = dataclasses.replace(cfg.heads, **changes[name])
    found = evaluation.out_of_fold(x, truth, truth.astype(float), folds, how, cfg.seed)
    return _by_fold(truth, found >= 0.5, folds.number)

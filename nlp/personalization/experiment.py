# SPDX-License-Identifier: Apache-2.0
"""Compares personalised models on one data set: every system, every seed, one table.

Seed s trains with its own initial values and order, and tests on fold s mod F, so that intervals
cover both. Every finished run is a small file; a killed comparison goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core import config as config_lib
from core import files
from nlp import annotations as corpora  # the name is taken by __future__
from nlp.annotations import AnnotationSet, Split
from nlp.evaluation.records import digest
from nlp.personalization import encoders, features, models, scores
from nlp.personalization.encoders import Encoder
from nlp.personalization.fitting import Fit, fit, predict
from nlp.personalization.llm_variants import Llm
from nlp.personalization.task import PersonalTask, balanced, examples

SPLITS = ("texts", "users", "assigned")


@dataclasses.dataclass(frozen=True)
class Personalize:
    """A comparison.

    Attributes:
      data: name of a set with single annotators. folder: where it lies; "" searches.
      tasks: questions of the set; () takes all.
      split: by "texts", by "users" (past, present, future), or "assigned" by the source.
      folds, seeds: see the module.
      train_limit, test_limit: at most so many annotations are learned from (by all systems, past
        ones included) and scored, drawn by the seed; 0 takes all.
      shots: test annotators must have this many training annotations, so that few-shot prompts and
        everything else are scored on the same rows.
      encoders, models: every model is trained over every encoder.
      hidden, embedding, dropout, unseen_rate: see `models.Config`.
      balanced: weigh classes by their inverse frequency in the loss; without it, macro-F1 of rare
        classes suffers in all models.
      fit: see `Fit`.
      llm: language models that are fine-tuned or asked; None compares none.
      pseudonym_key_env: environment variable with the key for names of annotators in reports; ""
        keeps the source's names.
    """

    data: str
    folder: str = ""
    tasks: tuple[str, ...] = ()
    split: str = "texts"
    folds: int = 5
    seeds: int = 5
    train_limit: int = 0
    test_limit: int = 0
    shots: int = 0
    encoders: tuple[Encoder, ...] = (Encoder(),)
    models: tuple[str, ...] = models.MODELS
    hidden: int = 100
    embedding: int = 50
    dropout: float = 0.25
    unseen_rate: float = 0.0
    balanced: bool = True
    fit: Fit = Fit()
    llm: Llm | None = None
    pseudonym_key_env: str = ""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {self.split!r}")
        if self.seeds < 1 or self.folds < 3:
            raise ValueError(f"expected {self.seeds=} >= 1, {self.folds=} >= 3")
        if unknown := sorted(set(self.models) - set(models.MODELS)):
            raise ValueError(f"unknown models {unknown}; known: {models.MODELS}")
        if not self.models and self.llm is None:
            raise ValueError("there is nothing to compare: give models or llm")


def load(cfg: Personalize) -> AnnotationSet:
    """The annotations that a comparison is about.

    Raises:
      ValueError: models that cannot judge these tasks, or a split with nothing to score; said
        here, before anything is trained.
    """
    data = corpora.load(cfg.data, cfg.folder)
    data = data.with_tasks(cfg.tasks) if cfg.tasks else data
    check(cfg, data)
    return data


def check(cfg: Personalize, data: AnnotationSet) -> None:
    """Whether a comparison fits the data; raises as `load` does."""
    if "conformity" in cfg.models and any(classes != 2 for classes in data.classes):
        raise ValueError(
            f"{data.name}: 'conformity' is defined for tasks of two classes, got {data.classes};"
            " choose tasks or leave it out of models"
        )
    if cfg.llm is not None and len(data.tasks) != 1:
        raise ValueError(f"language models judge one task, {data.name} has {len(data.tasks)}")
    for seed in range(min(cfg.seeds, cfg.folds)):
        split(cfg, data, seed)


def split(cfg: Personalize, data: AnnotationSet, seed: int) -> Split:
    """Train, validation, test and past of one seed; the test part as limited."""
    makers: dict[str, Callable[..., Split]] = {
        "texts": corpora.text_folds,
        "users": corpora.user_folds,
        "assigned": corpora.assigned_split,
    }
    parts = makers[cfg.split](data, cfg.folds, seed % cfg.folds)
    rng = np.random.default_rng(seed)
    test, train, past = parts.test, parts.train, parts.past
    if cfg.train_limit and len(train) > cfg.train_limit:
        train = np.sort(rng.choice(train, cfg.train_limit, replace=False))
        past = np.intersect1d(past, train)
    if cfg.shots:
        known = np.bincount(data.annotator[train], minlength=len(data.annotator_ids))
        test = test[known[data.annotator[test]] >= cfg.shots]
    if cfg.test_limit and len(test) > cfg.test_limit:
        test = np.sort(rng.choice(test, cfg.test_limit, replace=False))
    if not len(train) or not len(test):
        raise ValueError(
            f"{data.name}, split {cfg.split!r}, fold {seed % cfg.folds}: {len(train)}"
            f" training and {len(test)} test annotations; choose other folds"
        )
    return dataclasses.replace(parts, train=train, test=test, past=past)


@dataclasses.dataclass(frozen=True)
class System:
    """One row of the table: `run(data, parts, seed, folder)` gives predictions [test, T]."""

    name: str
    group: str
    settings: Mapping[str, Any]
    run: Callable[[AnnotationSet, Split, int, Path], np.ndarray]


def systems(cfg: Personalize) -> list[System]:
    """All rows of a comparison, classical models first."""
    rows = []
    for group, encoder in zip(_groups(cfg.encoders), cfg.encoders, strict=True):
        for name in cfg.models:
            if name == "id_only" and encoder != cfg.encoders[0]:
                continue  # it sees no text
            rows.append(_classifier(cfg, name, encoder, group))
    if cfg.llm is not None:
        from nlp.personalization.llm import runner

        for variant in cfg.llm.chosen():
            run = runner(cfg.llm, variant)
            shared = {k: v for k, v in config_lib.to_dict(cfg.llm).items() if k != "variants"}
            settings = {"llm": shared, "variant": variant.name}
            rows.append(System(variant.name, "language model", settings, run))
    return rows


def _groups(chosen: Sequence[Encoder]) -> list[str]:
    """A name for each encoder; gains are within a group, so two of one kind need two names."""
    names: list[str] = []
    for encoder in chosen:
        same = sum(other.name == encoder.name for other in chosen[: len(names)])
        names.append(encoder.name if not same else f"{encoder.name} {same + 1}")
    return names


def _classifier(cfg: Personalize, name: str, encoder: Encoder, group: str) -> System:
    def run(data: AnnotationSet, parts: Split, seed: int, folder: Path) -> np.ndarray:
        return train_and_predict(cfg, name, encoder, data, parts, seed, folder)

    settings = {
        "model": name,
        "encoder": config_lib.to_dict(encoder),
        "fit": config_lib.to_dict(cfg.fit),
        "sizes": [cfg.hidden, cfg.embedding, cfg.dropout, cfg.unseen_rate, cfg.balanced],
    }
    return System(name, "no text" if name == "id_only" else group, settings, run)


def train_and_predict(
    cfg: Personalize,
    name: str,
    encoder: Encoder,
    data: AnnotationSet,
    parts: Split,
    seed: int,
    folder: Path,
) -> np.ndarray:
    """Trains one classifier and predicts the test part, [test, T] class indices."""
    seen_texts = np.unique(data.text[parts.train])
    texts = encoders.encode(data.texts, encoder, seen_texts, folder / "vectors")
    known = np.zeros(len(data.annotator_ids), bool)
    # Past annotations are part of training, so test annotators of a split by users are known.
    known[data.annotator[parts.train]] = True
    own = features.make(name, data, parts.past, texts)
    model = models.Config(
        name,
        texts.shape[1],
        len(data.annotator_ids),
        sum(data.classes),
        0 if own is None else own.shape[1],
        cfg.hidden,
        cfg.embedding,
        cfg.dropout,
        cfg.unseen_rate,
    )
    validation = examples(data, parts.validation, known) if len(parts.validation) else None
    weights = balanced(data, parts.train) if cfg.balanced else ()
    task = PersonalTask(model, data.classes, texts, own, weights=weights, validation=validation)
    params = fit(task, examples(data, parts.train, seed=seed), cfg.fit, seed)
    return predict(task, params, examples(data, parts.test, known))


# --- all runs ------------------------------------------------------------------------------------


def run(cfg: Personalize, workdir: str | Path, report: Callable[[str], None] = print) -> dict:
    """Runs what is missing and returns all results; see `report.write` for the files.

    Args:
      cfg: the comparison.
      workdir: holds runs/*.json, one a system and seed.
      report: receives a line for each run.
    """
    folder = Path(workdir)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    data = load(cfg)
    rows = []
    for system in systems(cfg):
        found = [_one(cfg, data, system, seed, folder, report) for seed in range(cfg.seeds)]
        rows.append({"name": system.name, "group": system.group, "seeds": found})
    return {
        "schema": 1,
        "config": config_lib.to_dict(cfg),
        "data": describe(data),
        "systems": rows,
    }


def describe(data: AnnotationSet) -> dict[str, Any]:
    """Sizes and agreement of a set."""
    alpha = corpora.agreement(data)
    return {
        "name": data.name,
        "texts": len(data.texts),
        "annotators": len(data.annotator_ids),
        "annotations": len(data),
        "tasks": [task.name for task in data.tasks],
        "alpha": [None if np.isnan(a) else round(float(a), 4) for a in alpha],
    }


def _one(
    cfg: Personalize,
    data: AnnotationSet,
    system: System,
    seed: int,
    folder: Path,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Scores of one system and seed, from its file if there is one."""
    about = [
        *(system.settings, system.name, data.name, cfg.tasks, cfg.split, cfg.folds, seed),
        *(cfg.train_limit, cfg.test_limit, cfg.shots, digest([len(data), *data.text_ids])),
    ]
    path = folder / "runs" / f"{digest(config_lib.to_dict(about))[:24]}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    began = time.monotonic()
    parts = split(cfg, data, seed)
    predicted = system.run(data, parts, seed, folder)
    values: dict[str, Any] = scores.score(data, parts.test, predicted)
    values["by_annotator"] = scores.by_annotator(data, parts.test, predicted)
    values |= {"seed": seed, "seconds": round(time.monotonic() - began, 2)}
    files.write_text(path, json.dumps(values))
    report(
        f"{system.group} / {system.name}, seed {seed}: pooled {values['pooled']:.4f},"
        f" per annotator {values['personal']:.4f} ({values['seconds']:.0f} s)"
    )
    return values

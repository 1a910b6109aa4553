# SPDX-License-Identifier: Apache-2.0
"""Augmentation end to end: draw a small training part, generate, filter, train, compare."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core import config as config_lib
from core import files
from nlp import annotations as corpora
from nlp.augmentation import filters, small_generator, training
from nlp.augmentation.conversations import Generated, Source
from nlp.augmentation.filters import Classifier, Filters
from nlp.augmentation.generation import Generation, generate
from nlp.augmentation.training import Part, Training
from nlp.evaluation import pipeline
from nlp.evaluation.backends.base import Backend
from nlp.evaluation.cache import Cache
from nlp.evaluation.config import Model
from nlp.evaluation.runner import Settings
from nlp.small_rwkv import SmallModel


@dataclasses.dataclass(frozen=True)
class Small:
    """The generator that is trained here; see `small_generator`.

    Attributes:
      model: shape and training. base: model to start from; "" starts from nothing.
      length, repeats: see `small_generator.train`.
    """

    model: SmallModel = SmallModel(steps=300, context=256)
    base: str = ""
    length: int = 120
    repeats: int = 1


@dataclasses.dataclass(frozen=True)
class Augment:
    """An experiment.

    Attributes:
      data: a set of `annotations.load_text_labels` with one label for each text. folder: where.
      train, validation, test: texts of each part, drawn by the seed; together they have the
        shares of labels of the set, each part up to chance.
      seed: of the parts.
      generator: "small", trained here on the training part, or "model".
      small: see `Small`. model: any endpoint or RWKV, see `nlp.evaluation.config.Model`.
      generation, filters, training: see there.
    """

    data: str = "tweeteval"
    folder: str = ""
    train: int = 600
    validation: int = 600
    test: int = 2000
    seed: int = 0
    generator: str = "small"
    small: Small = Small()
    model: Model | None = None
    generation: Generation = Generation(what="emotion")
    filters: Filters = Filters()
    training: Training = Training()

    def __post_init__(self) -> None:
        if self.generator not in ("small", "model"):
            raise ValueError(f"generator must be 'small' or 'model', got {self.generator!r}")
        if (self.generator == "model") != (self.model is not None):
            raise ValueError("generator 'model' needs the block model, and only that one")
        if min(self.train, self.validation, self.test) < 1:
            raise ValueError(f"expected at least 1: {self.train=} {self.validation=} {self.test=}")


def load(cfg: Augment) -> tuple[list[Source], dict[str, Part], tuple[str, ...]]:
    """(training sources, validation and test parts, labels).

    Raises:
      ValueError: texts with none or several labels, too few texts, or a base of another shape;
        said here, before anything is trained.
    """
    if cfg.model is None and cfg.small.base:
        small_generator.check_base(cfg.small.base, cfg.small.model)
    data = corpora.load_text_labels(cfg.data, cfg.folder)
    positive = data.targets(0.5)
    if not (positive.sum(axis=1) == 1).all():
        raise ValueError(f"{cfg.data}: every text must have exactly one label")
    gold = positive.argmax(axis=1)
    rng = np.random.default_rng(cfg.seed)
    # Texts sorted by label and taken at equal distances keep the shares of labels.
    order = rng.permutation(len(data))
    order = order[np.argsort(gold[order], kind="stable")]
    wanted = {"train": cfg.train, "validation": cfg.validation, "test": cfg.test}
    total = sum(wanted.values())
    if total > len(data):
        raise ValueError(f"{cfg.data} has {len(data)} texts, {total} asked for")
    names = rng.permutation(np.repeat(list(wanted), list(wanted.values())))
    picked = order[np.linspace(0, len(order) - 1, total).round().astype(int)]
    rows = {name: picked[names == name] for name in wanted}
    sources = [Source(data.text_ids[i], data.texts[i], data.labels[gold[i]]) for i in rows["train"]]
    held = {
        name: Part(tuple(data.texts[i] for i in rows[name]), gold[rows[name]])
        for name in ("validation", "test")
    }
    return sources, held, data.labels


def make_generator(
    cfg: Augment, sources: list[Source], folder: Path, report: Callable[[str], None]
) -> Backend:
    """The configured generator; the small one is trained first."""
    if cfg.model is not None:
        return pipeline.make_backend(cfg.model)
    how = cfg.small
    return small_generator.train(
        sources, how.model, folder / "generator", length=how.length, repeats=how.repeats,
        base=how.base, report=report,
    )  # fmt: skip


def run(cfg: Augment, workdir: str | Path, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Generates (resuming), filters and compares; see `report.write` for the files."""
    folder = Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    sources, held, labels = load(cfg)
    backend = make_generator(cfg, sources, folder, report)
    # A model in this process gains nothing from several batches at once, and may take its time.
    settings = cfg.model.settings() if cfg.model is not None else Settings(1, timeout=0.0)
    with Cache(folder / "cache.sqlite") as cache:
        made = generate(sources, backend, cache, cfg.generation, settings)
    report(f"{sum(g.status == 'ok' for g in made)} of {len(made)} texts generated")
    kept, reasons = filters.apply(made, sources, cfg.filters, label_classifier(sources, labels))
    write_texts(folder / "synthetic.jsonl", kept)
    report(f"{len(kept)} texts pass the filters")
    part = join(sources, kept, labels)
    table = training.compare(part, held, labels, cfg.training)
    return {
        "schema": 1,
        "config": config_lib.to_dict(cfg),
        "generator": describe(cfg),
        "labels": list(labels),
        "made": dict(collections.Counter(g.kind for g in made)),
        "kept": dict(collections.Counter(g.kind for g in kept)),
        "refused": {kind: dict(counter) for kind, counter in reasons.items()},
        "table": table,
    }


def describe(cfg: Augment) -> str:
    """What generated the texts, plainly."""
    if cfg.model is not None:
        return f"{cfg.model.backend} {cfg.model.model or cfg.model.path}"
    start = f"from {Path(cfg.small.base).name}" if cfg.small.base else "from nothing"
    return (
        f"a small byte-level RWKV ({cfg.small.model.layers} layers, width {cfg.small.model.dim})"
        f" trained {start} on the {cfg.train} training texts; not an instruction-following model"
    )


def label_classifier(sources: list[Source], labels: tuple[str, ...]) -> Classifier:
    """Logistic regression over TF-IDF of the original training texts, for the label filter."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    present = [label for label in labels if any(s.label == label for s in sources)]
    if len(present) < 2:
        return lambda texts: (present, np.ones((len(texts), len(present))))
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000),
    )
    model.fit([s.text for s in sources], [s.label for s in sources])
    names = [str(name) for name in model.classes_]
    return lambda texts: (names, model.predict_proba(list(texts)))


def join(sources: list[Source], kept: list[Generated], labels: tuple[str, ...]) -> Part:
    """Original and synthetic texts as one training part."""
    index = {label: i for i, label in enumerate(labels)}
    texts = [s.text for s in sources] + [g.text for g in kept]
    own = [index[s.label] for s in sources] + [index[g.label] for g in kept]
    kinds = [""] * len(sources) + [g.kind for g in kept]
    return Part(tuple(texts), np.array(own), tuple(kinds))


def write_texts(path: Path, kept: list[Generated]) -> None:
    """Synthetic texts as JSON Lines, atomically."""
    lines = [json.dumps(dataclasses.asdict(g), ensure_ascii=False) for g in kept]
    files.write_text(path, "".join(f"{line}\n" for line in lines))

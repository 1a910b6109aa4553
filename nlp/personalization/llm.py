# SPDX-License-Identifier: Apache-2.0
"""Runs one variant of a personalised language model on a split: prompts, training, predictions."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from core import optim
from core.data import ArraySource
from core.loop import Trainer
from core.task import TrainConfig
from nlp import rwkv_models as rwkv
from nlp import small_rwkv
from nlp.annotations import MISSING, AnnotationSet, Split, load_text_labels
from nlp.personalization import prompts
from nlp.personalization.llm_task import LlmTask
from nlp.personalization.llm_variants import Llm, Variant
from nlp.personalization.task import balanced

PyTree = Any
Run = Callable[[AnnotationSet, Split, int, Path], np.ndarray]


def runner(how: Llm, variant: Variant) -> Run:
    """A function that trains and predicts, for `experiment.System`."""
    return functools.partial(_run, how, variant)


@functools.cache
def open_base(how: Llm, folder: str) -> tuple[rwkv.Config, PyTree]:
    """The frozen model: loaded, or a small one trained on the corpus in `folder`/base."""
    if how.base:
        cfg, params, meta = rwkv.checkpoints.load_with_meta(how.base)
        if not isinstance(rwkv.tokenizer_for(cfg, meta), rwkv.ByteTokenizer):
            raise ValueError(f"{how.base}: only byte-level models can be fine-tuned here")
        return cfg, params
    texts = [text for name in how.corpus for text in load_text_labels(name).texts]
    return small_rwkv.train(texts, how.small, Path(folder) / "base")


def _run(
    how: Llm, variant: Variant, data: AnnotationSet, parts: Split, seed: int, folder: Path
) -> np.ndarray:
    """Predicted classes of the test part, [test, 1]."""
    if len(data.tasks) != 1:
        raise ValueError(f"language models judge one task, {data.name} has {len(data.tasks)}")
    if how.base == "" and data.name in how.corpus:
        raise ValueError(f"the small model must not learn the texts of {data.name} itself")
    cfg, base = open_base(how, str(folder))
    train = parts.train[data.labels[parts.train, 0] != MISSING]
    weights = balanced(data, train)[0]
    task = LlmTask(variant, how, cfg, base, len(data.annotator_ids), weights)
    known = np.zeros(len(data.annotator_ids), bool)
    known[data.annotator[train]] = True
    make = functools.partial(_arrays, how, variant, data, train, known, seed=seed)
    params: PyTree = {}
    if variant.method != "Q":
        params = _train(task, how, ArraySource(make(train), seed=seed), seed)
    return _predict(task, params, make(parts.test, every_class=True))[:, None]


def _arrays(
    how: Llm,
    variant: Variant,
    data: AnnotationSet,
    pool: np.ndarray,
    known: np.ndarray,
    rows: np.ndarray,
    *,
    seed: int,
    every_class: bool = False,
) -> dict[str, np.ndarray]:
    """Examples of annotations `rows`; with `every_class` one a class for LM and Q, class first."""
    labels = data.tasks[0].classes
    shown = prompts.draw_examples(data, pool, rows, variant.shots, variant.personal, seed)
    texts = prompts.build(
        data, rows, shown, labels, variant.person == "P", how.instruct, how.max_tokens
    )
    gold = data.labels[rows, 0].astype(np.int32)
    rank = every_class and variant.method != "CLS"
    answers = [np.full(len(rows), c, np.int32) for c in range(len(labels))] if rank else [gold]
    # The width does not depend on the split, so that all of them share one program.
    suffix = max(len(_response(label)) for label in labels) if variant.method != "CLS" else 0
    width = how.max_tokens + suffix
    tokens = np.zeros((len(answers), len(rows), width), np.int32)
    length = np.array([len(text) for text in texts], np.int32)
    total = np.zeros((len(answers), len(rows)), np.int32)
    for a, answer in enumerate(answers):
        for i, text in enumerate(texts):
            whole = text + (_response(labels[answer[i]]) if suffix else b"")
            tokens[a, i, : len(whole)] = np.frombuffer(whole, np.uint8)
            total[a, i] = len(whole)
    person = np.where(known, np.arange(1, len(known) + 1), 0).astype(np.int32)
    arrays = {
        "tokens": tokens.reshape(-1, width),
        "length": np.tile(length, len(answers)),
        "total": total.reshape(-1),
        "annotator": np.tile(person[data.annotator[rows]], len(answers)),
        "label": np.concatenate(answers) if rank else np.maximum(gold, 0),
    }
    return arrays


def _response(label: str) -> bytes:
    """The answer's text; the end-of-text token teaches the model to stop."""
    return f" {label}".encode() + b"\x00"


def _group(rate: float, path: str, shape: tuple[int, ...]) -> optim.Group:
    return optim.Group(lr_scale=1.0 if path.startswith("adapter/") else rate)


def _train(task: Any, how: Llm, source: ArraySource, seed: int) -> PyTree:
    size = min(how.batch_size, len(source))
    steps = how.epochs * -(-len(source) // size)
    adam = optim.AdamWConfig(
        how.learning_rate, how.learning_rate / 50, "cosine", int(how.warmup * steps), clip_norm=1.0
    )
    cfg = TrainConfig(steps, size, seed, log_every=max(1, steps // 5), keep=1, transport="threads")
    group = functools.partial(_group, how.head_rate)
    with tempfile.TemporaryDirectory() as folder:
        tx = optim.adamw(adam, task.param_specs(), steps, group)
        return Trainer(task, tx, source, cfg, folder, report=lambda line: None).run().params


def _predict(
    task: LlmTask, params: PyTree, arrays: dict[str, np.ndarray], batch_size: int = 64
) -> np.ndarray:
    """Class of each annotation: by the head, or the label with the most probable text."""

    def score(params: PyTree, frozen: PyTree, batch: dict[str, jax.Array]) -> jax.Array:
        if task.variant.method == "CLS":
            return task.class_logits(params, frozen, batch)
        return task.answer_losses(params, frozen, batch)

    run, count = jax.jit(score), len(arrays["length"])
    found = []
    for start in range(0, count, batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), count - 1)
        batch = {name: x[rows] for name, x in arrays.items()}
        found.append(np.asarray(run(params, task.frozen, batch))[: count - start])
    scores = np.concatenate(found)
    if task.variant.method == "CLS":
        return scores.argmax(axis=1)
    classes = int(arrays["label"].max()) + 1
    return scores.reshape(classes, -1).argmin(axis=0)

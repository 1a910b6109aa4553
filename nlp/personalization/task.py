# SPDX-License-Identifier: Apache-2.0
"""Personalised classification as a task for the training loop.

Text vectors and features of annotators lie on the device once (`frozen`); an example is three
numbers: text, annotator, labels. So memory and time are linear in the number of annotations.

Dimensions: B batch, X texts, D text vector, U annotators, T questions, C classes of a question,
K outputs = sum of C (or T with squared error).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.data import ArraySource
from nlp.annotations import MISSING, AnnotationSet
from nlp.personalization import models

PyTree = Any
LOSSES = ("cross_entropy", "squared")


class PersonalTask:
    """Predicts the answers of annotators; see `core.task.Task`.

    The loss is the sum over questions of the softmax cross-entropy on the question's slice of the
    logits, a mean over annotations; missing answers count nowhere. With "squared" each question has
    one output, the values scaled to [0, 1].
    """

    def __init__(
        self,
        cfg: models.Config,
        classes: tuple[int, ...],
        texts: np.ndarray,
        features: np.ndarray | None = None,
        *,
        values: tuple[np.ndarray, ...] = (),
        weights: tuple[np.ndarray, ...] = (),
        loss: str = "cross_entropy",
        validation: ArraySource | None = None,
        eval_batch_size: int = 1024,
    ):
        """Args:
        cfg: the model.
        classes: number of classes of each question, T numbers.
        texts: vectors [X, D].
        features: of annotators [U + 1, L], for the models that take them.
        values: for "squared": the number of each class of each question.
        weights: of the classes of each question in the loss; by default all 1.
        loss: one of `LOSSES`.
        validation: annotations to evaluate, see `examples`.
        eval_batch_size: of those.
        """
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {LOSSES}, got {loss!r}")
        outputs = sum(classes) if loss == "cross_entropy" else len(classes)
        if cfg.outputs != outputs:
            raise ValueError(f"expected {outputs} outputs for {classes=}, got {cfg.outputs}")
        if texts.ndim != 2 or texts.shape[1] != cfg.text_size:
            raise ValueError(f"expected text vectors [X, {cfg.text_size}], got {texts.shape}")
        if cfg.features and (
            features is None or features.shape != (cfg.annotators + 1, cfg.features)
        ):
            raise ValueError(f"model {cfg.model!r} needs features of {cfg.annotators} annotators")
        self.cfg, self.classes, self._loss = cfg, classes, loss
        self._scaled = [_unit_interval(v) for v in values]
        ones = tuple(np.ones(count) for count in classes)
        self._weights = [np.asarray(w, np.float32) for w in weights or ones]
        self.frozen = {"texts": jnp.asarray(texts, jnp.float32)}
        if features is not None:
            self.frozen["features"] = jnp.asarray(features, jnp.float32)
        if validation is not None and len(validation):
            self.eval_source, self.eval_batch_size = validation, eval_batch_size

    def param_specs(self) -> PyTree:
        return models.param_specs(self.cfg)

    def init_carry(self, batch_size: int) -> PyTree:
        return ()

    def logits(
        self,
        params: PyTree,
        batch: Mapping[str, jax.Array],
        frozen: PyTree,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """[B, K]."""
        rows = batch["annotator"]
        features = frozen["features"][rows] if "features" in frozen else None
        return models.apply(params, self.cfg, frozen["texts"][batch["text"]], rows, features, key)

    def loss(
        self,
        params: PyTree,
        carry: PyTree,
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        frozen: PyTree,
    ) -> tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]:
        losses = self._row_losses(self.logits(params, batch, frozen, key), batch["labels"])
        return losses.mean(), (carry, {"weight": jnp.float32(losses.shape[0])})

    def _row_losses(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Loss of each annotation [B]."""
        total = jnp.zeros(logits.shape[0])
        for t, (start, stop) in enumerate(self._slices()):
            given, index = labels[:, t] != MISSING, jnp.maximum(labels[:, t], 0)
            if self._loss == "squared":
                error = jnp.square(logits[:, t] - jnp.asarray(self._scaled[t])[index])
            else:
                log_p = jax.nn.log_softmax(logits[:, start:stop])
                error = -jnp.take_along_axis(log_p, index[:, None], axis=1)[:, 0]
            weight = jnp.asarray(self._weights[t])[index]
            total += jnp.where(given, weight * error, 0.0)
        return total

    def _slices(self) -> list[tuple[int, int]]:
        if self._loss == "squared":
            return [(t, t + 1) for t in range(len(self.classes))]
        ends = np.cumsum(self.classes)
        return [(int(end - count), int(end)) for end, count in zip(ends, self.classes, strict=True)]

    def predict(self, params: PyTree, batch: Mapping[str, jax.Array], frozen: PyTree) -> jax.Array:
        """Predicted class of every question, int32 [B, T]."""
        logits = self.logits(params, batch, frozen)
        columns = []
        for t, (start, stop) in enumerate(self._slices()):
            if self._loss == "squared":
                gaps = jnp.abs(logits[:, t, None] - jnp.asarray(self._scaled[t]))
                columns.append(gaps.argmin(axis=1))
            else:
                columns.append(logits[:, start:stop].argmax(axis=1))
        return jnp.stack(columns, axis=1)

    def eval_sums(
        self, params: PyTree, batch: Mapping[str, jax.Array], frozen: PyTree
    ) -> dict[str, jax.Array]:
        losses = self._row_losses(self.logits(params, batch, frozen), batch["labels"])
        return {"loss": (losses * batch["valid"]).sum(), "rows": batch["valid"].sum()}

    def eval_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"loss": sums["loss"] / sums["rows"]}


def _unit_interval(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return ((values - low) / (high - low)).astype(np.float32)


def balanced(data: AnnotationSet, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weights n / (C count) of the classes of each question; 0 for a class that never occurs."""
    weights = []
    for t, classes in enumerate(data.classes):
        column = data.labels[rows, t]
        count = np.bincount(column[column != MISSING], minlength=classes).astype(float)
        present = count > 0
        weight = np.zeros(classes)
        weight[present] = count.sum() / (present.sum() * count[present])
        weights.append(weight)
    return tuple(weights)


def examples(
    data: AnnotationSet,
    rows: np.ndarray,
    known: np.ndarray | None = None,
    seed: int | None = None,
) -> ArraySource:
    """Annotations as examples: text, row of the annotator's tables, labels.

    Args:
      data: annotations.
      rows: indices of those to use.
      known: mask [U] of annotators that training sees; the others become strangers (row 0). None
        knows everybody.
      seed: of the order; None keeps it.
    """
    row_of = np.arange(1, len(data.annotator_ids) + 1, dtype=np.int32)
    if known is not None:
        row_of = np.where(known, row_of, models.UNSEEN).astype(np.int32)
    return ArraySource(
        {
            "text": data.text[rows],
            "annotator": row_of[data.annotator[rows]],
            "labels": data.labels[rows].astype(np.int32),
        },
        seed=seed,
    )

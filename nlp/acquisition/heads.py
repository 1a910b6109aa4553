# SPDX-License-Identifier: Apache-2.0
"""Predictors of many binary tasks from text vectors; many of them trained at once.

A "member" is one predictor: a fold, a threshold, a round of active learning. Members share the text
vectors and the pass through the data, nothing else, so that ten folds cost little more than one.

    logits = W x + b,   or   W relu(V x + c) + b   with `hidden` units

Dimensions: X texts (or annotations), D text vector, M members, G sets of targets, L tasks, H hidden
units, B batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.data import ArraySource
from core.params import ParamSpec, Uniform, zeros
from nlp import stopping
from nlp.acquisition import metrics
from nlp.personalization.fitting import Fit, fit

PyTree = Any
LOSSES = ("bce", "softmax_multihot")
STOPPING = ("none", "best", "min_mode")

# What the public code of the paper does and nobody should do; for reproducing its numbers.
REPRODUCTION = {
    "softmax_multihot": "softmax cross-entropy on multi-hot targets with a cut at logit 0",
    "min_mode": "early stopping that takes a rising score for a falling loss; last weights",
    "single_task_softmax": "separate one-output models with that loss, which is always zero",
}


@dataclasses.dataclass(frozen=True)
class Heads:
    """How predictors are trained.

    Attributes:
      loss: "bce", or "softmax_multihot" as in the public code (see `REPRODUCTION`).
      hidden: H; 0 is linear.
      l2: strength of 0.5 l2 / n |W|^2 (n training texts): 1 is scikit-learn's C = 1.
      epochs, batch_size, learning_rate: of Adam.
      stopping: "none"; "best" takes the epoch with the best validation F1 of each member;
        "min_mode" stops in the wrong direction as the public code does.
      patience, min_delta: of "min_mode", see `nlp.stopping.last_epoch`.
      single_task: train every task in a model of its own. Linear heads with "bce" are the same
        either way; with hidden units, separate tasks share nothing.
    """

    loss: str = "bce"
    hidden: int = 0
    l2: float = 1.0
    epochs: int = 40
    batch_size: int = 256
    learning_rate: float = 0.03
    stopping: str = "none"
    patience: int = 3
    min_delta: float = 0.0
    single_task: bool = False

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {LOSSES}, got {self.loss!r}")
        if self.stopping not in STOPPING:
            raise ValueError(f"stopping must be one of {STOPPING}, got {self.stopping!r}")
        if self.hidden < 0 or self.l2 < 0 or self.epochs < 1:
            raise ValueError(f"expected {self.hidden=} >= 0, {self.l2=} >= 0, {self.epochs=} >= 1")


def without_stopping(how: Heads, what: str) -> None:
    """Refuses early stopping where there is no validation part; ignoring it would be silent.

    Raises:
      ValueError: `how` has a stopping rule.
    """
    if how.stopping != "none":
        raise ValueError(
            f"{what} trains all epochs: expected stopping 'none', got {how.stopping!r}"
        )


def multihot_loss(logits: jax.Array, targets: jax.Array, kind: str) -> jax.Array:
    """Loss of each row: logits and targets [..., L] -> [...].

    "bce" is the mean binary cross-entropy; "softmax_multihot" is sum(-y log softmax), which does
    not change when a constant is added to all logits, so that its zero means nothing.
    """
    if kind == "softmax_multihot":
        return -(targets * jax.nn.log_softmax(logits, axis=-1)).sum(-1)
    return binary_losses(logits, targets).mean(-1)


def binary_losses(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Binary cross-entropy of each cell, stable for large logits."""
    return jax.nn.softplus(logits) - logits * targets


class HeadsTask:
    """Trains the members of a set of predictors; see `core.task.Task` and the module."""

    def __init__(
        self,
        how: Heads,
        vectors: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
        group: Sequence[int] = (),
    ):
        """Args:
        how: see `Heads`.
        vectors: [X, D].
        targets: 0 or 1, NaN where unknown, [G, X, L].
        weights: of each text for each member [M, X]; 0 leaves it out of the training.
        group: which targets each member learns, M numbers; by default the first.
        """
        if targets.ndim != 3 or targets.shape[1] != len(vectors):
            raise ValueError(f"expected targets [G, {len(vectors)}, L], got {targets.shape}")
        if weights.ndim != 2 or weights.shape[1] != len(vectors):
            raise ValueError(f"expected weights [M, {len(vectors)}], got {weights.shape}")
        if not (weights.sum(axis=1) > 0).all():
            raise ValueError("every member needs a text to learn from")
        self.how, self._shape = how, (len(weights), vectors.shape[1], targets.shape[2])
        self._group = np.asarray(group or np.zeros(len(weights)), np.int32)
        self.frozen = {
            "vectors": jnp.asarray(vectors, jnp.float32),
            "targets": jnp.asarray(np.nan_to_num(targets), jnp.float32),
            "given": jnp.asarray(~np.isnan(targets)),
            "weights": jnp.asarray(weights, jnp.float32),
        }
        self._count = jnp.asarray(weights.sum(axis=1), jnp.float32)
        self.rows = np.flatnonzero(weights.any(axis=0))  # texts that some member learns from
        self._used = len(self.rows)

    def param_specs(self) -> PyTree:
        members, size, tasks = self._shape
        axes = (None, "embed", "label")
        if not self.how.hidden:
            return {
                "weight": ParamSpec((members, size, tasks), axes, zeros),
                "bias": ParamSpec((members, tasks), (None, "label"), zeros),
            }
        heads = tasks if self.how.single_task else 1  # a hidden layer for each task, or one
        width = heads * self.how.hidden
        return {
            "inner": ParamSpec(
                (members, size, width), (None, "embed", "mlp"), Uniform(1 / math.sqrt(size))
            ),
            "inner_bias": ParamSpec((members, width), (None, "mlp"), zeros),
            "weight": ParamSpec(
                (members, self.how.hidden, tasks), axes, Uniform(1 / math.sqrt(self.how.hidden))
            ),
            "bias": ParamSpec((members, tasks), (None, "label"), zeros),
        }

    def init_carry(self, batch_size: int) -> PyTree:
        return ()

    def logits(self, params: PyTree, vectors: jax.Array) -> jax.Array:
        """[B, D] -> [M, B, L]."""
        if not self.how.hidden:
            out = jnp.einsum("bd,mdl->mbl", vectors, params["weight"])
        else:
            inner = jnp.einsum("bd,mdh->mbh", vectors, params["inner"])
            inner = jax.nn.relu(inner + params["inner_bias"][:, None])
            if self.how.single_task:
                split = inner.reshape(*inner.shape[:2], self._shape[2], self.how.hidden)
                out = jnp.einsum("mblh,mhl->mbl", split, params["weight"])
            else:
                out = jnp.einsum("mbh,mhl->mbl", inner, params["weight"])
        return out + params["bias"][:, None]

    def loss(
        self,
        params: PyTree,
        carry: PyTree,
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        frozen: PyTree,
    ) -> tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]:
        """Sum over members; each member's gradient is that of its own mean loss."""
        del key
        rows = batch["row"]
        logits = self.logits(params, frozen["vectors"][rows])
        targets, given = (frozen[k][:, rows][self._group] for k in ("targets", "given"))
        weights = frozen["weights"][:, rows]  # [M, B]
        share = self._count / self._used  # of the texts in a batch that a member learns from
        row_loss = self._row_losses(logits, targets, given)
        mean = (weights * row_loss).sum(1) / (share * rows.shape[0])
        squares = sum(jnp.square(params[k]).sum((1, 2)) for k in ("weight", "inner") if k in params)
        total = mean + 0.5 * self.how.l2 / self._count * squares / self._shape[2]
        return total.sum(), (carry, {})

    def _row_losses(self, logits: jax.Array, targets: jax.Array, given: jax.Array) -> jax.Array:
        """[M, B]."""
        if self.how.loss == "softmax_multihot":
            if self.how.single_task:  # softmax over one logit is 1, whatever the logit
                return multihot_loss(logits[..., None], targets[..., None], self.how.loss).mean(-1)
            return multihot_loss(logits, targets, self.how.loss)
        return jnp.where(given, binary_losses(logits, targets), 0.0).mean(-1)


def train(task: HeadsTask, seed: int = 0, epochs: int = 0) -> PyTree:
    """Parameters of all members after the training."""
    how = Fit(epochs or task.how.epochs, task.how.batch_size, task.how.learning_rate, 0.0, 0, 1)
    return fit(task, ArraySource({"row": task.rows.astype(np.int32)}, seed), how, seed)


def probabilities(task: HeadsTask, params: PyTree, vectors: np.ndarray) -> np.ndarray:
    """Predictions of all members: [X, D] -> [M, X, L] in [0, 1]; logit 0 is 0.5."""
    run = jax.jit(lambda params, x: jax.nn.sigmoid(task.logits(params, x)))
    size, parts = 2048, []
    for start in range(0, len(vectors), size):
        block = np.zeros((size, vectors.shape[1]), np.float32)
        rows = vectors[start : start + size]
        block[: len(rows)] = rows
        parts.append(np.asarray(run(params, block))[:, : len(rows)])
    return np.concatenate(parts, axis=1)


def train_and_predict(
    task: HeadsTask, vectors: np.ndarray, validation: np.ndarray, truth: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Trains with the stopping rule and predicts all texts.

    Args:
      task: what is trained.
      vectors: [X, D].
      validation: texts by which each member's epoch is chosen, bool [M, X].
      truth: bool [X, L], for the validation score.
      seed: of the training.

    Returns:
      [M, X, L].
    """
    if task.how.stopping == "none":
        return probabilities(task, train(task, seed), vectors)

    def score(params: PyTree) -> list[float]:
        found = probabilities(task, params, vectors)
        members = zip(validation, found, strict=True)
        return [metrics.f1_two_class(truth[held], own[held] >= 0.5) for held, own in members]

    return probabilities(task, train_with_stopping(task, seed, score), vectors)


def train_with_stopping(
    task: HeadsTask, seed: int, score: Callable[[PyTree], Sequence[float]]
) -> PyTree:
    """Parameters of each member at the epoch that the stopping rule of `task.how` chooses.

    Args:
      task: what is trained; its rule is "best" or "min_mode".
      seed: of the training.
      score: parameters -> validation score of every member [M], higher is better.
    """
    how = task.how
    history: list[PyTree] = []
    curves: list[list[float]] = [[] for _ in range(len(task.frozen["weights"]))]
    for epochs in range(1, how.epochs + 1):  # the first epochs of all are the same
        history.append(train(task, seed, epochs))
        for curve, value in zip(curves, score(history[-1]), strict=True):
            curve.append(value)
        if how.stopping == "min_mode" and max(_chosen(c, how) for c in curves) < epochs - 1:
            break  # every member has stopped before this epoch
    chosen = [_chosen(curve, how) for curve in curves]
    pick = lambda *leaves: jnp.stack([leaves[epoch][m] for m, epoch in enumerate(chosen)])
    return jax.tree.map(pick, *history)


def _chosen(curve: Sequence[float], how: Heads) -> int:
    if how.stopping == "best":
        return stopping.best_epoch(curve)
    return stopping.last_epoch(curve, "min", how.patience, how.min_delta)

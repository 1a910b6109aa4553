# SPDX-License-Identifier: Apache-2.0
"""Trains a task of this package by the one loop, and applies the best parameters."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import checkpoint, optim
from core.data import ArraySource, batches
from core.loop import Trainer
from core.task import TrainConfig
from core.train_step import frozen_of

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a model is trained.

    Attributes:
      epochs: passes over the annotations.
      batch_size: at most.
      learning_rate: of Adam, constant. weight_decay: decoupled, of matrices.
      evaluations: how often the validation part is looked at; the best parameters by validation
        loss are kept. 0 takes the last ones.
      batches: an epoch has at least so many batches, 15 in the original.
    """

    epochs: int = 20
    batch_size: int = 3000
    learning_rate: float = 0.008
    weight_decay: float = 0.0
    evaluations: int = 20
    batches: int = 15

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.batches) < 1 or self.evaluations < 0:
            raise ValueError(
                f"expected at least 1: {self.epochs=} {self.batch_size=}, 0: {self.evaluations=}"
            )

    def steps(self, examples: int) -> tuple[int, int]:
        """(steps, batch size) for a number of examples."""
        size = max(1, min(self.batch_size, examples // self.batches or 1))
        return self.epochs * -(-examples // size), size


def fit(
    task: Any, source: ArraySource, how: Fit, seed: int = 0, workdir: str | Path | None = None
) -> PyTree:
    """Best (or last) parameters of a training.

    Args:
      task: see `core.task.Task`.
      source: training examples.
      how: see `Fit`.
      seed: of initial values, dropout and order.
      workdir: where checkpoints and metrics stay, so that a killed run resumes; None keeps nothing.
    """
    if not len(source):
        raise ValueError("there are no annotations to train on")
    if workdir is None:
        with tempfile.TemporaryDirectory() as folder:
            return fit(task, source, how, seed, folder)
    steps, size = how.steps(len(source))
    evaluate = bool(how.evaluations) and getattr(task, "eval_source", None) is not None
    cfg = TrainConfig(
        steps=steps,
        batch_size=size,
        seed=seed,
        log_every=max(1, steps // 10),
        eval_every=max(1, steps // how.evaluations) if evaluate else 0,
        keep=1,
        best_metric="eval/loss" if evaluate else "",
        transport="threads",
    )
    adam = optim.AdamWConfig(
        how.learning_rate, how.learning_rate, "constant", warmup_steps=0, beta2=0.999,
        weight_decay=how.weight_decay, clip_norm=0.0,
    )  # fmt: skip
    tx = optim.adamw(adam, task.param_specs(), steps)
    state = Trainer(task, tx, source, cfg, workdir, report=lambda line: None).run()
    if not evaluate:
        return state.params
    best, _ = checkpoint.load_params(Path(workdir) / "best", task.param_specs())
    return jax.tree.map(jnp.asarray, best)


def predict(task: Any, params: PyTree, source: ArraySource, batch_size: int = 4096) -> np.ndarray:
    """What a task predicts for examples, in their order: int32 [n, T]."""
    count = len(source)
    size = min(batch_size, count)
    run = jax.jit(task.predict)
    steps = -(-count // size)
    parts = [
        np.asarray(run(params, batch, **frozen_of(task)))
        for batch in batches(source, size, 0, steps, transport="threads")
    ]
    return np.concatenate(parts)[:count]

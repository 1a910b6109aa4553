# SPDX-License-Identifier: Apache-2.0
"""What a training run is made of: the task (what is trained) and the settings of the loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax

PyTree = Any
Aux = dict[str, jax.Array]


class Task(Protocol):
    """What is trained. Optional members are looked up by name; see the comments.

    Optional:
      grads(params, carry, batch, key) -> ((loss, (carry, aux)), grads): for rules whose gradient
        is not that of `loss` (online learning); the loop asks for it first.
      flops_per_step(batch_size) -> float: analytic floating-point operations of one step.
      units: (name, number per example), e.g. ("tokens", 512), for the rate in the log line.
      eval_source, eval_batch_size, eval_sums(params, batch) -> dict of sums (weights included),
        eval_metrics(sums) -> dict: evaluation over a held-out source. Its batches have a mask
        "valid" [rows]: the last batch is filled up with rows that must not count.
      enough(values) -> bool: ends the run, with a checkpoint, after an evaluation ("eval/..."
        values) that leaves nothing to learn; the learning rate still follows all steps.
      carry_axes(carry) -> tree of logical axes of the carry, for its sharding.
      frozen: tree of arrays that training reads but never changes (a base model under an adapter),
        placed by the task. `loss`, `grads` and `eval_sums` then receive it as the keyword argument
        `frozen`. It is neither copied, optimised nor saved with checkpoints.
    """

    def param_specs(self) -> PyTree:
        """Tree of `ParamSpec`."""

    def init_carry(self, batch_size: int) -> PyTree:
        """State that crosses batches (truncated back-propagation); () if there is none."""

    def loss(
        self, params: PyTree, carry: PyTree, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Aux]]:
        """Mean loss, (new carry, metrics). `aux["weight"]`, if present, weighs micro-batches."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of the loop.

    Attributes:
      steps: number of optimiser steps.
      batch_size: global number of examples in a step.
      seed: seed of initial values, dropout and data order.
      accumulate: micro-batches in a step.
      ema: decay of the running mean of the parameters; 0 keeps none.
      mesh: mesh axes and sizes, e.g. {"data": -1, "model": 2}.
      sharding: preset of `core.sharding`.
      log_every, eval_every, save_every: periods in steps; 0 for eval and save: only at the end.
      keep: checkpoints to keep.
      best_metric: evaluation metric whose best parameters are kept under best/; "" keeps none.
      best_mode: "min" or "max".
      profile_first, profile_steps: window of steps traced for the profiler; 0 steps is off.
      transport: see `core.data.batches`.
      tensorboard: also write TensorBoard files.
      wandb_project: also write to this W&B project.
      nan_guard: stop at a loss or gradient that is not finite.
    """

    steps: int
    batch_size: int
    seed: int = 0
    accumulate: int = 1
    ema: float = 0.0
    mesh: tuple[tuple[str, int], ...] = (("data", -1),)
    sharding: str = "dp"
    log_every: int = 10
    eval_every: int = 0
    save_every: int = 0
    keep: int = 3
    best_metric: str = ""
    best_mode: str = "min"
    profile_first: int = 10
    profile_steps: int = 0
    transport: str = "auto"
    tensorboard: bool = False
    wandb_project: str = ""
    nan_guard: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.log_every < 1:
            raise ValueError(
                f"{self.steps=}, {self.batch_size=} and {self.log_every=} must be at least 1"
            )
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise ValueError(f"{self.batch_size=} is not a multiple of {self.accumulate=}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")
        if self.best_mode not in ("min", "max"):
            raise ValueError(f"best_mode must be min or max, got {self.best_mode!r}")

# SPDX-License-Identifier: Apache-2.0
"""The task of every sequence problem: a stack of cells trained by BPTT or by an online rule."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from core import params as params_lib
from core import random
from core.task import Aux, PyTree
from snn import cells, ostl
from snn.tasks import networks, problems
from snn.tasks.problems import Problem

REDUCTIONS = ("mean", "sum")

# Methods of `snn.ostl` by name. "bptt", which the task does itself, layer by layer, is the default.
METHODS: dict[str, Any] = {
    "ostl": ostl.Ostl,
    "eprop": ostl.Eprop,
    "rflo": ostl.Rflo,
    "ottt": ostl.Ottt,
    "snap1": ostl.Snap1,
    "uoro": ostl.Uoro,
    "checkpointed_bptt": ostl.CheckpointedBptt,
    "truncated_bptt": functools.partial(ostl.TruncatedBptt, k=20),
}


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """How gradients are computed.

    Attributes:
      name: "bptt", or a key of `METHODS` (online rules and their relatives).
      options: arguments of that method.
    """

    name: str = "bptt"
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        build_method(self)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The objective.

    Attributes:
      reduction: "mean" over weighted steps, or "sum" over steps (and mean over sequences).
      dropout: rate at which outputs of the last cell are dropped; one mask a batch.
      input_dropout: the same for the inputs of the first cell.
      drop_connect: rate at which recurrent weights are dropped; one mask a batch.
      carry_state: hand the state of a batch to the next one (consecutive windows of a text).
    """

    reduction: str = "mean"
    dropout: float = 0.0
    input_dropout: float = 0.0
    drop_connect: float = 0.0
    carry_state: bool = False

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {REDUCTIONS}, got {self.reduction!r}")
        for name in ("dropout", "input_dropout", "drop_connect"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


def build_method(cfg: MethodConfig) -> Any:
    """The gradient method of a configuration; None for "bptt", which the task does itself.

    Raises:
      ValueError: an unknown name or option.
    """
    if cfg.name == "bptt":
        if cfg.options:
            raise ValueError(f"bptt takes no options, got {dict(cfg.options)}")
        return None
    if cfg.name not in METHODS:
        raise ValueError(f"method must be bptt or one of {sorted(METHODS)}, got {cfg.name!r}")
    try:
        return METHODS[cfg.name](**dict(cfg.options))
    except TypeError as error:
        raise ValueError(f"options of method {cfg.name!r}: {error}") from error


class SequenceTask:
    """Losses summed over time; the gradient comes from the configured method."""

    def __init__(
        self,
        problem: Problem,
        net: cells.Stack,
        loss: LossConfig | None = None,
        method: MethodConfig | None = None,
        eval_source: Any = None,
        eval_batch_size: int = 32,
        seed: int = 0,
        specs: PyTree = None,
    ):
        """Args: seed: of the random coding of held-out inputs; specs: instead of the net's own."""
        self.problem, self.net, self.cfg = problem, net, loss or LossConfig()
        self.method = build_method(method or MethodConfig())
        if self.method is not None and problem.pooled:
            raise ValueError(
                "a loss of the mean output is no sum over time steps, which online methods need:"
                " use method bptt, or readout 'steps'"
            )
        self.eval_source, self.eval_batch_size = eval_source, eval_batch_size
        self.units = ("sequences", 1)
        self.seed = seed
        self.specs = net.param_specs() if specs is None else specs

    def param_specs(self) -> PyTree:
        """See `Task.param_specs`."""
        return self.specs

    def init_carry(self, batch_size: int) -> PyTree:
        """State (and traces) at the beginning of the text, if they are carried."""
        if not self.cfg.carry_state:
            return ()
        # Only shapes, dtypes and (for random feedback) a draw of their own follow from parameters.
        params = params_lib.init(self.param_specs(), random.stream(self.seed, "carry"))
        return self._start(params, batch_size)

    def carry_axes(self, carry: PyTree) -> PyTree:
        """Rows of the batch are sharded. A list: the () of a stateless layer looks like axes."""
        rows = None if self.method is not None else "batch"  # random feedback has no rows
        return [(rows, *(None,) * (x.ndim - 1))[: x.ndim] for x in jax.tree.leaves(carry)]

    def _start(self, params: PyTree, batch_size: int) -> PyTree:
        if self.method is None:
            return self.net.init_state(batch_size, jnp.result_type(*jax.tree.leaves(params)))
        return ostl.init(self.method, self.net, params, batch_size)

    def _scaled(self, weights: jax.Array) -> jax.Array:
        """Weights such that the weighted sum of losses is the objective."""
        if self.cfg.reduction == "sum":
            return weights / weights.shape[1]
        return weights / jnp.maximum(weights.sum(), 1.0)

    # --- gradients -------------------------------------------------------------------------------

    def loss(
        self, params: PyTree, carry: PyTree, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Aux]]:
        """See `Task.loss`."""
        code, mask = jax.random.split(key)
        xs, targets, weights = self.problem.encode(batch, code)
        state = carry if self.cfg.carry_state else self._start(params, xs.shape[1])
        dropped = self.drop(params, mask)
        state, ys, _ = networks.apply(self.net, dropped, state, xs)
        if self.problem.pooled:
            ys, targets, weights = problems.pool(ys, targets, weights)
        value = (self.problem.losses(ys, targets) * self._scaled(weights)).sum()
        state = jax.lax.stop_gradient(state) if self.cfg.carry_state else ()
        return value, (state, self._aux(value, weights))

    def grads(
        self, params: PyTree, carry: PyTree, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> Any:
        """See `core.task.Task`: ((loss, (carry, aux)), gradients) by the configured method."""
        if self.method is None:
            return jax.value_and_grad(self.loss, has_aux=True)(params, carry, batch, key)
        code, mask = jax.random.split(key)
        xs, targets, weights = self.problem.encode(batch, code)
        start = carry if self.cfg.carry_state else self._start(params, xs.shape[1])

        def step_loss(y: jax.Array, target: tuple[jax.Array, jax.Array]) -> jax.Array:
            return (self.problem.losses(y, target[0]) * target[1]).sum()

        grad_fn = ostl.value_and_grad(self.method, self.net, step_loss)
        dropped, pull_back = jax.vjp(lambda p: self.drop(p, mask), params)
        (value, after), grads = grad_fn(dropped, start, xs, (targets, self._scaled(weights)))
        aux = self._aux(value, weights)
        return (value, (after if self.cfg.carry_state else (), aux)), pull_back(grads)[0]

    def _aux(self, value: jax.Array, weights: jax.Array) -> Aux:
        total = weights.sum()
        if self.cfg.reduction == "mean":
            return {"nll": value, "weight": total}
        rows = weights.shape[1]
        return {"nll": value * rows / jnp.maximum(total, 1.0), "weight": jnp.asarray(rows, float)}

    def drop(self, params: PyTree, key: jax.Array) -> PyTree:
        """Parameters with the masks of this batch: a linear function of them.

        Dropping row i of a matrix is dropping input i of its layer, at all steps alike.
        """
        cfg = self.cfg
        if not (cfg.dropout or cfg.input_dropout or cfg.drop_connect):
            return params
        stateful = [i for i, c in enumerate(self.net.layers) if not getattr(c, "stateless", False)]
        new = dict(params)

        def mask(layer: int, name: str, rate: float, rows: bool) -> None:
            own = new.get(f"layer_{layer}", {})
            if not rate or name not in own:
                return
            salt = jax.random.fold_in(jax.random.fold_in(key, layer), random.stable_hash(name))
            shape = (own[name].shape[0], 1) if rows else own[name].shape
            kept = jax.random.bernoulli(salt, 1.0 - rate, shape) / (1.0 - rate)
            new[f"layer_{layer}"] = {**own, name: own[name] * kept}

        mask(stateful[0], "w", cfg.input_dropout, rows=True)
        for layer in stateful:
            mask(layer, "h", cfg.drop_connect, rows=False)
        mask(stateful[-1] + 1, "w", cfg.dropout, rows=True)
        return new

    # --- evaluation ------------------------------------------------------------------------------

    def outputs(self, params: PyTree, batch: Mapping[str, jax.Array], key: jax.Array) -> Any:
        """(ys, targets, weights, traces) of a batch without dropout."""
        xs, targets, weights = self.problem.encode(batch, key)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        state = self.net.init_state(xs.shape[1], dtype)
        _, ys, traces = networks.apply(self.net, params, state, xs)
        return ys, targets, weights, {"input": xs, **traces}

    def eval_sums(self, params: PyTree, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Sums over the valid rows of a batch."""
        ys, targets, weights, _ = self.outputs(params, batch, random.stream(self.seed, "eval"))
        return self.problem.sums(ys, targets, weights * batch["valid"])

    def eval_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Scores of the problem."""
        return self.problem.scores(sums)

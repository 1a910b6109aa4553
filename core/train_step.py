# SPDX-License-Identifier: Apache-2.0
"""One optimiser step as a pure function (state, batch) -> (state, metrics), and its shardings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from core import params as params_lib
from core import random
from core import sharding as sharding_lib
from core.task import Aux, PyTree, Task, TrainConfig


@flax.struct.dataclass
class TrainState:
    """Everything that training changes. Configuration and functions are not part of it."""

    step: jax.Array
    params: PyTree
    opt_state: PyTree
    carry: PyTree
    ema: PyTree

    def split(self) -> tuple[PyTree, PyTree]:
        """The two checkpoint items: (parameters to use, the rest).

        With an EMA, the averaged parameters are those to use (they are what is evaluated); the
        raw ones go with the rest.
        """
        rest = {"step": self.step, "opt_state": self.opt_state}
        # Orbax refuses empty items inside a tree, so absent parts are left out.
        if jax.tree.leaves(self.carry):
            rest["carry"] = self.carry
        if jax.tree.leaves(self.ema):
            return self.ema, {**rest, "raw_params": self.params}
        return self.params, rest

    def merge(self, params: PyTree, rest: Mapping[str, PyTree]) -> TrainState:
        """Inverse of `split`; absent parts are taken from self."""
        return TrainState(
            step=rest["step"],
            params=rest.get("raw_params", params),
            opt_state=rest["opt_state"],
            carry=rest.get("carry", self.carry),
            ema=params if "raw_params" in rest else self.ema,
        )


def init_state(
    task: Task, tx: optax.GradientTransformation, cfg: TrainConfig, params: PyTree | None = None
) -> TrainState:
    """The state before step 0; pure, to be run under jit with output shardings."""
    if params is None:
        params = params_lib.init(task.param_specs(), random.stream(cfg.seed, "params"))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        carry=task.init_carry(cfg.batch_size),
        ema=params if cfg.ema else (),
    )


def _is_axes(x: Any) -> bool:
    """True for one tuple of axis names (a NamedTuple of them is a node of the tree)."""
    return type(x) is tuple and all(a is None or isinstance(a, str) for a in x)


def state_shardings(
    task: Any, state: TrainState, mesh: Mesh, rules: sharding_lib.Rules
) -> TrainState:
    """Shardings of the whole state: parameters by their axes, copies of them alike."""
    specs = task.param_specs()
    by_suffix = lambda tree: sharding_lib.suffix_shardings(tree, specs, mesh, rules)
    axes_of = getattr(task, "carry_axes", None) or (
        lambda carry: jax.tree.map(lambda x: (None,) * x.ndim, carry)
    )
    leaves, structure = jax.tree.flatten(state.carry)
    axes = jax.tree.leaves(axes_of(state.carry), is_leaf=_is_axes) if leaves else []
    shardings = [
        sharding_lib.named_sharding(a, x.shape, mesh, rules)
        for a, x in zip(axes, leaves, strict=True)
    ]
    return TrainState(
        step=sharding_lib.replicated(mesh),  # type: ignore[arg-type]
        params=by_suffix(state.params),
        opt_state=by_suffix(state.opt_state),
        carry=jax.tree.unflatten(structure, shardings),
        ema=by_suffix(state.ema),
    )


# --- one step -----------------------------------------------------------------------------------


def frozen_of(task: Any) -> dict[str, PyTree]:
    """The keyword arguments that carry the frozen arrays of a task; empty if it has none."""
    frozen = getattr(task, "frozen", None)
    return {} if frozen is None else {"frozen": frozen}


def _value_and_grad(task: Task, frozen: Mapping[str, PyTree]) -> Callable[..., Any]:
    own = getattr(task, "grads", None)
    if own:
        return functools.partial(own, **frozen)
    return jax.value_and_grad(functools.partial(task.loss, **frozen), has_aux=True)


def _accumulated(single: Callable[..., Any], parts: int) -> Callable[..., Any]:
    """Gradients of a batch from `parts` micro-batches, weighted by `aux["weight"]`."""

    def split(x: jax.Array) -> jax.Array:
        # Interleaved rows keep each device's rows on that device.
        return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

    def grads_of(params: PyTree, carry: PyTree, batch: PyTree, key: jax.Array) -> Any:
        if jax.tree.leaves(carry):
            raise NotImplementedError(
                "gradient accumulation with a carried state is not supported; use a smaller"
                " batch or a carry-free task"
            )

        def body(total: PyTree, part: tuple[PyTree, jax.Array]) -> tuple[PyTree, None]:
            (loss, (_, aux)), grads = single(params, carry, part[0], part[1])
            weight = aux.get("weight", jnp.ones(()))
            one = (loss, {k: v for k, v in aux.items() if k != "weight"}, grads)
            scaled = jax.tree.map(lambda x: x * weight, one)
            return jax.tree.map(jnp.add, total, (scaled, weight)), None

        pieces = (jax.tree.map(split, batch), jax.random.split(key, parts))
        first = jax.tree.map(lambda x: x[0], pieces)
        (loss, (_, aux)), grads = jax.eval_shape(single, params, carry, *first)
        shapes = ((loss, {k: v for k, v in aux.items() if k != "weight"}, grads), loss)
        start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        ((loss, aux, grads), weight), _ = jax.lax.scan(body, start, pieces)
        tiny = jnp.finfo(weight.dtype).tiny  # a batch without weight has no gradient, not NaN
        mean = lambda x: x / jnp.maximum(weight, tiny)
        loss, aux, grads = jax.tree.map(mean, (loss, aux, grads))
        return (loss, (carry, {**aux, "weight": weight})), grads

    return grads_of


def make_train_step(
    task: Task, tx: optax.GradientTransformation, cfg: TrainConfig
) -> Callable[..., tuple[TrainState, Aux]]:
    """The pure function (state, batch) -> (state, metrics).

    A task with `frozen` arrays takes them as the keyword argument `frozen` of that function: jit
    would compile arrays of a closure into the program.
    """

    def train_step(state: TrainState, batch: PyTree, **frozen: PyTree) -> tuple[TrainState, Aux]:
        grads_of = _value_and_grad(task, frozen)
        if cfg.accumulate > 1:
            grads_of = _accumulated(grads_of, cfg.accumulate)
        key = random.at_step(random.stream(cfg.seed, "train"), state.step)
        (loss, (carry, aux)), grads = grads_of(state.params, state.carry, batch, key)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if cfg.ema:
            ema = jax.tree.map(lambda e, p: cfg.ema * e + (1 - cfg.ema) * p, ema, params)
        new = TrainState(state.step + 1, params, opt_state, carry, ema)
        return new, {"loss": loss, "grad_norm": optax.tree.norm(grads), **aux}

    return train_step

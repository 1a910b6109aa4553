# SPDX-License-Identifier: Apache-2.0
"""The device side of the engine: a fixed number of slots, each with the state of one sequence.

All functions are compiled for one shape: a sequence's numbers do not depend on how many others are
there or on what they are. Prompts are fed alone, [1, T], and then moved into a slot.

Dimensions: B slots, V vocabulary, L layers, K largest number of reported log-probabilities.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rwkvjax import model
from rwkvjax.config import Config
from rwkvjax.sampling.drawing import Rows, draw, rows_of
from rwkvjax.sampling.generation import select
from rwkvjax.sampling.settings import Sampling

Params = dict
TOP_LOGPROBS = 20


class Slots(NamedTuple):
    """What every slot holds between two steps."""

    logits: jax.Array  # [B, V] float32, after the last token
    state: Any  # [L, B, ...]
    rows: Rows  # [B, ...]


class Logprobs(NamedTuple):
    """Natural logarithms of the model's own probabilities (before penalties and truncation)."""

    chosen: np.ndarray  # [B] of the drawn token
    top_ids: np.ndarray  # [B, K]
    top: np.ndarray  # [B, K] descending


def empty(cfg: Config, count: int) -> Slots:
    """Slots that hold nothing."""
    rows = rows_of([Sampling(0.0)] * count, cfg.vocab_size, [(0, 0)] * count)
    zeros = jnp.zeros((count, cfg.vocab_size), jnp.float32)
    state = jax.tree.map(jnp.copy, model.init_state(cfg, count))  # its leaves may share memory
    return Slots(zeros, state, rows)


@functools.partial(jax.jit, donate_argnums=0)
def insert(slots: Slots, slot: jax.Array, logits: jax.Array, state: Any, row: Rows) -> Slots:
    """Puts one sequence (logits [1, V], state [L, 1, ...], row [1, ...]) into a slot."""
    put = lambda axis: (
        lambda whole, one: jax.lax.dynamic_update_slice_in_dim(
            whole, jnp.asarray(one).astype(whole.dtype), slot, axis
        )
    )
    return Slots(
        put(0)(slots.logits, logits),
        jax.tree.map(put(1), slots.state, state),
        jax.tree.map(put(0), slots.rows, row),
    )


@jax.jit
def extract(slots: Slots, slot: jax.Array) -> tuple[jax.Array, Any]:
    """A slot's (logits [1, V], state [L, 1, ...]) as arrays of their own."""
    take = lambda axis: lambda x: jax.lax.dynamic_slice_in_dim(x, slot, 1, axis)
    return take(0)(slots.logits), jax.tree.map(take(1), slots.state)


@functools.partial(jax.jit, donate_argnums=1)
def choose(
    logits: jax.Array,
    rows: Rows,
    weights: jax.Array,
    active: jax.Array,
    report: jax.Array,
    mask: jax.Array | None,
) -> tuple[jax.Array, Rows, Logprobs]:
    """Draws a token for every slot.

    Args:
      logits: [B, V]. rows: settings.
      weights: [V], see `token_weights`.
      active: [B] bool; rows of the others stay as they are.
      report: bool, whether log-probabilities are wanted (else they are zero).
      mask: [B, ceil(V / 32)] int32 of allowed tokens, or None.

    Returns:
      (tokens [B] int32, rows, log-probabilities).
    """
    tokens, new = draw(logits, rows, weights, mask)
    keep = lambda a, b: jnp.where(active.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
    top = min(TOP_LOGPROBS, logits.shape[1])

    def reported() -> tuple[jax.Array, ...]:
        best, ids = jax.lax.top_k(logits, top)
        total = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
        return chosen - total, ids, best - total[:, None]

    def nothing() -> tuple[jax.Array, ...]:
        shape = (logits.shape[0], top)
        return jnp.zeros(shape[:1]), jnp.zeros(shape, jnp.int32), jnp.zeros(shape)

    found = Logprobs(*jax.lax.cond(report, reported, nothing))
    return tokens, jax.tree.map(keep, new, rows), found


@functools.partial(jax.jit, static_argnums=1, donate_argnums=(3, 4))
def feed(
    params: Params,
    cfg: Config,
    tokens: jax.Array,
    logits: jax.Array,
    state: Any,
    active: jax.Array,
) -> tuple[jax.Array, Any]:
    """One token [B] for every active slot: (logits [B, V], state)."""
    fresh, new = model.step(params, cfg, tokens, state)
    return jnp.where(active[:, None], fresh, logits), select(active, new, state)


@functools.partial(jax.jit, static_argnums=1)
def score(
    params: Params, cfg: Config, tokens: jax.Array, following: jax.Array, state: Any
) -> tuple[Logprobs, jax.Array, Any]:
    """Log-probabilities of a prompt's own tokens: tokens [1, T], the ones after them [1, T].

    Returns:
      (Logprobs with T instead of B, logits [1, V] after the last token, state).
    """
    x, state = model.hidden(params, cfg, tokens, state)
    logits = model.logits_of(params, x)[0]
    total = jax.nn.logsumexp(logits, axis=-1)
    best, ids = jax.lax.top_k(logits, min(TOP_LOGPROBS, logits.shape[1]))
    chosen = jnp.take_along_axis(logits, following[0][:, None], axis=1)[:, 0]
    found = Logprobs(chosen - total, ids, best - total[:, None])  # type: ignore[arg-type]
    return found, logits[-1:], state


@functools.partial(jax.jit, static_argnums=1)
def pool(
    params: Params, cfg: Config, tokens: jax.Array, total: jax.Array, state: Any
) -> tuple[jax.Array, Any]:
    """Adds the final normed activations of tokens [1, T] to a running sum [D]."""
    x, state = model.hidden(params, cfg, tokens, state)
    return total + x[0].astype(jnp.float32).sum(axis=0), state


def nbytes(tree: Any) -> int:
    """Bytes of all arrays of a tree."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

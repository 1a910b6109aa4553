# SPDX-License-Identifier: Apache-2.0
"""From prompts to continuations, a batch at a time, with isolated states.

Dimensions: B batch, T time, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rwkvjax import model
from rwkvjax.config import Config
from rwkvjax.sampling.drawing import Rows, draw, rows_of
from rwkvjax.sampling.settings import Sampling

Params = dict
Prompts = np.ndarray | Sequence[Sequence[int]] | Sequence[np.ndarray]
ENDED = -1


@functools.partial(jax.jit, static_argnames=("cfg", "count"))
def _continue(
    params: Params,
    cfg: Config,
    logits: jax.Array,
    state: Any,
    rows: Rows,
    weights: jax.Array,
    stops: jax.Array,
    ended: jax.Array,
    count: int,
) -> tuple[jax.Array, tuple[jax.Array, Any, Rows, jax.Array]]:
    """Draws `count` tokens: (tokens [B, count], carry); `stops` [B, V] bool ends a row."""

    def body(carry: Any, _: None) -> Any:
        logits, state, rows, ended = carry
        token, rows = draw(logits, rows, weights)
        ended |= jnp.take_along_axis(stops, token[:, None], axis=1)[:, 0]
        logits, state = model.step(params, cfg, token, state)
        return (logits, state, rows, ended), jnp.where(ended, ENDED, token)

    carry, tokens = jax.lax.scan(body, (logits, state, rows, ended), length=count)
    return tokens.T, carry


def advance(
    params: Params,
    cfg: Config,
    tokens: jax.Array | np.ndarray,
    state: Any,
    logits: jax.Array,
    active: jax.Array | np.ndarray,
) -> tuple[jax.Array, Any]:
    """Feeds tokens [B, T] to the rows where `active` [B]; the others keep logits and state.

    Returns:
      (logits after the last token [B, V] float32, state).
    """
    if isinstance(params["blocks"], tuple):  # compiling one layer is quicker than compiling all
        x, new = model.hidden(params, cfg, jnp.asarray(tokens), state)
        return _finish({"head": params["head"]}, x[:, -1:], new, state, logits, active)
    return _advance_stacked(params, cfg, tokens, state, logits, active)


@functools.partial(jax.jit, static_argnames="cfg")
def _advance_stacked(
    params: Params, cfg: Config, tokens: jax.Array, state: Any, logits: jax.Array, active: jax.Array
) -> tuple[jax.Array, Any]:
    x, new = model.hidden(params, cfg, tokens, state)
    return _finish(params, x[:, -1:], new, state, logits, active)


@jax.jit
def _finish(
    params: Params, x: jax.Array, new: Any, state: Any, logits: jax.Array, active: jax.Array
) -> tuple[jax.Array, Any]:
    """Logits of the last activations [B, 1, D]; rows that are not active keep what they had."""
    fresh = model.logits_of(params, x)[:, 0]
    return jnp.where(active[:, None], fresh, logits), select(active, new, state)


def select(active: jax.Array, new: Any, old: Any) -> Any:
    """States [L, B, ...]: of `new` where active [B], else of `old`."""
    choose = lambda a, b: jnp.where(active.reshape(-1, *(1,) * (a.ndim - 2)), a, b)
    return jax.tree.map(choose, new, old)


def segments(length: int, chunk: int) -> list[int]:
    """Sizes of the pieces in which a prompt is fed: full chunks, then powers of two.

    Every length uses the same few programs, and a prompt is cut the same way whatever else the
    batch holds.
    """
    pieces, rest = [chunk] * (length // chunk), length % chunk
    return pieces + [1 << bit for bit in range(rest.bit_length() - 1, -1, -1) if rest >> bit & 1]


def prefill(
    params: Params, cfg: Config, prompts: Prompts, state: Any = None, chunk: int = 256
) -> tuple[jax.Array, Any]:
    """Feeds prompts, which may differ in length, in pieces of at most `chunk` tokens.

    Args:
      prompts: [B, T] token ids or B sequences of ids, each with at least one.
      state: where the sequences start; `init_state` if None.

    Returns:
      (logits after the last token of each row [B, V], state).
    """
    rows = check_prompts(cfg, prompts)
    batch = len(rows)
    state = model.init_state(cfg, batch) if state is None else state
    model.check_inputs(cfg, np.zeros((batch, 1), np.int32), state, None)
    logits = jnp.zeros((batch, cfg.vocab_size), jnp.float32)
    plans = [segments(len(row), chunk) for row in rows]
    fed = np.zeros(batch, int)
    sizes = [chunk] * max(plan.count(chunk) for plan in plans)
    sizes += [1 << bit for bit in range(chunk.bit_length() - 1, -1, -1) if 1 << bit < chunk]
    for size in sizes:
        active = np.array([bool(plan) and plan[0] == size for plan in plans])
        if not active.any():
            continue
        tokens = np.zeros((batch, size), np.int32)
        for i in np.flatnonzero(active):
            tokens[i] = rows[i][fed[i] : fed[i] + size]
            fed[i] += plans[i].pop(0)
        logits, state = advance(params, cfg, tokens, state, logits, active)
    return logits, state


def check_prompts(cfg: Config, prompts: Prompts) -> list[np.ndarray]:
    """The prompts as arrays; ValueError or TypeError for empty ones and ids that do not exist."""
    if isinstance(prompts, np.ndarray) and (prompts.ndim != 2 or prompts.shape[1] < 1):
        raise ValueError(f"prompt must be [B, T] with T >= 1, got shape {prompts.shape}")
    rows = [np.asarray(row) for row in prompts]
    if not rows or any(row.ndim != 1 or not row.size for row in rows):
        shapes = [row.shape for row in rows]
        raise ValueError(f"every prompt must be [T] token ids with T >= 1, got shapes {shapes}")
    for row in rows:
        if row.dtype.kind not in "iu":
            raise TypeError(f"tokens must be integers, got dtype {row.dtype}")
        if int(row.min()) < 0 or int(row.max()) >= cfg.vocab_size:
            raise ValueError(
                f"token ids must be in 0 ... {cfg.vocab_size - 1}, got {row.min()} ... {row.max()}"
            )
    return rows


def stream(
    params: Params,
    cfg: Config,
    prompts: Prompts,
    max_tokens: int,
    how: Sampling | Sequence[Sampling] | None = None,
    seed: int | Sequence[int] = 0,
    burst: int = 16,
    state: Any = None,
    weights: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Yields continuations of a batch of prompts, [B, up to `burst`] token ids at a time.

    Args:
      params, cfg: the model.
      prompts: [B, T] token ids or B sequences of ids; lengths may differ.
      max_tokens: tokens to draw for each.
      how: settings, the same for all or one for each.
      seed: one seed (row i then uses its i-th stream of random numbers) or one for each row. What a
        row draws depends on its prompt, settings and seed only, not on the rest of the batch.
      burst: tokens drawn by one call of the compiled program.
      state: where the sequences start; zeros if None.
      weights: what an occurrence of each token counts for the penalties (`token_weights`).

    Yields:
      int32 ids; `ENDED` (-1) from the first of a row's stop tokens on. Ends early when all rows
      have ended.
    """
    rows = check_prompts(cfg, prompts)
    hows = [how or Sampling()] * len(rows) if isinstance(how, Sampling | None) else list(how)
    seeds = (
        [(seed, i) for i in range(len(rows))] if isinstance(seed, int) else [(s, 0) for s in seed]
    )
    if len(hows) != len(rows) or len(seeds) != len(rows):
        raise ValueError(f"{len(rows)} prompts, but {len(hows)} settings and {len(seeds)} seeds")
    table = rows_of(hows, cfg.vocab_size, seeds)
    stops = np.zeros((len(rows), cfg.vocab_size), bool)
    for i, one in enumerate(hows):
        stops[i, list(one.stop)] = True
    weights = np.ones(cfg.vocab_size, np.float32) if weights is None else weights
    logits, state = prefill(params, cfg, rows, state)
    ended = jnp.zeros(len(rows), bool)
    for start in range(0, max_tokens, burst):
        tokens, (logits, state, table, ended) = _continue(
            params, cfg, logits, state, table, weights, stops, ended, burst
        )
        yield np.asarray(tokens)[:, : max_tokens - start]
        if stops.any() and ended.all():
            return


def generate(
    params: Params,
    cfg: Config,
    prompts: Prompts,
    max_tokens: int,
    how: Sampling | Sequence[Sampling] | None = None,
    seed: int | Sequence[int] = 0,
    **options: Any,
) -> np.ndarray:
    """Continuations of prompts, [B, up to max_tokens]; options and the meaning of ids: `stream`."""
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    parts = stream(params, cfg, prompts, max_tokens, how, seed, **options)
    return np.concatenate(list(parts), axis=1)

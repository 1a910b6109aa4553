# SPDX-License-Identifier: Apache-2.0
"""Sampling: from logits to a token, and from a prompt to a continuation.

Dimensions: B batch, T time, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rwkvjax import model
from rwkvjax.config import Config

Params = dict


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is drawn.

    Attributes:
      temperature: divides the log-probabilities; 0 takes the most likely token.
      top_p: keep the smallest set of tokens whose probability reaches this; 1 keeps all.
      top_k: keep this many tokens; 0 keeps all.
      vocab: draw only ids below this (a model may have more rows than its tokenizer ids); 0: all.
    """

    temperature: float = 1.0
    top_p: float = 0.85
    top_k: int = 0
    vocab: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or min(self.top_k, self.vocab) < 0:
            raise ValueError(
                "expected temperature >= 0, 0 < top_p <= 1, top_k >= 0, got"
                f" {self.temperature=} {self.top_p=} {self.top_k=}"
            )


def draw(logits: jax.Array, key: jax.Array, how: Sampling) -> jax.Array:
    """Draws one token for each row: logits [B, V] -> [B] int32.

    Truncation looks at the untempered probabilities and the temperature follows, as in the
    official package.
    """
    if how.vocab:
        logits = jnp.where(jnp.arange(logits.shape[-1]) < how.vocab, logits, -jnp.inf)
    if how.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    if how.top_p < 1 or how.top_k:
        log_p = jnp.where(log_p < _cutoff(log_p, how), -jnp.inf, log_p)
    return jax.random.categorical(key, log_p / how.temperature, axis=-1).astype(jnp.int32)


def _cutoff(log_p: jax.Array, how: Sampling) -> jax.Array:
    """Smallest log-probability that is kept, [B, 1]."""
    ordered = -jnp.sort(-log_p, axis=-1)
    below = jnp.full((*log_p.shape[:-1], 1), -jnp.inf)
    if how.top_p < 1:
        reached = jnp.cumsum(jnp.exp(ordered), axis=-1) >= how.top_p
        # With every token below top_p by rounding, keep all of them.
        first = jnp.where(reached.any(-1), jnp.argmax(reached, axis=-1), log_p.shape[-1] - 1)
        below = jnp.take_along_axis(ordered, first[..., None], axis=-1)
    if 0 < how.top_k < log_p.shape[-1]:
        below = jnp.maximum(below, ordered[..., how.top_k - 1 : how.top_k])
    return below


@functools.partial(jax.jit, static_argnames=("cfg", "how", "count"))
def _continue(
    params: Params,
    cfg: Config,
    logits: jax.Array,
    state: Any,
    key: jax.Array,
    how: Sampling,
    count: int,
) -> tuple[jax.Array, jax.Array, Any]:
    """Draws `count` tokens: (tokens [B, count], logits after the last, state)."""

    def body(carry: tuple[jax.Array, Any], key: jax.Array) -> Any:
        logits, state = carry
        token = draw(logits, key, how)
        return model.step(params, cfg, token, state), token

    (logits, state), tokens = jax.lax.scan(body, (logits, state), jax.random.split(key, count))
    return tokens.T, logits, state


_prefill = jax.jit(model.apply, static_argnums=1)


def prefill(
    params: Params, cfg: Config, prompt: np.ndarray, state: Any = None, chunk: int = 256
) -> tuple[jax.Array, Any]:
    """Feeds a prompt in pieces of at most `chunk` tokens (few shapes, so few compilations).

    Args:
      prompt: [B, T] token ids, T >= 1.

    Returns:
      (logits after the last token [B, V], state).
    """
    prompt = np.asarray(prompt)
    if prompt.ndim != 2 or prompt.shape[1] < 1:
        raise ValueError(f"prompt must be [B, T] with T >= 1, got shape {prompt.shape}")
    state = model.init_state(cfg, prompt.shape[0]) if state is None else state
    model.check_inputs(cfg, prompt, state, None)
    start, logits = 0, None
    while start < prompt.shape[1]:
        left = prompt.shape[1] - start
        # Full chunks first, then powers of two: every prompt length uses the same few programs.
        size = chunk if left >= chunk else 1 << (left.bit_length() - 1)
        logits, state = _prefill(params, cfg, prompt[:, start : start + size], state)
        start += size
    assert logits is not None
    return logits[:, -1], state


def stream(
    params: Params,
    cfg: Config,
    prompt: np.ndarray,
    max_tokens: int,
    how: Sampling | None = None,
    seed: int = 0,
    burst: int = 16,
) -> Iterator[np.ndarray]:
    """Yields continuations of a batch of equally long prompts, [B, up to `burst`] at a time."""
    how = how or Sampling()
    logits, state = prefill(params, cfg, prompt)
    key = jax.random.key(seed)
    for start in range(0, max_tokens, burst):
        part = jax.random.fold_in(key, start)
        tokens, logits, state = _continue(params, cfg, logits, state, part, how, burst)
        yield np.asarray(tokens)[:, : max_tokens - start]


def generate(
    params: Params,
    cfg: Config,
    prompt: np.ndarray,
    max_tokens: int,
    how: Sampling | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Continuations of equally long prompts: [B, T] -> [B, max_tokens]."""
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    return np.concatenate(list(stream(params, cfg, prompt, max_tokens, how, seed)), axis=1)

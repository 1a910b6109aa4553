# SPDX-License-Identifier: Apache-2.0
"""The loss of the output head, whole or without ever holding all logits.

With a vocabulary of 65536 the logits of one sequence of 4096 tokens fill a gibibyte in float32, and
their gradient another. `head_losses` computes losses and gradients from slices of time: the logits
of a slice exist in the forward pass, are dropped, and are computed again in the backward pass.
Under tensor parallelism each device has its part of the vocabulary alone.

Dimensions: B batch, T time, D model width, V vocabulary, C slices, S = T / C positions of a slice.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from core.sharding import Shard, no_shard
from rwkvjax import matrices

LARGE_VOCABULARY = 16384  # from here on slices are the default
SLICE = 128  # positions of a slice by default


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Negative log-likelihood in nats: logits [B, T, V], targets [B, T] -> [B, T]."""
    log_z = jax.nn.logsumexp(logits, axis=-1)
    return log_z - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


@jax.custom_vjp
def l2_wrap(loss: jax.Array, logits: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns the loss; its gradient also pulls the largest logit of each position towards zero.

    Forward: `loss`. Backward: adds `weight * max_logit` to the gradient of the logits at each
    position's arg-max, independent of the incoming gradient, as the official trainer does with
    weight = 1e-4 / (B T): the gradient of half the weighted sum of squared maxima.

    Args:
      loss: any shape. logits: [B, T, V]. weight: [B, T].
    """
    del logits, weight
    return loss


def _l2_wrap_fwd(loss: jax.Array, logits: jax.Array, weight: jax.Array) -> Any:
    top = jnp.argmax(logits, axis=-1)
    largest = jnp.take_along_axis(logits, top[..., None], axis=-1)[..., 0]
    # An empty slice carries the vocabulary size and dtype without keeping the logits alive.
    return loss, (top, largest * weight, logits[:0], weight)


def _l2_wrap_bwd(residuals: Any, g: jax.Array) -> Any:
    top, pull, empty, weight = residuals
    hot = jax.nn.one_hot(top, empty.shape[-1], dtype=empty.dtype)
    return g, hot * pull[..., None].astype(empty.dtype), jnp.zeros_like(weight)


l2_wrap.defvjp(_l2_wrap_fwd, _l2_wrap_bwd)


def slices(steps: int, vocab_size: int, wanted: int = 0, parts: int = 1) -> int:
    """Number of slices into which the head's work on `steps` positions is cut.

    Args:
      steps: T.
      vocab_size: V.
      wanted: positions of a slice; 0 takes all for a small vocabulary, about 128 for a large one.
      parts: devices over which time is split; every slice has a share of each.
    """
    if wanted == 0 and vocab_size < LARGE_VOCABULARY:
        return 1
    smallest = max(parts, wanted or SLICE)
    fits = [c for c in range(1, steps + 1) if steps % c == 0 and steps // c % parts == 0]
    return max((c for c in fits if steps // c >= smallest), default=1)


def head_losses(
    x: jax.Array,
    head: Any,
    targets: jax.Array,
    pull: jax.Array | None = None,
    *,
    count: int = 1,
    shard: Shard = no_shard,
) -> jax.Array:
    """Cross-entropy of softmax(x @ head) in nats, with the pull of `l2_wrap` in its gradient.

    Args:
      x: normed activations [B, T, D].
      head: [D, V], an array or a structured matrix (then in one slice).
      targets: token ids [B, T].
      pull: [B, T] or None; the backward pass adds pull * max_logit to the gradient of each
        position's largest logit, whatever the incoming gradient.
      count: number of slices C, a divisor of T. One slice is the plain computation.
      shard: sharding constraint for the logits.

    Returns:
      Losses [B, T], at least float32.

    Raises:
      ValueError: T is not a multiple of `count`.
    """
    if x.shape[1] % count:
        raise ValueError(f"{x.shape[1]} positions cannot be cut into {count} equal slices")
    if isinstance(head, matrices.Structured):  # its parts have gradients of their own
        logits = _logits(x, head, shard)
        found = cross_entropy(logits, targets)
        return found if pull is None else l2_wrap(found, logits, pull)
    if pull is None:
        pull = jnp.zeros(targets.shape, jnp.float32)
    return _head_losses(count, shard, x, head, targets, pull)


def _cut(x: jax.Array, count: int) -> jax.Array:
    """[B, T, ...] -> [C, B, S, ...]; slice c has the positions c, c + C, c + 2 C, ...

    Interleaved, so that every slice has its share of each device's stretch of time.
    """
    return jnp.moveaxis(x.reshape(x.shape[0], -1, count, *x.shape[2:]), 2, 0)


def _join(x: jax.Array) -> jax.Array:
    """Inverse of `_cut`."""
    x = jnp.moveaxis(x, 0, 2)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def _logits(x: jax.Array, head: Any, shard: Shard) -> jax.Array:
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return shard(matrices.matmul(x, head, wide), ("batch", "time", "vocab"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _head_losses(
    count: int, shard: Shard, x: jax.Array, head: jax.Array, targets: jax.Array, pull: jax.Array
) -> jax.Array:
    def one(part: tuple) -> jax.Array:
        return cross_entropy(_logits(part[0], head, shard), part[1])

    return _join(jax.lax.map(one, (_cut(x, count), _cut(targets, count))))


def _forward(count: int, shard: Shard, *inputs: Any) -> tuple:
    return _head_losses(count, shard, *inputs), inputs


def _backward(count: int, shard: Shard, inputs: tuple, g: jax.Array) -> tuple:
    x, head, targets, pull = inputs
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def one(total: jax.Array, part: tuple) -> tuple[jax.Array, jax.Array]:
        x, targets, pull, g = part
        logits = _logits(x, head, shard)
        ids = jnp.arange(logits.shape[-1])
        largest = logits.max(axis=-1)
        exps = jnp.exp(logits - largest[..., None])
        grad = g[..., None] * (
            exps / exps.sum(axis=-1, keepdims=True) - (ids == targets[..., None])
        )
        top = jnp.argmax(logits, axis=-1)
        grad = grad + jnp.where(ids == top[..., None], (pull * largest)[..., None], 0)
        grad = grad.astype(logits.dtype)
        dx = jnp.einsum("bsv,dv->bsd", grad, head.astype(grad.dtype))
        total = total + jnp.einsum("bsd,bsv->dv", x.astype(wide), grad)
        return total, dx.astype(x.dtype)

    parts = tuple(_cut(a, count) for a in (x, targets, pull, g))
    total, dx = jax.lax.scan(one, jnp.zeros(head.shape, wide), parts)
    return _join(dx), total.astype(head.dtype), None, jnp.zeros_like(pull)


_head_losses.defvjp(_forward, _backward)

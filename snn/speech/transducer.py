# SPDX-License-Identifier: Apache-2.0
"""The transducer loss (RNN-T, arXiv 1211.3711): minus the log probability of a label sequence.

A path through the lattice of frames t and emitted labels u either takes a blank, (t, u) to
(t + 1, u), or the next label, (t, u) to (t, u + 1); the last step is the blank of the last frame.
With bl(t, u) = log P(blank | t, u) and lb(t, u) = log P(y_{u+1} | t, u),

    alpha(t, u) = LSE(alpha(t-1, u) + bl(t-1, u), alpha(t, u-1) + lb(t, u-1))
    beta(t, u)  = LSE(bl(t, u) + beta(t+1, u), lb(t, u) + beta(t, u+1))
    d log P / d bl(t, u) = exp(alpha(t, u) + bl(t, u) + beta(t+1, u) - log P), and alike for lb

All nodes of an anti-diagonal r = t + u are independent, so a scan over T + U rows does the work;
rows are straight after a skew of the lattice. The backward pass is written out (`custom_vjp`): it
needs the alphas alone, and no logarithm or exponential of the forward pass is kept.

Dimensions: B batch, T frames, U labels, V vocabulary with the blank, R = T + U + 1 rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.task import PyTree

# Stands for log 0: with minus infinity, the derivative of logaddexp would be NaN.
NEVER = -1e30


# --- the lattice ----------------------------------------------------------------------------------


def _skew(x: jax.Array) -> jax.Array:
    """[B, T, W] -> [T + W - 1, B, W]: row r holds x[:, r - u, u]; what lies outside is NEVER."""
    rows, time, width = x.shape
    x = jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, width)), constant_values=NEVER)
    x = x.reshape(rows, -1)[:, : width * (time + width - 1)]
    return x.reshape(rows, width, time + width - 1).transpose(2, 0, 1)


def _unskew(rows: jax.Array, time: int) -> jax.Array:
    """[T + W - 1, B, W] -> [B, T, W]: the inverse of `_skew`."""
    count, batch, width = rows.shape
    x = rows.transpose(1, 2, 0).reshape(batch, -1)
    x = jnp.pad(x, ((0, 0), (0, width)))
    return x.reshape(batch, width, count + 1)[:, :, :time].swapaxes(1, 2)


def _masked(
    blank: jax.Array, label: jax.Array, frames: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Both inputs with NEVER in the padding; label is as wide as blank."""
    time, width = blank.shape[1:]
    label = jnp.pad(label, ((0, 0), (0, 0), (0, 1)))
    inside = (jnp.arange(time) < frames[:, None])[:, :, None]
    u = jnp.arange(width)
    # A frame after the last, a label after the last: no path may pass there.
    blank = jnp.where(inside & (u <= labels[:, None])[:, None], blank, NEVER)
    label = jnp.where(inside & (u < labels[:, None])[:, None], label, NEVER)
    return blank, label


def _log_add(a: jax.Array, b: jax.Array) -> jax.Array:
    """log(exp a + exp b) of finite numbers; cheaper than `logaddexp`, which looks for NaN."""
    return jnp.maximum(a, b) + jnp.log1p(jnp.exp(-jnp.abs(a - b)))


def _alphas(blank: jax.Array, label: jax.Array) -> jax.Array:
    """Forward scores of all rows [R, B, U + 1] from skewed inputs [R - 1, B, U + 1]."""
    start = jnp.full(blank.shape[1:], NEVER, blank.dtype).at[:, 0].set(0.0)

    def step(alpha: jax.Array, row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        stay = alpha + row[0]
        move = jnp.pad((alpha + row[1])[:, :-1], ((0, 0), (1, 0)), constant_values=NEVER)
        # The clamp keeps sums of several NEVERs finite.
        new = jnp.maximum(_log_add(stay, move), NEVER)
        return new, new

    _, rows = jax.lax.scan(step, start, (blank, label))
    return jnp.concatenate([start[None], rows])


def _at_end(alphas: jax.Array, frames: jax.Array, labels: jax.Array) -> jax.Array:
    """log P [B]: the score of having taken the last blank."""
    return alphas[frames + labels, jnp.arange(alphas.shape[1]), labels]


def _occupancies(
    alphas: jax.Array,
    blank: jax.Array,
    label: jax.Array,
    frames: jax.Array,
    labels: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Probabilities of passing each blank and each label, skewed [R - 1, B, U + 1]."""
    log_p = _at_end(alphas, frames, labels)[:, None]
    end = jnp.arange(blank.shape[2]) == labels[:, None]

    def step(beta: jax.Array, row: tuple[Any, ...]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        number, alpha, bl, lb = row
        last = (frames + labels)[:, None] == number + 1
        beta = jnp.where(last & end, 0.0, beta)
        stay = bl + beta
        move = lb + jnp.pad(beta[:, 1:], ((0, 0), (0, 1)), constant_values=NEVER)
        scale = alpha - log_p
        new = jnp.maximum(_log_add(stay, move), NEVER)
        return new, (jnp.exp(scale + stay), jnp.exp(scale + move))

    start = jnp.full(blank.shape[1:], NEVER, blank.dtype)
    inputs = (jnp.arange(len(blank)), alphas[:-1], blank, label)
    _, (taken, emitted) = jax.lax.scan(step, start, inputs, reverse=True)
    return taken, emitted


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def lattice_log_prob(
    blank: jax.Array,
    label: jax.Array,
    frames: jax.Array,
    labels: jax.Array,
    fast_emit: float = 0.0,
) -> jax.Array:
    """Log probability of each label sequence, summed over all paths.

    Args:
      blank: log P(blank | t, u) [B, T, U + 1].
      label: log P(label u + 1 | t, u) [B, T, U].
      frames: number of frames of each row, int [B], 1 ... T.
      labels: number of labels of each row, int [B], 0 ... U.
      fast_emit: lambda of FastEmit (arXiv 2010.11148): the gradient of emitting a label, and only
        that, is multiplied by 1 + lambda, which makes labels come earlier.

    Returns:
      [B], in the dtype of `blank`. Padding has no influence and a gradient of exactly zero.
    """
    blank, label = _masked(blank, label, frames, labels)
    return _at_end(_alphas(_skew(blank), _skew(label)), frames, labels)


def _lattice_forward(
    blank: jax.Array, label: jax.Array, frames: jax.Array, labels: jax.Array, fast_emit: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    blank, label = (_skew(x) for x in _masked(blank, label, frames, labels))
    alphas = _alphas(blank, label)
    return _at_end(alphas, frames, labels), (alphas, blank, label, frames, labels)


def _lattice_backward(
    fast_emit: float, kept: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[Any, ...]:
    alphas, blank, label, frames, labels = kept
    time = len(blank) + 1 - blank.shape[2]
    taken, emitted = (_unskew(x, time) for x in _occupancies(*kept))
    scale = cotangent[:, None, None]
    none = np.zeros(frames.shape, jax.dtypes.float0)
    return taken * scale, emitted[:, :, :-1] * scale * (1 + fast_emit), none, none


lattice_log_prob.defvjp(_lattice_forward, _lattice_backward)


# --- from logits ----------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def pick_log_probs(
    logits: jax.Array, targets: jax.Array, blank: int
) -> tuple[jax.Array, jax.Array]:
    """Log softmax at the blank and at the next label, without keeping a log softmax.

    Args:
      logits: [B, T, U + 1, V].
      targets: next label of each u, int [B, U + 1] (any value at u = U).
      blank: index of the blank.

    Returns:
      (blank, label), each [B, T, U + 1].
    """
    return _pick(logits, targets, blank)[0]


def _pick(logits: jax.Array, targets: jax.Array, blank: int) -> tuple[Any, jax.Array]:
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    index = jnp.broadcast_to(targets[:, None, :, None], (*logits.shape[:-1], 1))
    label = jnp.take_along_axis(logits, index, axis=-1)[..., 0]
    return (logits[..., blank] - normaliser, label - normaliser), normaliser


def _pick_forward(logits: jax.Array, targets: jax.Array, blank: int) -> tuple[Any, Any]:
    picked, normaliser = _pick(logits, targets, blank)
    return picked, (logits, targets, normaliser)


def _pick_backward(blank: int, kept: Any, cotangents: Any) -> tuple[Any, ...]:
    logits, targets, normaliser = kept
    for_blank, for_label = (c[..., None] for c in cotangents)
    k = jnp.arange(logits.shape[-1])
    # One fused pass over [B, T, U + 1, V].
    gradient = (
        jnp.where(k == blank, for_blank, 0.0)
        + jnp.where(k == targets[:, None, :, None], for_label, 0.0)
        - jnp.exp(logits - normaliser[..., None]) * (for_blank + for_label)
    )
    return gradient, np.zeros(targets.shape, jax.dtypes.float0)


pick_log_probs.defvjp(_pick_forward, _pick_backward)


def _next_labels(labels: jax.Array) -> jax.Array:
    """[B, U] -> [B, U + 1]: the label that follows each u."""
    return jnp.pad(labels, ((0, 0), (0, 1)))


def _delayed(label: jax.Array, frames: jax.Array, penalty: float) -> jax.Array:
    """lb + penalty ((T - 1) / 2 - t): early labels gain, late ones lose (k2-fsa/k2#976)."""
    if not penalty:
        return label
    t = jnp.arange(label.shape[1])
    return label + (penalty * ((frames[:, None] - 1) / 2 - t))[:, :, None].astype(label.dtype)


def _loss(
    blank: jax.Array,
    label: jax.Array,
    frames: jax.Array,
    counts: jax.Array,
    fast_emit: float,
    delay_penalty: float,
) -> jax.Array:
    # Never in 16 bits: round-off of a sum over hundreds of frames would be of the order of 1.
    wide = jnp.promote_types(blank.dtype, jnp.float32)
    label = _delayed(label[:, :, :-1].astype(wide), frames, delay_penalty)
    return -lattice_log_prob(blank.astype(wide), label, frames, counts, fast_emit)


def transducer_loss(
    logits: jax.Array,
    labels: jax.Array,
    frames: jax.Array,
    counts: jax.Array,
    *,
    blank: int = 0,
    fast_emit: float = 0.0,
    delay_penalty: float = 0.0,
) -> jax.Array:
    """Transducer loss of each row from all logits; see `framewise_loss` for less memory.

    Args:
      logits: [B, T, U + 1, V], unnormalised, finite (in the padding, too).
      labels: int [B, U], padded with any valid index.
      frames, counts: number of frames (>= 1) and labels (>= 0) of each row, int [B].
      blank: index of the blank, 0 ... V - 1.
      fast_emit: lambda of FastEmit; see `lattice_log_prob`.
      delay_penalty: added to the log probability of a label times its distance from the middle.

    Returns:
      minus log probability, nats, [B].

    Raises:
      ValueError: shapes that do not fit, or (outside of jit) lengths or labels out of range.
    """
    batch, time, width, vocabulary = logits.shape
    check_targets(labels, frames, counts, (batch, time, width))
    check_labels(labels, counts, vocabulary, blank)
    taken, emitted = pick_log_probs(logits, _next_labels(labels), blank)
    return _loss(taken, emitted, frames, counts, fast_emit, delay_penalty)


# --- without the logits ---------------------------------------------------------------------------

Joint = Callable[[PyTree, jax.Array, jax.Array], jax.Array]


def framewise_loss(
    joint: Joint,
    params: PyTree,
    encoded: jax.Array,
    predicted: jax.Array,
    labels: jax.Array,
    frames: jax.Array,
    counts: jax.Array,
    *,
    blank: int = 0,
    block: int = 1,
    fast_emit: float = 0.0,
    delay_penalty: float = 0.0,
) -> jax.Array:
    """The same loss, never holding more than `block` frames of logits [B, block, U + 1, V].

    The joint network runs over blocks of frames and is run again in the backward pass.

    Args:
      joint: (params, encoded [B, K, D], predicted [B, U + 1, P]) -> logits [B, K, U + 1, V].
      params: parameters of the joint network.
      encoded: [B, T, D].
      predicted: [B, U + 1, P], output u follows the first u labels.
      labels, frames, counts, blank, fast_emit, delay_penalty: see `transducer_loss`.
      block: frames that are computed together.

    Returns:
      minus log probability, nats, [B]. Raises as `transducer_loss`.
    """
    batch, time = encoded.shape[:2]
    check_targets(labels, frames, counts, (batch, time, predicted.shape[1]))
    vocabulary = jax.eval_shape(joint, params, encoded[:, :1], predicted).shape[-1]
    check_labels(labels, counts, vocabulary, blank)
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    blocks = -(-time // block)
    padded = jnp.pad(encoded, ((0, 0), (0, blocks * block - time), (0, 0)))
    pieces = padded.reshape(batch, blocks, block, -1).swapaxes(0, 1)
    targets = _next_labels(labels)

    @jax.checkpoint
    def scores(params: PyTree, piece: jax.Array, predicted: jax.Array) -> Any:
        return pick_log_probs(joint(params, piece, predicted), targets, blank)

    taken, emitted = jax.lax.map(lambda piece: scores(params, piece, predicted), pieces)
    whole = lambda x: x.swapaxes(0, 1).reshape(batch, blocks * block, -1)[:, :time]
    return _loss(whole(taken), whole(emitted), frames, counts, fast_emit, delay_penalty)


# --- the boundary ---------------------------------------------------------------------------------


def _known(*arrays: Any) -> bool:
    return not any(isinstance(x, jax.core.Tracer) for x in arrays)


def check_targets(labels: Any, frames: Any, counts: Any, lattice: tuple[int, int, int]) -> None:
    """Raises ValueError for targets that do not fit a lattice [B, T, U + 1]: shapes, and (outside
    of jit) lengths."""
    batch, time, width = lattice
    shapes = (labels.shape, frames.shape, counts.shape)
    if shapes != ((batch, width - 1), (batch,), (batch,)):
        raise ValueError(
            f"expected labels {(batch, width - 1)}, frames {(batch,)} and counts {(batch,)}, got"
            f" {shapes[0]}, {shapes[1]} and {shapes[2]}"
        )
    if not _known(frames, counts):
        return
    for name, values, low, high in (
        ("frames", frames, 1, time),
        ("counts", counts, 0, width - 1),
    ):
        values = np.asarray(values)
        bad = np.flatnonzero((values < low) | (values > high))
        if bad.size:
            raise ValueError(
                f"{name} must be in {low} ... {high}, got {values[bad[0]]} in row {bad[0]}"
            )


def check_labels(labels: Any, counts: Any, vocabulary: int, blank: int) -> None:
    """Raises ValueError if a label is the blank or no index of the vocabulary (outside of jit)."""
    if not 0 <= blank < vocabulary:
        raise ValueError(f"blank must be in 0 ... {vocabulary - 1}, got {blank}")
    if not _known(labels, counts):
        return
    values, used = np.asarray(labels), np.arange(labels.shape[1]) < np.asarray(counts)[:, None]
    bad = np.argwhere(used & ((values < 0) | (values >= vocabulary) | (values == blank)))
    if bad.size:
        row, u = bad[0]
        raise ValueError(
            f"label {values[row, u]} in row {row}, position {u}: expected 0 ... {vocabulary - 1}"
            f" but {blank}, the blank"
        )

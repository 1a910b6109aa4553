# SPDX-License-Identifier: Apache-2.0
"""One token for each row of a batch, every row with its own settings; pure and jittable.

No sorting: on a CPU, XLA needs 430 ms to sort 16 rows of 65536 numbers, more than most models need
for the logits. The cutoffs of top-p, top-k and typical-p are found by bisection over the bit
patterns of the probabilities (the order of non-negative floats is that of their bits), 34 ms, and
where the most likely tokens suffice, from the `HEAD` largest, 6 ms. What no row asks for is not
computed. A draw needs one uniform number for each row.

Dimensions: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rwkvjax.sampling.settings import Sampling

HEAD = 64
_BLOCK = 256


class Rows(NamedTuple):
    """Settings and progress of every row; see `Sampling` for the settings."""

    temperature: jax.Array  # [B] float32
    top_p: jax.Array  # [B] float32
    top_k: jax.Array  # [B] int32; 0 keeps all
    min_p: jax.Array  # [B] float32
    typical_p: jax.Array  # [B] float32
    presence: jax.Array  # [B] float32
    frequency: jax.Array  # [B] float32
    decay: jax.Array  # [B] float32
    bias: jax.Array  # [B, V] float32, -inf forbids
    counts: jax.Array  # [B, V] float32 occurrences, -1 for tokens not drawn yet
    key: jax.Array  # [B, 2] uint32, threefry key of the row
    position: jax.Array  # [B] int32, tokens drawn so far


def row(how: Sampling, vocab_size: int, seed: int = 0, stream: int = 0) -> Rows:
    """One row (B = 1) as NumPy arrays.

    Args:
      how: the settings.
      vocab_size: V.
      seed: of the row's random numbers; with `stream` they decide all its draws, wherever in a
        batch the row stands and whatever the others do.
      stream: number of a sequence among those with the same seed.
    """
    largest = max([*how.banned, *(token for token, _ in how.bias), 0])
    if largest >= vocab_size:
        raise ValueError(f"token id {largest} is outside the vocabulary of {vocab_size}")
    bias = np.zeros((1, vocab_size), np.float32)
    for token, value in how.bias:
        bias[0, token] += value
    if how.vocab:
        bias[0, how.vocab :] = -np.inf
    bias[0, list(how.banned)] = -np.inf
    if not np.isfinite(bias).any():
        raise ValueError("the settings forbid every token")
    plain = how.resolved()
    numbers = ("min_p", "typical_p", "presence", "frequency", "decay", "temperature", "top_p")
    values: dict[str, Any] = {x: np.full(1, getattr(plain, x), np.float32) for x in numbers}
    key = [seed & 0xFFFFFFFF, (seed >> 32 ^ stream * 0x9E3779B1) & 0xFFFFFFFF]
    return Rows(
        **values,
        top_k=np.full(1, min(how.top_k, vocab_size), np.int32),  # type: ignore[arg-type]
        bias=bias,  # type: ignore[arg-type]
        counts=np.full((1, vocab_size), -1, np.float32),  # type: ignore[arg-type]
        key=np.array([key], np.uint32),  # type: ignore[arg-type]
        position=np.zeros(1, np.int32),  # type: ignore[arg-type]
    )


def rows_of(hows: Sequence[Sampling], vocab_size: int, seeds: Sequence[tuple[int, int]]) -> Rows:
    """Rows for a batch; `seeds` holds (seed, stream) of each."""
    parts = [row(how, vocab_size, *seed) for how, seed in zip(hows, seeds, strict=True)]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def draw(
    logits: jax.Array, rows: Rows, weights: jax.Array, mask: jax.Array | None = None
) -> tuple[jax.Array, Rows]:
    """Draws a token for each row and counts it.

    Args:
      logits: [B, V] of the model.
      rows: settings and progress.
      weights: [V] float32, what an occurrence counts (`token_weights`).
      mask: [B, ceil(V / 32)] int32, bit i % 32 of word i // 32 set where token i is allowed.

    Returns:
      (tokens [B] int32, rows after the draw).
    """
    logits = adjust(logits, rows, mask)
    greedy = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    random = lambda: jnp.where(rows.temperature > 0, _pick(truncate(logits, rows), rows), greedy)
    tokens = jax.lax.cond((rows.temperature > 0).any(), random, lambda: greedy)
    return tokens, count(rows, tokens, weights)


def adjust(logits: jax.Array, rows: Rows, mask: jax.Array | None = None) -> jax.Array:
    """Logits [B, V] after bias, penalties and mask."""
    seen = rows.counts >= 0
    penalty = rows.presence[:, None] + rows.counts * rows.frequency[:, None]
    out = logits.astype(jnp.float32) + rows.bias - jnp.where(seen, penalty, 0)
    if mask is None:
        return out
    bits = (mask[:, :, None] >> jnp.arange(32, dtype=jnp.int32)) & 1
    allowed = bits.reshape(mask.shape[0], -1)[:, : logits.shape[-1]] > 0
    return jnp.where(allowed, out, -jnp.inf)


def count(rows: Rows, tokens: jax.Array, weights: jax.Array) -> Rows:
    """Rows after `tokens` [B] were drawn: occurrences decay, the new ones are added."""
    counts = jnp.where(rows.counts >= 0, rows.counts * rows.decay[:, None], rows.counts)
    at = jnp.arange(tokens.shape[0])
    counts = counts.at[at, tokens].set(jnp.maximum(counts[at, tokens], 0) + weights[tokens])
    return rows._replace(counts=counts, position=rows.position + 1)


def truncate(logits: jax.Array, rows: Rows) -> jax.Array:
    """Tempered weights [B, V] of the kept tokens, at most 1, 0 for the others (adjusted logits)."""
    p = jax.nn.softmax(logits, axis=-1)
    best = p.max(axis=-1, keepdims=True)
    keep = p >= jnp.minimum(_top_p_cutoff(p, rows.top_p), best)
    keep &= p >= rows.min_p[:, None] * best

    wanted = rows.typical_p < 1
    keep &= jax.lax.cond(wanted.any(), lambda: _typical(p, rows.typical_p), lambda: p >= 0)
    keep &= jax.lax.cond((rows.top_k > 0).any(), lambda: _top_k(p, rows.top_k), lambda: p >= 0)
    keep |= ~keep.any(axis=-1, keepdims=True) & (p == best)
    scaled = (logits - logits.max(axis=-1, keepdims=True)) / jnp.maximum(
        rows.temperature[:, None], 1e-6
    )
    scaled -= jnp.where(keep, scaled, -jnp.inf).max(axis=-1, keepdims=True)
    return jnp.where(keep & (p > 0), jnp.exp(scaled), 0)


def _top_p_cutoff(p: jax.Array, top_p: jax.Array) -> jax.Array:
    """Smallest probability that top-p keeps, [B, 1]; 0 for rows that keep all."""
    off = top_p >= 1

    def look() -> jax.Array:
        head = jax.lax.top_k(p, min(HEAD, p.shape[-1]))[0]
        reached = jnp.cumsum(head, axis=-1) >= top_p[:, None]
        found = jnp.take_along_axis(head, jnp.argmax(reached, axis=-1)[:, None], axis=-1)
        enough = (off | reached[:, -1]).all()
        return jax.lax.cond(enough, lambda: found, lambda: _cutoff(p, p, top_p))

    cutoff = jax.lax.cond(off.all(), lambda: jnp.zeros((p.shape[0], 1), p.dtype), look)
    return jnp.where(off[:, None], 0, cutoff)


def _cutoff(score: jax.Array, weight: jax.Array, mass: jax.Array) -> jax.Array:
    """Largest number t with sum(weight where score >= t) >= mass, [B, 1]; scores are >= 0.

    If even all weights do not reach the mass (rounding), 0.
    """
    bits = jax.lax.bitcast_convert_type(score, jnp.int32)
    low = jnp.zeros((score.shape[0], 1), jnp.int32)
    high = bits.max(axis=-1, keepdims=True) + 1

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        total = jnp.where(bits >= middle, weight, 0).sum(axis=-1, keepdims=True)
        enough = total >= mass[:, None]
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low, _ = jax.lax.fori_loop(0, 31, halve, (low, high))
    return jax.lax.bitcast_convert_type(low, jnp.float32)


def _top_k(p: jax.Array, top_k: jax.Array) -> jax.Array:
    """Which tokens top-k keeps, [B, V]; among equals the higher ids, as a stable sort has them."""
    wanted = jnp.where(top_k > 0, top_k, p.shape[-1])
    cutoff = _cutoff(p, jnp.ones_like(p), wanted.astype(jnp.float32))
    above, equal = p > cutoff, p == cutoff
    room = wanted - above.sum(axis=-1)
    from_end = jnp.cumsum(equal[:, ::-1], axis=-1)[:, ::-1]
    return above | (equal & (from_end <= room[:, None]))


def _typical(p: jax.Array, mass: jax.Array) -> jax.Array:
    """Which tokens locally typical sampling keeps, [B, V]."""
    information = -jnp.log(jnp.maximum(p, 1e-37))
    entropy = (p * information).sum(axis=-1, keepdims=True)
    nearness = jnp.where(p > 0, jnp.exp(-jnp.abs(information - entropy)), 0)
    return (nearness >= _cutoff(nearness, p, mass)) | (mass >= 1)[:, None]


def _pick(weight: jax.Array, rows: Rows) -> jax.Array:
    """Draws by inversion: weight [B, V] >= 0 -> tokens [B] int32, never one of weight 0."""
    batch, vocab = weight.shape
    keys = jax.vmap(lambda data: jax.random.wrap_key_data(data, impl="threefry2x32"))(rows.key)
    keys = jax.vmap(jax.random.fold_in)(keys, rows.position)
    uniform = jax.vmap(jax.random.uniform)(keys)
    blocks = jnp.pad(weight, ((0, 0), (0, -vocab % _BLOCK))).reshape(batch, -1, _BLOCK)
    block, rest = _invert(blocks.sum(axis=-1), uniform)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    total = inside.sum(axis=-1)
    token, _ = _invert(inside, rest / jnp.maximum(total, 1e-37))
    return (block * _BLOCK + token).astype(jnp.int32)


def _invert(weight: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(index [B] at which the running sum passes uniform * total, what is left for it [B])."""
    sums = jnp.cumsum(weight, axis=-1)
    target = uniform * sums[:, -1]
    passed = (sums > target[:, None]) & (weight > 0)
    index = jnp.where(passed.any(axis=-1), jnp.argmax(passed, axis=-1), weight.argmax(axis=-1))
    before = jnp.take_along_axis(sums - weight, index[:, None], axis=-1)[:, 0]
    return index, jnp.clip(target - before, 0)

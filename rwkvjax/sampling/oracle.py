# SPDX-License-Identifier: Apache-2.0
"""One token at a time in NumPy, step by step as the official package does it.

The slow, obvious form that the batched one is tested against. With `official=True` and the same
`numpy.random.RandomState` it draws the tokens of the official `PIPELINE` on a CPU: its sums run
over float32 values in the same order.
"""

from __future__ import annotations

import numpy as np

from rwkvjax.sampling.settings import Sampling


def adjust(logits: np.ndarray, how: Sampling, occurrence: dict[int, float]) -> np.ndarray:
    """Logits [V] after bias, bans and penalties."""
    out = np.array(logits, np.float32)
    for token, value in how.bias:
        out[token] += np.float32(value)
    if how.vocab:
        out[how.vocab :] = -np.inf
    for token in how.banned:
        out[token] = -np.inf
    for token, count in occurrence.items():
        out[token] -= how.presence + count * how.frequency
    return out


def probabilities(logits: np.ndarray, how: Sampling) -> np.ndarray:
    """The distribution [V] that a token is drawn from, given adjusted logits."""
    how = how.resolved()
    if how.temperature == 0:
        greedy = np.zeros(len(logits), np.float32)
        greedy[np.argmax(logits)] = 1
        return greedy
    probs = _softmax(logits)
    untouched = probs.copy()
    order = np.argsort(probs, kind="stable")
    descending = probs[order][::-1]
    if how.top_p < 1 or how.official:  # the sum may stay below 1: then argmax finds place 0
        cutoff = descending[np.argmax(np.cumsum(descending) >= how.top_p)]
        probs[untouched < cutoff] = 0
    if how.typical_p < 1:
        probs[~_typical(untouched, how.typical_p)] = 0
    if how.min_p > 0:
        probs[untouched < how.min_p * untouched.max()] = 0
    if 0 < how.top_k < len(probs):
        probs[order[: -how.top_k]] = 0
    if not probs.any():  # typical-p and min-p may have nothing in common
        probs[np.argmax(untouched)] = 1
    if how.temperature != 1.0:
        probs = (probs / probs.max()) ** np.float32(1.0 / how.temperature)
    return probs / np.sum(probs)


def sample(
    logits: np.ndarray,
    how: Sampling,
    occurrence: dict[int, float],
    random: np.random.RandomState,
) -> int:
    """Draws one token given raw logits [V]."""
    probs = probabilities(adjust(logits, how, occurrence), how)
    return int(random.choice(len(probs), p=probs))


def count(
    token: int, how: Sampling, occurrence: dict[int, float], weights: np.ndarray | None = None
) -> None:
    """Updates the occurrences in place after `token` was drawn."""
    for seen in occurrence:
        occurrence[seen] *= how.decay
    weight = 1.0 if weights is None else float(weights[token])
    occurrence[token] = occurrence.get(token, 0.0) + weight


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()


def _typical(probs: np.ndarray, mass: float) -> np.ndarray:
    """Which tokens locally typical sampling keeps, [V] bool."""
    with np.errstate(divide="ignore", invalid="ignore"):
        information = -np.log(probs.astype(np.float64))
        entropy = np.nansum(probs * information)
        distance = np.abs(information - entropy)
    order = np.argsort(distance, kind="stable")
    reached = np.cumsum(probs[order]) >= mass
    last = order[np.argmax(reached)] if reached.any() else order[-1]
    return (distance <= distance[last]) & (probs > 0)

# SPDX-License-Identifier: Apache-2.0
"""How a trained network finds the odd frame: codes, membranes, and the number of saccades.

Dimensions: B problems, F frames, S saccades, D width of a code, N units.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.data import Source
from core.task import PyTree
from perception import saccades

MEMBRANES = ("s", "c")  # names of the integrated state: SNU and GRU, LSTM


class Distances(NamedTuple):
    """Distance of each frame's code to the mean of the other frames' codes.

    Attributes:
      ratio: [B], that of the odd frame over the mean of the conforming ones.
      farthest: bool [B], whether the odd frame is the farthest of all.
    """

    ratio: np.ndarray
    farthest: np.ndarray


def distances(codes: np.ndarray, labels: np.ndarray) -> Distances:
    """See `Distances`; codes [B, F, D], labels [B]."""
    codes = np.asarray(codes, np.float64)
    count = codes.shape[1]
    others = (codes.sum(axis=1, keepdims=True) - codes) / (count - 1)
    away = np.linalg.norm(codes - others, axis=-1)
    odd = np.take_along_axis(away, np.asarray(labels)[:, None], axis=1)[:, 0]
    rest = (away.sum(axis=1) - odd) / (count - 1)
    return Distances(odd / np.maximum(rest, 1e-12), away.argmax(axis=1) == labels)


class Traces(NamedTuple):
    """What happens at the saccades, averaged over problems; each [S].

    "odd": means over the problems whose fixated frame is the odd one. "rest": over those where it
    is another one. "without": the fixation of the odd frame's place when a conforming frame of the
    same problem is shown there instead.

    Attributes:
      decision: name -> logit of the decision neuron.
      membrane: name -> mean membrane potential of the last layer.
      shift: [S], root mean square over the units of the difference of the membranes of the same
        problem with and without the oddity: how far the context differs by then.
    """

    decision: dict[str, np.ndarray]
    membrane: dict[str, np.ndarray]
    shift: np.ndarray


def traces(network: Any, params: PyTree, codes: jax.Array, batch: dict[str, np.ndarray]) -> Traces:
    """Traces of a saccadic network with cells of `snn`; codes [B, F, D] of the batch.

    Raises:
      ValueError: a network without membranes.
    """
    labels, plan = np.asarray(batch["label"]), np.asarray(batch["saccade"])
    rows = np.arange(len(labels))
    codes = jnp.asarray(codes)
    plain = codes.at[rows, labels].set(codes[rows, (labels + 1) % codes.shape[1]])
    found = []
    for shown in (codes, plain):
        logits, states = network.decide(params, shown, jnp.asarray(plan))
        found.append((np.asarray(logits).T, last_membranes(states)))
    (logits, membranes), (plain_logits, plain_membranes) = found
    odd = (plan == labels[:, None]).T  # [S, B]

    def parts(values: np.ndarray, plain_values: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "odd": _means(values, odd),
            "rest": _means(values, ~odd),
            "without": _means(plain_values, odd),
        }

    return Traces(
        parts(logits, plain_logits),
        parts(membranes.mean(axis=-1), plain_membranes.mean(axis=-1)),
        np.sqrt(np.square(membranes - plain_membranes).mean(axis=(1, 2))),
    )


def last_membranes(states: Any) -> np.ndarray:
    """Membranes [S, B, N] of the last recurrent layer in a reader's trace."""
    for state in reversed(states if isinstance(states, tuple) else ()):
        for name in MEMBRANES:
            if isinstance(state, dict) and name in state:
                return np.asarray(state[name])
    raise ValueError("membranes are known of the cells of snn only")


def _means(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Means [S] of values [S, B] over the chosen problems; NaN where there are none."""
    count = where.sum(axis=1)
    total = np.where(where, values, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def by_initial(
    network: Any,
    params: PyTree,
    codes: jax.Array,
    labels: np.ndarray,
    counts: tuple[int, ...] = (0, 1, 3, 6, 12),
) -> dict[int, float]:
    """Accuracy of a trained saccadic network with other numbers S_I of initial saccades."""

    @jax.jit
    def scores(codes: jax.Array, plan: jax.Array) -> jax.Array:
        return network.by_frame(network.decide(params, codes, plan)[0], plan)

    found = {}
    for initial in counts:
        plan = saccades.plan(np.arange(len(labels)), initial, network.evaluation, seed=1)
        right = np.asarray(scores(codes, plan)).argmax(axis=-1) == labels
        found[initial] = float(right.mean())
    return found


def codes_of(
    network: Any, params: PyTree, source: Source, batch_size: int
) -> tuple[jax.Array, dict[str, np.ndarray]]:
    """(codes [N, F, D], whole "label", "riddle" and "saccade") of all problems of a source."""
    encode = jax.jit(lambda inputs: network.eye.apply(params["eye"], inputs))
    codes, kept = [], []
    for start in range(0, len(source), batch_size):
        batch = source.get(np.arange(start, start + batch_size))
        keep = min(batch_size, len(source) - start)
        codes.append(np.asarray(encode({n: batch[n] for n in network.eye.inputs}))[:keep])
        kept.append({n: batch[n][:keep] for n in ("label", "riddle", "saccade")})
    joined = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
    return jnp.asarray(np.concatenate(codes)), joined

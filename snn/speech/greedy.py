# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding of a transducer, whole utterances or frame by frame.

At frame t the likeliest label is emitted and the prediction network moves on, until the blank is
likeliest (or `max_symbols` labels came out of one frame); then t moves on. Written by labels, not
by frames ("label looping", arXiv 2406.06220): as long as no label comes, p does not change, so a
whole window of frames is looked at together, and the prediction network runs once for each label.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from core.task import PyTree
from snn.speech.network import BLANK, Transducer


class Decoded(NamedTuple):
    """Labels of each row, and the frames that emitted them.

    Attributes:
      labels, frames: int32 [B, capacity]; 0 beyond `counts`.
      counts: int32 [B].
    """

    labels: jax.Array
    frames: jax.Array
    counts: jax.Array


class Carry(NamedTuple):
    """What decoding keeps from one piece of sound to the next.

    Attributes:
      state: of the prediction network.
      p: its last output [B, J].
    """

    state: PyTree
    p: jax.Array


class _Loop(NamedTuple):
    carry: Carry
    t: jax.Array  # frame of each row [B]
    emitted: jax.Array  # labels that the frame has emitted [B]
    out: Decoded


def start(net: Transducer, params: PyTree, batch: int) -> Carry:
    """The carry before the first frame."""
    return Carry(*net.start(params, batch))


def decode(
    net: Transducer,
    params: PyTree,
    e: jax.Array,
    frames: jax.Array,
    carry: Carry | None = None,
    *,
    max_symbols: int = 4,
    window: int = 8,
) -> tuple[Decoded, Carry]:
    """Greedy decoding; for `jax.jit`.

    Args:
      net, params: the network.
      e: encoder outputs for the joint [B, T, J] (`Transducer.for_joint`).
      frames: length of each row, int [B].
      carry: from the piece before; None at the beginning.
      max_symbols: most labels of one frame. Moving on because of it is not taking the blank.
      window: frames looked at together.

    Returns:
      (labels with their frames, carry for the next piece).
    """
    if max_symbols < 1 or window < 1:
        raise ValueError(f"max_symbols and window must be at least 1: {max_symbols=}, {window=}")
    batch, time = e.shape[:2]
    rows = jnp.arange(batch)
    none = jnp.zeros((batch,), jnp.int32)
    buffer = jnp.zeros((batch, max(1, time * max_symbols)), jnp.int32)
    ahead = jnp.arange(min(window, time))

    def unfinished(loop: _Loop) -> jax.Array:
        return (loop.t < frames).any()

    def advance(loop: _Loop) -> _Loop:
        at = loop.t[:, None] + ahead
        seen = jnp.take_along_axis(e, jnp.minimum(at, time - 1)[:, :, None], axis=1)
        best = net.logits(params, seen, loop.carry.p[:, None]).argmax(axis=-1)
        spoken = (best != BLANK) & (at < frames[:, None])
        found, first = spoken.any(axis=1), spoken.argmax(axis=1)
        label = best[rows, first].astype(jnp.int32)
        t = loop.t + jnp.where(found, first, len(ahead))
        emitted = jnp.where(found, jnp.where(first == 0, loop.emitted, 0) + 1, 0)
        out = _append(loop.out, found, label, t)
        full = emitted >= max_symbols
        t, emitted = jnp.where(full, t + 1, t), jnp.where(full, 0, emitted)
        new = Carry(*net.predict_step(params, loop.carry.state, label))
        return _Loop(_choose(found, new, loop.carry), t, emitted, out)

    first = _Loop(carry or start(net, params, batch), none, none, Decoded(buffer, buffer, none))
    last = jax.lax.while_loop(unfinished, advance, first)
    return last.out, last.carry


def _append(out: Decoded, found: jax.Array, label: jax.Array, t: jax.Array) -> Decoded:
    rows, place = jnp.arange(len(label)), jnp.minimum(out.counts, out.labels.shape[1] - 1)
    put = lambda buffer, value: buffer.at[rows, place].set(
        jnp.where(found, value, buffer[rows, place])
    )
    return Decoded(put(out.labels, label), put(out.frames, t), out.counts + found)


def _choose(found: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    pick = lambda a, b: jnp.where(found.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
    return jax.tree.map(pick, new, old)

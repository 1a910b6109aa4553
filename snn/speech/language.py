# SPDX-License-Identifier: Apache-2.0
"""Language models over labels for beam search: counted n-grams, and any recurrent stack.

A model is anything with `start` and `step`, so one from elsewhere needs only these two functions.
An RWKV model becomes one by `snn.rwkv_cells`:

    language = Recurrent(rwkv_cells.stack(config), rwkv_cells.stack_params(config, params))
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from core.task import PyTree
from snn import cells
from snn.speech.network import BLANK


class LanguageModel(Protocol):
    """What beam search asks; log probabilities are [V], that of the blank is not looked at."""

    def start(self) -> tuple[Any, np.ndarray]:
        """(state, log probabilities of the first label)."""

    def step(self, state: Any, label: int) -> tuple[Any, np.ndarray]:
        """(state, log probabilities of the label after `label`)."""


class Ngram:
    """Counted n-grams, smoothed by Witten and Bell: a context that was followed by many different
    labels gives more weight to the shorter context.

        P(w | h) = (count(h w) + types(h) P(w | h')) / (count(h) + types(h))
    """

    def __init__(self, sequences: Sequence[Sequence[int]], labels: int, order: int = 3):
        """Counts.

        Args:
          sequences: label sequences of training transcripts, without blanks.
          labels: number of labels with the blank.
          order: n.

        Raises:
          ValueError: order below 1, or a label out of range.
        """
        if order < 1 or labels < 2:
            raise ValueError(f"expected order >= 1 and labels >= 2, got {order} and {labels}")
        self._labels, self._order = labels, order
        self._counts: dict[tuple[int, ...], Counter[int]] = {}
        for sequence in sequences:
            padded = [BLANK] * (order - 1) + [int(k) for k in sequence]
            for i in range(order - 1, len(padded)):
                if not BLANK < padded[i] < labels:
                    raise ValueError(f"label {padded[i]} is not in 1 ... {labels - 1}")
                for length in range(order):
                    context = tuple(padded[i - length : i])
                    self._counts.setdefault(context, Counter())[padded[i]] += 1

    def probabilities(self, context: tuple[int, ...]) -> np.ndarray:
        """[V] after the last labels `context`; the blank has none."""
        if context:
            shorter = self.probabilities(context[1:])
        else:
            shorter = np.full(self._labels, 1 / (self._labels - 1))
            shorter[BLANK] = 0.0
        counts = self._counts.get(context)
        if counts is None:
            return shorter
        seen = np.zeros(self._labels)
        seen[list(counts)] = list(counts.values())
        types = len(counts)
        return (seen + types * shorter) / (seen.sum() + types)

    def start(self) -> tuple[tuple[int, ...], np.ndarray]:
        """See `LanguageModel`."""
        return self._view((BLANK,) * (self._order - 1))

    def step(self, state: tuple[int, ...], label: int) -> tuple[tuple[int, ...], np.ndarray]:
        """See `LanguageModel`."""
        return self._view((*state, label)[len(state) + 2 - self._order :])

    def _view(self, context: tuple[int, ...]) -> tuple[tuple[int, ...], np.ndarray]:
        p = self.probabilities(context)
        return context, np.log(np.maximum(p, np.finfo(float).tiny))


class Recurrent:
    """A stack from labels to logits (an RWKV model, or any cells of `snn`)."""

    def __init__(self, net: cells.Stack, params: PyTree, first: int = BLANK):
        """Args: net: embedding first, logits last; its parameters; the label of the beginning."""
        self._params, self._first = params, first
        self._net = net
        self._step = jax.jit(functools.partial(_scored_step, net))

    def start(self) -> tuple[PyTree, np.ndarray]:
        """See `LanguageModel`."""
        return self.step(self._net.init_state(1), self._first)

    def step(self, state: PyTree, label: int) -> tuple[PyTree, np.ndarray]:
        """See `LanguageModel`."""
        state, scores = self._step(self._params, state, jnp.asarray([label], jnp.int32))
        return state, np.asarray(scores[0], np.float64)


def _scored_step(net: cells.Stack, params: PyTree, state: PyTree, label: jax.Array) -> Any:
    state, logits = net.step(params, state, label)
    return state, jax.nn.log_softmax(logits)

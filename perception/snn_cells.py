# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers of `snn` as the reader of saccades: the adapter to that package.

Dimensions: B problems, S saccades, n inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from perception.networks.layers import Params, Specs
from snn import cells, ostl

CELLS: dict[str, Callable[[int, int], Any]] = {
    "snu": lambda n, size: cells.Snu(n, size, recurrent=True, fire="step"),
    "ssnu": lambda n, size: cells.Snu(n, size, recurrent=True, fire="sigmoid"),
    "snu_feedforward": lambda n, size: cells.Snu(n, size, fire="step"),
    "lstm": cells.Lstm,
    "gru": cells.Gru,
}


@dataclasses.dataclass(frozen=True)
class CellReader:
    """Layers of one kind of cell, and the decision neuron; see `networks.saccadic`.

    Attributes:
      input_size: n.
      cell: a key of `CELLS`.
      size: units of a layer.
      depth: layers.
    """

    input_size: int
    cell: str = "snu"
    size: int = 128
    depth: int = 2

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise ValueError(f"cell must be one of {sorted(CELLS)}, got {self.cell!r}")
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, got {self.depth}")

    @property
    def stack(self) -> cells.Stack:
        """The layers, and a dense one whose output is the logit of the decision neuron."""
        widths = [self.input_size] + [self.size] * self.depth
        recurrent = [CELLS[self.cell](n, self.size) for n in widths[:-1]]
        return cells.Stack((*recurrent, cells.Dense(self.size, 1)))

    def param_specs(self) -> Specs:
        """Those of the stack."""
        return self.stack.param_specs()

    def read(self, params: Params, xs: jax.Array) -> tuple[jax.Array, tuple]:
        """(logits [B, S] of inputs [B, S, n], states of all layers after each saccade)."""
        stack = self.stack

        def step(state: Any, x: jax.Array) -> tuple[Any, tuple[jax.Array, Any]]:
            state, y = stack.step(params, state, x)
            return state, (y[:, 0], state)

        start = stack.init_state(len(xs), xs.dtype)
        _, (logits, states) = jax.lax.scan(step, start, jnp.swapaxes(xs, 0, 1))
        return logits.T, states

    def online(
        self, params: Params, xs: jax.Array, odd: jax.Array, weight: jax.Array
    ) -> tuple[jax.Array, jax.Array, Params, jax.Array]:
        """Loss and gradients learned online, saccade by saccade, by OSTL (`snn.ostl`).

        Nothing is propagated back through time. Feed-forward units have their exact traces;
        those of recurrent ones leave out the way through H, and layers below another one leave
        out the past of the layers above, as published. Inputs receive the gradient of the loss
        at their own saccade.

        Args:
          params: see `param_specs`.
          xs: inputs [B, S, n].
          odd: [B, S], 1 where the odd frame is fixated.
          weight: [S], of the loss of each saccade.

        Returns:
          (loss: weighted sum over the saccades of the mean binary cross-entropy, logits [B, S],
          gradients of the parameters, gradients of the inputs [B, S, n]).
        """
        stack, method = self.stack, ostl.Ostl(recurrent="without_h")

        def loss(y: jax.Array, target: tuple[jax.Array, jax.Array]) -> jax.Array:
            return target[1] * optax.sigmoid_binary_cross_entropy(y[:, 0], target[0]).mean()

        def step(held: Any, now: Any) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            carry, value, grads = held
            x, target = now

            def local(x: jax.Array) -> tuple[jax.Array, jax.Array]:
                y = stack.step(params, carry.state, x)[1]
                return loss(y, target), y[:, 0]

            below, logits = jax.grad(local, has_aux=True)(x)
            more, carry, part = method.step(stack, loss, params, carry, x, target)
            return (carry, value + more, jax.tree.map(jnp.add, grads, part)), (logits, below)

        start = ostl.init(method, stack, params, len(xs))
        zeros = jax.tree.map(jnp.zeros_like, params)
        steps = (jnp.swapaxes(xs, 0, 1), (odd.T, weight))
        held, (logits, below) = jax.lax.scan(step, (start, jnp.zeros(()), zeros), steps)
        return held[1], logits.T, held[2], jnp.swapaxes(below, 0, 1)

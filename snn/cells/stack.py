# SPDX-License-Identifier: Apache-2.0
"""Layers one after the other, stateful or not, under the contract of a cell."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from snn.cells.base import Cell, PyTree, Specs


@dataclasses.dataclass(frozen=True)
class Stack:
    """A stack of layers; layer l reads the output of layer l-1 at the same time step.

    Attributes:
      layers: cells and stateless layers.
      tied: pairs (layer, source): the matrix w of `layer` is the transpose of that of `source`
        (weight tying of an embedding and a readout), and is not a parameter of its own.
    """

    layers: tuple[Cell, ...]
    tied: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise ValueError("a stack needs at least one layer, got none")
        for i, (below, above) in enumerate(zip(self.layers, self.layers[1:], strict=False)):
            if below.output_size != above.input_size:
                raise ValueError(
                    f"layer {i} gives {below.output_size} numbers, but layer {i + 1} takes"
                    f" {above.input_size}"
                )
        for layer, source in self.tied:
            shapes = [self._matrix_shape(i) for i in (layer, source)]
            if layer == source or shapes[0] != shapes[1][::-1]:
                raise ValueError(
                    f"layers {layer} and {source} cannot be tied: w has shapes {shapes[0]} and"
                    f" {shapes[1]}"
                )

    def _matrix_shape(self, layer: int) -> tuple[int, ...]:
        if not 0 <= layer < len(self.layers):
            raise ValueError(f"tied layers are numbered 0 ... {len(self.layers) - 1}, got {layer}")
        specs = self.layers[layer].param_specs()
        return specs["w"].shape if "w" in specs else ()

    @property
    def input_size(self) -> int:
        """Width of the input."""
        return self.layers[0].input_size

    @property
    def output_size(self) -> int:
        """Width of the output."""
        return self.layers[-1].output_size

    def param_specs(self) -> Specs:
        """{"layer_0": ..., ...}; layers without parameters are left out."""
        specs = {f"layer_{i}": layer.param_specs() for i, layer in enumerate(self.layers)}
        for layer, _ in self.tied:
            specs[f"layer_{layer}"] = {k: v for k, v in specs[f"layer_{layer}"].items() if k != "w"}
        return {name: value for name, value in specs.items() if value}

    def layer_params(self, params: PyTree) -> tuple[PyTree, ...]:
        """What each layer's `step` receives; a linear function of `params`."""
        own = [params.get(f"layer_{i}", {}) for i in range(len(self.layers))]
        for layer, source in self.tied:
            own[layer] = {**own[layer], "w": own[source]["w"].T}
        return tuple(own)

    def init_state(self, batch_size: int, dtype: Any = jnp.float32) -> tuple:
        """One entry for each layer."""
        return tuple(layer.init_state(batch_size, dtype) for layer in self.layers)

    def step(self, params: PyTree, state: tuple, x: jax.Array) -> tuple[tuple, jax.Array]:
        """One time step through all layers."""
        new = []
        for layer, own, old in zip(self.layers, self.layer_params(params), state, strict=True):
            after, x = layer.step(own, old, x)
            new.append(after)
        return tuple(new), x


def stack_of(cell: Cell) -> Stack:
    """`cell` itself if it is a stack, else the stack of this one layer."""
    return cell if isinstance(cell, Stack) else Stack((cell,))

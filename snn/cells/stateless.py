# SPDX-License-Identifier: Apache-2.0
"""Layers without state, for stacks: their state is the empty tuple."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from core.params import Normal, ParamSpec, ones, zeros
from snn.cells.base import Specs, check_sizes, glorot

FUNCTIONS = {
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "log_softmax": jax.nn.log_softmax,
}


class Stateless:
    """A layer that keeps nothing between steps."""

    stateless: ClassVar[bool] = True

    def init_state(self, batch_size: int, dtype: Any = jnp.float32) -> tuple:
        """()."""
        return ()

    def step(self, params: dict, state: tuple, x: jax.Array) -> tuple[tuple, jax.Array]:
        """(state, y)."""
        return state, self.apply(params, x)

    def apply(self, params: dict, x: jax.Array) -> jax.Array:
        """y, for x [B, M]."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Dense(Stateless):
    """y = x W + b.

    Attributes:
      bias: have b.
    """

    input_size: int
    output_size: int
    bias: bool = True

    def __post_init__(self) -> None:
        check_sizes(input_size=self.input_size, output_size=self.output_size)

    def param_specs(self) -> Specs:
        """w [M, N] and bias [N]."""
        shape = (self.input_size, self.output_size)
        specs = {"w": ParamSpec(shape, ("neuron_in", "neuron"), glorot(*shape))}
        if self.bias:
            specs["bias"] = ParamSpec((self.output_size,), ("neuron",), zeros)
        return specs

    def apply(self, params: dict, x: jax.Array) -> jax.Array:
        """See the class."""
        y = x @ params["w"]
        return y + params["bias"] if self.bias else y


@dataclasses.dataclass(frozen=True)
class Embedding(Stateless):
    """The row of a table for each token: x [B] integers -> [B, N].

    Attributes:
      input_size: number of tokens.
      scale: standard deviation of the initial table.
    """

    input_size: int
    output_size: int
    scale: float = 0.1

    def __post_init__(self) -> None:
        check_sizes(input_size=self.input_size, output_size=self.output_size)

    def param_specs(self) -> Specs:
        """w [tokens, N]."""
        shape = (self.input_size, self.output_size)
        return {"w": ParamSpec(shape, ("vocab", "embed"), Normal(self.scale))}

    def apply(self, params: dict, x: jax.Array) -> jax.Array:
        """See the class."""
        return params["w"][x]


@dataclasses.dataclass(frozen=True)
class Activation(Stateless):
    """An elementwise function (or log_softmax) by name; see `FUNCTIONS`."""

    input_size: int
    function: str

    def __post_init__(self) -> None:
        check_sizes(input_size=self.input_size)
        if self.function not in FUNCTIONS:
            raise ValueError(
                f"unknown function {self.function!r}, expected one of {sorted(FUNCTIONS)}"
            )

    @property
    def output_size(self) -> int:
        """The width does not change."""
        return self.input_size

    def param_specs(self) -> Specs:
        """No parameters."""
        return {}

    def apply(self, params: dict, x: jax.Array) -> jax.Array:
        """See the class."""
        return FUNCTIONS[self.function](x)


@dataclasses.dataclass(frozen=True)
class LayerNorm(Stateless):
    """Zero mean and unit variance over the channels, then a weight and a bias for each."""

    input_size: int
    eps: float = 1e-5

    def __post_init__(self) -> None:
        check_sizes(input_size=self.input_size)

    @property
    def output_size(self) -> int:
        """The width does not change."""
        return self.input_size

    def param_specs(self) -> Specs:
        """weight and bias [N]."""
        shape, axes = (self.input_size,), ("neuron",)
        return {"weight": ParamSpec(shape, axes, ones), "bias": ParamSpec(shape, axes, zeros)}

    def apply(self, params: dict, x: jax.Array) -> jax.Array:
        """See the class."""
        return normalise(x, self.eps) * params["weight"] + params["bias"]


def normalise(x: jax.Array, eps: float) -> jax.Array:
    """x with zero mean and unit variance over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + eps)

# SPDX-License-Identifier: Apache-2.0
"""Firing functions as pluggable pairs: what the unit emits, and the derivative that training uses.

    spike = Surrogate(step, tanh_derivative())        # any two elementwise functions of v
    y = spike(v)                                      # forward value; d y / d v = derivative(v)

v is the distance of the membrane from its threshold. The step is strict: step(0) = 0. Every
derivative is written so that it neither overflows nor turns into NaN at any finite v.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

Elementwise = Callable[[jax.Array], jax.Array]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _fire(forward: Elementwise, derivative: Elementwise, v: jax.Array) -> jax.Array:
    return forward(v)


@_fire.defjvp
def _fire_jvp(
    forward: Elementwise, derivative: Elementwise, primals: tuple, tangents: tuple
) -> tuple[jax.Array, jax.Array]:
    (v,), (tangent,) = primals, tangents
    return forward(v), derivative(v) * tangent


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """A firing function with a derivative of its own.

    Attributes:
      forward: elementwise function v -> output.
      derivative: elementwise function v -> d output / d v used by every gradient.
    """

    forward: Elementwise
    derivative: Elementwise

    def __call__(self, v: jax.Array) -> jax.Array:
        """The output for v of any shape, in the dtype of v."""
        return _fire(self.forward, self.derivative, v)


def step(v: jax.Array) -> jax.Array:
    """1 where v > 0, else 0."""
    return (v > 0).astype(v.dtype)


@dataclasses.dataclass(frozen=True)
class TanhDerivative:
    """1 - tanh(slope v)^2, times the slope: the derivative used with the SNU."""

    slope: float = 1.0

    def __call__(self, v: jax.Array) -> jax.Array:
        return self.slope * (1 - jnp.square(jnp.tanh(self.slope * v)))


@dataclasses.dataclass(frozen=True)
class BoxcarDerivative:
    """1 / width where |v| < width / 2."""

    width: float = 1.0

    def __call__(self, v: jax.Array) -> jax.Array:
        return (jnp.abs(v) < self.width / 2).astype(v.dtype) / self.width


@dataclasses.dataclass(frozen=True)
class TriangleDerivative:
    """scale max(0, 1 - |v| / width); e-prop has scale 0.3 (arXiv 1901.09049)."""

    scale: float = 0.3
    width: float = 1.0

    def __call__(self, v: jax.Array) -> jax.Array:
        return self.scale * jnp.maximum(0, 1 - jnp.abs(v) / self.width)


@dataclasses.dataclass(frozen=True)
class LogisticDerivative:
    """slope sig(slope v) (1 - sig(slope v)); written without exp, so it cannot overflow."""

    slope: float = 1.0

    def __call__(self, v: jax.Array) -> jax.Array:
        p = jax.nn.sigmoid(self.slope * v)
        return self.slope * p * (1 - p)


@dataclasses.dataclass(frozen=True)
class FastSigmoidDerivative:
    """1 / (1 + slope |v|)^2 (SuperSpike, arXiv 1705.11146)."""

    slope: float = 25.0

    def __call__(self, v: jax.Array) -> jax.Array:
        return 1 / jnp.square(1 + self.slope * jnp.abs(v))


@dataclasses.dataclass(frozen=True)
class ArctanDerivative:
    """(alpha / 2) / (1 + (pi alpha v / 2)^2)."""

    alpha: float = 2.0

    def __call__(self, v: jax.Array) -> jax.Array:
        return self.alpha / 2 / (1 + jnp.square(jnp.pi / 2 * self.alpha * v))


STEP = Surrogate(step, TanhDerivative())
SIGMOID = Surrogate(jax.nn.sigmoid, LogisticDerivative())

# Name -> pair, for configurations.
NAMED: dict[str, Surrogate] = {
    "sigmoid": SIGMOID,
    "step": STEP,
    "step_boxcar": Surrogate(step, BoxcarDerivative()),
    "step_triangle": Surrogate(step, TriangleDerivative()),
    "step_logistic": Surrogate(step, LogisticDerivative()),
    "step_fast_sigmoid": Surrogate(step, FastSigmoidDerivative()),
    "step_arctan": Surrogate(step, ArctanDerivative()),
}


def get(name: str | Surrogate) -> Surrogate:
    """A pair by name; a pair is returned as it is.

    Raises:
      ValueError: unknown name.
    """
    if isinstance(name, Surrogate):
        return name
    if name not in NAMED:
        raise ValueError(f"unknown firing function {name!r}, expected one of {sorted(NAMED)}")
    return NAMED[name]


def _leaky(v: jax.Array, slope: float) -> jax.Array:
    return jnp.where(v > 0, v, slope * v)


# Membrane nonlinearities g of the SNU family.
MEMBRANE: dict[str, Elementwise] = {
    "identity": lambda v: v,
    "relu": lambda v: jnp.where(v > 0, v, 0),
    "leaky_relu": partial(_leaky, slope=0.1),
    "tanh": jnp.tanh,
    "elu": jax.nn.elu,
}


def membrane(name: str) -> Elementwise:
    """A membrane nonlinearity by name ("leaky_relu" has slope 0.1).

    Raises:
      ValueError: unknown name.
    """
    if name not in MEMBRANE:
        raise ValueError(
            f"unknown membrane nonlinearity {name!r}, expected one of {sorted(MEMBRANE)}"
        )
    return MEMBRANE[name]

# SPDX-License-Identifier: Apache-2.0
"""Postsynaptic potentials K(t - t_j) and the crossing times that they allow in closed form.

Between two arrivals the potential V(t) = sum over the inputs that have arrived of J_j K(t - t_j)
depends on two sums only, `s1` and `s2` of `features`. `potential` evaluates V from them and
`crossing` solves V = theta:

- Ramp, K = t (non-leaky, constant current; arXiv 2212.12522), optionally with a drive A.
- Exponential, K = 1 - exp(-t / tau) (non-leaky, exponential current; Mostafa, arXiv 1606.08165):
  exp(t / tau) = s2 / (s1 - theta).
- Lif2, K = exp(-t / 2 tau) - exp(-t / tau) (tau_m = 2 tau_s; Goeltz et al., arXiv 1912.11443):
  a quadratic equation in exp(-t / 2 tau).
- Lif1, K = (t / tau) exp(-t / tau) (tau_m = tau_s): Lambert's W.
- General, any K: bracketed Newton, see `solve`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Sums = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Ramp:
    """K(t) = t."""

    def value(self, dt: jax.Array) -> jax.Array:
        """K(dt) for dt >= 0."""
        return dt

    def derivative(self, dt: jax.Array) -> jax.Array:
        """K'(dt) for dt >= 0."""
        return jnp.ones_like(dt)

    def features(self, t: jax.Array) -> Sums:
        """What one input adds to (s1, s2), apart from its weight."""
        return jnp.ones_like(t), t

    def potential(self, s1: jax.Array, s2: jax.Array, t: jax.Array) -> jax.Array:
        """V(t)."""
        return s1 * t - s2

    def crossing(self, s1: jax.Array, s2: jax.Array, theta: jax.Array) -> Sums:
        """(first t with V = theta, whether it exists); finite even where it does not."""
        rises = s1 > 0
        return (theta + s2) / jnp.where(rises, s1, 1.0), rises


@dataclasses.dataclass(frozen=True)
class Exponential:
    """K(t) = 1 - exp(-t / tau)."""

    tau: float = 1.0

    def value(self, dt: jax.Array) -> jax.Array:
        """See `Ramp.value`."""
        return -jnp.expm1(-dt / self.tau)

    def derivative(self, dt: jax.Array) -> jax.Array:
        """See `Ramp.derivative`."""
        return jnp.exp(-dt / self.tau) / self.tau

    def features(self, t: jax.Array) -> Sums:
        """See `Ramp.features`."""
        return jnp.ones_like(t), jnp.exp(t / self.tau)

    def potential(self, s1: jax.Array, s2: jax.Array, t: jax.Array) -> jax.Array:
        """See `Ramp.potential`."""
        return s1 - s2 * jnp.exp(-t / self.tau)

    def crossing(self, s1: jax.Array, s2: jax.Array, theta: jax.Array) -> Sums:
        """See `Ramp.crossing`."""
        ok = (s1 > theta) & (s2 > 0)
        ratio = jnp.where(ok, s2, 1.0) / jnp.where(ok, s1 - theta, 1.0)
        return self.tau * jnp.log(ratio), ok


@dataclasses.dataclass(frozen=True)
class Lif2:
    """K(t) = exp(-t / (2 tau)) - exp(-t / tau): tau is the synaptic time constant."""

    tau: float = 1.0

    def value(self, dt: jax.Array) -> jax.Array:
        """See `Ramp.value`."""
        slow = jnp.exp(-dt / (2 * self.tau))
        return slow * (1.0 - slow)

    def derivative(self, dt: jax.Array) -> jax.Array:
        """See `Ramp.derivative`."""
        slow = jnp.exp(-dt / (2 * self.tau))
        return (slow * slow - 0.5 * slow) / self.tau

    def features(self, t: jax.Array) -> Sums:
        """See `Ramp.features`."""
        slow = jnp.exp(t / (2 * self.tau))
        return slow * slow, slow

    def potential(self, s1: jax.Array, s2: jax.Array, t: jax.Array) -> jax.Array:
        """See `Ramp.potential`."""
        z = jnp.exp(-t / (2 * self.tau))
        return z * (s2 - s1 * z)

    def crossing(self, s1: jax.Array, s2: jax.Array, theta: jax.Array) -> Sums:
        """See `Ramp.crossing`: s1 z^2 - s2 z + theta = 0; the earlier time is the larger root."""
        square = s2 * s2 - 4.0 * s1 * theta
        root = jnp.sqrt(jnp.maximum(square, 0.0))
        ok = (square >= 0) & (s1 > 0) & (s2 + root > 0)
        z = jnp.where(ok, s2 + root, 1.0) / jnp.where(ok, 2.0 * s1, 1.0)
        return -2.0 * self.tau * jnp.log(z), ok


@dataclasses.dataclass(frozen=True)
class Lif1:
    """K(t) = (t / tau) exp(-t / tau)."""

    tau: float = 1.0

    def value(self, dt: jax.Array) -> jax.Array:
        """See `Ramp.value`."""
        u = dt / self.tau
        return u * jnp.exp(-u)

    def derivative(self, dt: jax.Array) -> jax.Array:
        """See `Ramp.derivative`."""
        u = dt / self.tau
        return (1.0 - u) * jnp.exp(-u) / self.tau

    def features(self, t: jax.Array) -> Sums:
        """See `Ramp.features`."""
        u = t / self.tau
        e = jnp.exp(u)
        return e, u * e

    def potential(self, s1: jax.Array, s2: jax.Array, t: jax.Array) -> jax.Array:
        """See `Ramp.potential`."""
        u = t / self.tau
        return (s1 * u - s2) * jnp.exp(-u)

    def crossing(self, s1: jax.Array, s2: jax.Array, theta: jax.Array) -> Sums:
        """See `Ramp.crossing`: u = b/a - W0(-(theta / a) exp(b / a))."""
        safe = jnp.where(s1 > 0, s1, 1.0)
        ratio = s2 / safe
        argument = -(theta / safe) * jnp.exp(ratio)
        ok = (s1 > 0) & (argument >= -math.exp(-1.0))
        w = lambert_w0(jnp.where(ok, argument, 0.0))
        return self.tau * (ratio - w), ok


@dataclasses.dataclass(frozen=True)
class General:
    """Any kernel with K(0) = 0: `function(dt)` for dt >= 0, differentiable by JAX.

    The first crossing is looked for on `grid` equal steps from the start to the (finite) end of
    the window; potentials that rise above threshold and fall again within one step are missed.
    """

    function: Callable[[jax.Array], jax.Array]
    grid: int = 200
    iterations: int = 60

    def value(self, dt: jax.Array) -> jax.Array:
        """See `Ramp.value`."""
        return self.function(dt)

    def derivative(self, dt: jax.Array) -> jax.Array:
        """See `Ramp.derivative`."""
        return jax.jvp(self.function, (dt,), (jnp.ones_like(dt),))[1]


Kernel = Ramp | Exponential | Lif2 | Lif1 | General


def lambert_w0(x: jax.Array) -> jax.Array:
    """Principal branch of Lambert's W, w exp(w) = x, for x >= -1/e (Halley's iteration).

    Accurate to a few ulp of w away from the branch point -1/e; there w is only determined to the
    square root of the precision, as its condition number grows without bound.
    """
    e = math.e
    distance = jnp.maximum(x + 1.0 / e, 0.0) * (2.0 * e)
    p = jnp.sqrt(distance)
    near = -1.0 + p * (1.0 - p * (1.0 / 3.0 - p * (11.0 / 72.0)))
    far = jnp.log1p(jnp.maximum(x, 0.0)) * 0.75
    w = jnp.where(x < 0.0, jnp.maximum(near, -1.0), far)

    def halley(_: int, w: jax.Array) -> jax.Array:
        exponential = jnp.exp(w)
        f = w * exponential - x
        one = jnp.where(jnp.abs(w + 1.0) < 1e-6, 1.0, w + 1.0)
        step = f / (exponential * one - (w + 2.0) * f / (2.0 * one))
        return jnp.where(jnp.abs(w + 1.0) < 1e-6, w, w - step)

    return jax.lax.fori_loop(0, 8, halley, w)

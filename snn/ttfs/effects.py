# SPDX-License-Identifier: Apache-2.0
"""Imperfect hardware: spike-time jitter and loss, finite clocks and weights, mismatch.

All act on lead times and are differentiable: rounding passes gradients straight through, and
master weights stay unrounded (only their rounded image is used in the forward pass).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from snn.ttfs import network as net


@dataclasses.dataclass(frozen=True)
class Effects:
    """What differs from the ideal network; zeros switch an effect off.

    Attributes:
      jitter: standard deviation of the spike times, of input and hidden spikes. Silent neurons stay
        silent, and spikes stay in their window.
      missing: probability that a spike is lost.
      threshold: standard deviation of each neuron's threshold (fixed by `mismatch_seed`).
      slope: relative standard deviation of each neuron's slope at threshold (fixed likewise).
      time_bits: spikes fall on 2**bits - 1 equal steps of the window of the layer that sends them.
      weight_bits: weights are rounded to 2**bits - 1 levels in +-max|W| of their layer.
      mismatch_seed: which device.
    """

    jitter: float = 0.0
    missing: float = 0.0
    threshold: float = 0.0
    slope: float = 0.0
    time_bits: int = 0
    weight_bits: int = 0
    mismatch_seed: int = 0

    def __post_init__(self) -> None:
        if min(self.jitter, self.threshold, self.slope) < 0 or not 0 <= self.missing < 1:
            raise ValueError(f"effects must not be negative, missing < 1: {self}")
        if self.time_bits < 0 or self.weight_bits < 0 or self.weight_bits == 1:
            raise ValueError(f"bits: 0 (off), time_bits >= 1, weight_bits >= 2, got {self}")

    @property
    def none(self) -> bool:
        """True for the ideal network."""
        return self == Effects(mismatch_seed=self.mismatch_seed)


def straight_through(rounded: jax.Array, x: jax.Array) -> jax.Array:
    """The value of `rounded` with the gradient of x."""
    return x + jax.lax.stop_gradient(rounded - x)


def quantise_weights(block: Mapping[str, Any], bits: int) -> dict[str, Any]:
    """Weights (no biases, no delays) of one layer on 2**bits - 1 levels, symmetric around zero."""
    levels = 2 ** (bits - 1) - 1

    def quantise(w: jax.Array) -> jax.Array:
        unit = jax.lax.stop_gradient(jnp.maximum(jnp.abs(w).max(), 1e-30)) / levels
        return straight_through(jnp.round(w / unit) * unit, w)

    return {k: quantise(w) if k.startswith("weight") else w for k, w in block.items()}


def quantise_times(x: jax.Array, window: Any, bits: int) -> jax.Array:
    """Lead times on 2**bits - 1 steps of [0, window]; beyond the window they are clipped."""
    unit = jnp.asarray(window, x.dtype) / (2**bits - 1)
    rounded = jnp.clip(jnp.round(x / unit), 0, 2**bits - 1) * unit
    # Outside of the window the neuron fires at its border: no gradient there.
    return jnp.where(x > window, jax.lax.stop_gradient(rounded), straight_through(rounded, x))


def _spikes(x: jax.Array, window: Any, how: Effects, key: jax.Array) -> jax.Array:
    """What happens to the spikes of one layer on their way."""
    noise, loss = jax.random.split(key)
    fired = x > 0
    if how.jitter:
        moved = x + how.jitter * jax.random.normal(noise, x.shape, x.dtype)
        moved = jnp.clip(moved, 0.0, jnp.asarray(window, x.dtype))
        # The rule for silence comes first: noise must not create spikes.
        x = jnp.where(fired, moved, 0.0)
    if how.time_bits:
        x = quantise_times(x, window, how.time_bits)
    if how.missing:
        kept = jax.random.bernoulli(loss, 1.0 - how.missing, x.shape)
        x = jnp.where(kept, x, 0.0)
    return x


def run(
    network: net.Network,
    params: net.Params,
    x: jax.Array,
    windows: Mapping[str, Any],
    how: Effects,
    key: jax.Array,
    semantics: str = "clip",
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The closed form with effects; arguments and results as `network.closed_form`."""
    if semantics not in ("ideal", "clip"):
        raise ValueError(f"semantics with effects: ideal or clip, got {semantics!r}")
    device = jax.random.key(how.mismatch_seed)
    leads = {net.INPUT: _spikes(x, 1.0, how, jax.random.fold_in(key, 0))}
    for number, node in enumerate(network.nodes, start=1):
        if isinstance(node, net.Pool):
            leads[node.name] = net.pool(node, leads[node.source])
            continue
        block: Mapping[str, Any] = params[node.name]
        if how.weight_bits:
            block = quantise_weights(block, how.weight_bits)
        z = net.drive(node, block, leads)
        if not node.spiking:
            return z, leads
        a, b = jax.random.split(jax.random.fold_in(device, number))
        window = windows[node.name]
        if how.threshold:  # theta = Delta - D: an error of theta is one of -D
            z = z - how.threshold * jax.random.normal(a, node.shape, z.dtype)
        if how.slope:
            if node.rule != "b1":
                raise ValueError(f"layer {node.name!r}: slope mismatch is defined for rule b1")
            # A ramp of slope 1 + e from V(t_min) = Delta' - z reaches theta at lead
            # Delta - (Delta - z) / (1 + e).
            error = 1.0 + how.slope * jax.random.normal(b, node.shape, z.dtype)
            z = window - (window - z) / jnp.maximum(error, 0.1)
        value = net.rectify(node, block, z, window, semantics)
        leads[node.name] = _spikes(value, window, how, jax.random.fold_in(key, number))
    raise AssertionError("a network ends with its read-out")

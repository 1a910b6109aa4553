# SPDX-License-Identifier: Apache-2.0
"""Initial values of the parameters of TTFS networks, for each rule."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from core import params as params_lib
from core.params import Normal, ParamSpec, zeros
from snn.ttfs import kernels
from snn.ttfs import network as net

MAX_INITIAL_DELAY = 0.2  # input windows

# Gain of `Excitatory` for each kernel: about 3 / (its largest value in a window of length 1).
GAINS: dict[Any, float] = {
    kernels.Ramp: 3.0,
    kernels.Exponential: 5.0,
    kernels.Lif1: 8.0,
    kernels.Lif2: 12.0,
}


@dataclasses.dataclass(frozen=True)
class SmartAlpha1:
    """J = w / (1 - sum w) for He-initialised w, so that the effective weight J / S is w.

    Feasible only where sum w < 1; other neurons are scaled down to sum w = cap.
    """

    scale: float
    cap: float = 0.9

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        w = self.scale * jax.random.normal(key, shape, dtype)
        total = w.sum(axis=tuple(range(len(shape) - 1)))
        w = w * jnp.where(total > self.cap, self.cap / jnp.maximum(total, self.cap), 1.0)
        return w / (1.0 - w.sum(axis=tuple(range(len(shape) - 1))))


@dataclasses.dataclass(frozen=True)
class Excitatory:
    """Mostly positive weights, with which autonomous neurons fire well before t_max.

    mean = gain * threshold / inputs and standard deviation 2 gain threshold / sqrt(inputs).
    """

    gain: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        fan_in = math.prod(shape[:-1])
        noise = jax.random.normal(key, shape, dtype)
        return self.gain * (1.0 / fan_in + 2.0 * noise / math.sqrt(fan_in))


@dataclasses.dataclass(frozen=True)
class Between:
    """Uniform in [0, high]."""

    high: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, 0.0, self.high)


def param_specs(
    network: net.Network, init: str = "he", bias_maps: tuple[str, ...] = ()
) -> dict[str, dict[str, ParamSpec]]:
    """Specifications of the parameters; `bias_maps`: layers with a bias at each position."""
    specs: dict[str, dict[str, ParamSpec]] = {}
    layers = {layer.name: layer for layer in network.layers}
    for name, block in net.param_shapes(network).items():
        specs[name] = {}
        for key, shape in block.items():
            if key == "bias":
                full = network.shape_of(name) if name in bias_maps else shape
                bias_axes = (None,) * (len(full) - 1) + ("neuron",)
                specs[name][key] = ParamSpec(full, bias_axes, zeros)
                continue
            if key.startswith("delay"):
                names = (None,) * (len(shape) - 1) + ("neuron_in",)
                specs[name][key] = ParamSpec(shape, names, Between(MAX_INITIAL_DELAY))
                continue
            fan_in, fan_out = math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
            he = math.sqrt(2.0 / fan_in)
            draw: Any = Normal(he)
            layer = layers[name]
            if layer.autonomous:
                draw = Excitatory(GAINS[type(layer.kernel)] * layer.threshold)
            elif init == "glorot":
                draw = params_lib.Uniform(math.sqrt(6.0 / (fan_in + fan_out)))
            elif init == "alpha1_smart" and name != network.readout.name:
                draw = SmartAlpha1(he)
            axes = (None,) * (len(shape) - 2) + ("neuron_in", "neuron")[-min(len(shape), 2) :]
            specs[name][key] = ParamSpec(shape, axes, draw)
    return specs

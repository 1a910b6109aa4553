# SPDX-License-Identifier: Apache-2.0
"""What a network costs: spikes, synaptic operations, latency, energy.

Energy is an estimate with the 45 nm constants of Horowitz (ISSCC 2014, 32-bit floating point): one
accumulation (a synaptic operation) 0.9 pJ, one multiply-accumulate 4.6 pJ. It counts arithmetic
only, no memory and no communication.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from snn.ttfs import network as net
from snn.ttfs import simulate, synapses, windows

PICOJOULES_PER_AC = 0.9
PICOJOULES_PER_MAC = 4.6


@dataclasses.dataclass(frozen=True)
class Cost:
    """Means over the examples.

    Attributes:
      spikes: spikes of each node.
      spikes_per_neuron: hidden spikes / hidden neurons; pooling forwards spikes and has no neurons.
      spikes_per_neuron_with_input: the same, input spikes and neurons included.
      synaptic_operations: sum over spikes of their fan-out.
      macs: multiply-accumulates of the equal ReLU network.
      latency: time from the start of the input window to the read-out (t_min of the last layer).
      energy_nj, relu_energy_nj: see the module docstring, in nanojoules per example.
    """

    spikes: Mapping[str, float]
    spikes_per_neuron: float
    spikes_per_neuron_with_input: float
    synaptic_operations: float
    macs: float
    latency: float
    energy_nj: float
    relu_energy_nj: float


def fan_outs(network: net.Network) -> dict[str, jax.Array]:
    """Synapses of each neuron of each node onto later layers; pools pass on those of their output.

    A pool node's own spikes have the fan-out of what reads the pool.
    """
    names = [net.INPUT, *(n.name for n in network.nodes)]
    total = {name: jnp.zeros(network.shape_of(name)) for name in names}
    for layer in network.layers:
        for k, edge in enumerate(layer.edges):
            shape = network.shape_of(edge.source)
            own = layer.shape if isinstance(edge.op, net.Scale) else shape
            total[edge.source] += synapses.fan_out(layer, k, own).reshape(shape)
    return total


def count(
    network: net.Network,
    params: net.Params,
    batches: Iterable[Any],
    deltas: Mapping[str, float],
    semantics: str = "clip",
) -> Cost:
    """Costs over batches of input lead times [B, *input_shape]; autonomous layers need "causal".

    Layers whose rule forces silent neurons to spike ("alpha", "b1_forced") count every neuron.
    """
    fans = fan_outs(network)
    forced = {n.name for n in network.hidden if n.forced}

    def sums(p: net.Params, x: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        _, leads = simulate.forward(network, p, x, deltas, semantics)
        fired = {k: jnp.ones(v.shape, bool) if k in forced else v > 0 for k, v in leads.items()}
        operations = sum((f * fans[k]).sum() for k, f in fired.items())
        return {k: f.sum() for k, f in fired.items()}, jnp.asarray(operations)

    examples, operations, spikes = 0, 0.0, dict.fromkeys(fans, 0.0)
    compiled = jax.jit(sums)
    for x in batches:
        found, part = compiled(params, x)
        examples += x.shape[0]
        operations += float(part)
        spikes = {k: v + float(found.get(k, 0.0)) for k, v in spikes.items()}
    if not examples:
        raise ValueError("accounting: no batches were given")
    spikes.pop(network.readout.name)
    return _cost(
        network, {k: v / examples for k, v in spikes.items()}, operations / examples, deltas
    )


def _cost(
    network: net.Network,
    spikes: dict[str, float],
    operations: float,
    deltas: Mapping[str, float],
) -> Cost:
    neurons = sum(math.prod(layer.shape) for layer in network.hidden)
    inputs = math.prod(network.input_shape)
    hidden = sum(spikes[layer.name] for layer in network.hidden)
    macs = float(sum(np.asarray(f).sum() for f in fan_outs(network).values()))
    return Cost(
        spikes=spikes,
        spikes_per_neuron=hidden / max(1, neurons),
        spikes_per_neuron_with_input=(hidden + spikes[net.INPUT]) / (neurons + inputs),
        synaptic_operations=operations,
        macs=macs,
        latency=windows.timeline(network, deltas).readout,
        energy_nj=operations * PICOJOULES_PER_AC / 1e3,
        relu_energy_nj=macs * PICOJOULES_PER_MAC / 1e3,
    )

# SPDX-License-Identifier: Apache-2.0
"""The reference simulator: one queue of events, potentials advanced from event to event.

Slow and obvious, in NumPy and float64. The next event is an arriving spike, a layer's change of
regime at t_min, its deadline t_max, or the next threshold crossing of a layer, which is computed
anew after each event that touches the layer (`event_layers`).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from snn.ttfs import network as net
from snn.ttfs import synapses, windows
from snn.ttfs.event_layers import Array, Autonomous, Regimes, State

# Order of events at one time: spikes arrive before the regimes change, and windows end last.
_ARRIVE, _REGIME, _CROSS, _DEADLINE = range(4)


class _Synapses:
    """One edge: weights [inputs, neurons] and delays None, [inputs] or [inputs, neurons]."""

    def __init__(self, layer: net.Layer, index: int, block: Mapping[str, Any], source: net.Shape):
        self.weight = np.asarray(synapses.matrix(layer, index, block, source))
        delay = synapses.delay_matrix(layer, index, block, source)
        self.delay = None if delay is None else np.asarray(delay)

    def packets(self, neuron: int) -> list[tuple[float, Array]]:
        """(delay, jumps of all neurons of the layer) of the arrivals that one spike causes."""
        jumps = self.weight[neuron]
        if self.delay is None or self.delay.ndim == 1:
            return [(0.0 if self.delay is None else float(self.delay[neuron]), jumps)]
        own = self.delay[neuron]
        return [(float(d), np.where(own == d, jumps, 0.0)) for d in np.unique(own[jumps != 0])]


class _Example:
    """One example on its way through the network."""

    def __init__(
        self,
        network: net.Network,
        params: net.Params,
        wiring: Mapping[str, list[_Synapses]],
        deltas: Mapping[str, float],
    ):
        self.network, self.wiring = network, wiring
        line = windows.timeline(network, deltas)
        self.queue: list[tuple[float, int, int, tuple[Any, ...]]] = []
        self.counter = itertools.count()
        self.layers: dict[str, State] = {}
        before = 0.0
        for layer in network.layers:
            t_min, t_max = line.spans.get(layer.name, (line.readout, line.readout))
            kind = Autonomous if layer.autonomous else Regimes
            state = kind(layer, params[layer.name], (before, t_min, t_max))
            self.layers[layer.name] = state
            before = t_min
            self.push(state.start, _REGIME, layer.name, "drive")
            self.push(t_min, _REGIME, layer.name, "ramp")
            if layer.spiking:
                self.push(t_max, _DEADLINE, layer.name)
        # Pools: earliest spike so far, number of spikes so far, of each window.
        self.pools = {
            n.name: (np.zeros(math.prod(n.shape), int), np.full(math.prod(n.shape), np.inf))
            for n in network.nodes
            if isinstance(n, net.Pool)
        }
        self.members = {n.name: _members(n, network) for n in network.nodes if _is_pool(n)}
        self.ends = {net.INPUT: 1.0} | {k: v[1] for k, v in line.spans.items()}
        for node in network.nodes:
            if isinstance(node, net.Pool):
                self.ends[node.name] = self.ends[node.source]

    def push(self, t: float, kind: int, *data: Any) -> None:
        heapq.heappush(self.queue, (t, kind, next(self.counter), data))

    def emit(self, name: str, neuron: int, t: float) -> None:
        """A spike of a node: arrives where the node is read, delayed into the reader's window."""
        for node in self.network.nodes:
            if isinstance(node, net.Pool):
                if node.source == name:
                    self.pool(node, neuron, t)
                continue
            for k, edge in enumerate(node.edges):
                if edge.source == name:
                    shift = self.layers[node.name].t_min - self.ends[name]
                    for delay, jumps in self.wiring[node.name][k].packets(neuron):
                        self.push(t + shift + delay, _ARRIVE, node.name, jumps)

    def pool(self, node: net.Pool, neuron: int, t: float) -> None:
        counts, times = self.pools[node.name]
        outputs, sizes = self.members[node.name]
        channel = neuron % node.shape[-1]
        late = bool(node.latest) and node.latest[channel]
        for out in outputs[neuron]:
            counts[out] += 1
            if counts[out] == (sizes[out] if late else 1):
                times[out] = t
                self.emit(node.name, out, t)

    def run(self, x: Array) -> tuple[Array, dict[str, Array]]:
        for neuron in np.flatnonzero(x.ravel() > 0):
            self.emit(net.INPUT, int(neuron), 1.0 - float(x.ravel()[neuron]))
        while self.queue:
            t, kind, _, data = heapq.heappop(self.queue)
            self.handle(t, kind, data)
        leads = {net.INPUT: x}
        for name, state in self.layers.items():
            if state.layer.spiking:
                lead = np.where(np.isfinite(state.spiked), state.t_max - state.spiked, 0.0)
                leads[name] = lead.reshape(state.layer.shape)
        for node in self.network.nodes:
            if isinstance(node, net.Pool):
                times = self.pools[node.name][1]
                lead = np.where(np.isfinite(times), self.ends[node.name] - times, 0.0)
                leads[node.name] = lead.reshape(node.shape)
        last = self.layers[self.network.readout.name]
        assert isinstance(last, Regimes)
        return (last.v + last.bias).reshape(last.layer.shape), leads

    def handle(self, t: float, kind: int, data: tuple[Any, ...]) -> None:
        state = self.layers[data[0]]
        layer = state.layer
        if kind == _CROSS:
            _, neuron, version = data
            if version != state.version:
                return  # the layer has changed since
            state.advance(t)
            state.spiked[neuron] = t
            self.emit(layer.name, neuron, t)
        elif kind == _ARRIVE:
            if not state.arrive(t, data[1]):
                return
        elif kind == _REGIME:
            state.regime(t, data[1])
        else:
            state.advance(t)
            waiting = ~np.isfinite(state.spiked)
            if layer.forced:
                for neuron in np.flatnonzero(waiting):  # forced to spike at the deadline
                    state.spiked[neuron] = t
                    self.emit(layer.name, int(neuron), t)
            state.spiked[waiting] = t  # lead time 0 either way
        if layer.spiking and t >= state.start:  # neurons cannot fire before their start
            state.version += 1
            crossing, neuron = state.next_crossing()
            if np.isfinite(crossing) and crossing < state.t_max:
                self.push(crossing, _CROSS, layer.name, neuron, state.version)


def _is_pool(node: net.Node) -> bool:
    return isinstance(node, net.Pool)


def _members(node: Any, network: net.Network) -> tuple[list[list[int]], Array]:
    """For each source neuron the pool outputs that it belongs to, and the members of each."""
    height, width, channels = network.shape_of(node.source)
    outputs: list[list[int]] = [[] for _ in range(height * width * channels)]
    sizes = np.zeros(math.prod(node.shape), int)
    for out in np.ndindex(*node.shape):
        index = int(np.ravel_multi_index(out, node.shape))
        for dy, dx in itertools.product(range(node.window[0]), range(node.window[1])):
            y = out[0] * node.strides[0] + dy - node.padding[0][0]
            x = out[1] * node.strides[1] + dx - node.padding[1][0]
            if 0 <= y < height and 0 <= x < width:
                outputs[(y * width + x) * channels + out[2]].append(index)
                sizes[index] += 1
    return outputs, sizes


def run(
    network: net.Network, params: net.Params, x: Any, deltas: Mapping[str, Any]
) -> tuple[Array, dict[str, Array]]:
    """Simulates a batch, example by example; see `simulate.run`."""
    with jax.enable_x64(True):
        return _run(network, params, x, {k: float(v) for k, v in deltas.items()})


def _run(
    network: net.Network, params: net.Params, x: Any, deltas: dict[str, float]
) -> tuple[Array, dict[str, Array]]:
    exact = {
        name: {k: np.asarray(v, np.float64) for k, v in block.items()}
        for name, block in params.items()
    }
    wiring = {
        layer.name: [
            _Synapses(layer, k, exact[layer.name], network.shape_of(e.source))
            for k, e in enumerate(layer.edges)
        ]
        for layer in network.layers
    }
    results = [
        _Example(network, exact, wiring, deltas).run(np.asarray(one, np.float64)) for one in x
    ]
    logits = np.stack([r[0] for r in results])
    return logits, {name: np.stack([r[1][name] for r in results]) for name in results[0][1]}

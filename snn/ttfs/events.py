# SPDX-License-Identifier: Apache-2.0
"""The reference simulator: one queue of events, potentials advanced from event to event.

Slow and obvious, in NumPy and float64. Between events every potential is a straight line; the next
event is an arriving spike, a layer's change of regime at t_min, its deadline t_max, or the next
threshold crossing of a layer, which is computed anew after each event that touches the layer.
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

Array = np.ndarray

# Order of events at one time: spikes arrive before the regimes change, and windows end last.
_ARRIVE, _REGIME, _CROSS, _DEADLINE = range(4)


class _Layer:
    """State of the neurons of one layer for one example."""

    def __init__(
        self, layer: net.Layer, block: Mapping[str, Any], matrices: list[Array], times: Any
    ):
        self.layer, self.matrices = layer, matrices
        self.start, self.t_min, self.t_max = times
        drive, slope = (np.asarray(v, np.float64) for v in net.slopes(layer, block))
        full = lambda v: np.broadcast_to(v, layer.shape).reshape(-1).astype(np.float64)
        self.final_slope = full(slope)
        self.drive = full(drive)
        bias = full(np.asarray(block["bias"], np.float64))
        window, previous = self.t_max - self.t_min, self.t_min - self.start
        self.theta = self.final_slope * window + self.drive * previous - bias
        self.bias = bias
        self.v = np.zeros_like(bias)
        self.slope = np.zeros_like(bias)
        self.spiked = np.full_like(bias, np.inf)
        self.now = -np.inf
        self.version = 0

    def advance(self, t: float) -> None:
        if np.isfinite(self.now):
            self.v = self.v + self.slope * (t - self.now)
        self.now = t

    def next_crossing(self) -> tuple[float, int]:
        """(time, neuron) of the next threshold crossing as things stand."""
        waiting = ~np.isfinite(self.spiked)
        above = waiting & (self.v >= self.theta)
        if above.any():
            return self.now, int(np.argmax(above))
        rising = waiting & (self.slope > 0)
        wait = np.full_like(self.v, np.inf)
        np.divide(self.theta - self.v, self.slope, out=wait, where=rising)
        i = int(np.argmin(wait))
        return self.now + float(wait[i]), i


class _Example:
    """One example on its way through the network."""

    def __init__(
        self,
        network: net.Network,
        params: net.Params,
        matrices: Mapping[str, list[Array]],
        deltas: Mapping[str, float],
    ):
        self.network = network
        line = windows.timeline(network, deltas)
        self.line = line
        self.queue: list[tuple[float, int, int, tuple[Any, ...]]] = []
        self.counter = itertools.count()
        self.layers: dict[str, _Layer] = {}
        before = 0.0
        for layer in network.layers:
            t_min, t_max = line.spans.get(layer.name, (line.readout, line.readout))
            state = _Layer(layer, params[layer.name], matrices[layer.name], (before, t_min, t_max))
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
                    delay = self.layers[node.name].t_min - self.ends[name]
                    self.push(t + delay, _ARRIVE, node.name, k, neuron)

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
            _, k, neuron = data
            if state.now >= state.t_min and t >= state.t_min:
                return  # the ramp to the threshold has begun; currents no longer count
            state.advance(t)
            state.slope = state.slope + state.matrices[k][neuron]
        elif kind == _REGIME:
            state.advance(t)
            if data[1] == "drive":
                state.slope = state.slope + (state.drive if layer.spiking else 0.0)
            else:
                state.slope = state.final_slope if layer.spiking else np.zeros_like(state.v)
        else:
            state.advance(t)
            waiting = ~np.isfinite(state.spiked)
            if layer.rule in ("alpha", "b1_forced"):
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
    matrices = {
        layer.name: [
            np.asarray(synapses.matrix(layer, k, exact[layer.name], network.shape_of(e.source)))
            for k, e in enumerate(layer.edges)
        ]
        for layer in network.layers
    }
    results = [
        _Example(network, exact, matrices, deltas).run(np.asarray(one, np.float64)) for one in x
    ]
    logits = np.stack([r[0] for r in results])
    return logits, {name: np.stack([r[1][name] for r in results]) for name in results[0][1]}

# SPDX-License-Identifier: Apache-2.0
"""Runs a TTFS network by one of three interchangeable back-ends.

- "closed": one product per layer on lead times (`network.closed_form`);
- "solver": the sorted causal-set solver for every neuron (true early crossings);
- "events": a queue of spikes, one at a time, in NumPy (`events`): exact and slow, the reference.

They agree to rounding as long as no neuron reaches its threshold before t_min (`windows.certify`);
where one does, "solver" and "events" give the true dynamics ("causal" semantics). Delays go through
all three; rule "autonomous", and with it every kernel but the ramp, through the last two.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from snn.ttfs import network as net
from snn.ttfs import synapses, windows
from snn.ttfs.kernels import Ramp
from snn.ttfs.solve import causal_solve

BACKENDS = ("closed", "solver", "events")


@dataclasses.dataclass(frozen=True)
class Run:
    """Result of a simulation.

    Attributes:
      logits: [B, classes].
      leads: lead time of each neuron by node, [B, ...]; 0 for silent neurons, above the window for
        early spikes.
      early_fraction: of each spiking layer, the fraction of neurons that cross their threshold
        before t_min (as autonomous neurons may). "closed" does not see early spikes: there it
        counts lead times above the window, a lower bound (`windows.certify` is exact).
    """

    logits: Any
    leads: Mapping[str, Any]
    early_fraction: Mapping[str, float]

    def times(self, network: net.Network, deltas: Mapping[str, Any]) -> dict[str, Any]:
        """Absolute spike times of the spiking layers and the input; inf for silent neurons."""
        spans = windows.timeline(network, deltas).spans
        return {
            name: jnp.where(self.leads[name] > 0, end - self.leads[name], jnp.inf)
            for name, (_, end) in spans.items()
        }


def run(
    network: net.Network,
    params: net.Params,
    x: Any,
    deltas: Mapping[str, Any],
    semantics: str,
    backend: str = "closed",
) -> Run:
    """Simulates a batch.

    Args:
      network, params: see `network`.
      x: input lead times in [0, 1], [B, *input_shape].
      deltas: window of each spiking layer.
      semantics: "ideal" (closed form, with windows that are certified on x first), "clip" (closed
        form, whatever the windows) or "causal" (true early crossings; the other two back-ends).
      backend: see the module docstring.

    Raises:
      ValueError: bad input or parameters, windows too small for "ideal", or a pair that does not
        exist; names the layer and its rule.
    """
    if semantics not in net.SEMANTICS or backend not in BACKENDS:
        raise ValueError(
            f"semantics must be one of {net.SEMANTICS} and backend one of {BACKENDS}, got"
            f" {semantics!r} and {backend!r}"
        )
    if (semantics == "causal") == (backend == "closed"):
        raise ValueError(
            "causal semantics is computed by the back-ends solver and events, ideal and clip by"
            f" closed; got {semantics!r} with {backend!r}"
        )
    net.check_input(network, x)
    net.check_params(network, params)
    windows.timeline(network, deltas)
    if backend == "closed":
        net.check_closed_form(network)
    if semantics == "ideal":
        windows.require(windows.certify(network, params, x, deltas))
    if backend == "events":
        from snn.ttfs import events

        logits, leads = events.run(network, params, x, deltas)
    elif backend == "solver":
        logits, leads = _causal(network, params, jnp.asarray(x), dict(deltas))
    else:
        logits, leads = _closed(network, params, jnp.asarray(x), dict(deltas), semantics)
    early = {
        layer.name: float((leads[layer.name] > deltas[layer.name]).mean())
        for layer in network.hidden
    }
    return Run(logits, leads, early)


def causal(
    network: net.Network, params: net.Params, x: jax.Array, deltas: Mapping[str, Any]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Logits and lead times with true early crossings; differentiable, jit-able."""
    leads = {net.INPUT: x}
    for node in network.nodes[:-1]:
        if isinstance(node, net.Pool):
            leads[node.name] = net.pool(node, leads[node.source])
        else:
            previous = windows.previous_window(network, deltas, node.name)
            block = params[node.name]
            leads[node.name] = causal_layer(node, block, leads, deltas[node.name], previous)
    readout = network.readout
    return net.drive(readout, params[readout.name], leads), leads


def forward(
    network: net.Network,
    params: net.Params,
    x: jax.Array,
    deltas: Mapping[str, Any],
    semantics: str,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Logits and lead times by any semantics, without checks; differentiable, jit-able."""
    if semantics == "causal":
        return causal(network, params, x, deltas)
    return net.closed_form(network, params, x, deltas, semantics)


_causal = jax.jit(causal, static_argnums=0)
_closed = jax.jit(net.closed_form, static_argnums=(0, 4))


def causal_layer(
    layer: net.Layer, block: Mapping[str, Any], leads: Mapping[str, Any], window: Any, previous: Any
) -> jax.Array:
    """Lead times of one layer: the first crossing before t_min if there is one, else the ramp's.

    Autonomous neurons have no ramp: their first crossing before t_max counts.

    Time is measured from t_min: an input of lead time x arrives at -x. Inputs that arrive before
    the layer's integration starts (early spikes of a layer before) act from their arrival on; the
    layer itself fires no earlier than that.
    """
    inputs = synapses.arrivals(layer, block, leads)
    times = jnp.where(inputs.lead > 0, -inputs.lead, jnp.inf)
    batch, units = leads[layer.edges[0].source].shape[0], inputs.weight.shape[1]

    def by_row(theta: jax.Array) -> jax.Array:  # [M] or [H, W, M]
        if theta.ndim == 1:
            return theta
        return jnp.broadcast_to(theta, (batch, *layer.shape)).reshape(-1, units)

    solve = functools.partial(
        causal_solve, times, inputs.weight, start=-previous, delays=inputs.delay
    )
    if layer.autonomous:
        theta = by_row(layer.threshold - jnp.asarray(block["bias"]))
        crossing = solve(theta, layer.kernel, end=window).reshape(-1, *layer.shape)
        fired = ~jnp.isinf(crossing)  # NaN stays visible
        return jnp.where(fired, window - jnp.where(fired, crossing, 0.0), 0.0)
    drive, slope = net.slopes(layer, block)
    theta = by_row(slope * window + drive * previous - block["bias"])
    crossing = solve(theta, Ramp(), drive=drive, end=0.0).reshape(-1, *layer.shape)
    early = ~jnp.isinf(crossing)
    late = net.rectify(layer, block, net.drive(layer, block, leads), window, "clip")
    return jnp.where(early, window - jnp.where(early, crossing, 0.0), late)

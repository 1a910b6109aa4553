# SPDX-License-Identifier: Apache-2.0
"""The exact mappings: from the weights of a ReLU network to those of a TTFS network.

`fuse` gives B1 parameters (J = W, D = b); with `network.with_rule("b1_forced")` they serve the
single-regime form as well. The alpha mapping (arXiv 2212.12522) needs sum_j W_ij < 1 for each
neuron, which `prescale` brings about without changing the function (ReLU(f x) = f ReLU(x), f > 0).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from snn.ttfs import fuse, relu, windows
from snn.ttfs import network as net

Array = np.ndarray
Blocks = dict[str, dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Mapped:
    """A TTFS network with parameters and windows that hold for the data it was mapped with."""

    network: net.Network
    params: Blocks
    windows: dict[str, float]


def map_relu(
    layers: relu.Layers,
    params: Mapping[str, Any],
    input_shape: net.Shape,
    data: Iterable[Any],
    *,
    input_range: tuple[float, float] = (0.0, 1.0),
    rule: str = "b1",
    alpha: float = 1.0,
    zeta: float = 0.5,
    windows_from: str = "max",
) -> Mapped:
    """Maps a trained ReLU network.

    Args:
      layers, params, input_shape: see `snn.ttfs.relu`.
      data: batches of input lead times in [0, 1] (already coded from `input_range`) that set the
        windows; training data, so that no information of test data enters.
      input_range: range of the raw input.
      rule: "b1", "b1_forced" or "alpha" (pre-scaled, slope `alpha`).
      alpha: slope of the "alpha" rule.
      zeta, windows_from: see `windows.from_data`.
    """
    network, b1 = fuse.fuse(layers, params, input_shape, input_range)
    if rule == "alpha":
        network, b1 = to_alpha(network, prescale(network, b1), alpha)
    elif rule == "b1_forced":
        network = network.with_rule("b1_forced")
    elif rule != "b1":
        raise ValueError(f"mapping rule must be b1, b1_forced or alpha, got {rule!r}")
    return Mapped(network, b1, windows.from_data(network, b1, data, zeta, windows_from))


def _incoming(edge: net.Edge, weight: Array, gain: Array, shape: net.Shape) -> Array:
    """The weight of an edge after the gain of its source (per channel) is undone."""
    channels = shape[-1]
    if isinstance(edge.op, net.Dense):
        return weight / np.tile(gain, weight.shape[0] // channels)[:, None]
    if isinstance(edge.op, net.Scale):
        return weight / (
            gain if weight.shape == gain.shape else np.tile(gain, weight.size // channels)
        )
    per_group, outputs = channels // edge.op.groups, edge.op.features // edge.op.groups
    group = np.repeat(np.arange(edge.op.groups), outputs)
    index = group[None, :] * per_group + np.arange(per_group)[:, None]
    return weight / gain[index]


def prescale(
    network: net.Network, params: net.Params, upper: float = 0.9, lower: float = -10.0
) -> Blocks:
    """Scales neurons so that lower <= sum_j W_ij <= upper < 1; the function stays the same.

    The published code uses upper 0.99; smaller values give smaller weights J = W / (1 - sum W).
    """
    if not 0 < upper < 1 or not lower < 0:
        raise ValueError(f"0 < upper < 1 and lower < 0 are needed, got {upper=}, {lower=}")
    for layer in network.layers:
        if any(e.delay for e in layer.edges) or layer.autonomous:
            raise ValueError(
                f"layer {layer.name!r}: pre-scaling needs positive homogeneity, which delays and"
                f" rule 'autonomous' do not have (rule {layer.rule!r}, {layer.edges})"
            )
    gains = {net.INPUT: np.ones(network.input_shape[-1])}
    scaled: Blocks = {}
    for node in network.nodes:
        if isinstance(node, net.Pool):
            gains[node.name] = gains[node.source]
            continue
        block = {k: np.asarray(v, np.float64) for k, v in params[node.name].items()}
        for k, edge in enumerate(node.edges):
            key = net.weight_name(k)
            shape = network.shape_of(edge.source)
            block[key] = _incoming(edge, block[key], gains[edge.source], shape)
        if node.spiking:
            total = _sums(node, block)
            factor = np.ones_like(total)
            factor[total > upper] = upper / total[total > upper]
            factor[total < lower] = lower / total[total < lower]
            block = {k: v * factor for k, v in block.items()}
            gains[node.name] = factor
        scaled[node.name] = block
    return scaled


def _sums(layer: net.Layer, block: Mapping[str, Array]) -> Array:
    """Sum over the inputs of each neuron (channel), in float64."""
    total = np.zeros(layer.shape[-1])
    for k, edge in enumerate(layer.edges):
        w = block[net.weight_name(k)]
        total = total + (w if isinstance(edge.op, net.Scale) else w.sum(tuple(range(w.ndim - 1))))
    return total


def _scaled(block: Mapping[str, Array], factor: Array) -> dict[str, Array]:
    """Weights and bias of each neuron times its factor; delays are times and stay."""
    return {k: v if k.startswith("delay") else v * factor for k, v in block.items()}


def to_alpha(
    network: net.Network, params: net.Params, alpha: float = 1.0, rule: str = "alpha"
) -> tuple[net.Network, Blocks]:
    """J = alpha W / (1 - sum W), D = (alpha + sum J) b: the alpha (or alpha1) parameters.

    Raises:
      ValueError: a neuron with sum W >= 1; use `prescale` first.
    """
    if rule not in ("alpha", "alpha1"):
        raise ValueError(f"rule must be alpha or alpha1, got {rule!r}")
    alpha = 1.0 if rule == "alpha1" else alpha
    result: Blocks = {}
    for layer in network.layers:
        block = {k: np.asarray(v, np.float64) for k, v in params[layer.name].items()}
        if layer.spiking:
            total = _sums(layer, block)
            if (total >= 1).any():
                raise ValueError(
                    f"layer {layer.name!r}: the alpha mapping needs sum W < 1 everywhere, found"
                    f" {total.max():.4g}; use prescale first"
                )
            # S = alpha + sum J = alpha / (1 - sum W)
            block = _scaled(block, alpha / (1.0 - total))
        result[layer.name] = block
    return network.with_rule(rule, alpha), result


def to_b1(network: net.Network, params: net.Params) -> tuple[net.Network, Blocks]:
    """The B1 parameters of the same function: W = J / S, b = D / S."""
    result: Blocks = {}
    for layer in network.layers:
        block = {k: np.asarray(v, np.float64) for k, v in params[layer.name].items()}
        if layer.spiking and layer.rule.startswith("alpha"):
            alpha = 1.0 if layer.rule == "alpha1" else layer.alpha
            slope = alpha + _sums(layer, block)
            if (slope <= 0).any():
                raise ValueError(f"layer {layer.name!r}: neurons with slope <= 0 never spike")
            block = _scaled(block, 1.0 / slope)
        result[layer.name] = block
    return network.with_rule("b1"), result


def fold_delays(weight: Any, bias: Any, delays: Any) -> Any:
    """The bias that stands for synaptic (or axonal) delays while all inputs arrive before t_min.

    D_i - sum_j J_ij d_ij: for inputs that do spike, delays are redundant with thresholds in that
    regime; they matter with causal semantics or leaky kernels (`solve.causal_solve`).
    """
    weight, delays = np.asarray(weight), np.asarray(delays)
    shaped = delays[:, None] if delays.ndim == 1 else delays
    return bias - (weight * shaped).sum(axis=0)

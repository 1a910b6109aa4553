# SPDX-License-Identifier: Apache-2.0
"""Exchange through NIR, the neuromorphic intermediate representation (extra `nir`).

NIR has neither a change of regime nor max pooling, but the B1 network can be written exactly in
its primitives (rule "b1_forced"): `Linear(W)` or `Conv2d` gives the synaptic jumps, `I` integrates
them to currents (a constant alpha_i = 1 - sum_j W_ij is added to each, kept in the metadata; j runs
over real inputs, not over padding), and `IF` integrates the current to its threshold

    theta_i = Delta + alpha_i Delta_prev - b_i

with every silent neuron forced to spike at t_max. What NIR cannot say (windows, constant currents,
biases, pooling, the structure) goes into each node's metadata, from which `read` restores the
network without loss. Weights and thresholds of the nodes themselves are read back and take
precedence, so edits made by other tools survive.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from snn.ttfs import network as net
from snn.ttfs import store, windows
from snn.ttfs.fuse import conv_map

FORMAT = "ttfs-b1-1"


def _nir() -> Any:
    try:
        import nir
    except ImportError as error:
        raise ImportError("NIR exchange needs nir: pip install 'rwkvjax[nir]'") from error
    return nir


def to_graph(network: net.Network, params: net.Params, deltas: Mapping[str, float]) -> Any:
    """The NIR graph of a B1 network.

    Raises:
      ValueError: another rule (map with `mapping.to_b1` first), or a layer with several edges.
    """
    nir = _nir()
    windows.timeline(network, deltas)
    nodes: dict[str, Any] = {"input": nir.Input(input_type=_port("input", network.input_shape))}
    edges: list[tuple[str, str]] = []
    for node in network.nodes:
        if isinstance(node, net.Pool):
            raise ValueError(
                f"node {node.name!r}: NIR has no max pooling on times; export the layers before and"
                " after it as separate graphs, or use safetensors (snn.ttfs.store)"
            )
        if node.spiking and not node.rule.startswith("b1"):
            raise ValueError(f"layer {node.name!r}: rule {node.rule!r}; convert to b1 first")
        if any(edge.delay for edge in node.edges):
            raise ValueError(f"layer {node.name!r}: delays are not exported to NIR")
        if len(node.edges) > 1 or isinstance(node.edges[0].op, net.Scale):
            raise ValueError(f"layer {node.name!r}: residual connections are not exported to NIR")
        _add_layer(nir, network, node, params[node.name], deltas, nodes, edges)
    last = f"{network.readout.name}_i"
    nodes["output"] = nir.Output(output_type=_port("output", network.readout.shape))
    edges.append((last, "output"))
    about = {
        "format": FORMAT,
        "network": store.to_json(network),
        "windows": {k: float(v) for k, v in deltas.items()},
    }
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata={"ttfs": json.dumps(about)})


def _port(name: str, shape: net.Shape) -> dict[str, np.ndarray]:
    sizes = (shape[2], shape[0], shape[1]) if len(shape) == 3 else shape
    return {name: np.array(sizes)}


def _full(value: Any, layer: net.Layer) -> np.ndarray:
    """A per-neuron array in NIR's order (channels first)."""
    full = np.broadcast_to(np.asarray(value, np.float64), layer.shape)
    return np.ascontiguousarray(full.transpose(2, 0, 1) if full.ndim == 3 else full)


def _drives(layer: net.Layer, weight: np.ndarray, source: net.Shape) -> np.ndarray:
    """1 - sum of the weights of each neuron's inputs, of which a padded border has fewer."""
    op = layer.edges[0].op
    if isinstance(op, net.Conv):
        return 1.0 - conv_map(np.ones(source), weight, op)
    return 1.0 - weight.sum(axis=0)


def _add_layer(
    nir: Any,
    network: net.Network,
    layer: net.Layer,
    block: Mapping[str, Any],
    deltas: Mapping[str, float],
    nodes: dict[str, Any],
    edges: list[tuple[str, str]],
) -> None:
    edge, weight = layer.edges[0], np.asarray(block["weight"], np.float64)
    source = "input" if edge.source == net.INPUT else f"{edge.source}_if"
    shape, op = network.shape_of(edge.source), edge.op
    if isinstance(op, net.Conv):
        pads = tuple(a for a, _ in op.padding)
        if any(a != b for a, b in op.padding):
            raise ValueError(f"layer {layer.name!r}: NIR has no asymmetric padding {op.padding}")
        kernel = np.ascontiguousarray(weight.transpose(3, 2, 0, 1))
        nodes[f"{layer.name}_w"] = nir.Conv2d(
            input_shape=(shape[0], shape[1]),
            weight=kernel,
            stride=op.strides,
            padding=pads,
            dilation=op.dilation,
            groups=op.groups,
            bias=np.zeros(op.features),
        )
    else:
        if len(shape) == 3:
            name = f"{layer.name}_flatten"
            first = _port("input", shape)
            nodes[name] = nir.Flatten(input_type=first, start_dim=0, end_dim=-1)
            edges.append((source, name))
            source = name
            order = np.arange(weight.shape[0]).reshape(shape)  # NIR flattens channels first
            weight = weight[order.transpose(2, 0, 1).ravel()]
            shape = weight.shape[:1]
        nodes[f"{layer.name}_w"] = nir.Linear(weight=np.ascontiguousarray(weight.T))
    edges.append((source, f"{layer.name}_w"))
    nodes[f"{layer.name}_i"] = nir.I(r=_full(1.0, layer))
    edges.append((f"{layer.name}_w", f"{layer.name}_i"))
    if not layer.spiking:
        nodes[f"{layer.name}_i"].metadata = {
            "bias": json.dumps(_full(block["bias"], layer).tolist())
        }
        return
    alpha = _drives(layer, weight, shape)
    previous = float(windows.previous_window(network, deltas, layer.name))
    theta = deltas[layer.name] + alpha * previous - np.asarray(block["bias"], np.float64)
    nodes[f"{layer.name}_i"].metadata = {"drive": json.dumps(_full(alpha, layer).tolist())}
    nodes[f"{layer.name}_if"] = nir.IF(r=_full(1.0, layer), v_threshold=_full(theta, layer))
    edges.append((f"{layer.name}_i", f"{layer.name}_if"))


def write(
    path: str | os.PathLike[str],
    network: net.Network,
    params: net.Params,
    deltas: Mapping[str, float],
) -> None:
    """Writes a NIR (HDF5) file, replacing `path` in one step."""
    graph = to_graph(network, params, deltas)
    temporary = f"{os.fspath(path)}.{os.getpid()}.tmp"
    try:
        _nir().write(temporary, graph)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def from_graph(graph: Any) -> tuple[net.Network, dict[str, Any], dict[str, float]]:
    """(network, B1 parameters, windows) of a graph made by `to_graph`.

    Weights come from the nodes, biases from the thresholds: b = Delta + alpha Delta_prev - theta
    with alpha = 1 - sum of the weights as they are now.

    Raises:
      ValueError: a graph of another origin, or one whose nodes do not fit its description.
    """
    text = (graph.metadata or {}).get("ttfs")
    about = json.loads(text) if isinstance(text, str | bytes) else {}
    if about.get("format") != FORMAT:
        raise ValueError(
            f"NIR graph without {FORMAT!r} metadata: the windows of a TTFS network cannot be told"
            " from NIR primitives alone"
        )
    network, deltas = store.from_json(about["network"]), dict(about["windows"])
    params: dict[str, Any] = {}
    for layer in network.layers:
        for part in ("w", "i") + (("if",) if layer.spiking else ()):
            if f"{layer.name}_{part}" not in graph.nodes:
                raise ValueError(f"layer {layer.name!r}: the graph has no node {layer.name}_{part}")
        params[layer.name] = _read_layer(network, layer, graph.nodes, deltas)
    net.check_params(network, params)
    return network, params, deltas


def _read_layer(
    network: net.Network, layer: net.Layer, nodes: Mapping[str, Any], deltas: Mapping[str, float]
) -> dict[str, np.ndarray]:
    weight = np.asarray(nodes[f"{layer.name}_w"].weight, np.float64)
    shape = network.shape_of(layer.edges[0].source)
    if isinstance(layer.edges[0].op, net.Conv):
        weight = weight.transpose(2, 3, 1, 0)
    else:
        weight = weight.T
        if len(shape) == 3:
            order = np.arange(weight.shape[0]).reshape(shape).transpose(2, 0, 1).ravel()
            restored = np.empty_like(weight)
            restored[order] = weight
            weight = restored
    last = lambda x: x.transpose(1, 2, 0) if x.ndim == 3 else x
    if layer.spiking:
        alpha = _drives(layer, weight, shape)
        theta = last(np.asarray(nodes[f"{layer.name}_if"].v_threshold, np.float64))
        previous = windows.previous_window(network, deltas, layer.name)
        bias = deltas[layer.name] + alpha * previous - theta
        mean = bias.reshape(-1, bias.shape[-1]).mean(axis=0)
        if np.abs(bias - mean).max() <= 1e-12 * max(1.0, np.abs(theta).max()):
            bias = mean  # one for all positions, but for rounding
    else:
        bias = last(np.asarray(json.loads(nodes[f"{layer.name}_i"].metadata["bias"]), np.float64))
    return {"weight": weight, "bias": bias}


def read(path: str | os.PathLike[str]) -> tuple[net.Network, dict[str, Any], dict[str, float]]:
    """Reads a NIR file; see `from_graph`."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no NIR file {path}")
    return from_graph(_nir().read(os.fspath(path)))

# SPDX-License-Identifier: Apache-2.0
"""Networks on disk: one safetensors file with parameters, windows and the structure as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from core import files
from core import params as params_lib
from snn.ttfs import kernels
from snn.ttfs import network as net

FORMAT = "ttfs-network-1"
_OPS: dict[str, Any] = {"dense": net.Dense, "conv": net.Conv, "scale": net.Scale}
_KERNELS: dict[str, Any] = {
    "ramp": kernels.Ramp,
    "exponential": kernels.Exponential,
    "lif1": kernels.Lif1,
    "lif2": kernels.Lif2,
}


def to_json(network: net.Network) -> dict[str, Any]:
    """Plain dicts and lists that describe a network."""
    nodes = []
    for node in network.nodes:
        block: dict[str, Any] = {"kind": type(node).__name__.lower()}
        block |= {f.name: getattr(node, f.name) for f in dataclasses.fields(node)}
        if isinstance(node, net.Layer):
            block["edges"] = [
                {
                    "source": e.source,
                    "op": {"kind": type(e.op).__name__.lower(), **dataclasses.asdict(e.op)},
                    "delay": e.delay,
                }
                for e in node.edges
            ]
            block["kernel"] = _kernel_to_json(node)
        nodes.append(block)
    return {"input_shape": list(network.input_shape), "nodes": nodes}


def _kernel_to_json(layer: net.Layer) -> dict[str, Any]:
    if isinstance(layer.kernel, kernels.General):
        raise ValueError(
            f"layer {layer.name!r}: a general kernel is a Python function, which no file holds; use"
            f" one of {sorted(_KERNELS)}"
        )
    name = type(layer.kernel).__name__.lower()
    return {"kind": name, **dataclasses.asdict(layer.kernel)}


def _tuples(x: Any) -> Any:
    return tuple(_tuples(v) for v in x) if isinstance(x, list) else x


def from_json(description: Mapping[str, Any]) -> net.Network:
    """Inverse of `to_json`.

    Raises:
      ValueError: the description is not of a network; says which node.
    """
    nodes: list[net.Node] = []
    try:
        for block in description["nodes"]:
            values = {k: _tuples(v) for k, v in block.items() if k not in ("kind", "edges")}
            if block["kind"] == "pool":
                nodes.append(net.Pool(**values))
                continue
            if block["kind"] != "layer":
                raise ValueError(f"unknown kind of node {block['kind']!r}")
            edges = []
            for edge in block["edges"]:
                op = {k: _tuples(v) for k, v in edge["op"].items()}
                made = _OPS[op.pop("kind")](**op)
                edges.append(net.Edge(edge["source"], made, edge.get("delay", "")))
            if "kernel" in values:
                kernel = dict(values["kernel"])
                values["kernel"] = _KERNELS[kernel.pop("kind")](**kernel)
            nodes.append(net.Layer(edges=tuple(edges), **values))
        return net.Network(tuple(description["input_shape"]), tuple(nodes))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"not a description of a TTFS network (node {len(nodes)}): {error!r}"
        ) from error


def save(
    path: str | os.PathLike[str],
    network: net.Network,
    params: net.Params,
    windows: Mapping[str, float] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes a network atomically; `extra` (JSON) is kept with it, e.g. the input range."""
    from safetensors.numpy import save as serialise

    net.check_params(network, params)
    arrays = {p: np.ascontiguousarray(np.asarray(x)) for p, x in params_lib.flatten(params)}
    about = {
        "format": FORMAT,
        "network": to_json(network),
        "windows": {k: float(v) for k, v in (windows or {}).items()},
        "extra": dict(extra or {}),
    }
    files.write_bytes(path, serialise(arrays, metadata={"ttfs": json.dumps(about)}))


def load(
    path: str | os.PathLike[str],
) -> tuple[net.Network, dict[str, Any], dict[str, float], dict[str, Any]]:
    """Reads (network, params, windows, extra) of a file written by `save`.

    Raises:
      FileNotFoundError: no such file. ValueError: not such a file, or its parts disagree.
    """
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        raise FileNotFoundError(f"no network file {path}")
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get("ttfs", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a safetensors file of a network: {error}") from error
    if about.get("format") != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT!r}, found {about.get('format')!r}")
    network, params = from_json(about["network"]), params_lib.unflatten(arrays)
    net.check_params(network, params)
    return network, params, dict(about["windows"]), dict(about["extra"])

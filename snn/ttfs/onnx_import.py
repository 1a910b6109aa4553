# SPDX-License-Identifier: Apache-2.0
"""ReLU networks from ONNX files (extra `onnx`).

ONNX images are NCHW and ours NHWC: kernels and the first dense matrix after flattening are
permuted, so the imported network takes NHWC inputs and gives the same logits. Understood are
chains with residual additions of Conv, Gemm, MatMul + Add, BatchNormalization, Relu, MaxPool,
AveragePool, GlobalAveragePool, Flatten, Reshape to two axes, Identity and Dropout.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from snn.ttfs import relu
from snn.ttfs.importers import Imported, _named
from snn.ttfs.network import Shape

Block = dict[str, Any]


def from_onnx(path: str | os.PathLike[str]) -> Imported:
    """Reads (layers, params, input shape of one example) of an ONNX file.

    Raises:
      FileNotFoundError: no such file. ValueError: not ONNX, or a node without exact mapping.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError("ONNX import needs onnx: pip install 'rwkvjax[onnx]'") from error
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no ONNX file {path}")
    try:
        model = onnx.load(os.fspath(path), load_external_data=False)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and the checker raise classes of their own
        raise ValueError(f"{path}: not a valid ONNX model: {error}") from error
    return _Reader(model.graph, str(path)).read()


class _Reader:
    """Walks the graph from its input to its output."""

    def __init__(self, graph: Any, path: str):
        from onnx import numpy_helper

        self.graph, self.path = graph, path
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.consumers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    def read(self) -> Imported:
        inputs = [v for v in self.graph.input if v.name not in self.constants]
        if len(inputs) != 1 or len(self.graph.output) != 1:
            raise ValueError(f"{self.path}: one input and one output expected")
        self.batch, *dims = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim]
        if not dims or min(dims) < 1:
            raise ValueError(f"{self.path}: the input needs fixed sizes, got {dims}")
        shape: Shape = (dims[1], dims[2], dims[0]) if len(dims) == 3 else tuple(dims)
        stop = self.graph.output[0].name
        layers, blocks, _, _ = self.chain(inputs[0].name, stop, shape, None)
        relu.param_specs(layers, shape)
        return tuple(layers), _named(layers, blocks), shape

    def chain(self, name: str, stop: str, shape: Shape, image: Shape | None) -> Any:
        """Layers from value `name` to value `stop`; `image` is the shape that was flattened."""
        layers: list[relu.ReluLayer] = []
        blocks: list[Block] = []
        while name != stop:
            nodes = self.consumers.get(name, [])
            if any(node.op_type == "Shape" for node in nodes):
                raise ValueError(
                    f"{self.path}: the shape of {name!r} is computed at run time (Shape); export"
                    " with constant shapes, or simplify the file first"
                )
            if len(nodes) == 2:
                join = self.join(nodes, name)
                layer, block, name = self.residual(nodes, name, join, shape)
            elif len(nodes) == 1:
                layer, block = self.layer(nodes[0], shape, image)
                name = nodes[0].output[0]
                if isinstance(layer, relu.Dense):
                    name = self.add_bias(block, name)
            else:
                raise ValueError(f"{self.path}: value {name!r} is read by {len(nodes)} nodes")
            if layer is None:
                continue
            if isinstance(layer, relu.Flatten):
                image = shape
            elif isinstance(layer, relu.Dense):
                image = None
            shape = relu.output_shape((layer,), shape)
            layers.append(layer)
            blocks.append(block)
        return layers, blocks, shape, image

    def attributes(self, node: Any) -> dict[str, Any]:
        from onnx import helper

        return {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def layer(self, node: Any, shape: Shape, image: Shape | None) -> Any:
        kind, at = node.op_type, self.attributes(node)
        where = f"{self.path}: node {node.name or node.output[0]!r} ({kind})"
        if kind in ("Identity", "Dropout"):
            return None, {}
        if kind == "Relu":
            return relu.Relu(), {}
        if kind in ("Flatten", "Reshape"):
            self.check_flattens(node, at, shape, where)
            return (None if len(shape) == 1 else relu.Flatten()), {}
        if kind in ("Gemm", "MatMul"):
            return self.dense(node, at, image, where)
        if kind == "Conv":
            return self.conv(node, at, shape, where)
        if kind == "BatchNormalization":
            scale, shift, mean, var = (self.constant(n, where) for n in node.input[1:5])
            norm = relu.BatchNorm(float(at.get("epsilon", 1e-5)))
            return norm, {"scale": scale, "shift": shift, "mean": mean, "var": var}
        if kind == "GlobalAveragePool":
            return relu.AvgPool((shape[0], shape[1])), {}
        if kind in ("MaxPool", "AveragePool"):
            return self.pool(kind, at, shape, where), {}
        raise ValueError(f"{where}: unsupported; it has no exact mapping to spikes")

    def check_flattens(self, node: Any, at: dict[str, Any], shape: Shape, where: str) -> None:
        """Raises ValueError unless the node gives [batch, all values of one example]."""
        size, rank = math.prod(shape), len(shape) + 1
        if node.op_type == "Flatten":
            axis = int(at.get("axis", 1))
            if axis % rank != 1:
                raise ValueError(
                    f"{where}: axis {axis} of {rank} axes mixes examples or splits one; only axis"
                    " 1, which keeps the batch, has a mapping"
                )
            return
        target = [int(v) for v in self.constant(node.input[1], where)]
        batch = [-1, *([] if at.get("allowzero") else [0])]
        if self.batch > 0:
            batch.append(self.batch)
        if len(target) != 2 or target[0] not in batch or target[1] not in (-1, size):
            raise ValueError(
                f"{where}: reshapes to {target}; only flattening to [batch, {size}] (written 0 or"
                f" -1, and {size} or -1) has a mapping"
            )

    def constant(self, name: str, where: str) -> np.ndarray:
        if name not in self.constants:
            raise ValueError(f"{where}: {name!r} must be a constant")
        return np.asarray(self.constants[name], np.float64)

    def dense(self, node: Any, at: dict[str, Any], image: Shape | None, where: str) -> Any:
        weight = self.constant(node.input[1], where)
        if node.op_type == "Gemm":
            if at.get("transA") or at.get("alpha", 1.0) != 1.0 or at.get("beta", 1.0) != 1.0:
                raise ValueError(f"{where}: transA, alpha and beta are not supported")
            weight = weight.T if at.get("transB") else weight
        bias = np.zeros(weight.shape[1])
        if node.op_type == "Gemm" and len(node.input) > 2:
            bias = np.broadcast_to(self.constant(node.input[2], where), bias.shape)
        if image is not None:  # rows are in the order C, H, W
            height, width, channels = image
            order = np.arange(weight.shape[0]).reshape(channels, height, width)
            weight = weight[order.transpose(1, 2, 0).ravel()]
        return relu.Dense(weight.shape[1]), {"weight": weight, "bias": bias}

    def add_bias(self, block: Block, name: str) -> str:
        """MatMul followed by Add of a constant."""
        nodes = self.consumers.get(name, [])
        if len(nodes) == 1 and nodes[0].op_type == "Add":
            other = [n for n in nodes[0].input if n != name]
            if other and other[0] in self.constants:
                block["bias"] = block["bias"] + self.constants[other[0]]
                return str(nodes[0].output[0])
        return name

    def conv(self, node: Any, at: dict[str, Any], shape: Shape, where: str) -> Any:
        weight = self.constant(node.input[1], where)
        if weight.ndim != 4:
            raise ValueError(f"{where}: only 2-D convolutions are mapped, kernel {weight.shape}")
        bias = np.zeros(weight.shape[0])
        if len(node.input) > 2:
            bias = self.constant(node.input[2], where)
        kernel = (weight.shape[2], weight.shape[3])
        strides = tuple(at.get("strides", (1, 1)))
        dilation = tuple(at.get("dilations", (1, 1)))
        padding = self.padding(at, shape, kernel, strides, dilation, where)
        group = int(at.get("group", 1))
        layer = relu.Conv(weight.shape[0], kernel, strides, padding, dilation, group)
        return layer, {"weight": weight.transpose(2, 3, 1, 0), "bias": bias}

    def padding(
        self, at: Any, shape: Shape, kernel: Any, strides: Any, dilation: Any, where: str
    ) -> Any:
        auto = at.get("auto_pad", b"NOTSET").decode()
        if auto in ("SAME_UPPER", "VALID"):
            word = "SAME" if auto == "SAME_UPPER" else "VALID"
            return relu.explicit_padding(word, shape[:2], kernel, strides, dilation)
        if auto != "NOTSET":
            raise ValueError(f"{where}: auto_pad {auto} is not supported")
        top, left, bottom, right = at.get("pads", (0, 0, 0, 0))
        return ((top, bottom), (left, right))

    def pool(self, kind: str, at: dict[str, Any], shape: Shape, where: str) -> relu.ReluLayer:
        window = tuple(at["kernel_shape"])
        strides = tuple(at.get("strides", (1, 1)))
        if at.get("ceil_mode") or tuple(at.get("dilations", (1, 1))) != (1, 1):
            raise ValueError(f"{where}: ceil_mode and dilations are not supported")
        padding = self.padding(at, shape, window, strides, (1, 1), where)
        if kind == "MaxPool":
            return relu.MaxPool(window, strides, padding)
        if padding != ((0, 0), (0, 0)):
            raise ValueError(f"{where}: average pooling with padding is not supported")
        return relu.AvgPool(window, strides)

    def join(self, nodes: list[Any], name: str) -> Any:
        """The Add at which the two branches that start at `name` meet."""
        paths = []
        for node in nodes:
            seen, current = [], node
            while True:
                seen.append(current)
                following = self.consumers.get(current.output[0], [])
                if not following:
                    break
                current = following[0]
            paths.append(seen)
        for node in paths[0]:
            if node.op_type == "Add" and any(node is other for other in paths[1]):
                return node
        raise ValueError(f"{self.path}: the branches that start at {name!r} do not meet in an Add")

    def residual(self, nodes: list[Any], name: str, join: Any, shape: Shape) -> Any:
        branches: list[Any] = []
        for end in join.input:
            if end == name:
                branches.append(((), {}))
                continue
            layers, blocks = self.branch(name, end, nodes, shape)
            branches.append((tuple(layers), _named(layers, blocks)))
        branches.sort(key=lambda b: -len(b[0]))
        (body, p), (shortcut, q) = branches
        block = {k: v for k, v in (("body", p), ("shortcut", q)) if v}
        return relu.Residual(body, shortcut), block, join.output[0]

    def branch(self, name: str, end: str, nodes: list[Any], shape: Shape) -> Any:
        """Layers of the branch from `name` that ends at value `end`."""
        for first in nodes:
            current = first
            while current.output[0] != end and self.consumers.get(current.output[0]):
                current = self.consumers[current.output[0]][0]
            if current.output[0] == end:
                layer, block = self.layer(first, shape, None)
                after = relu.output_shape((layer,), shape) if layer else shape
                rest, blocks, _, _ = self.chain(first.output[0], end, after, None)
                head = ([layer], [block]) if layer else ([], [])
                return head[0] + rest, head[1] + blocks
        raise ValueError(f"{self.path}: no branch from {name!r} to {end!r}")

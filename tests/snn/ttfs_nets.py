# SPDX-License-Identifier: Apache-2.0
"""Small networks with random parameters that the TTFS tests share."""

import numpy as np
import pytest

from core import params as params_lib
from snn.ttfs import fuse
from snn.ttfs import network as net
from snn.ttfs import relu as R

# Name -> (layers, input shape). Between them: every layer, padding, stride, dilation and group.
NETS = {
    "mlp": (R.mlp((24, 16, 12), 10), (6, 6, 1)),
    "conv_bn_pool": (
        (
            R.Conv(4, (3, 3)),
            R.Relu(),
            R.BatchNorm(),
            R.MaxPool(),
            R.Conv(6, (3, 3), padding=((2, 0), (1, 1)), strides=(1, 2)),
            R.BatchNorm(),
            R.Relu(),
            R.MaxPool((2, 2), (1, 1)),
            R.Flatten(),
            R.Dense(12),
            R.Relu(),
            R.BatchNorm(),
            R.Dropout(),
            R.Dense(10),
        ),
        (7, 8, 3),
    ),
    "pool_before_relu": (
        (
            R.Conv(4, (3, 3)),
            R.MaxPool((3, 3), (2, 2), "SAME"),
            R.BatchNorm(),
            R.Relu(),
            R.AvgPool(),
            R.Conv(4, (2, 2), padding=((1, 0), (1, 0)), groups=2),
            R.Relu(),
            R.AvgPool((2, 2)),
            R.Flatten(),
            R.Dense(10),
        ),
        (9, 8, 2),
    ),
    "residual": (
        (
            R.Conv(4, (3, 3)),
            R.BatchNorm(),
            R.Relu(),
            R.Residual(
                (R.Conv(4, (3, 3)), R.BatchNorm(), R.Relu(), R.Conv(4, (3, 3), dilation=(2, 2)))
            ),
            R.Relu(),
            R.Residual(
                (R.Conv(6, (3, 3), strides=(2, 2)), R.Relu(), R.Conv(6, (3, 3))),
                (R.Conv(6, (1, 1), strides=(2, 2)), R.BatchNorm()),
            ),
            R.Relu(),
            R.BatchNorm(),
            R.AvgPool((3, 3)),
            R.Flatten(),
            R.Dense(10),
        ),
        (6, 6, 2),
    ),
    "vgg": (R.vgg(((4, 4), (6, 6)), (8,), 10, "after"), (8, 8, 3)),
}


def random_params(layers, shape, seed=0):
    """He-like weights and batch norms with random signs, float64."""
    rng = np.random.default_rng(seed)

    def draw(path, spec):
        name = path.split("/")[-1]
        if name == "weight":
            return rng.normal(size=spec.shape) * np.sqrt(2 / np.prod(spec.shape[:-1]))
        if name == "var":
            return rng.uniform(0.3, 2.0, size=spec.shape)
        return rng.normal(size=spec.shape) * (1.0 if name == "scale" else 0.3)

    return params_lib.map_with_path(draw, R.param_specs(layers, shape))


def raw_input(shape, rows=3, seed=1):
    """Inputs in [-3, 3]."""
    return np.random.default_rng(seed).uniform(-3, 3, size=(rows, *shape))


def mapped_logits(imported, x):
    layers, params, shape = imported
    network, b1 = fuse.fuse(layers, params, shape)
    return net.closed_form(network, b1, x)[0]


def onnx_model(path, rng):
    """Conv, BN, Relu, residual, MaxPool, Flatten, Gemm, MatMul + Add, in float64."""
    onnx = pytest.importorskip("onnx")
    h, n = onnx.helper, onnx.numpy_helper
    values = {
        "w1": rng.normal(size=(4, 2, 3, 3)),
        "b1": rng.normal(size=4),
        "s": rng.normal(size=4),
        "o": rng.normal(size=4),
        "m": rng.normal(size=4),
        "v": rng.uniform(0.5, 2, size=4),
        "w2": rng.normal(size=(4, 2, 3, 3)) * 0.3,
        "w3": rng.normal(size=(8, 4 * 3 * 2)),
        "b3": rng.normal(size=8),
        "w4": rng.normal(size=(8, 5)),
        "b4": rng.normal(size=5),
    }
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        h.make_node("Conv", ["x", "w1", "b1"], ["c1"], **same),
        h.make_node("BatchNormalization", ["c1", "s", "o", "m", "v"], ["n1"], epsilon=1e-3),
        h.make_node("Relu", ["n1"], ["r1"]),
        h.make_node("Conv", ["r1", "w2"], ["c2"], group=2, **same),
        h.make_node("Add", ["c2", "r1"], ["a"]),
        h.make_node("Relu", ["a"], ["r2"]),
        h.make_node("MaxPool", ["r2"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        h.make_node("Flatten", ["p"], ["f"]),
        h.make_node("Gemm", ["f", "w3", "b3"], ["g"], transB=1),
        h.make_node("Relu", ["g"], ["r3"]),
        h.make_node("MatMul", ["r3", "w4"], ["mm"]),
        h.make_node("Add", ["mm", "b4"], ["y"]),
    ]
    kind = onnx.TensorProto.DOUBLE
    graph = h.make_graph(
        nodes,
        "net",
        [h.make_tensor_value_info("x", kind, ["batch", 2, 6, 4])],
        [h.make_tensor_value_info("y", kind, ["batch", 5])],
        [n.from_array(v, k) for k, v in values.items()],
    )
    opset = [h.make_opsetid("", 17)]
    model = h.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.save(model, str(path))
    return model

# SPDX-License-Identifier: Apache-2.0
"""Import from ONNX, against the reference evaluator of the onnx package."""

import jax
import numpy as np
import pytest

from snn.ttfs import relu
from tests.snn.ttfs_nets import mapped_logits, onnx_model


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def test_onnx_equals_the_reference_evaluator(tmp_path, float64):
    rng = np.random.default_rng(0)
    model = onnx_model(tmp_path / "net.onnx", rng)
    from onnx.reference import ReferenceEvaluator

    from snn.ttfs import onnx_import

    x = rng.uniform(size=(3, 6, 4, 2))
    expected = ReferenceEvaluator(model).run(None, {"x": x.transpose(0, 3, 1, 2)})[0]
    imported = onnx_import.from_onnx(tmp_path / "net.onnx")
    np.testing.assert_allclose(relu.apply(imported[0], imported[1], x), expected, atol=1e-10)
    np.testing.assert_allclose(mapped_logits(imported, x), expected, atol=1e-10)


def test_onnx_errors_name_the_node(tmp_path):
    onnx = pytest.importorskip("onnx")
    from snn.ttfs import onnx_import

    h = onnx.helper
    info = lambda name: h.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["b", 4])
    node = h.make_node("Sigmoid", ["x"], ["y"], name="gate")
    model = h.make_model(
        h.make_graph([node], "net", [info("x")], [info("y")]),
        opset_imports=[h.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, str(tmp_path / "s.onnx"))
    with pytest.raises(ValueError, match="'gate' .Sigmoid.: unsupported"):
        onnx_import.from_onnx(tmp_path / "s.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a valid ONNX"):
        onnx_import.from_onnx(tmp_path / "bad.onnx")
    with pytest.raises(FileNotFoundError):
        onnx_import.from_onnx(tmp_path / "none.onnx")


def flattening_model(path, node, shape=None):
    """[b, 2, 3, 4] images through `node` and a matrix product."""
    onnx = pytest.importorskip("onnx")
    h, n = onnx.helper, onnx.numpy_helper
    kind = onnx.TensorProto.DOUBLE
    values = {"w": np.random.default_rng(0).normal(size=(24, 5))}
    if shape is not None:
        values["shape"] = np.array(shape, np.int64)
    graph = h.make_graph(
        [node, h.make_node("MatMul", ["f", "w"], ["y"])],
        "net",
        [h.make_tensor_value_info("x", kind, ["batch", 2, 3, 4])],
        [h.make_tensor_value_info("y", kind, ["rows", "columns"])],
        [n.from_array(v, k) for k, v in values.items()],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return model


@pytest.mark.parametrize(
    ("kind", "value"),
    [("Flatten", 1), ("Flatten", -3), ("Reshape", (-1, 24)), ("Reshape", (0, -1))],
)
def test_onnx_flattening_equals_the_reference_evaluator(tmp_path, float64, kind, value):
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    from snn.ttfs import onnx_import

    make = onnx.helper.make_node
    if kind == "Flatten":
        model = flattening_model(tmp_path / "m.onnx", make(kind, ["x"], ["f"], axis=value))
    else:
        model = flattening_model(tmp_path / "m.onnx", make(kind, ["x", "shape"], ["f"]), value)
    x = np.random.default_rng(1).uniform(size=(3, 3, 4, 2))
    expected = ReferenceEvaluator(model).run(None, {"x": x.transpose(0, 3, 1, 2)})[0]
    layers, params, _ = onnx_import.from_onnx(tmp_path / "m.onnx")
    np.testing.assert_allclose(relu.apply(layers, params, x), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("Flatten", 2, "'f' .Flatten.: axis 2 of 4 axes"),
        ("Flatten", 0, "'f' .Flatten.: axis 0 of 4 axes"),
        ("Reshape", (-1, 12), r"'f' .Reshape.: reshapes to \[-1, 12\]; only .*24"),
        ("Reshape", (0, 2, 12), "only flattening"),
        ("Reshape", (3, 24), "only flattening"),
    ],
)
def test_onnx_reshapes_that_do_not_flatten_are_refused(tmp_path, kind, value, words):
    onnx = pytest.importorskip("onnx")
    from snn.ttfs import onnx_import

    make = onnx.helper.make_node
    if kind == "Flatten":
        flattening_model(tmp_path / "m.onnx", make(kind, ["x"], ["f"], axis=value))
    else:
        flattening_model(tmp_path / "m.onnx", make(kind, ["x", "shape"], ["f"]), value)
    with pytest.raises(ValueError, match=words):
        onnx_import.from_onnx(tmp_path / "m.onnx")

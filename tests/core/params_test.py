# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import params
from core.params import Constant, Normal, Orthogonal, ParamSpec, Uniform, Values


def _specs():
    layer = lambda i: {
        "w": ParamSpec((6, 4), ("embed", "mlp"), Orthogonal(0.5)),
        "mix": ParamSpec((4,), (None,), Values(np.full(4, i, np.float32))),
    }
    return {
        "emb": ParamSpec((10, 6), ("vocab", "embed"), Uniform(0.1)),
        "blocks": params.stack([layer(i) for i in range(3)]),
    }


def test_init_shapes_values_and_count():
    specs = _specs()
    values = params.init(specs, jax.random.key(0))
    assert params.count(specs) == 60 + 3 * (24 + 4) == params.count(values)
    assert jax.tree.map(jnp.shape, values) == jax.tree.map(
        lambda s: s.shape, params.abstract(specs)
    )
    np.testing.assert_array_equal(values["blocks"]["mix"], np.arange(3)[:, None] * np.ones(4))
    assert np.abs(values["emb"]).max() <= 0.1
    w = np.asarray(values["blocks"]["w"])
    for layer in w:  # columns orthonormal up to the gain
        np.testing.assert_allclose(layer.T @ layer, 0.25 * np.eye(4), atol=1e-6)
    assert not np.allclose(w[0], w[1])


def test_wide_orthogonal_has_orthonormal_rows():
    q = np.asarray(Orthogonal(2.0)(jax.random.key(1), (3, 8), jnp.float32))
    np.testing.assert_allclose(q @ q.T, 4 * np.eye(3), atol=1e-5)


def test_adding_a_parameter_leaves_the_others_unchanged():
    specs = _specs()
    before = params.init(specs, jax.random.key(0))
    after = params.init({**specs, "aaa": ParamSpec((2,), (None,), Normal(1.0))}, jax.random.key(0))
    np.testing.assert_array_equal(before["emb"], after["emb"])
    np.testing.assert_array_equal(before["blocks"]["w"], after["blocks"]["w"])


def test_paths_round_trip():
    tree = {"b": {"x": 1, "y": {"z": 2}}, "a": 3}
    assert params.unflatten(dict(params.flatten(tree))) == tree
    assert [p for p, _ in params.flatten(tree)] == ["a", "b/x", "b/y/z"]


def test_check_names_every_problem():
    specs = _specs()
    values = params.init(specs, jax.random.key(0))
    params.check(values, specs)
    values["extra"] = jnp.zeros(2)
    values["emb"] = jnp.zeros((9, 6))
    del values["blocks"]["mix"]
    with pytest.raises(ValueError, match=r"emb: expected \(10, 6\), found \(9, 6\).*blocks/mix.*"):
        params.check(values, specs)


@pytest.mark.parametrize(
    "shape, axes", [((2, 3), ("embed",)), ((0, 3), (None, None)), ((-1,), (None,))]
)
def test_bad_specs_are_refused(shape, axes):
    with pytest.raises(ValueError, match="axis|dimension"):
        ParamSpec(shape, axes, Constant(0.0))


def test_stack_refuses_unequal_layers():
    one = {"w": ParamSpec((2,), (None,), Constant(0.0))}
    two = {"w": ParamSpec((3,), (None,), Constant(0.0))}
    with pytest.raises(ValueError, match="layers differ"):
        params.stack([one, two])
    with pytest.raises(ValueError, match="at least one layer"):
        params.stack([])

# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

from core import params as params_lib
from core import sharding
from core.params import Constant, ParamSpec


def _mesh(**shape):
    return sharding.make_mesh(shape)


def _equivalent(mesh, got, expected, ndim):
    return jax.sharding.NamedSharding(mesh, got).is_equivalent_to(
        jax.sharding.NamedSharding(mesh, expected), ndim
    )


def test_free_axis_takes_the_remaining_devices():
    assert dict(_mesh(data=-1, model=2).shape) == {"data": 4, "model": 2}
    assert dict(sharding.make_mesh().shape) == {"data": 8}


@pytest.mark.parametrize("shape", [{"data": 3}, {"data": -1, "model": -1}, {"data": 0}])
def test_impossible_meshes_are_refused(shape):
    with pytest.raises(ValueError, match="mesh"):
        sharding.make_mesh(shape)


def test_presets_map_axes():
    mesh = _mesh(data=4, model=2)
    spec = lambda preset, axes, shape: sharding.partition_spec(
        axes, shape, mesh, sharding.get_rules(preset)
    )
    assert _equivalent(mesh, spec("dp", ("embed", "mlp"), (8, 16)), P(), 2)
    assert _equivalent(mesh, spec("dp", ("batch", "time"), (8, 16)), P("data"), 2)
    assert _equivalent(mesh, spec("fsdp", ("embed", "mlp"), (8, 16)), P("data"), 2)
    assert _equivalent(mesh, spec("tp", ("embed", "mlp"), (8, 16)), P(None, "model"), 2)
    assert _equivalent(mesh, spec("fsdp_tp", ("embed", "mlp"), (8, 16)), P("data", "model"), 2)


def test_indivisible_dimension_is_replicated_and_logged_once(caplog):
    mesh = _mesh(data=8)
    rules = sharding.get_rules("fsdp")
    sharding._reported.clear()
    for _ in range(2):
        assert _equivalent(mesh, sharding.partition_spec(("embed",), (12,), mesh, rules), P(), 1)
    assert sum("not divisible" in r.message for r in caplog.records) == 1


def test_typos_and_clashes_are_errors():
    mesh = _mesh(data=4, model=2)
    with pytest.raises(ValueError, match="no sharding rule.*'embd'"):
        sharding.partition_spec(("embd",), (8,), mesh, sharding.get_rules("dp"))
    with pytest.raises(ValueError, match="unknown sharding preset"):
        sharding.get_rules("fdsp")
    with pytest.raises(ValueError, match="unknown logical axes"):
        sharding.get_rules({"heds": "model"})
    with pytest.raises(ValueError, match="'model' used for both"):
        sharding.partition_spec(("heads", "mlp"), (8, 8), mesh, sharding.get_rules("tp"))


def test_optimizer_state_follows_its_parameter():
    mesh = _mesh(data=4, model=2)
    rules = sharding.get_rules("fsdp_tp")
    specs = {
        "blocks": {"win": ParamSpec((8, 16), ("embed", "mlp"), Constant(0.0))},
        "w": ParamSpec((16,), ("mlp",), Constant(0.0)),
    }
    tx = optax.multi_transform(
        {"a": optax.adam(1e-3), "b": optax.adam(1e-2)}, {"blocks": {"win": "a"}, "w": "b"}
    )
    state = jax.eval_shape(lambda: tx.init(params_lib.init(specs, jax.random.key(0))))
    shardings = sharding.suffix_shardings(state, specs, mesh, rules)
    leaves = [
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(shardings)
    ]
    moments = {k: v for k, v in leaves if "mu" in k or "nu" in k}
    assert len(moments) == 4
    for path, found in moments.items():
        expected = P("data", "model") if "win" in path else P("model")
        ndim = 2 if "win" in path else 1
        assert found.is_equivalent_to(jax.sharding.NamedSharding(mesh, expected), ndim), path
    assert all(v.is_fully_replicated for k, v in leaves if "count" in k)


def test_shard_constrains_inside_jit():
    mesh = _mesh(data=8)
    shard = sharding.make_shard(mesh, sharding.get_rules("dp"))
    y = jax.jit(lambda x: shard(x * 2, ("batch", None)))(jnp.ones((16, 3)))
    assert y.sharding.is_equivalent_to(jax.sharding.NamedSharding(mesh, P("data")), 2)

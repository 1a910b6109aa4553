# SPDX-License-Identifier: Apache-2.0
"""Version and sizes from names and shapes, and the way from official tensors to parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rwkvjax
from core import params as params_lib
from rwkvjax import weights
from rwkvjax.weights import params as params_module
from rwkvjax.weights.infer import infer
from rwkvjax.weights.safetensors_file import write_safetensors
from rwkvjax.weights.source import DTYPES, all_finite, in_memory
from rwkvjax.weights.synthetic import random_checkpoint


def _shapes(tensors):
    return {name: tensor.shape for name, tensor in tensors.items()}


def test_parameters_fit_the_model(version, small):
    """What comes out is exactly the tree that the model describes, for all sizes at once."""
    config, params = weights.from_official(small(version))
    assert config.version == version
    params_lib.check(params, rwkvjax.param_specs(config))


def test_official_round_trip_is_exact(version, small):
    tensors = small(version)
    back = weights.to_official(*weights.from_official(tensors))
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        assert back[name].shape == tensor.shape
        np.testing.assert_array_equal(back[name], tensor)


def test_parameters_of_our_own_can_be_exported(version, small):
    """From a tree that the model describes, not from a file."""
    config, _ = weights.from_official(small(version))
    random = np.random.RandomState(0)
    draw = lambda spec: jnp.asarray(random.standard_normal(spec.shape), jnp.bfloat16)
    params = jax.tree.map(draw, rwkvjax.param_specs(config), is_leaf=params_lib.is_spec)
    again, back = weights.from_official(weights.to_official(config, params))
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("heads", [1, 2])
def test_any_order_any_depth(version, layers, heads):
    """Other loaders depend on the order of names, fail for one layer or misread one head."""
    tensors = random_checkpoint(
        version, layers=layers, dim=32, head_size=32 // heads, vocab_size=11, ffn_dim=40
    )
    shapes = _shapes(tensors)
    expected = infer(shapes)
    assert expected[0] == version
    assert expected[1]["L"] == layers
    assert version == "4" or expected[1]["H"] == heads
    assert infer({n: shapes[n] for n in sorted(shapes)}) == expected
    assert infer({n: shapes[n] for n in reversed(shapes)}) == expected


def test_squeezed_shapes_are_recognised(version, small):
    tensors = small(version)
    squeezed = {name: tensor.squeeze() for name, tensor in tensors.items()}
    config, params = weights.from_official(squeezed)
    expected_config, expected = weights.from_official(tensors)
    assert config == expected_config
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_attention_width_differs_from_model_width(version):
    tensors = random_checkpoint(version, layers=2, dim=32, att_dim=48, head_size=8, vocab_size=11)
    config, params = weights.from_official(tensors)
    assert config.att_dim == 48
    logits, _ = rwkvjax.apply(jax.tree.map(jnp.asarray, params), config, np.zeros((1, 3), int))
    assert np.isfinite(logits).all()


def test_published_sizes():
    """Parameter counts of the published models (paper, table of sizes)."""
    for name, expected in {
        "rwkv4-pile-14b": 14_148_597_760,
        "eagle-7b": 7_518_044_160,
        "finch-1.6b": 1_599_873_024,
        "finch-7b": 7_635_746_816,
        "finch-14b": 14_069_088_256,
    }.items():
        config = rwkvjax.get_config(name)
        specs = rwkvjax.param_specs(config)
        assert params_lib.count(specs) == expected
        shapes = {n: t.shape for n, t in weights.official_tensors(config, _hollow(specs)).items()}
        version, sizes = infer(shapes)
        assert (version, sizes["D"], sizes["L"]) == (config.version, config.dim, config.layers)


def test_published_sizes_of_goose():
    """Published counts leave out what the first block never uses: its value LoRA."""
    for name, expected in {
        "goose-0.1b": 191_034_624,
        "goose-0.4b": 450_767_872,
        "goose-1.5b": 1_527_404_544,
        "goose-2.9b": 2_947_735_040,
        "goose-7.2b": 7_199_141_888,
    }.items():
        config = rwkvjax.get_config(name)
        unused = config.dim * (2 * config.resolved_value_rank + 1)
        assert params_lib.count(rwkvjax.param_specs(config)) - unused == expected


def test_reading_in_pieces(tmp_path, monkeypatch):
    """Large matrices are read and transposed a few rows at a time."""
    tensors = random_checkpoint("6", layers=2, dim=160, head_size=32, vocab_size=200, seed=3)
    weights.write(tmp_path / "m.pth", in_memory(tensors), format="pth")
    expected = weights.load(tmp_path / "m.pth")[1]
    monkeypatch.setattr(params_module, "_PIECE_BYTES", 1)
    got = weights.load(tmp_path / "m.pth")[1]
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    source = weights.open_weights(tmp_path / "m.pth").tensors["emb.weight"]
    pieces = [start for start, _ in params_module._pieces(source, source.shape)]
    assert pieces == [0, 64, 128, 192]


def _hollow(specs):
    to_struct = lambda spec: jax.ShapeDtypeStruct(spec.shape, jnp.bfloat16)
    return jax.tree.map(to_struct, specs, is_leaf=params_lib.is_spec)


def test_unused_value_lora_may_be_missing(small):
    tensors = small("7")
    for name in ("v0", "v1", "v2"):
        del tensors[f"blocks.0.att.{name}"]
    _, params = weights.from_official(tensors)
    assert not params["blocks"]["att"]["v1"][0].any()
    assert params["blocks"]["att"]["v1"][1].any()


@pytest.mark.parametrize("prefix", ["_forward_module.", "model.", "module._orig_mod."])
def test_prefixes(small, tmp_path, prefix):
    tensors = small("6")
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        write_safetensors(file, in_memory({prefix + n: t for n, t in tensors.items()}))
    assert weights.load(path)[0].version == "6"


def test_dtype(small):
    tensors = small("5.2")
    _, params = weights.from_official(tensors, dtype="bfloat16")
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(params))
    expected = tensors["blocks.1.att.key.weight"].T.astype(jnp.bfloat16)
    np.testing.assert_array_equal(params["blocks"]["att"]["key"][1], expected)


def _drop(tensors, name):
    del tensors[name]


def _reshape(tensors, name):
    tensors[name] = np.zeros((*tensors[name].shape[:-1], 7), np.float32)


def _poison(tensors, name):
    tensors[name] = tensors[name].copy()
    tensors[name].reshape(-1)[3] = np.nan


def _add(tensors, name):
    tensors[name] = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("spoil", "name", "message"),
    [
        (_drop, "blocks.1.ffn.key.weight", "missing: blocks.1.ffn.key.weight"),
        (_drop, "emb.weight", "not an RWKV model"),
        (_drop, "blocks.0.att.key.weight", "a tensor is missing: blocks.0.att.key.weight"),
        (_reshape, "blocks.1.ffn.value.weight", r"expected shape \(32, 48\), got \(32, 7\)"),
        (_reshape, "head.weight", "head.weight: expected shape"),
        (_poison, "blocks.1.att.output.weight", "blocks.1.att.output.weight holds NaN"),
        (_add, "blocks.1.att.bogus", "unknown tensor: blocks.1.att.bogus"),
        (_add, "blocks.0.ffn.s_emb.weight", "DeepEmbed"),
        (_add, "blocks.0.att.key.lora_A", "adapter"),
        (_add, "blocks.9.att.bogus", "numbered up to 9, but 7 of them are absent"),
        (_add, "blocks.999999.att.bogus", "absent"),
    ],
)
def test_clear_errors(small, spoil, name, message):
    tensors = small("6")
    spoil(tensors, name)
    with pytest.raises(weights.WeightsError, match=message):
        weights.from_official(tensors)


def test_all_problems_are_reported_at_once(small):
    tensors = small("6")
    del tensors["ln_out.bias"], tensors["head.weight"]
    with pytest.raises(weights.WeightsError, match=r"(?s)ln_out.bias.*head.weight"):
        weights.from_official(tensors)


def test_unknown_tensors_can_be_ignored(small):
    tensors = small("6")
    expected = weights.from_official(tensors)
    _add(tensors, "blocks.1.att.bogus")
    config, params = weights.from_official(tensors, strict=False)
    assert config == expected[0]
    jax.tree.map(np.testing.assert_array_equal, params, expected[1])


def test_the_finite_check_finds_every_kind():
    for dtype in DTYPES.values():
        values = np.ones((1 << 20) + 5, dtype)
        assert all_finite(values)
        for bad in (np.nan, np.inf, -np.inf):
            spoiled = values.copy()
            spoiled[-1] = bad
            assert not all_finite(spoiled)

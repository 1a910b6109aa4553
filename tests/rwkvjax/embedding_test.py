# SPDX-License-Identifier: Apache-2.0
"""Vectors of texts: independent of their neighbours, and what their definition says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rwkvjax
from rwkvjax import embed as program
from rwkvjax import layers, model, weights
from rwkvjax.embedding import KINDS, Pooling, embed
from rwkvjax.weights.synthetic import random_checkpoint

RNG = np.random.RandomState(0)
TEXTS = [RNG.randint(0, 97, n).tolist() for n in (3, 40, 1, 33, 12)]


@pytest.fixture(scope="module", params=["6", "7"])
def loaded(request):
    return weights.from_official(random_checkpoint(request.param, dim=64, layers=2, head_size=32))


def _plain(params, cfg, ids, how):
    """The definition, on one text alone and without padding, by the whole model."""
    tokens = np.array([ids])
    x, state = model.hidden(params, cfg, tokens, rwkvjax.init_state(cfg, 1))
    depth = how.layer or cfg.layers
    if depth < cfg.layers:
        # The input of layer depth + 1 is what the first `depth` layers leave.
        cut = {**params, "blocks": jax.tree.map(lambda a: a[:depth], params["blocks"])}
        ones = {"weight": jnp.ones(cfg.dim), "bias": jnp.zeros(cfg.dim)}
        small = rwkvjax.Config(**{**cfg.__dict__, "layers": depth})
        x, _ = model.hidden({**cut, "ln_out": ones}, small, tokens, model.init_state(small, 1))
    wkv = state.wkv[depth - 1, 0]
    by_value = wkv if cfg.version == "7" else wkv.swapaxes(-1, -2)
    vector = {
        "mean": x[0].mean(axis=0),
        "last": x[0, -1],
        "shift": state.att_shift[depth - 1, 0],
        "state": jnp.sqrt((by_value**2).mean(-1)).ravel(),
        "flat": by_value.ravel(),
    }[how.kind]
    return vector / jnp.linalg.norm(vector) if how.normalize else vector


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_each_text_alone(loaded, kind):
    cfg, params = loaded
    how = Pooling(kind, layer=1 if kind in ("mean", "state") else 0, normalize=kind != "mean")
    vectors = embed(params, cfg, TEXTS, how, batch_size=3)
    assert vectors.shape == (len(TEXTS), how.size(cfg))
    for index in (0, 1, 2):
        expected = _plain(params, cfg, TEXTS[index], how)
        np.testing.assert_allclose(vectors[index], expected, 0, 2e-5)


def test_the_output_norm_without_weights_is_a_norm(loaded):
    cfg, params = loaded
    vectors = embed(params, cfg, TEXTS[:1], Pooling("last", 1, normalize=False), batch_size=1)
    ones = {"weight": jnp.ones(cfg.dim), "bias": jnp.zeros(cfg.dim)}
    again = layers.layer_norm(ones, jnp.asarray(vectors), cfg.layer_norm_eps)
    np.testing.assert_allclose(vectors, again, 0, 1e-3)


def test_mistakes_are_explained(loaded):
    cfg, params = loaded
    for how, texts, message in (
        (Pooling(), [[1], []], "text 1: expected at least one token"),
        (Pooling(), [[97]], r"must be integers in 0 \.\.\. 96"),
        (Pooling(layer=3), [[1]], "layer 3 of a model with 2 layers"),
    ):
        with pytest.raises(ValueError, match=message):
            embed(params, cfg, texts, how)
    with pytest.raises(ValueError, match="text 0 has 2 tokens, at most 1"):
        embed(params, cfg, [[1, 2]], max_tokens=1)
    with pytest.raises(ValueError, match="kind must be one of"):
        Pooling("max")
    with pytest.raises(ValueError, match="RWKV-4 has no matrix state"):
        Pooling("state").size(rwkvjax.Config(version="4", dim=64, layers=1))


def test_the_program_writes_an_array(tmp_path, monkeypatch, capsys):
    tensors = random_checkpoint("4", dim=32, layers=1, vocab_size=256)
    weights.write(tmp_path / "m.pth", tensors_of(tensors), format="pth")
    (tmp_path / "lines.txt").write_text("a text\nanother\n")
    arguments = ["embed", f"--checkpoint={tmp_path / 'm.pth'}", f"--input={tmp_path / 'lines.txt'}"]
    values = program._FLAGS
    values([*arguments, f"--output={tmp_path / 'v.npy'}"])
    program.main(values)
    vectors = np.load(tmp_path / "v.npy")
    assert vectors.shape == (2, 32) and "2 vectors written" in capsys.readouterr().out
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def tensors_of(arrays):
    from rwkvjax.weights.source import in_memory

    return in_memory(arrays)

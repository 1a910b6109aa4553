# SPDX-License-Identifier: Apache-2.0
"""RWKV-7 against a float64 form that reads like the paper, and its initialisation."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rwkvjax
from rwkvjax import rwkv7, weights
from rwkvjax.config import Config
from rwkvjax.weights.synthetic import random_checkpoint

SIZES = {"layers": 3, "dim": 24, "head_size": 8, "vocab_size": 17}
RANKS = {"P": 5, "I": 6, "U": 3, "G": 7}


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _norm(x, weight, bias, eps):
    return (x - x.mean()) / np.sqrt(x.var() + eps) * weight + bias


def _oracle(z, tokens, layers, size):
    """Logits [T, V] from official tensors, one token, one head and one step at a time."""
    dim = z["emb.weight"].shape[1]
    heads = dim // size
    z = {name: np.asarray(tensor, np.float64) for name, tensor in z.items()}
    shift = np.zeros((2 * layers, dim))
    state = np.zeros((layers, heads, size, size))
    out = []
    for token in tokens:
        x = _norm(z["emb.weight"][token], z["blocks.0.ln0.weight"], z["blocks.0.ln0.bias"], 1e-5)
        first = None
        for layer in range(layers):
            p = lambda name, layer=layer: z[f"blocks.{layer}.{name}"].squeeze()
            n = _norm(x, p("ln1.weight"), p("ln1.bias"), 1e-5)
            xr, xw, xk, xv, xa, xg = (
                n + (shift[2 * layer] - n) * p(f"att.x_{mix}") for mix in "rwkvag"
            )
            shift[2 * layer] = n
            r, k, v = (p(f"att.{m}.weight") @ y for m, y in
                       (("receptance", xr), ("key", xk), ("value", xv)))  # fmt: skip
            decay = np.tanh(xw @ p("att.w1")) @ p("att.w2") + p("att.w0")
            w = np.exp(-np.exp(-0.5) * _sigmoid(decay))
            a = _sigmoid(p("att.a0") + xa @ p("att.a1") @ p("att.a2"))
            g = _sigmoid(xg @ p("att.g1")) @ p("att.g2")
            if layer == 0:
                first = v
            else:
                v = v + (first - v) * _sigmoid(p("att.v0") + xv @ p("att.v1") @ p("att.v2"))
            y = np.zeros(dim)
            for h in range(heads):
                s = slice(h * size, (h + 1) * size)
                kappa = (k * p("att.k_k"))[s]
                kappa = kappa / max(np.linalg.norm(kappa), 1e-12)
                key = (k * (1 + (a - 1) * p("att.k_a")))[s]
                transition = np.diag(w[s]) - np.outer(kappa, kappa * a[s])
                state[layer, h] = state[layer, h] @ transition + np.outer(v[s], key)
                read = state[layer, h] @ r[s]
                y[s] = _norm(read, p("att.ln_x.weight")[s], p("att.ln_x.bias")[s], 64e-5)
                y[s] += (r[s] * key * p("att.r_k").reshape(heads, size)[h]).sum() * v[s]
            x = x + p("att.output.weight") @ (y * g)
            n = _norm(x, p("ln2.weight"), p("ln2.bias"), 1e-5)
            k = n + (shift[2 * layer + 1] - n) * p("ffn.x_k")
            shift[2 * layer + 1] = n
            k = np.maximum(p("ffn.key.weight") @ k, 0) ** 2
            x = x + p("ffn.value.weight") @ k
        out.append(z["head.weight"] @ _norm(x, z["ln_out.weight"], z["ln_out.bias"], 1e-5))
    return np.stack(out), state


def test_float64_oracle():
    checkpoint = random_checkpoint("7", **SIZES, ranks=RANKS, seed=4)
    tokens = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5])
    expected, state = _oracle(checkpoint, tokens, SIZES["layers"], SIZES["head_size"])
    with jax.enable_x64(True):
        config, params = weights.from_official(checkpoint, dtype="float64")
        config = dataclasses.replace(config, dtype="float64")
        start = jax.tree.map(lambda s: s.astype(np.float64), rwkvjax.init_state(config, 1))
        logits, end = rwkvjax.apply(params, config, tokens[None], start)
        assert logits.dtype == np.float64
    np.testing.assert_allclose(logits[0], expected, atol=1e-9)
    np.testing.assert_allclose(end.wkv[:, 0], state, atol=1e-9)


def test_initialisation_by_the_official_formulas():
    """Constants written out channel by channel, as the official constructor does."""
    layers, dim, size = 3, 32, 8
    cfg = Config(version="7", dim=dim, layers=layers, head_size=size, vocab_size=29, decay_rank=64)
    params = rwkvjax.init(jax.random.key(0), cfg)["blocks"]
    for layer in range(layers):
        ratio, rest = layer / (layers - 1), 1 - layer / layers
        for n in range(dim):
            linear = n / (dim - 1) - 0.5
            zigzag = ((n % size) - (size - 1) / 2) / ((size - 1) / 2)
            zigzag *= abs(zigzag)
            expected = {
                "w0": -6 + 6 * (n / (dim - 1)) ** (1 + ratio**0.3) + 0.5 + zigzag * 2.5,
                "a0": -0.19 + zigzag * 0.3 + linear * 0.4,
                "v0": 0.73 - linear * 0.4,
                "k_k": 0.71 - linear * 0.1,
                "k_a": 1.02,
                "x_r": 1 - (n / dim) ** (0.2 * rest),
                "x_w": 1 - (n / dim) ** (0.9 * rest),
                "x_k": 1 - (n / dim) ** (0.7 * rest),
                "x_v": 1 - (n / dim) ** (0.7 * rest),
                "x_a": 1 - (n / dim) ** (0.9 * rest),
                "x_g": 1 - (n / dim) ** (0.2 * rest),
            }
            for name, value in expected.items():
                got = float(params["att"][name][layer, n])
                assert got == pytest.approx(value, abs=1e-5), (name, layer, n)
            mix = 1 - (n / dim) ** (rest**4)
            assert float(params["ffn"]["x_k"][layer, n]) == pytest.approx(mix, abs=1e-5)
        gain = ((1 + layer) / layers) ** 0.7
        np.testing.assert_allclose(params["att"]["ln_x"]["weight"][layer], gain, rtol=1e-6)
        # The second LoRA factors are 0.1 times orthogonal, with a larger gain for a rank (64)
        # above the width (32).
        for name in ("a2", "v2", "g2"):
            matrix = np.asarray(params["att"][name][layer], np.float64)
            np.testing.assert_allclose(matrix @ matrix.T, 0.01 * np.eye(32), atol=1e-6)
        matrix = np.asarray(params["att"]["w2"][layer], np.float64)
        np.testing.assert_allclose(matrix.T @ matrix, 0.01 * 64 / 32 * np.eye(32), atol=1e-6)
    assert not params["att"]["output"].any() and not params["ffn"]["value"].any()
    assert not any(params["att"][name].any() for name in ("w1", "a1", "v1", "g1"))
    np.testing.assert_array_equal(params["att"]["r_k"], np.float32(-0.04))


def test_removal_key_has_unit_length_and_a_finite_gradient_at_zero():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0]])
    unit = rwkv7.unit_length(x)
    np.testing.assert_allclose(unit[0], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(unit[1:], [[0, 0], [1e-8, 0]], atol=1e-12)
    gradient = jax.grad(lambda x: rwkv7.unit_length(x).sum())(x)
    assert np.isfinite(gradient).all()


def test_decay_range():
    """w lies between exp(-e^{-1/2}) = 0.545 and 1 whatever the logit."""
    p = {"w0": jnp.array([-50.0, 0.0, 50.0]), "w1": jnp.zeros((3, 2)), "w2": jnp.zeros((2, 3))}
    w = np.exp(rwkv7.log_decay(p, jnp.zeros((1, 1, 3))))[0, 0]
    low = math.exp(-math.exp(-0.5))
    np.testing.assert_allclose(w, [1, math.exp(-math.exp(-0.5) / 2), low], rtol=1e-6)

# SPDX-License-Identifier: Apache-2.0
"""Parts that the networks share. Initial values follow the usual uniform rule, +-fan_in^-1/2.

Dimensions: N sequences, T steps, D width, H heads, F hidden width.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from core.params import ParamSpec, Uniform, ones, zeros

Params = dict[str, Any]
Specs = dict[str, Any]

HEAD = 64  # width of an attention head


def dense_specs(inputs: int, outputs: int, bias: bool = True) -> Specs:
    """Weights [inputs, outputs] and biases of a dense layer."""
    init = Uniform(inputs**-0.5)
    specs = {"weight": ParamSpec((inputs, outputs), ("embed", "mlp"), init)}
    if bias:
        specs["bias"] = ParamSpec((outputs,), ("mlp",), init)
    return specs


def dense(p: Params, x: jax.Array) -> jax.Array:
    """x W + b."""
    y = x @ p["weight"]
    return y + p["bias"] if "bias" in p else y


def conv_specs(kernel: int, inputs: int, outputs: int) -> Specs:
    """Weights [k, k, inputs, outputs] and biases of a convolution."""
    init = Uniform((inputs * kernel * kernel) ** -0.5)
    shape = (kernel, kernel, inputs, outputs)
    return {
        "weight": ParamSpec(shape, (None, None, "channels", "mlp"), init),
        "bias": ParamSpec((outputs,), ("mlp",), init),
    }


def conv(p: Params, x: jax.Array, stride: int = 1, padding: str = "VALID") -> jax.Array:
    """Convolution of [N, h, w, inputs]."""
    layout = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(
        x, p["weight"], (stride, stride), padding, dimension_numbers=layout
    )
    return y + p["bias"]


def norm_specs(dim: int) -> Specs:
    """Scale and shift of a normalisation."""
    return {
        "weight": ParamSpec((dim,), ("embed",), ones),
        "bias": ParamSpec((dim,), ("embed",), zeros),
    }


def layer_norm(p: Params, x: jax.Array, eps: float = 1e-5) -> jax.Array:
    """Layer normalisation of the last axis."""
    return standardised(x, -1, eps) * p["weight"] + p["bias"]


def group_norm(p: Params, x: jax.Array, groups: int, eps: float = 1e-5) -> jax.Array:
    """Group norm of [N, h, w, C] over space and the channels of each group."""
    split = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    centred = split - split.mean(axis=(1, 3), keepdims=True)
    variance = jnp.square(centred).mean(axis=(1, 3), keepdims=True)
    return (centred * jax.lax.rsqrt(variance + eps)).reshape(x.shape) * p["weight"] + p["bias"]


def standardised(x: jax.Array, axis: int, eps: float = 1e-5) -> jax.Array:
    """(x - mean) / sqrt(biased variance + eps) along an axis."""
    centred = x - x.mean(axis=axis, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=axis, keepdims=True) + eps)


def feed_forward_specs(dim: int, hidden: int) -> Specs:
    """Pre-norm feed-forward layer."""
    return {
        "norm": norm_specs(dim),
        "up": dense_specs(dim, hidden),
        "down": dense_specs(hidden, dim),
    }


def feed_forward(p: Params, x: jax.Array) -> jax.Array:
    """W2 gelu(W1 LN(x)), with the exact GELU."""
    hidden = jax.nn.gelu(dense(p["up"], layer_norm(p["norm"], x)), approximate=False)
    return dense(p["down"], hidden)


def attention_specs(dim: int, heads: int) -> Specs:
    """Pre-norm self-attention with heads of `HEAD` channels; no bias before the softmax."""
    inner = heads * HEAD
    return {
        "norm": norm_specs(dim),
        "query": dense_specs(dim, inner, bias=False),
        "key": dense_specs(dim, inner, bias=False),
        "value": dense_specs(dim, inner, bias=False),
        "out": dense_specs(inner, dim),
    }


def self_attention(p: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Attention of a sequence to itself: [N, T, D] -> ([N, T, D], weights [N, H, T, T])."""
    x = layer_norm(p["norm"], x)
    out, weights = attend(*(dense(p[name], x) for name in ("query", "key", "value")))
    return dense(p["out"], out), weights


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """softmax(q k^T / sqrt(HEAD)) v in heads: [N, T, H HEAD] -> ([N, T, H HEAD], [N, H, T, T])."""
    heads = lambda x: x.reshape(*x.shape[:2], -1, HEAD)
    scores = jnp.einsum("nqhd,nkhd->nhqk", heads(query), heads(key)) * HEAD**-0.5
    weights = jax.nn.softmax(scores, axis=-1)
    out = jnp.einsum("nhqk,nkhd->nqhd", weights, heads(value))
    return out.reshape(query.shape), weights


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Entries zeroed at a rate and the others scaled up; unchanged without a key."""
    if key is None or not rate:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0.0)

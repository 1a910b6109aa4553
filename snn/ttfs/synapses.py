# SPDX-License-Identifier: Apache-2.0
"""The synapses of a layer one by one: as rows of arrivals with a weight matrix, or as one matrix.

Convolutions become patches, so that the general solver and the certificates treat each position as
a small dense layer. Whole matrices serve the event-queue reference and exports of small networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from snn.ttfs import network as net


def arrivals(
    layer: net.Layer, block: Mapping[str, Any], leads: Mapping[str, Any]
) -> tuple[jax.Array, jax.Array]:
    """Lead times of the inputs of each position, and the weights shared by all positions.

    Returns:
      x [R, N] with R = B * positions (1 for dense layers), and weight [N, M] with M channels.
    """
    xs, weights = [], []
    for k, edge in enumerate(layer.edges):
        w, x = jnp.asarray(block[net.weight_name(k)]), jnp.asarray(leads[edge.source])
        batch = x.shape[0]
        if isinstance(edge.op, net.Conv):
            xs.append(_patches(edge.op, x))
            weights.append(_full_kernel(edge.op, w, x.shape[-1]))
        elif isinstance(edge.op, net.Dense):
            xs.append(x.reshape(batch, -1))
            weights.append(w)
        else:
            xs.append(x.reshape(-1, w.shape[0]))
            weights.append(jnp.diag(w))
    rows = {x.shape[0] for x in xs}
    if len(rows) != 1:
        raise ValueError(f"layer {layer.name!r}: edges with {rows} positions cannot be combined")
    return jnp.concatenate(xs, axis=1), jnp.concatenate(weights, axis=0)


def _patches(op: net.Conv, x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B H' W', C kh kw]; padding has lead time 0, that is, never spikes."""
    patches = jax.lax.conv_general_dilated_patches(
        x,
        op.kernel,
        op.strides,
        op.padding,
        rhs_dilation=op.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return patches.reshape(-1, patches.shape[-1])


def _full_kernel(op: net.Conv, w: jax.Array, channels: int) -> jax.Array:
    """[kh, kw, C / groups, M] -> [C kh kw, M], zeros between groups."""
    inputs, outputs = channels // op.groups, op.features // op.groups
    full = jnp.zeros((*op.kernel, channels, op.features), w.dtype)
    for g in range(op.groups):
        rows, columns = slice(g * inputs, (g + 1) * inputs), slice(g * outputs, (g + 1) * outputs)
        full = full.at[:, :, rows, columns].set(w[..., columns])
    return full.transpose(2, 0, 1, 3).reshape(-1, op.features)


def matrix(
    layer: net.Layer, index: int, block: Mapping[str, Any], source_shape: net.Shape
) -> jax.Array:
    """The synapses of one edge as a matrix [inputs, neurons of the layer]; for small layers."""
    size = math.prod(source_shape)
    op, w = layer.edges[index].op, jnp.asarray(block[net.weight_name(index)])
    shape = layer.shape if isinstance(op, net.Scale) else source_shape
    units = jnp.eye(size, dtype=w.dtype).reshape(size, *shape)
    return net.apply_op(op, w, units).reshape(size, -1)


def fan_out(layer: net.Layer, index: int, source_shape: net.Shape) -> jax.Array:
    """Number of synapses that each neuron of the source has onto this layer, source_shape."""
    op = layer.edges[index].op
    if isinstance(op, net.Dense):
        return jnp.full(source_shape, float(op.units))
    if isinstance(op, net.Scale):
        return jnp.ones(source_shape)
    ones = jnp.ones((*op.kernel, source_shape[-1] // op.groups, op.features))
    zero = jnp.zeros((1, *source_shape))
    _, transpose = jax.vjp(lambda x: net.apply_op(op, ones, x), zero)
    return transpose(jnp.ones((1, *layer.shape)))[0][0]

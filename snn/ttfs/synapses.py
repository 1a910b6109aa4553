# SPDX-License-Identifier: Apache-2.0
"""The synapses of a layer one by one: as rows of arrivals with a weight matrix, or as one matrix.

Convolutions become patches, so that the general solver and the certificates treat each position as
a small dense layer. Whole matrices serve the event-queue reference and exports of small networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from snn.ttfs import network as net
from snn.ttfs import ops


def arrivals(layer: net.Layer, block: Mapping[str, Any], leads: Mapping[str, Any]) -> ops.Rows:
    """Lead times of the inputs of each position, and the weights (and delays) shared by all."""
    parts = []
    for k, edge in enumerate(layer.edges):
        w, x = jnp.asarray(block[net.weight_name(k)]), jnp.asarray(leads[edge.source])
        delay = jnp.asarray(block[net.delay_name(k)]) if edge.delay else None
        parts.append(ops.rows(edge.op, w, delay, edge.delay, x))
    positions = {p.lead.shape[0] for p in parts}
    if len(positions) != 1:
        raise ValueError(
            f"layer {layer.name!r}: edges with {positions} positions cannot be combined"
        )
    return ops.Rows(
        jnp.concatenate([p.lead for p in parts], axis=1),
        jnp.concatenate([p.weight for p in parts], axis=0),
        _delays(parts),
    )


def _delays(parts: Sequence[ops.Rows]) -> jax.Array | None:
    """Delays of all inputs: None, [N], or [N, M] if those of one edge are synaptic."""
    if all(p.delay is None for p in parts):
        return None
    zero = lambda p: jnp.zeros(p.lead.shape[1], p.weight.dtype)
    found = [zero(p) if p.delay is None else p.delay for p in parts]
    if any(d.ndim == 2 for d in found):
        units = parts[0].weight.shape[1]
        found = [
            d if d.ndim == 2 else jnp.broadcast_to(d[:, None], (d.shape[0], units)) for d in found
        ]
    return jnp.concatenate(found, axis=0)


def matrix(
    layer: net.Layer, index: int, block: Mapping[str, Any], source_shape: net.Shape
) -> jax.Array:
    """The synapses of one edge as a matrix [inputs, neurons of the layer]; for small layers."""
    size = math.prod(source_shape)
    op, w = layer.edges[index].op, jnp.asarray(block[net.weight_name(index)])
    shape = layer.shape if isinstance(op, net.Scale) else source_shape
    units = jnp.eye(size, dtype=w.dtype).reshape(size, *shape)
    return net.apply_op(op, w, units).reshape(size, -1)


def delay_matrix(
    layer: net.Layer, index: int, block: Mapping[str, Any], source_shape: net.Shape
) -> jax.Array | None:
    """The delays of one edge, [inputs] or [inputs, neurons of the layer]; None without delays."""
    edge = layer.edges[index]
    if not edge.delay:
        return None
    delay = jnp.asarray(block[net.delay_name(index)])
    if edge.delay == "synaptic":
        return matrix(layer, index, {net.weight_name(index): delay}, source_shape)
    return delay if isinstance(edge.op, net.Dense) else jnp.tile(delay, math.prod(source_shape[:2]))


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

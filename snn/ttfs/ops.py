# SPDX-License-Identifier: Apache-2.0
"""Synapses between two layers: what is connected to what, and the sums that arrive.

A spike of lead time x contributes J x to the potential at t_min; one that travels for a delay d
contributes J (x - d)_+, for it arrives d later (after t_min it comes too late). Delays are
"axonal", one for each source neuron (for each channel of an image read by a convolution), or
"synaptic", one for each weight.

Dimensions: B batch, R = B * positions rows (1 position for dense layers, H' W' for convolutions),
N inputs of a position, M neurons or channels of the layer.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

Shape = tuple[int, ...]
Pads = tuple[tuple[int, int], tuple[int, int]]

DELAYS = ("", "axonal", "synaptic")


@dataclasses.dataclass(frozen=True)
class Dense:
    """All-to-all synapses; weight [N, M]. An image source is flattened, channels last."""

    units: int


@dataclasses.dataclass(frozen=True)
class Conv:
    """Convolution; weight [kh, kw, C_in / groups, C_out]; padded inputs never spike."""

    features: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: Pads = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclasses.dataclass(frozen=True)
class Scale:
    """One synapse from each neuron to its namesake (skip connection); weight [C] or [N]."""


Op = Dense | Conv | Scale


class Rows(NamedTuple):
    """The inputs of each position one by one.

    lead [R, N] (0: no spike), weight [N, M], delay None, [N] or [N, M].
    """

    lead: jax.Array
    weight: jax.Array
    delay: jax.Array | None


def weight_shape(op: Op, source: Shape, layer: Shape) -> Shape:
    """Shape of the weight of synapses from `source` (one example) to `layer`."""
    if isinstance(op, Dense):
        return (math.prod(source), op.units)
    if isinstance(op, Conv):
        return (*op.kernel, source[-1] // op.groups, op.features)
    return (layer[-1],)


def delay_shape(op: Op, kind: str, source: Shape, layer: Shape) -> Shape:
    """Shape of the delays of dense or convolutional synapses."""
    if kind == "synaptic":
        return weight_shape(op, source, layer)
    return (math.prod(source) if isinstance(op, Dense) else source[-1],)


def apply_op(op: Op, weight: jax.Array, x: jax.Array) -> jax.Array:
    """The linear map without delays: x [B, ...] -> sum of J x, [B, M] or [B, H, W, C]."""
    if isinstance(op, Dense):
        return x.reshape(x.shape[0], -1) @ weight
    if isinstance(op, Conv):
        return jax.lax.conv_general_dilated(
            x,
            weight,
            op.strides,
            op.padding,
            rhs_dilation=op.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=op.groups,
        )
    return x * weight


def delayed_sum(op: Op, weight: jax.Array, delay: jax.Array, kind: str, x: jax.Array) -> jax.Array:
    """Sum of J (x - d)_+, [B, M] or [B, H, W, C] for axonal, [R, M] for synaptic delays.

    Synaptic delays take the inputs one after the other, in O(R M) memory forward and backward.
    """
    if kind == "axonal":
        x = x.reshape(x.shape[0], -1) if isinstance(op, Dense) else x
        return apply_op(op, weight, jax.nn.relu(x - delay))
    lead, full, late = rows(op, weight, delay, kind, x)
    assert late is not None

    @jax.checkpoint
    def body(total: jax.Array, item: tuple[jax.Array, jax.Array, jax.Array]) -> tuple:
        one, j, d = item
        return total + j * jax.nn.relu(one[:, None] - d), None

    start = jnp.zeros((lead.shape[0], full.shape[1]), jnp.result_type(lead, full))
    return jax.lax.scan(body, start, (lead.T, full, late))[0]


def rows(op: Op, weight: jax.Array, delay: jax.Array | None, kind: str, x: jax.Array) -> Rows:
    """The synapses as rows of inputs with a common matrix."""
    if isinstance(op, Conv):
        size = math.prod(op.kernel)
        lead, full = _patches(op, x), _full_kernel(op, weight, x.shape[-1])
        if delay is not None:
            synaptic = kind == "synaptic"
            delay = _full_kernel(op, delay, x.shape[-1]) if synaptic else jnp.repeat(delay, size)
        return Rows(lead, full, delay)
    if isinstance(op, Dense):
        return Rows(x.reshape(x.shape[0], -1), weight, delay)
    return Rows(x.reshape(-1, weight.shape[0]), jnp.diag(weight), None)


def _patches(op: Conv, x: jax.Array) -> jax.Array:
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


def _full_kernel(op: Conv, w: jax.Array, channels: int) -> jax.Array:
    """[kh, kw, C / groups, M] -> [C kh kw, M], zeros between groups."""
    inputs, outputs = channels // op.groups, op.features // op.groups
    full = jnp.zeros((*op.kernel, channels, op.features), w.dtype)
    for g in range(op.groups):
        ins, outs = slice(g * inputs, (g + 1) * inputs), slice(g * outputs, (g + 1) * outputs)
        full = full.at[:, :, ins, outs].set(w[..., outs])
    return full.transpose(2, 0, 1, 3).reshape(-1, op.features)

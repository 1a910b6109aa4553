# SPDX-License-Identifier: Apache-2.0
"""ReLU networks as a list of layers and a dict of parameters: what is mapped to spikes.

`apply` is the plain network in JAX and the reference of the exact mapping. Parameters are nested
dicts keyed by `layer_names`: "0_conv", "1_batchnorm", ... The names of the frameworks' layouts are
NHWC images, HWIO kernels and [in, out] matrices.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from core.params import Normal, ParamSpec, ones, zeros
from snn.ttfs.network import Pads, Shape, max_of_tiles

Padding = str | Pads
BATCH_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class Dense:
    """Parameters weight [in, units], bias [units]."""

    units: int


@dataclasses.dataclass(frozen=True)
class Conv:
    """Parameters weight [kh, kw, in / groups, features], bias [features]; zero padding."""

    features: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: Padding = "SAME"
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """Inference form; parameters scale, shift, mean, var, each [channels]."""

    eps: float = BATCH_EPS


@dataclasses.dataclass(frozen=True)
class Relu:
    """max(x, 0)."""


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """Maximum over windows; padded places take no part."""

    window: tuple[int, int] = (2, 2)
    strides: tuple[int, int] | None = None
    padding: Padding = "VALID"


@dataclasses.dataclass(frozen=True)
class AvgPool:
    """Mean over windows, without padding."""

    window: tuple[int, int] = (2, 2)
    strides: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Flatten:
    """[B, H, W, C] -> [B, H W C]."""


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Nothing at inference."""

    rate: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.rate}")


@dataclasses.dataclass(frozen=True)
class Residual:
    """body(x) + shortcut(x); an empty shortcut is the identity. Parameters: body, shortcut."""

    body: tuple[ReluLayer, ...]
    shortcut: tuple[ReluLayer, ...] = ()


ReluLayer = Dense | Conv | BatchNorm | Relu | MaxPool | AvgPool | Flatten | Dropout | Residual
Layers = Sequence[ReluLayer]


def layer_names(layers: Layers) -> list[str]:
    """Parameter key of each layer."""
    return [f"{i}_{type(layer).__name__.lower()}" for i, layer in enumerate(layers)]


def explicit_padding(
    padding: Padding, size: Sequence[int], kernel: Shape, strides: Shape, dilation: Shape = (1, 1)
) -> Pads:
    """(before, after) of both image axes for "SAME", "VALID" or given pairs."""
    if not isinstance(padding, str):
        return (tuple(padding[0]), tuple(padding[1]))  # type: ignore[return-value]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    pairs = jax.lax.padtype_to_pads(size, reach, strides, padding)
    return (tuple(pairs[0]), tuple(pairs[1]))  # type: ignore[return-value]


def output_size(size: int, kernel: int, stride: int, pads: Sequence[int], dilation: int = 1) -> int:
    """Length of one image axis after a convolution or pooling."""
    return (size + sum(pads) - (kernel - 1) * dilation - 1) // stride + 1


def spatial_shape(layer: Conv | MaxPool | AvgPool, shape: Shape) -> tuple[Pads, tuple[int, int]]:
    """Explicit padding and the image size after the layer."""
    if isinstance(layer, Conv):
        kernel, strides, dilation = layer.kernel, layer.strides, layer.dilation
    else:
        kernel, strides, dilation = layer.window, layer.strides or layer.window, (1, 1)
    padding = "VALID" if isinstance(layer, AvgPool) else layer.padding
    pads = explicit_padding(padding, shape[:2], kernel, strides, dilation)
    size = [output_size(shape[a], kernel[a], strides[a], pads[a], dilation[a]) for a in range(2)]
    if min(size) < 1:
        raise ValueError(f"{layer} leaves nothing of an image of {shape[0]} x {shape[1]}")
    return pads, (size[0], size[1])


# --- the reference forward pass -----------------------------------------------------------------


def apply(layers: Layers, params: Mapping[str, Any], x: jax.Array) -> jax.Array:
    """Output of the network in raw units: x [B, ...] -> [B, ...]."""
    for name, layer in zip(layer_names(layers), layers, strict=True):
        x = apply_layer(layer, params.get(name, {}), x)
    return x


def apply_layer(layer: ReluLayer, p: Mapping[str, Any], x: jax.Array) -> jax.Array:
    """One layer; batch norm uses the stored statistics."""
    if isinstance(layer, Dense):
        return x @ p["weight"] + p["bias"]
    if isinstance(layer, Conv):
        pads, _ = spatial_shape(layer, x.shape[1:])
        y = jax.lax.conv_general_dilated(
            x,
            p["weight"],
            layer.strides,
            pads,
            rhs_dilation=layer.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=layer.groups,
        )
        return y + p["bias"]
    if isinstance(layer, BatchNorm):
        return (x - p["mean"]) / jnp.sqrt(p["var"] + layer.eps) * p["scale"] + p["shift"]
    if isinstance(layer, Relu):
        return jax.nn.relu(x)
    if isinstance(layer, MaxPool | AvgPool):
        return _pool(layer, x)
    if isinstance(layer, Flatten):
        return x.reshape(x.shape[0], -1)
    if isinstance(layer, Residual):
        return apply(layer.body, p.get("body", {}), x) + apply(
            layer.shortcut, p.get("shortcut", {}), x
        )
    return x


def _pool(layer: MaxPool | AvgPool, x: jax.Array) -> jax.Array:
    pads, _ = spatial_shape(layer, x.shape[1:])
    size = (1, *layer.window, 1)
    strides = (1, *(layer.strides or layer.window), 1)
    padding = ((0, 0), *pads, (0, 0))
    if isinstance(layer, MaxPool):
        if size == strides and padding == ((0, 0),) * 4:
            return max_of_tiles(x, layer.window)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, size, strides, padding)
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, size, strides, padding)
    return total / math.prod(layer.window)


# --- parameters ---------------------------------------------------------------------------------


def param_specs(layers: Layers, input_shape: Shape) -> dict[str, Any]:
    """Specifications (He initialisation) of all parameters; also checks the shapes."""
    return _specs(layers, tuple(input_shape))[0]


def output_shape(layers: Layers, input_shape: Shape) -> Shape:
    """Shape of one example's output."""
    return _specs(layers, tuple(input_shape))[1]


def _specs(layers: Layers, shape: Shape) -> tuple[dict[str, Any], Shape]:
    specs: dict[str, Any] = {}
    for name, layer in zip(layer_names(layers), layers, strict=True):
        block, shape = _layer_specs(name, layer, shape)
        if block:
            specs[name] = block
    return specs, shape


def _layer_specs(name: str, layer: ReluLayer, shape: Shape) -> tuple[dict[str, Any], Shape]:
    image = isinstance(layer, Conv | MaxPool | AvgPool)
    if (image and len(shape) != 3) or (isinstance(layer, Dense) and len(shape) != 1):
        raise ValueError(f"layer {name}: cannot follow values of shape {shape}")
    if isinstance(layer, Dense):
        return _affine((shape[0], layer.units), shape[0]), (layer.units,)
    if isinstance(layer, Conv):
        if shape[2] % layer.groups or layer.features % layer.groups:
            raise ValueError(f"layer {name}: {shape[2]} channels do not divide by {layer.groups=}")
        _, size = spatial_shape(layer, shape)
        kernel = (*layer.kernel, shape[2] // layer.groups, layer.features)
        return _affine(kernel, math.prod(kernel[:3])), (*size, layer.features)
    if isinstance(layer, BatchNorm):
        make = lambda init: ParamSpec((shape[-1],), (None,), init)
        fields = {"scale": ones, "shift": zeros, "mean": zeros, "var": ones}
        return {key: make(init) for key, init in fields.items()}, shape
    if isinstance(layer, MaxPool | AvgPool):
        return {}, (*spatial_shape(layer, shape)[1], shape[2])
    if isinstance(layer, Flatten):
        return {}, (math.prod(shape),)
    if isinstance(layer, Residual):
        body, after = _specs(layer.body, shape)
        shortcut, other = _specs(layer.shortcut, shape)
        if after != other:
            raise ValueError(f"layer {name}: body gives {after}, shortcut {other}")
        return {k: v for k, v in (("body", body), ("shortcut", shortcut)) if v}, after
    return {}, shape


def _affine(shape: Shape, fan_in: int) -> dict[str, ParamSpec]:
    axes = (None,) * (len(shape) - 2) + ("neuron_in", "neuron")
    weight = ParamSpec(shape, axes, Normal(math.sqrt(2.0 / fan_in)))
    return {"weight": weight, "bias": ParamSpec(shape[-1:], ("neuron",), zeros)}


# --- common architectures -----------------------------------------------------------------------


def mlp(hidden: Sequence[int], classes: int, batch_norm: str = "") -> tuple[ReluLayer, ...]:
    """Fully connected network; images are flattened first. batch_norm: see `vgg`."""
    before, after = _norms(batch_norm)
    layers: list[ReluLayer] = [Flatten()]
    for units in hidden:
        layers += [Dense(units), *before, Relu(), *after]
    return (*layers, Dense(classes))


def lenet(
    channels: Sequence[int], hidden: Sequence[int], classes: int, batch_norm: str = ""
) -> tuple[ReluLayer, ...]:
    """5 x 5 convolutions, each followed by 2 x 2 max pooling, then dense layers."""
    before, after = _norms(batch_norm)
    layers: list[ReluLayer] = []
    for features in channels:
        layers += [Conv(features, (5, 5), padding="VALID"), *before, Relu(), *after, MaxPool()]
    return (*layers, *mlp(hidden, classes))


def _norms(batch_norm: str) -> tuple[list[ReluLayer], list[ReluLayer]]:
    """Batch norm before and after each ReLU."""
    if batch_norm not in ("", "before", "after"):
        raise ValueError(f"batch_norm must be '', 'before' or 'after', got {batch_norm!r}")
    return [BatchNorm()] * (batch_norm == "before"), [BatchNorm()] * (batch_norm == "after")


def vgg(
    blocks: Sequence[Sequence[int]],
    hidden: Sequence[int],
    classes: int,
    batch_norm: str = "",
    dropout: Sequence[float] = (),
) -> tuple[ReluLayer, ...]:
    """Blocks of 3 x 3 convolutions with max pooling after each.

    Args:
      blocks: channels of each convolution of each block.
      hidden, classes: widths of the dense layers and of the read-out.
      batch_norm: "", or where it stands in each hidden layer: "before" or "after" the ReLU.
      dropout: for each block the rate after each of its convolutions but the last; empty: none.
    """
    if dropout and len(dropout) != len(blocks):
        raise ValueError(f"dropout: a rate for each of {len(blocks)} blocks, got {dropout}")
    before, after = _norms(batch_norm)
    layers: list[ReluLayer] = []
    for block, rate in zip(blocks, dropout or [0.0] * len(blocks), strict=True):
        for number, features in enumerate(block, start=1):
            layers += [Conv(features, (3, 3)), *before, Relu(), *after]
            if rate and number < len(block):
                layers.append(Dropout(rate))
        layers.append(MaxPool())
    return (*layers, *mlp(hidden, classes, batch_norm))

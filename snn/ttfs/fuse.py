# SPDX-License-Identifier: Apache-2.0
"""From a ReLU network to the linear maps of a TTFS network: everything but the spikes.

Batch norm (before or after a ReLU), input ranges, average pooling, flattening and residual adds
disappear into weights and biases; what remains are layers `relu(bias + sum over edges of W x)` and
max pooling of times. Computed by NumPy in float64, exactly but for rounding.

The value at each point of the ReLU network is kept as a sum over terms `scale * x_source`
(or `W x_source` after a linear layer) plus a map `shift`. Because zero padding pads the original
value and not the scaled one, `shift` is pushed through each linear layer as an image of its own:
biases become position dependent where that is needed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from core import params as params_lib
from snn.ttfs import network as net
from snn.ttfs import relu

Array = np.ndarray


@dataclasses.dataclass
class _Term:
    """scale * pools(x_source), or op(x_source) with `weight` once a linear layer has been met."""

    source: str
    shape: net.Shape
    scale: Array
    pools: tuple[relu.AvgPool, ...] = ()
    op: net.Op | None = None
    weight: Array | None = None


@dataclasses.dataclass
class _Value:
    """A point of the ReLU network; `pending` is a max pooling met before its ReLU."""

    terms: list[_Term]
    shift: Array
    shape: net.Shape
    pending: relu.MaxPool | None = None
    flipped: Array | None = None

    @property
    def linear(self) -> bool:
        return any(t.op is not None for t in self.terms)


def fuse(
    layers: relu.Layers,
    params: Mapping[str, Any],
    input_shape: net.Shape,
    input_range: tuple[float, float] = (0.0, 1.0),
) -> tuple[net.Network, dict[str, dict[str, Array]]]:
    """The TTFS structure of a ReLU network and its B1 parameters (J = W, D = bias).

    Args:
      layers, params: see `snn.ttfs.relu`.
      input_shape: shape of one example.
      input_range: (p, q) of the raw input; the TTFS network receives (raw - p) / (q - p).

    Raises:
      ValueError: naming the layer and the rule it breaks.
    """
    low, high = input_range
    if not high > low:
        raise ValueError(f"input_range must be (low, high) with low < high, got {input_range}")
    relu.param_specs(layers, input_shape)  # checks the shapes
    shape = tuple(input_shape)
    scale = np.full(shape[-1:], float(high - low))
    start = _Value([_Term(net.INPUT, shape, scale)], np.full(shape, float(low)), shape)
    builder = _Builder()
    end = builder.run(layers, params, start, "")
    if not end.linear or end.pending is not None:
        raise ValueError("the last layer: must be Dense or Conv (the read-out), without a ReLU")
    builder.emit(end, "readout", spiking=False)
    return net.Network(shape, tuple(builder.nodes)), builder.params


def structure(layers: relu.Layers, input_shape: net.Shape) -> net.Network:
    """The TTFS network of a ReLU network without batch norm, for training from scratch."""
    if any(isinstance(layer, relu.BatchNorm) for layer in layers):
        raise ValueError("batch norm is fused from trained values; it has no spiking counterpart")
    specs = relu.param_specs(layers, input_shape)
    blank = params_lib.map_with_path(lambda _, s: np.zeros(s.shape, np.float32), specs)
    return fuse(layers, blank, input_shape)[0]


class _Builder:
    """Walks the layers and collects nodes and parameters."""

    def __init__(self) -> None:
        self.nodes: list[net.Node] = []
        self.params: dict[str, dict[str, Array]] = {}

    def run(self, layers: relu.Layers, params: Mapping[str, Any], v: _Value, at: str) -> _Value:
        for name, layer in zip(relu.layer_names(layers), layers, strict=True):
            where = f"{at}{name}"
            block = params.get(name, {})
            if isinstance(layer, relu.Residual):
                v = self._residual(layer, block, v, where)
                continue
            values = {k: _finite(x, f"layer {where}: {k}") for k, x in block.items()}
            if v.pending is not None and not isinstance(layer, relu.BatchNorm | relu.Relu):
                raise ValueError(f"layer {where}: max pooling before it must be followed by a ReLU")
            if isinstance(layer, relu.Dense | relu.Conv):
                v = _linear(layer, values, v, where)
            elif isinstance(layer, relu.BatchNorm):
                v = _batch_norm(layer, values, v, where)
            elif isinstance(layer, relu.Relu):
                v = self._relu(v)
            elif isinstance(layer, relu.MaxPool):
                v = self._max_pool(layer, v, where)
            elif isinstance(layer, relu.AvgPool):
                v = _avg_pool(layer, v, where)
            elif isinstance(layer, relu.Flatten):
                v = _flatten(v, where)
            elif not isinstance(layer, relu.Dropout):
                raise ValueError(f"layer {where}: unsupported layer {type(layer).__name__}")
        return v

    def _residual(
        self, layer: relu.Residual, block: Mapping[str, Any], v: _Value, where: str
    ) -> _Value:
        if v.linear:
            raise ValueError(
                f"layer {where}: a residual block must start at spikes, that is after a ReLU;"
                " blocks that carry unrectified values past the add have no exact mapping"
            )
        body = self.run(layer.body, block.get("body", {}), v, f"{where}/body/")
        short = self.run(layer.shortcut, block.get("shortcut", {}), v, f"{where}/shortcut/")
        if body.pending is not None or short.pending is not None:
            raise ValueError(f"layer {where}: max pooling at the end of a branch needs its ReLU")
        return _Value(body.terms + short.terms, body.shift + short.shift, body.shape)

    def _relu(self, v: _Value) -> _Value:
        term = v.terms[0]
        plain = len(v.terms) == 1 and term.op is None and (term.scale >= 0).all()
        if plain and (v.shift >= 0).all():
            return v  # already non-negative
        name = f"layer_{sum(isinstance(n, net.Layer) for n in self.nodes)}"
        source = self.emit(v, name)
        out = _fresh(source, self.nodes[-1].shape)
        if v.pending is None:
            return out
        assert v.flipped is not None
        return self._pool_node(v.pending, out, v.flipped)

    def emit(self, v: _Value, name: str, spiking: bool = True) -> str:
        """Adds the layer that computes v; returns its name."""
        edges, block = [], {}
        for k, term in enumerate(v.terms):
            op, weight = _as_synapses(term)
            if isinstance(op, net.Scale) and weight.ndim > 1:
                weight = weight.reshape(-1)  # flattened
            edges.append(net.Edge(term.source, op))
            block[net.weight_name(k)] = weight
        flat = v.shift.reshape(-1, v.shift.shape[-1])
        same = bool((flat == flat[0]).all())
        block["bias"] = flat[0] if same else v.shift
        self.nodes.append(net.Layer(name, v.shape, tuple(edges), spiking))
        self.params[name] = block
        return name

    def _max_pool(self, layer: relu.MaxPool, v: _Value, where: str) -> _Value:
        if v.linear:  # commutes with the ReLU that follows
            return dataclasses.replace(v, pending=layer, flipped=np.zeros(v.shape[-1], bool))
        term = v.terms[0]
        if len(v.terms) > 1 or term.pools or len(v.shape) != 3:
            raise ValueError(f"layer {where}: max pooling needs the times of one layer's spikes")
        flat = v.shift.reshape(-1, v.shape[-1])
        if not (flat == flat[0]).all():
            raise ValueError(f"layer {where}: max pooling after a position dependent bias")
        out = self._pool_node(layer, v, term.scale < 0)
        out.terms[0].scale = term.scale
        out.shift = np.broadcast_to(flat[0], out.shape)
        return out

    def _pool_node(self, layer: relu.MaxPool, v: _Value, latest: Array) -> _Value:
        pads, size = relu.spatial_shape(layer, v.shape)
        shape = (*size, v.shape[-1])
        name = f"pool_{sum(isinstance(n, net.Pool) for n in self.nodes)}"
        strides = layer.strides or layer.window
        marks = tuple(bool(b) for b in latest) if latest.any() else ()
        source = v.terms[0].source
        self.nodes.append(net.Pool(name, source, shape, layer.window, strides, pads, marks))
        return _fresh(name, shape)


def _fresh(source: str, shape: net.Shape) -> _Value:
    return _Value([_Term(source, shape, np.ones(shape[-1:]))], np.zeros(shape), shape)


def _finite(x: Any, what: str) -> Array:
    value = np.asarray(x, np.float64)
    if value.size == 0:
        raise ValueError(f"{what} is empty")
    if not np.isfinite(value).all():
        raise ValueError(f"{what} holds NaN or infinite values")
    return value


# --- linear layers ------------------------------------------------------------------------------


def _linear(layer: relu.Dense | relu.Conv, p: Mapping[str, Array], v: _Value, where: str) -> _Value:
    if v.linear:
        raise ValueError(
            f"layer {where}: follows a linear layer without a ReLU between; merge them"
        )
    for key in ("weight", "bias"):
        if key not in p:
            raise ValueError(f"layer {where}: parameter {key!r} is missing")
    weight, bias = p["weight"], p["bias"]
    if isinstance(layer, relu.Dense):
        _check_shape(weight, (v.shape[0], layer.units), where)
        terms = [
            _Term(t.source, t.shape, t.scale, (), net.Dense(layer.units), _dense_weight(t, weight))
            for t in v.terms
        ]
        return _Value(terms, v.shift @ weight + bias, (layer.units,))
    pads, size = relu.spatial_shape(layer, v.shape)
    _check_shape(weight, (*layer.kernel, v.shape[2] // layer.groups, layer.features), where)
    op = net.Conv(layer.features, layer.kernel, layer.strides, pads, layer.dilation, layer.groups)
    shift = conv_map(v.shift, weight, op) + bias
    terms = [_conv_term(t, weight, op, where) for t in v.terms]
    return _Value(terms, shift, (*size, layer.features))


def _check_shape(weight: Array, expected: net.Shape, where: str) -> None:
    if weight.shape != expected:
        raise ValueError(f"layer {where}: weight has shape {weight.shape}, expected {expected}")


def _dense_weight(term: _Term, weight: Array) -> Array:
    """Folds the term's average pools and scale into a dense matrix over its source."""
    shapes = [term.shape]
    for p in term.pools:
        shapes.append((*relu.spatial_shape(p, shapes[-1])[1], shapes[-1][-1]))
    w = weight.reshape(*shapes[-1], -1)
    for p, shape in zip(reversed(term.pools), reversed(shapes[:-1]), strict=True):
        w = _transposed_mean(p, w, shape)
    full = w.reshape(*term.shape, -1) * term.scale.reshape(*term.scale.shape, 1)
    return full.reshape(math.prod(term.shape), -1)


def _transposed_mean(p: relu.AvgPool, w: Array, shape: net.Shape) -> Array:
    strides, out = p.strides or p.window, np.zeros((*shape, w.shape[-1]))
    height, width = w.shape[:2]
    for i in range(p.window[0]):
        for j in range(p.window[1]):
            rows = slice(i, i + strides[0] * (height - 1) + 1, strides[0])
            columns = slice(j, j + strides[1] * (width - 1) + 1, strides[1])
            out[rows, columns] += w
    return out / math.prod(p.window)


def _conv_term(term: _Term, weight: Array, op: net.Conv, where: str) -> _Term:
    """Folds the term's average pools and scale into a convolution over its source."""
    channels = term.shape[-1]
    if term.scale.shape != (channels,):
        raise ValueError(f"layer {where}: a convolution cannot follow flattened values")
    per_group = channels // op.groups
    outputs = op.features // op.groups
    group = np.repeat(np.arange(op.groups), outputs)
    index = group[None, :] * per_group + np.arange(per_group)[:, None]  # [in / groups, out]
    weight = weight * term.scale[index]
    shapes = [term.shape]
    for p in term.pools:
        shapes.append((*relu.spatial_shape(p, shapes[-1])[1], channels))
    for p, shape in zip(reversed(term.pools), reversed(shapes[:-1]), strict=True):
        weight, op = _fold_average(p, shape, weight, op, where)
    return _Term(term.source, term.shape, term.scale, (), op, weight)


def _fold_average(
    p: relu.AvgPool, shape: net.Shape, weight: Array, op: net.Conv, where: str
) -> tuple[Array, net.Conv]:
    strides = p.strides or p.window
    rest = [size % s for size, s in zip(shape[:2], strides, strict=True)]
    if any(r and after > 0 for r, (_, after) in zip(rest, op.padding, strict=True)):
        raise ValueError(
            f"layer {where}: average pooling that leaves out the last rows or columns of"
            f" {shape[0]} x {shape[1]} does not fold into a padded convolution"
        )
    if strides != p.window or op.dilation != (1, 1):
        raise ValueError(
            f"layer {where}: average pooling folds into a convolution only if its strides equal its"
            f" window and the convolution is not dilated; got {p} before {op}"
        )
    box = np.ones((*p.window, 1, 1)) / math.prod(p.window)
    # Rows that the pooling leaves out are cropped: negative padding.
    pads = tuple((a * s, b * s - r) for (a, b), s, r in zip(op.padding, strides, rest, strict=True))
    new = dataclasses.replace(
        op,
        kernel=(op.kernel[0] * p.window[0], op.kernel[1] * p.window[1]),
        strides=(op.strides[0] * strides[0], op.strides[1] * strides[1]),
        padding=(pads[0], pads[1]),
    )
    return np.kron(weight, box), new


def conv_map(x: Array, weight: Array, op: net.Conv) -> Array:
    """The convolution of one image [H, W, C] with zero padding, in NumPy's own precision."""
    padded = np.pad(x, (*op.padding, (0, 0)))
    reach = [(k - 1) * d + 1 for k, d in zip(op.kernel, op.dilation, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(0, 1))
    views = views[:: op.strides[0], :: op.strides[1], :, :: op.dilation[0], :: op.dilation[1]]
    parts = zip(
        np.split(views, op.groups, axis=2), np.split(weight, op.groups, axis=3), strict=True
    )
    return np.concatenate([np.einsum("hwcij,ijcm->hwm", v, w) for v, w in parts], axis=-1)


def _as_synapses(term: _Term) -> tuple[net.Op, Array]:
    if term.op is not None:
        assert term.weight is not None
        return term.op, term.weight
    if not term.pools:
        return net.Scale(), term.scale
    channels = term.shape[-1]  # a mean of each channel by itself: a grouped convolution
    op = net.Conv(channels, (1, 1), groups=channels)
    folded = _conv_term(term, np.ones((1, 1, 1, channels)), op, "average pooling")
    assert folded.op is not None and folded.weight is not None
    return folded.op, folded.weight


# --- layers that change scales and shapes only --------------------------------------------------


def _batch_norm(layer: relu.BatchNorm, p: Mapping[str, Array], v: _Value, where: str) -> _Value:
    for key in ("scale", "shift", "mean", "var"):
        if key not in p or p[key].shape != v.shape[-1:]:
            found = p[key].shape if key in p else "nothing"
            raise ValueError(f"layer {where}: {key} [{v.shape[-1]}] expected, found {found}")
    if not (p["var"] + layer.eps > 0).all():
        raise ValueError(f"layer {where}: var must not be negative, found {p['var'].min():.4g}")
    gain = p["scale"] / np.sqrt(p["var"] + layer.eps)
    terms = []
    for t in v.terms:
        if t.op is None:
            if t.scale.ndim > 1 and t.pools:
                raise ValueError("batch norm of flattened averages: put it before Flatten")
            own = gain.reshape(t.scale.shape) if t.scale.ndim > 1 else gain
            terms.append(dataclasses.replace(t, scale=t.scale * own))
        else:
            assert t.weight is not None
            terms.append(dataclasses.replace(t, weight=t.weight * gain))
    shift = (v.shift - p["mean"]) * gain + p["shift"]
    flipped = None if v.flipped is None else v.flipped ^ (gain < 0)
    return dataclasses.replace(v, terms=terms, shift=shift, flipped=flipped)


def _avg_pool(layer: relu.AvgPool, v: _Value, where: str) -> _Value:
    if v.linear:
        raise ValueError(f"layer {where}: average pooling must follow a ReLU, not a linear layer")
    _, size = relu.spatial_shape(layer, v.shape)
    channels = v.shape[-1]
    box = np.full((*layer.window, 1, channels), 1.0 / math.prod(layer.window))
    op = net.Conv(channels, layer.window, layer.strides or layer.window, groups=channels)
    terms = [dataclasses.replace(t, pools=(*t.pools, layer)) for t in v.terms]
    return _Value(terms, conv_map(v.shift, box, op), (*size, channels))


def _flatten(v: _Value, where: str) -> _Value:
    if v.linear:
        raise ValueError(f"layer {where}: flattening must follow a ReLU, not a linear layer")
    size = math.prod(v.shape)
    terms = []
    for t in v.terms:
        if t.scale.shape == t.shape[-1:]:
            t = dataclasses.replace(t, scale=np.broadcast_to(t.scale, t.shape))
        terms.append(t)
    return _Value(terms, v.shift.reshape(size), (size,))

# SPDX-License-Identifier: Apache-2.0
"""ReLU networks from elsewhere: ONNX files, Flax modules (nnx and linen), safetensors weights.

All return `(layers, params, input_shape)` of `snn.ttfs.relu`, ready for `mapping.map_relu`. Weights
are only read as arrays; nothing from a file is executed. Structures are taken from what is written
down: an ONNX graph, or the list of Flax modules in the order in which they are applied.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from snn.ttfs import relu
from snn.ttfs.network import Shape

Imported = tuple[tuple[relu.ReluLayer, ...], dict[str, Any], Shape]
Blocks = list[dict[str, Any]]


def _named(layers: list[relu.ReluLayer], blocks: Blocks) -> dict[str, Any]:
    names = relu.layer_names(layers)
    return {name: block for name, block in zip(names, blocks, strict=True) if block}


# --- Flax ---------------------------------------------------------------------------------------


def from_flax(
    modules: Sequence[Any], input_shape: Shape, variables: Mapping[str, Any] | None = None
) -> Imported:
    """A Flax network given as its modules and functions in the order of application.

    Args:
      modules: nnx.Linear, nnx.Conv, nnx.BatchNorm, nnx.Dropout; linen.Dense, linen.Conv,
        linen.BatchNorm, linen.Dropout with a `name`; and the functions `relu`, `flatten`,
        or layers of `snn.ttfs.relu` (pooling).
      input_shape: of one example.
      variables: for linen: {"params": ..., "batch_stats": ...}, keyed by the modules' names.

    Raises:
      ValueError: an element that has no exact mapping; names its position and what to use instead.
    """
    layers: list[relu.ReluLayer] = []
    blocks: Blocks = []
    for position, module in enumerate(modules):
        layer, block = _flax_layer(position, module, variables or {})
        layers.append(layer)
        blocks.append(block)
    params = _named(layers, blocks)
    relu.param_specs(layers, input_shape)
    return tuple(layers), params, tuple(input_shape)


_PLAIN = relu.Relu | relu.MaxPool | relu.AvgPool | relu.Flatten | relu.Dropout


def _flax_layer(
    position: int, module: Any, variables: Mapping[str, Any]
) -> tuple[relu.ReluLayer, dict[str, Any]]:
    if isinstance(module, _PLAIN):
        return module, {}
    kind = type(module).__name__
    where = f"module {position} ({getattr(module, '__name__', kind)})"
    if callable(module) and getattr(module, "__name__", "") in ("relu", "flatten"):
        return (relu.Relu() if module.__name__ == "relu" else relu.Flatten()), {}
    if kind in ("Linear", "Dense", "Conv", "BatchNorm", "Dropout"):
        get = _flax_values(module, variables, where)
        if kind == "Dropout":
            return relu.Dropout(), {}
        if kind == "BatchNorm":
            block = {k: get(v) for k, v in (("mean", "mean"), ("var", "var"))}
            ones = np.ones_like(block["mean"])
            scale, shift = get("scale", ones), get("bias", 0 * ones)
            return relu.BatchNorm(float(module.epsilon)), {"scale": scale, "shift": shift, **block}
        weight = get("kernel")
        block = {"weight": weight, "bias": get("bias", np.zeros(weight.shape[-1]))}
        if kind == "Conv":
            return _flax_conv(module, weight, where), block
        return relu.Dense(weight.shape[-1]), block
    raise ValueError(
        f"{where}: unsupported layer; give Linear/Dense, Conv, BatchNorm, Dropout, relu, flatten,"
        " or MaxPool/AvgPool of snn.ttfs.relu"
    )


def _flax_values(module: Any, variables: Mapping[str, Any], where: str) -> Callable[..., Any]:
    def get(name: str, default: Any = None) -> Any:
        if type(module).__module__.startswith("flax.nnx"):
            value = getattr(module, name, None)
            value = None if value is None else value[...]
        else:
            collection = "batch_stats" if name in ("mean", "var") else "params"
            value = variables.get(collection, {}).get(str(module.name), {}).get(name)
        if value is None and default is None:
            raise ValueError(f"{where}: has no {name}; linen modules need `name` and `variables`")
        return np.asarray(default if value is None else value, np.float64)

    return get


def _pair(value: Any, count: int = 2) -> Any:
    if value is None:
        return (1,) * count
    return (int(value),) * count if isinstance(value, int) else tuple(int(v) for v in value)


def _flax_conv(module: Any, weight: np.ndarray, where: str) -> relu.Conv:
    if weight.ndim != 4:
        raise ValueError(f"{where}: only 2-D convolutions are mapped, kernel {weight.shape}")
    if getattr(module, "input_dilation", 1) not in (1, None, (1, 1)):
        raise ValueError(f"{where}: transposed convolutions have no mapping")
    padding = module.padding
    if not isinstance(padding, str):
        pairs = (padding, padding) if isinstance(padding, int) else padding
        padding = tuple((p, p) if isinstance(p, int) else (int(p[0]), int(p[1])) for p in pairs)
    elif padding not in ("SAME", "VALID"):
        raise ValueError(f"{where}: padding {padding!r} has no mapping; use SAME or VALID")
    return relu.Conv(
        int(weight.shape[-1]),
        (int(weight.shape[0]), int(weight.shape[1])),
        _pair(module.strides),
        padding,
        _pair(module.kernel_dilation),
        int(module.feature_group_count),
    )


# --- safetensors --------------------------------------------------------------------------------


def load_weights(
    path: str | os.PathLike[str],
    layers: relu.Layers,
    input_shape: Shape,
    layout: str = "ours",
) -> dict[str, Any]:
    """Weights of given layers from a safetensors file.

    Args:
      path: file whose tensors are called "<layer>/<parameter>" ("ours"), or, in layout "torch",
        "<layer>.<parameter>" with PyTorch's shapes [out, in], [out, in, kh, kw] and the names of
        its batch norm (weight, bias, running_mean, running_var); what follows a flattened image
        is brought from PyTorch's order C, H, W into ours. Layers: `relu.layer_names`.
      layers, input_shape: the structure.
      layout: "ours" or "torch".

    Raises:
      FileNotFoundError, ValueError: no such file; tensors that are missing or misshapen.
    """
    from safetensors.numpy import load_file

    if layout not in ("ours", "torch"):
        raise ValueError(f"layout must be ours or torch, got {layout!r}")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no weight file {path}")
    from core import params as params_lib

    tensors = load_file(os.fspath(path))
    specs = relu.param_specs(layers, input_shape)
    torch_names = {"scale": "weight", "shift": "bias", "mean": "running_mean", "var": "running_var"}
    flattened = _flattened_images(layers, input_shape) if layout == "torch" else {}

    def get(key: str, spec: Any) -> np.ndarray:
        layer, parameter = key.split("/")[0], key.split("/")[-1]
        image = flattened.get(layer)
        if layout == "torch":
            head, name = key.rsplit("/", 1)
            key = f"{head.replace('/', '.')}.{torch_names.get(name, name)}"
        if key not in tensors:
            raise ValueError(f"{path}: tensor {key!r} is missing; found {sorted(tensors)}")
        value = tensors[key].astype(np.float64)
        if layout == "torch" and value.ndim > 1:
            value = value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)
        if value.shape != tuple(spec.shape):
            raise ValueError(f"{path}: {key} has shape {value.shape}, expected {spec.shape}")
        if image is not None and (value.ndim == 2 or parameter in torch_names):
            height, width, channels = image
            order = np.arange(value.shape[0]).reshape(channels, height, width)
            value = value[order.transpose(1, 2, 0).ravel()]
        return value

    return params_lib.map_with_path(get, specs)


def _flattened_images(layers: relu.Layers, shape: Shape) -> dict[str, Shape]:
    """Layers that read a flattened image, up to the first dense one after it, and its shape."""
    found: dict[str, Shape] = {}
    image: Shape | None = None
    for name, layer in zip(relu.layer_names(layers), layers, strict=True):
        if isinstance(layer, relu.Flatten) and len(shape) == 3:
            image = shape
        elif image is not None:
            if isinstance(layer, relu.Residual):
                raise ValueError(f"layer {name}: layout torch has no residual block on flat images")
            found[name] = image
            image = None if isinstance(layer, relu.Dense) else image
        shape = relu.output_shape((layer,), shape)
    return found

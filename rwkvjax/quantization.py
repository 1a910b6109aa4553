# SPDX-License-Identifier: Apache-2.0
"""Weight-only quantisation of a model to 8 or 4 bits, and its files.

    small = quantize(params, QuantizeConfig(bits=4, group_size=64))
    logits, state = rwkvjax.apply(small, config, tokens)       # as with the parameters themselves
    save("model-int4.safetensors", config, small)              # rwkvjax.load reads it

The projections of time and channel mixing and the head become integers with a scale for each
output channel, or for each group of `group_size` inputs of a channel; the embedding becomes 8-bit
rows with a scale each. What is left as it is: norms, token-shift vectors, decays, bonuses and the
low-rank factors of versions 6 and 7, which are small and sensitive; activations and states too.
A scale of 8 bits follows the largest weight of its group; one of 4 bits is the best of a few
fractions of that by squared error.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from core import config as config_lib
from core import files
from core import params as params_lib
from rwkvjax import model
from rwkvjax.config import Config
from rwkvjax.matrices import BITS, QuantizedMatrix, QuantizedTable, is_structured
from rwkvjax.weights import safetensors_file
from rwkvjax.weights.source import Tensors, WeightsError, in_memory

FORMAT = "rwkvjax-quantized-1"

PROJECTIONS = ("receptance", "key", "value", "gate", "output")
# Fractions of the full range that are tried for 4 bits: clipping a few large weights pays there.
_CLIPS = {8: (1.0,), 4: tuple(np.linspace(1.0, 0.6, 17))}
# Half of the precision of a scale is enough: the integers are rounded for the scale as stored.
_SCALE_DTYPE = ml_dtypes.bfloat16


@dataclasses.dataclass(frozen=True)
class QuantizeConfig:
    """How the weights are rounded.

    Attributes:
      bits: 8 or 4, of the projections and the head.
      group_size: inputs that share a scale within an output channel; 0 for all of them.
      head: also the output head.
      embedding: also the embedding, always to 8 bits with one scale for each row.
    """

    bits: int = 8
    group_size: int = 0
    head: bool = True
    embedding: bool = True

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits must be one of {BITS}, got {self.bits}")
        if self.group_size < 0:
            raise ValueError(f"group_size must not be negative, got {self.group_size}")


def quantize(params: Mapping[str, Any], how: QuantizeConfig | None = None) -> dict[str, Any]:
    """Parameters with quantised matrices, for `rwkvjax.apply` and `step`.

    Args:
      params: parameters of any version; matrices that are quantised already are refused.
      how: see `QuantizeConfig`.

    Raises:
      ValueError: a matrix whose inputs the groups do not divide, or that is not an array.
    """
    how = how or QuantizeConfig()

    def one(path: str, leaf: Any) -> Any:
        if path == "emb/weight":
            return quantize_table(leaf) if how.embedding else leaf
        name = path.rsplit("/", 1)[-1]
        matrix = path.startswith("blocks/") and name in PROJECTIONS
        if not matrix and not (path == "head/weight" and how.head):
            return leaf
        if is_structured(leaf):
            raise ValueError(f"{path} is not an array but a {type(leaf).__name__}")
        try:
            return quantize_matrix(leaf, how.bits, how.group_size)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    return params_lib.map_with_path(one, params)


def quantize_matrix(weight: Any, bits: int = 8, group_size: int = 0) -> QuantizedMatrix:
    """Rounds a matrix (or stack of matrices) [..., I, O]; see `QuantizedMatrix`.

    Raises:
      ValueError: I is not a multiple of the group size (with 4 bits: half of I).
    """
    weight = np.asarray(weight)
    *lead, rows, columns = weight.shape
    unit = rows if bits == 8 else rows // 2
    group = group_size or rows
    if (bits == 4 and rows % 2) or (group_size and unit % group_size):
        raise ValueError(
            f"group_size {group_size} does not fit {rows} inputs: with {bits} bits it must divide"
            f" {unit}{' and the inputs must be even' if bits == 4 else ''}"
        )
    integers = np.empty((*lead, rows, columns), np.int8)
    scale = np.empty((*lead, rows // group, columns), _SCALE_DTYPE)
    for index in np.ndindex(*lead):  # one layer at a time bounds the memory
        grouped = weight[index].astype(np.float32).reshape(-1, group, columns)
        values, scales = _round_groups(grouped, bits)
        integers[index], scale[index] = values.reshape(rows, columns), scales
    if bits == 4:
        low, high = np.split(integers.view(np.uint8), 2, axis=-2)
        packed = (low & 0xF) | (high << 4)
        return QuantizedMatrix(jnp.asarray(packed), jnp.asarray(scale), 4)
    return QuantizedMatrix(jnp.asarray(integers), jnp.asarray(scale), 8)


def _round_groups(groups: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers [G, g, O] and scales [G, O] of groups of weights [G, g, O]."""
    top = 2 ** (bits - 1) - 1
    peak = np.abs(groups).max(axis=1)
    best = np.full(peak.shape, np.inf, np.float32)
    values, scales = np.zeros(groups.shape, np.int8), np.ones(peak.shape, np.float32)
    for clip in _CLIPS[bits]:
        scale = (peak * (clip / top)).astype(_SCALE_DTYPE).astype(np.float32)
        scale = np.where(scale > 0, scale, 1.0)
        rounded = np.clip(np.rint(groups / scale[:, None]), -top - 1, top)
        error = np.square(rounded * scale[:, None] - groups).sum(axis=1)
        better = error < best
        best = np.where(better, error, best)
        scales = np.where(better, scale, scales)
        values = np.where(better[:, None], rounded.astype(np.int8), values)
    return values, scales


def quantize_table(weight: Any) -> QuantizedTable:
    """Rounds an embedding [V, D] to 8 bits with one scale for each row."""
    if is_structured(weight):
        raise ValueError(f"emb/weight is not an array but a {type(weight).__name__}")
    rows = np.asarray(weight).astype(np.float32)
    values, scale = _round_groups(rows[:, :, None], 8)
    return QuantizedTable(jnp.asarray(values[..., 0]), jnp.asarray(scale.astype(_SCALE_DTYPE)))


def nbytes(params: Mapping[str, Any]) -> int:
    """Bytes that the parameters occupy."""
    return sum(leaf.nbytes for _, leaf in params_lib.flatten(params))


# --- files ----------------------------------------------------------------------------------------


def save(path: str | os.PathLike[str], cfg: Config, params: Mapping[str, Any]) -> None:
    """Writes parameters with quantised matrices to one safetensors file, atomically.

    A matrix is stored as `NAME.values` and `NAME.scale`, NAME being the path of the parameter with
    dots; the configuration lies in the metadata.
    """
    arrays: dict[str, np.ndarray] = {}
    for place, leaf in params_lib.flatten(params):
        name = place.replace("/", ".")
        if isinstance(leaf, QuantizedMatrix | QuantizedTable):
            arrays[f"{name}.values"] = np.asarray(leaf.values)
            arrays[f"{name}.scale"] = np.asarray(leaf.scale)
        elif is_structured(leaf):
            raise ValueError(f"{place}: merge the adapter first, got a {type(leaf).__name__}")
        else:
            arrays[name] = np.asarray(leaf)
    metadata = {"format": FORMAT, "config": json.dumps(dataclasses.asdict(cfg), sort_keys=True)}
    with files.atomic_write(path) as file:
        safetensors_file.write_safetensors(file, in_memory(arrays), metadata)


def is_quantized(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a file written by `save`; never raises for another file."""
    try:
        return safetensors_file.read_metadata(path).get("format") == FORMAT
    except (WeightsError, OSError):
        return False


def load_config(path: str | os.PathLike[str]) -> Config:
    """The configuration in a file written by `save`; raises as `load`."""
    metadata = safetensors_file.read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path} is not a file of quantised weights (format {FORMAT!r})")
    stored = safetensors_file.parse_json(path, metadata.get("config", "").encode())
    try:
        return config_lib.build(Config, stored, where="stored model config")
    except config_lib.ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error


def load(path: str | os.PathLike[str]) -> tuple[Config, dict[str, Any]]:
    """Reads a file written by `save` as (config, params).

    Raises:
      FileNotFoundError: there is nothing at `path`.
      WeightsError: damaged, or of another kind.
    """
    cfg = load_config(path)
    tensors = safetensors_file.read_safetensors(path, integers=True)
    params = {place: _leaf(path, place, tensors) for place, _ in _places(cfg)}
    if tensors:
        raise WeightsError(f"{path} holds tensors that the model has not: {sorted(tensors)[:3]}")
    tree = params_lib.unflatten(params)
    try:
        params_lib.check(tree, model.param_specs(cfg), what=f"parameters in {path}")
    except ValueError as error:
        raise WeightsError(str(error)) from error
    return cfg, tree


def _places(cfg: Config) -> Any:
    return params_lib.flatten(model.param_specs(cfg))


def _leaf(path: Any, place: str, tensors: Tensors) -> Any:
    """Takes one parameter out of `tensors`."""
    name = place.replace("/", ".")
    wanted = [name] if name in tensors else [f"{name}.values", f"{name}.scale"]
    missing = [n for n in wanted if n not in tensors]
    if missing:
        raise WeightsError(f"{path}: {missing[0]} is missing")
    arrays = [jnp.asarray(tensors.pop(n).read()) for n in wanted]
    if len(arrays) == 1:
        return arrays[0]
    values, scale = arrays
    bits = {"int8": 8, "uint8": 4}.get(values.dtype.name)
    if place == "emb/weight" and bits == 8:
        bits = 0
    rows = values.shape[-2] * (1 if bits != 4 else 2) if values.ndim >= 2 else 0
    groups = scale.shape[-2] if scale.ndim == values.ndim >= 2 else 0
    fits = (
        scale.shape == (values.shape[0], 1)
        if bits == 0
        else groups and rows % groups == 0 and scale.shape[-1] == values.shape[-1]
    )
    if bits is None or not fits or not jnp.issubdtype(scale.dtype, jnp.floating):
        raise WeightsError(
            f"{path}: {name}: values {values.shape} {values.dtype} do not go with scales"
            f" {scale.shape} {scale.dtype}"
        )
    return QuantizedMatrix(values, scale, bits) if bits else QuantizedTable(values, scale)

# SPDX-License-Identifier: Apache-2.0
"""Our parameters from official tensors and back, one tensor at a time."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from rwkvjax.config import Config
from rwkvjax.weights import names
from rwkvjax.weights.infer import infer
from rwkvjax.weights.source import (
    Tensor,
    Tensors,
    WeightsError,
    aligned_empty,
    all_finite,
    cast,
    copy_transposed,
    in_memory,
    nest,
)

# Reading, checking and transposing overlap; each thread holds one piece of a tensor.
_THREADS = max(1, min(4, os.cpu_count() or 1))
_PIECE_BYTES = 4 << 20
_STRIP = 64

Path = tuple[str, ...]
# Receives the path and the finished array of one parameter, returns what goes into the tree.
Put = Callable[[Path, np.ndarray], Any]

# Config field of each size letter of the schema, for those that every version has or a few have.
_FIELDS = {"V": "vocab_size", "D": "dim", "L": "layers", "A": "att_dim", "F": "ffn_dim"}
_VERSION_FIELDS = {
    "6": {"N": "head_size", "R": "mix_rank", "P": "decay_rank"},
    "7": {
        "N": "head_size",
        "P": "decay_rank",
        "I": "iclr_rank",
        "U": "value_rank",
        "G": "gate_rank",
    },
}


def config_of(version: str, sizes: Mapping[str, int], **overrides: Any) -> Config:
    """The Config of a model with those sizes."""
    letters = dict(_FIELDS)
    if version.startswith("5"):
        letters["N"] = "head_size"
    letters.update(_VERSION_FIELDS.get(version, {}))
    fields = {field: sizes[letter] for letter, field in letters.items()}
    try:
        return Config(version=version, **(fields | overrides))
    except ValueError as error:
        raise WeightsError(f"the sizes of this model are not supported: {error}") from error


def sizes_of_config(config: Config) -> dict[str, int]:
    """Value of every size letter of the schema for a configuration."""
    return {
        "L": config.layers,
        "V": config.vocab_size,
        "D": config.dim,
        "A": config.resolved_att_dim,
        "F": config.resolved_ffn_dim,
        "N": config.head_size,
        "H": config.heads,
        "R": config.resolved_mix_rank,
        "P": config.resolved_decay_rank,
        "I": config.resolved_iclr_rank,
        "U": config.resolved_value_rank,
        "G": config.resolved_gate_rank,
    }


def from_official(
    tensors: Mapping[str, Any],
    *,
    dtype: str | None = None,
    strict: bool = True,
    check_finite: bool = True,
    put: Put | None = None,
    **overrides: Any,
) -> tuple[Config, dict[str, Any]]:
    """Builds (config, params) from tensors with official names and shapes.

    Args:
      tensors: official name -> array, or `source.Tensor` read on demand.
      dtype: dtype of the parameters; the default keeps that of each tensor.
      strict: raise for tensors that no RWKV model has, instead of ignoring them.
      check_finite: raise for NaN and infinity.
      put: called for each finished parameter, e.g. to place it on devices; default: as it is.
      **overrides: fields of Config that no tensor tells, e.g. group_norm_eps, dtype.

    Returns:
      The configuration read off the names and shapes, and the nested dict of parameters, with the
      blocks stacked on a leading axis. Besides the parameters, a few tensors are held at a time.

    Raises:
      WeightsError: the tensors are not a complete RWKV model, or not finite.
    """
    source = _as_tensors(tensors)
    version, sizes = infer({n: t.shape for n, t in source.items()}, strict=strict)
    config = config_of(version, sizes, **overrides)
    target = None if dtype is None else np.dtype(jax.numpy.dtype(dtype))
    leaves: dict[Path, Any] = {}
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for path, rows in _by_parameter(version, sizes["L"]).items():
            array = _assemble(pool, source, rows, sizes, target, check_finite)
            leaves[path] = array if put is None else put(path, array)
    return config, nest(leaves)


def _as_tensors(tensors: Mapping[str, Any]) -> Tensors:
    lazy = {n: t for n, t in tensors.items() if isinstance(t, Tensor)}
    rest = {n: t for n, t in tensors.items() if n not in lazy}
    return {**lazy, **in_memory(rest)}


def _by_parameter(
    version: str, layers: int
) -> dict[Path, list[tuple[str, names.Entry, int | None]]]:
    """Our path -> the official tensors that make it up, in order of layers."""
    groups: dict[Path, list[tuple[str, names.Entry, int | None]]] = {}
    for name, entry, layer in names.schema(version).listing(layers):
        path = entry.path if layer is None else ("blocks", *entry.path)
        groups.setdefault(path, []).append((name, entry, layer))
    return groups


def _assemble(
    pool: concurrent.futures.Executor,
    source: Tensors,
    rows: list[tuple[str, names.Entry, int | None]],
    sizes: dict[str, int],
    dtype: np.dtype | None,
    check_finite: bool,
) -> np.ndarray:
    """One parameter from its tensor, or from those of all layers."""
    found = {source[name].dtype for name, _, _ in rows if name in source}
    if dtype is None:
        dtype = np.result_type(*found) if found else np.dtype(np.float32)
    entry = rows[0][1]
    shape = entry.our_shape(sizes)
    stacked = aligned_empty((len(rows), *shape), dtype)

    def fill(index: int) -> None:
        name = rows[index][0]
        if name not in source:  # only the unused value LoRA of the first RWKV-7 block gets here
            stacked[index] = 0
            return
        target = stacked[index].T if entry.transposed else stacked[index]
        for start, values in _pieces(source[name], target.shape):
            if check_finite and not all_finite(values):
                raise WeightsError(f"{name} holds NaN or infinite values")
            if entry.transposed:
                copy_transposed(stacked[index][:, start : start + len(values)], values)
            elif target.ndim:
                target[start : start + len(values)] = values
            else:
                target[...] = values

    for _ in pool.map(fill, range(len(rows))):
        pass
    return stacked if rows[0][2] is not None else stacked[0]


def _pieces(tensor: Tensor, shape: tuple[int, ...]) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows) of a tensor viewed as `shape`, in pieces that fit a processor's cache."""
    rows = max(_STRIP, _PIECE_BYTES * tensor.shape[0] // tensor.nbytes) if tensor.shape else 0
    if tensor.read_rows is None or tensor.shape != shape or rows >= shape[0]:
        yield 0, tensor.read().reshape(shape)
        return
    rows = rows // _STRIP * _STRIP
    for start in range(0, shape[0], rows):
        yield start, tensor.read_rows(start, min(start + rows, shape[0]))


def official_tensors(config: Config, params: Mapping[str, Any]) -> Tensors:
    """The parameters as official tensors, in official order, converted when read."""
    if config.ddlerp != "all":
        raise ValueError(f"the official layout needs ddlerp='all', got {config.ddlerp!r}")
    sizes = sizes_of_config(config)
    tensors: Tensors = {}
    for name, entry, layer in names.schema(config.version).listing(sizes["L"]):
        leaf: Any = params if layer is None else params["blocks"]
        for part in entry.path:
            if part not in leaf:
                raise ValueError(f"params have no {'/'.join(entry.path)} ({config.version=})")
            leaf = leaf[part]
        expected = entry.our_shape(sizes)
        if layer is not None:
            expected = (sizes["L"], *expected)
        if tuple(leaf.shape) != expected:
            raise ValueError(f"{'/'.join(entry.path)}: expected {expected=}, got {leaf.shape}")
        tensors[name] = _official(leaf, entry, layer, entry.official_shape(sizes))
    return tensors


def _host_copy(leaf: Any, layer: int | None) -> np.ndarray:
    if layer is None:
        return np.asarray(leaf)
    if isinstance(leaf, jax.Array) and jax.devices()[0].platform != "cpu":
        return np.asarray(leaf[layer])  # one layer at a time from the accelerator
    return np.asarray(leaf)[layer]


def _official(leaf: Any, entry: names.Entry, layer: int | None, shape: tuple[int, ...]) -> Tensor:
    def read() -> np.ndarray:
        array = _host_copy(leaf, layer)
        if not entry.transposed:
            return np.array(array.reshape(shape), order="C")
        result = np.empty(shape, array.dtype)
        copy_transposed(result, array)
        return result

    return Tensor(shape, np.dtype(leaf.dtype), read)


def to_official(
    config: Config, params: Mapping[str, Any], *, dtype: str | None = None
) -> dict[str, np.ndarray]:
    """Official name -> array, the inverse of `from_official`."""
    tensors = official_tensors(config, params)
    if dtype is not None:
        target = np.dtype(jax.numpy.dtype(dtype))
        tensors = {n: cast(t, target) for n, t in tensors.items()}
    return {name: tensor.read() for name, tensor in tensors.items()}

# SPDX-License-Identifier: Apache-2.0
"""Files of rwkv.cpp (the "ggmf" format), FP32, FP16 or quantised, as official tensors.

rwkv.cpp transforms some tensors when it converts an official file; here this is undone:

  v4    time_decay holds -exp(w)
  v5    time_decay holds exp(-exp(w)), time_first holds exp(u); both (H, N or 1, 1)
  v6    the LoRA matrices are transposed, time_decay and time_faaaa are (H, N, 1)
  v7    the six mixes are one tensor x_rwkvag (6, 1, D), the LoRA matrices are transposed

The logarithms are exact up to float32 rounding of the stored values; a decay that rounded to 0 or 1
becomes a weight that rounds to the same decay.

rwkv.cpp runs version 5 with another epsilon of the head norm than the official code, see
`group_norm_eps`.
"""

from __future__ import annotations

import math
import os
import struct
from typing import Any

import numpy as np

from rwkvjax.weights import bounded, ggml_blocks
from rwkvjax.weights.infer import squeeze
from rwkvjax.weights.source import Tensor, Tensors, WeightsError, mapped, reshaped, row, swapped

MAGIC = 0x67676D66
_HEADER = struct.Struct("<6i")
_ENTRY = struct.Struct("<3i")
_PLAIN: dict[int, np.dtype] = {0: np.dtype(np.float32), 1: np.dtype(np.float16)}
_MAX_TENSORS = 100_000
_MIXES = "rwkvag"

# Epsilon of the head norm that rwkv.cpp uses for version 5; the official code uses 64e-5, like
# rwkv.cpp itself for versions 6 and 7. Logits that rwkv.cpp produced need the former.
VERSION_5_GROUP_NORM_EPS = 1e-5


def group_norm_eps(version: str) -> float:
    """The epsilon with which rwkv.cpp runs a model of that version."""
    return VERSION_5_GROUP_NORM_EPS if version.startswith("5") else 64e-5


def is_ggml(path: str | os.PathLike[str]) -> bool:
    """Whether a file starts with the magic number of the format."""
    return bounded.file_size(path) >= 4 and (
        bounded.read_bytes(path, "the magic number", 0, 4) == struct.pack("<i", MAGIC)
    )


def read_ggml(path: str | os.PathLike[str]) -> Tensors:
    """The tensors of a file with official names, shapes and meaning, read on demand.

    Quantised tensors come out as float32. Raises WeightsError for damaged files.
    """
    stored = read_stored(path)
    if "blocks.0.att.r_k" in stored:
        return _undo(stored, _undo_v7)
    if "blocks.0.att.time_maa_x" in stored:
        return _undo(stored, _undo_v6)
    if "blocks.0.att.ln_x.weight" in stored:
        return _undo(stored, _undo_v5)
    return _undo(stored, _undo_v4)


def read_stored(path: str | os.PathLike[str]) -> Tensors:
    """The tensors exactly as rwkv.cpp stores them (quantised ones decoded)."""
    size = bounded.file_size(path)
    header = bounded.read_bytes(path, "the header", 0, _HEADER.size)
    magic, version, *sizes, file_type = _HEADER.unpack(header)
    if magic != MAGIC or version not in (100, 101):
        raise WeightsError(f"{path}: not a file of rwkv.cpp ({magic=:#x}, {version=})")
    if file_type not in _PLAIN and version == 100:
        raise WeightsError(f"{path}: quantised files of version 100 are outdated; quantise again")
    tensors: Tensors = {}
    position = _HEADER.size
    while position < size:
        name, tensor, position = _read_entry(path, position)
        if name in tensors or len(tensors) >= _MAX_TENSORS:
            raise WeightsError(f"{path}: tensor {name!r:.100} occurs twice, or there are too many")
        tensors[name] = tensor
    _check_header(path, tensors, sizes)
    return tensors


def _check_header(path: Any, tensors: Tensors, sizes: list[int]) -> None:
    vocab_size, dim, layers = sizes
    if "emb.weight" not in tensors:
        raise WeightsError(f"{path} is truncated or damaged: no emb.weight")
    if tensors["emb.weight"].shape != (vocab_size, dim):
        got = tensors["emb.weight"].shape
        raise WeightsError(f"{path}: the header says {(vocab_size, dim)}, emb.weight has {got}")
    if f"blocks.{layers - 1}.ln1.weight" not in tensors or "head.weight" not in tensors:
        raise WeightsError(f"{path} is truncated: the header says {layers} layers")


def _read_entry(path: Any, position: int) -> tuple[str, Tensor, int]:
    rank, key_length, kind = _ENTRY.unpack(
        bounded.read_bytes(path, "a tensor header", position, _ENTRY.size)
    )
    if not 1 <= rank <= 4 or not 1 <= key_length <= 1000:
        raise WeightsError(f"{path}: damaged tensor header at byte {position}")
    position += _ENTRY.size
    packed = bounded.read_bytes(path, "a tensor header", position, 4 * rank + key_length)
    shape = struct.unpack(f"<{rank}i", packed[: 4 * rank])[::-1]
    try:
        name = packed[4 * rank :].decode("utf-8")
    except UnicodeDecodeError as error:
        raise WeightsError(f"{path}: damaged tensor name at byte {position}") from error
    bounded.check_shape(name, shape)
    position += 4 * rank + key_length
    if kind in _PLAIN:
        tensor = bounded.stored_tensor(path, name, position, shape, _PLAIN[kind])
        return name, tensor, position + tensor.nbytes
    if kind not in ggml_blocks.BLOCK_TYPES:
        raise WeightsError(f"{path}: {name!r:.100} has the unknown data type {kind}")
    return _quantised(path, name, position, shape, ggml_blocks.BLOCK_TYPES[kind])


def _quantised(
    path: Any, name: str, position: int, shape: tuple[int, ...], kind: ggml_blocks.BlockType
) -> tuple[str, Tensor, int]:
    if shape[-1] % ggml_blocks.BLOCK:
        raise WeightsError(f"{path}: {name!r:.100}: {kind.name} needs rows of 32s, got {shape=}")
    blocks = math.prod(shape) // ggml_blocks.BLOCK
    bounded.check_range(path, name, position, blocks * kind.nbytes)

    def read() -> np.ndarray:
        data = np.empty((blocks, kind.nbytes), np.uint8)
        bounded.read_into(path, name, position, data)
        return ggml_blocks.decode(kind, data).reshape(shape)

    tensor = Tensor(shape, np.dtype(np.float32), read)
    return name, tensor, position + blocks * kind.nbytes


# --- undoing the conversion -------------------------------------------------------------------


def _undo(stored: Tensors, undo_one: Any) -> Tensors:
    tensors: Tensors = {}
    for name, tensor in stored.items():
        tensors |= undo_one(name, tensor)
    return tensors


def _undo_v4(name: str, tensor: Tensor) -> Tensors:
    if name.endswith(".att.time_decay"):
        return {name: mapped(tensor, tensor.shape, _log_of_negative)}
    return {name: tensor}


def _undo_v5(name: str, tensor: Tensor) -> Tensors:
    if not name.endswith((".att.time_decay", ".att.time_first", ".att.time_faaaa")):
        return {name: tensor}
    tensor = _drop_last_axes(tensor)
    if name.endswith(".att.time_decay"):
        tensor = mapped(tensor, tensor.shape, _log_of_minus_log)
    if name.endswith(".att.time_first"):
        tensor = mapped(tensor, tensor.shape, np.log)
    return {name: tensor}


def _undo_v6(name: str, tensor: Tensor) -> Tensors:
    short = name.rpartition(".att.")[2]
    if short in ("time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2"):
        return {name: swapped(tensor)}
    if short == "time_faaaa":
        return {name: _drop_last_axes(tensor)}
    if short == "time_decay":
        return {name: reshaped(tensor, 1, 1, math.prod(tensor.shape))}
    return {name: tensor}


def _undo_v7(name: str, tensor: Tensor) -> Tensors:
    prefix, _, short = name.rpartition(".att.")
    if short == "x_rwkvag":
        dim = tensor.shape[-1]
        if squeeze(tensor.shape) != squeeze((6, 1, dim)):
            raise WeightsError(f"{name}: expected shape (6, 1, D), got {tensor.shape}")
        return {
            f"{prefix}.att.x_{mix}": row(tensor, index, (1, 1, dim))
            for index, mix in enumerate(_MIXES)
        }
    if short in ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2"):
        return {name: swapped(tensor)}
    return {name: tensor}


def _drop_last_axes(tensor: Tensor) -> Tensor:
    """(H, N, 1) -> (H, N) and (H, 1, 1) -> (H)."""
    if len(tensor.shape) != 3 or tensor.shape[2] != 1:
        return tensor
    heads, size, _ = tensor.shape
    return reshaped(tensor, heads, size) if size > 1 else reshaped(tensor, heads)


def _log_of_negative(decay: np.ndarray) -> np.ndarray:
    """w from -exp(w), for 0 a weight whose exponential is 0 in float32."""
    if (decay > 0).any():
        raise WeightsError("time_decay of a version 4 file must not be positive")
    wide = -decay.astype(np.float64)
    return np.log(np.maximum(wide, 1e-46)).astype(decay.dtype)


def _log_of_minus_log(decay: np.ndarray) -> np.ndarray:
    """w from exp(-exp(w)); decays of exactly 0 and 1 give weights that round to them."""
    if not ((decay >= 0) & (decay <= 1)).all():
        raise WeightsError("time_decay of a version 5 file must lie between 0 and 1")
    wide = np.clip(decay.astype(np.float64), 1e-46, 1 - 1e-9)
    return np.log(-np.log(wide)).astype(decay.dtype)

# SPDX-License-Identifier: Apache-2.0
"""Opening released weights in any of their formats and layouts."""

from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rwkvjax.config import Config
from rwkvjax.weights import bounded, fla, ggml, hf, infer, pth, safetensors_file, web_rwkv
from rwkvjax.weights.params import Put, from_official, official_tensors
from rwkvjax.weights.source import Tensors, WeightsError, swapped

OFFICIAL_GROUP_NORM_EPS = 64e-5

# Prefixes that wrappers of the model put before every name.
_PREFIXES = ("_forward_module.", "module.", "_orig_mod.", "model.")
_TIME_STATE = ".att.time_state"
# Files looked for in a folder, best first.
_IN_FOLDER = (
    safetensors_file.INDEX,
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)


@dataclasses.dataclass(frozen=True)
class Weights:
    """An opened file or folder; nothing but headers has been read.

    Attributes:
      path: what was opened.
      format: container: "pth", "safetensors" or "ggml".
      layout: names and shapes in it: "official", "hf", "fla", "web-rwkv" or "rwkv.cpp".
      tensors: the tensors with official names, shapes and meaning.
      time_state: tuned initial states, official name -> [H, N value, N key].
      group_norm_eps: epsilon of the head norm that belongs to the file.
    """

    path: Path
    format: str
    layout: str
    tensors: Tensors
    time_state: Tensors
    group_norm_eps: float


def open_weights(path: str | os.PathLike[str]) -> Weights:
    """Opens weights of any known format; what a file is, is told by its content, not its name.

    Args:
      path: a `.pth`, `.bin`, `.safetensors` or rwkv.cpp file, an index of shards, or a folder with
        one of these (Hugging Face and flash-linear-attention models).

    Raises:
      FileNotFoundError: there is nothing at `path`.
      WeightsError: the file is damaged, hostile or of an unknown kind.
    """
    path = Path(path)
    container, stored = _read(_file_in(path))
    layout, tensors = _official(container, stored)
    eps = OFFICIAL_GROUP_NORM_EPS
    if layout == "rwkv.cpp" and "blocks.0.ln1.weight" in tensors:
        eps = ggml.group_norm_eps(infer.version_of({n: t.shape for n, t in tensors.items()}))
    time_state = {n: t for n, t in tensors.items() if n.endswith(_TIME_STATE)}
    model = {n: t for n, t in tensors.items() if n not in time_state}
    return Weights(path, container, layout, model, time_state, eps)


def _file_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in _IN_FOLDER:
        if (path / name).is_file():
            return path / name
    loose = [p for p in sorted(path.iterdir()) if p.suffix in (".pth", ".safetensors", ".bin")]
    if len(loose) == 1:
        return loose[0]
    found = ", ".join(p.name for p in loose[:4]) or "none"
    raise FileNotFoundError(
        f"{path}: expected one of {', '.join(_IN_FOLDER)}, or exactly one file of weights; "
        f"found {found}"
    )


def _read(path: Path) -> tuple[str, Tensors]:
    size = bounded.file_size(path)
    start = bounded.read_bytes(path, "the first bytes", 0, min(size, 16))
    if path.name.endswith(".index.json"):
        if "safetensors" in path.name:
            return "safetensors", safetensors_file.read_index(path)
        return "pth", safetensors_file.read_index(path, pth.read_pth)
    if len(start) < 16:
        raise WeightsError(f"{path}: a file of {size} bytes holds no weights")
    if ggml.is_ggml(path):
        return "ggml", ggml.read_ggml(path)
    if start[:4] == pth.ZIP_MAGIC or start[:1] == b"\x80":
        return "pth", pth.read_pth(path)
    (length,) = struct.unpack("<Q", start[:8])
    if start[8:9] == b"{" and length < size:
        return "safetensors", safetensors_file.read_safetensors(path)
    raise WeightsError(
        f"{path}: unknown kind of file; expected PyTorch, safetensors or rwkv.cpp, it starts with "
        f"{start!r}"
    )


def _official(container: str, stored: Tensors) -> tuple[str, Tensors]:
    """The layout, and the tensors in the official one."""
    if container == "ggml":
        return "rwkv.cpp", stored
    stored = strip_prefixes(stored)
    if fla.is_fla(stored):
        return "fla", fla.from_fla(stored)
    if hf.is_hf(stored):
        return "hf", hf.from_hf(stored)
    if web_rwkv.is_web_rwkv(stored):
        return "web-rwkv", web_rwkv.from_web_rwkv(stored)
    return "official", stored


def strip_prefixes(tensors: Tensors) -> Tensors:
    """Removes prefixes that every name has, except "model." where it belongs to the layout."""
    while tensors and not fla.is_fla(tensors):
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
                break
        else:
            break
    return tensors


def open_model(path: str | os.PathLike[str]) -> tuple[Tensors, float]:
    """(official tensors, epsilon of the head norm) of any weights, this library's own included.

    Raises WeightsError also for a file with a tuned initial state, which a conversion would lose.
    """
    from core import checkpoint
    from rwkvjax import checkpoints

    if Path(path).is_dir() and checkpoint.find(path) is not None:
        config, params = checkpoints.load(path)
        return official_tensors(config, params), config.group_norm_eps
    opened = open_weights(path)
    if opened.time_state:
        raise WeightsError(f"{path} holds a tuned initial state, which would get lost")
    return opened.tensors, opened.group_norm_eps


def load(
    path: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    group_norm_eps: float | None = None,
    strict: bool = True,
    check_finite: bool = True,
    put: Put | None = None,
) -> tuple[Config, dict[str, Any]]:
    """Loads released weights as (config, params).

    Version and sizes come from the names and shapes of the tensors. The parameters are read one
    tensor at a time, so that the peak of memory is little more than their own size.

    Args:
      path: see `open_weights`.
      dtype: dtype of the parameters, "float32", "bfloat16" or "float16"; the default keeps that of
        the file. The compute dtype is another thing: see `Config.dtype`.
      group_norm_eps: epsilon of the head norm. The default is the official 64e-5, except for
        rwkv.cpp files of version 5, which rwkv.cpp itself runs with 1e-5.
      strict: raise for tensors that no RWKV model has, instead of ignoring them.
      check_finite: raise for NaN and infinity.
      put: receives path and NumPy array of each parameter and returns what goes into the tree, for
        instance an array placed on several devices; default: `jax.device_put`.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      WeightsError: damaged, hostile, incomplete or unknown weights; a file with a tuned initial
        state (use `open_weights` and `load_tuned_state`).
    """
    weights = open_weights(path)
    if weights.time_state:
        raise WeightsError(
            f"{path} holds a tuned initial state besides the weights; to use it, call "
            "load_tuned_state; to ignore it, from_official(open_weights(path).tensors)"
        )
    eps = weights.group_norm_eps if group_norm_eps is None else group_norm_eps
    try:
        return from_official(
            weights.tensors,
            dtype=dtype,
            strict=strict,
            check_finite=check_finite,
            put=put or _device_put,
            group_norm_eps=eps,
        )
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def _device_put(path: tuple[str, ...], array: np.ndarray) -> jax.Array:
    # On a CPU this takes over the (aligned) memory of the array instead of copying it.
    return jax.device_put(array)


def load_tuned_state(path: str | os.PathLike[str], config: Config, batch_size: int = 1) -> Any:
    """The initial state of a state-tuned model: from its own file, or from a file with the weights.

    Args:
      path: see `open_weights`.
      config, batch_size: see `tuned_state`.

    Raises:
      ValueError: version 4.
      WeightsError: the file holds no such state, or one of another shape.
    """
    try:
        return tuned_state(open_weights(path).time_state, config, batch_size)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def tuned_state(tensors: Tensors, config: Config, batch_size: int = 1) -> Any:
    """The initial state that official tensors describe.

    Args:
      tensors: `blocks.l.att.time_state` [H, N value, N key] of every layer.
      config: the model that the state belongs to, version 5, 6 or 7.
      batch_size: number of sequences that start from it.

    Returns:
      The state of `init_state` with the tuned matrices.

    Raises:
      ValueError: version 4, which has no such matrices.
      WeightsError: a layer is missing, or has another shape.
    """
    from rwkvjax import model

    if config.version == "4":
        raise ValueError("tuned states exist for versions 5, 6 and 7, got version 4")
    shape = (config.heads, config.head_size, config.head_size)
    rows = []
    for layer in range(config.layers):
        tensor = tensors.get(f"blocks.{layer}{_TIME_STATE}")
        if tensor is None or tensor.shape != shape:
            got = "nothing" if tensor is None else tensor.shape
            raise WeightsError(f"expected blocks.{layer}{_TIME_STATE} {shape}, got {got}")
        # Our state is [key, value], but [value, key] in version 7 as in the files.
        rows.append((tensor if config.version == "7" else swapped(tensor)).read())
    if len(tensors) > config.layers:
        odd = sorted(set(tensors) - {f"blocks.{i}{_TIME_STATE}" for i in range(config.layers)})
        raise WeightsError(f"the model has {config.layers} layers, found also {odd[0]}")
    state = model.init_state(config, batch_size)
    stacked = np.stack(rows).astype(np.float32)
    tuned = np.broadcast_to(stacked[:, None], state.wkv.shape)
    return state._replace(wkv=jax.numpy.asarray(tuned))

# SPDX-License-Identifier: Apache-2.0
"""The layout of flash-linear-attention for RWKV-6 and RWKV-7.

Most tensors are only renamed, LoRA matrices are transposed ([out, in], as in torch.nn.Linear), and
in RWKV-6 the five dynamic mixes are concatenated in the order r, w, k, v, g (officially w, k, v, r,
g). RWKV-7 leaves out the unused value LoRA of the first block.

The epsilon of the head norm is not in the configuration of an RWKV-6 model: the library runs it
with 1e-5 unless it is patched after loading, while the official value is 64e-5 (its own converter
patches it, too). A model converted here therefore needs `model.layers[i].attn.g_norm.eps = 64e-5`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rwkvjax.weights.source import Tensor, Tensors, WeightsError, mapped, reshaped, row, swapped

_OUR_ORDER = "wkvrg"
_THEIR_ORDER = "rwkvg"

_TOP = {
    "emb.weight": "model.embeddings.weight",
    "ln_out.weight": "model.norm.weight",
    "ln_out.bias": "model.norm.bias",
    "head.weight": "lm_head.weight",
}
_NORMS = {
    f"{ours}.{part}": f"{theirs}.{part}"
    for ours, theirs in {
        "ln0": "pre_norm",
        "ln1": "attn_norm",
        "ln2": "ffn_norm",
        "att.ln_x": "attn.g_norm",
    }.items()
    for part in ("weight", "bias")
}
# Official name in a block -> (their name, how the array changes). "flat": without axes of length 1
# in front; "T": transposed.
_V6 = {
    "att.time_maa_x": ("attn.x_proj.0.mu", "flat"),
    "att.time_decay": ("attn.w_proj.linear.lora.2.bias", "flat"),
    "att.time_decay_w1": ("attn.w_proj.linear.lora.0.weight", "T"),
    "att.time_decay_w2": ("attn.w_proj.linear.lora.2.weight", "T"),
    "att.time_faaaa": ("attn.bonus", ""),
    "att.receptance.weight": ("attn.r_proj.linear.weight", ""),
    "att.key.weight": ("attn.k_proj.linear.weight", ""),
    "att.value.weight": ("attn.v_proj.linear.weight", ""),
    "att.gate.weight": ("attn.g_proj.linear.weight", ""),
    "att.output.weight": ("attn.o_proj.weight", ""),
    "ffn.time_maa_k": ("ffn.key.mu", "flat"),
    "ffn.time_maa_r": ("ffn.receptance.mu", "flat"),
    "ffn.key.weight": ("ffn.key.linear.weight", ""),
    "ffn.receptance.weight": ("ffn.receptance.linear.weight", ""),
    "ffn.value.weight": ("ffn.value.weight", ""),
}
_V7 = {
    **{f"att.x_{i}": (f"attn.x_{i}", "") for i in "rwkvag"},
    **{f"att.{i}0": (f"attn.{i}_lora.lora.2.bias", "flat") for i in "wav"},
    **{f"att.{i}1": (f"attn.{i}_lora.lora.0.weight", "T") for i in "wavg"},
    **{f"att.{i}2": (f"attn.{i}_lora.lora.2.weight", "T") for i in "wavg"},
    "att.k_k": ("attn.k_k", "flat"),
    "att.k_a": ("attn.k_a", "flat"),
    "att.r_k": ("attn.r_k", ""),
    "att.receptance.weight": ("attn.r_proj.weight", ""),
    "att.key.weight": ("attn.k_proj.weight", ""),
    "att.value.weight": ("attn.v_proj.weight", ""),
    "att.output.weight": ("attn.o_proj.weight", ""),
    "ffn.x_k": ("ffn.x_k", "flat"),
    "ffn.key.weight": ("ffn.key.weight", ""),
    "ffn.value.weight": ("ffn.value.weight", ""),
}
_TABLES = {"6": _V6, "7": _V7}
_DOWN, _UP, _BIAS = "attn.x_proj.0.linear.weight", "attn.x_proj.2.weight", "attn.x_bias"
# The first versions of the library held the six mixes of RWKV-7 in one tensor [6, D].
_OLD_MIXES = "attn.x_x"


def is_fla(names: Mapping[str, Any]) -> bool:
    """Whether tensor names follow this layout."""
    return "model.embeddings.weight" in names and "model.layers.0.attn_norm.weight" in names


def _version(names: Mapping[str, Any]) -> str:
    if "model.layers.0.attn.r_k" in names:
        return "7"
    if f"model.layers.0.{_UP}" in names:
        return "6"
    raise WeightsError("a flash-linear-attention model, but neither RWKV-6 nor RWKV-7")


def from_fla(tensors: Tensors) -> Tensors:
    """The tensors with official names and shapes."""
    table = _TABLES[_version(tensors)]
    inverse = {theirs: (ours, change) for ours, (theirs, change) in table.items()}
    norms = {theirs: ours for ours, theirs in _NORMS.items()}
    top = {theirs: ours for ours, theirs in _TOP.items()}
    official: Tensors = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
        if name in top:
            official[top[name]] = tensor
        elif match and match[2] in norms:
            official[f"blocks.{match[1]}.{norms[match[2]]}"] = tensor
        elif match and match[2] in inverse:
            ours, change = inverse[match[2]]
            official[f"blocks.{match[1]}.{ours}"] = _back(name, tensor, change)
        elif match and (unpack := _UNPACK.get(match[2])):
            for ours, part in unpack(name, tensor).items():
                official[f"blocks.{match[1]}.att.{ours}"] = part
        else:
            official[name] = tensor  # the check of names reports it
    return official


def _back(name: str, tensor: Tensor, change: str) -> Tensor:
    if change == "T":
        if len(tensor.shape) != 2:
            raise WeightsError(f"{name}: expected a matrix, got shape {tensor.shape}")
        return swapped(tensor)
    return reshaped(tensor, 1, 1, *tensor.shape) if change == "flat" else tensor


def _rank_of(name: str, tensor: Tensor, axis: int) -> int:
    if len(tensor.shape) != 2 or tensor.shape[axis] % 5:
        raise WeightsError(f"{name}: expected a matrix for five mixes, got shape {tensor.shape}")
    return tensor.shape[axis] // 5


def _permuted(blocks: np.ndarray, source: str, target: str) -> np.ndarray:
    """Reorders axis 0 from the order of mixes `source` to `target`."""
    return blocks[[source.index(mix) for mix in target]]


def _unpack_down(name: str, tensor: Tensor) -> Tensors:
    rank, dim = _rank_of(name, tensor, 0), tensor.shape[1]

    def change(array: np.ndarray) -> np.ndarray:  # [5R, D] -> [D, 5R]
        return _permuted(array.reshape(5, rank, dim), _THEIR_ORDER, _OUR_ORDER).reshape(-1, dim).T

    return {"time_maa_w1": mapped(tensor, (dim, 5 * rank), change)}


def _unpack_up(name: str, tensor: Tensor) -> Tensors:
    rank, dim = _rank_of(name, tensor, 1), tensor.shape[0]

    def change(array: np.ndarray) -> np.ndarray:  # [D, 5R] -> [5, R, D]
        return _permuted(array.T.reshape(5, rank, dim), _THEIR_ORDER, _OUR_ORDER)

    return {"time_maa_w2": mapped(tensor, (5, rank, dim), change)}


def _rows(tensor: Tensor, order: str, prefix: str) -> Tensors:
    dim = tensor.shape[-1]
    return {f"{prefix}{mix}": row(tensor, index, (1, 1, dim)) for index, mix in enumerate(order)}


def _unpack_bias(name: str, tensor: Tensor) -> Tensors:
    if len(tensor.shape) != 2 or tensor.shape[0] != 5:
        raise WeightsError(f"{name}: expected shape (5, D), got {tensor.shape}")
    return _rows(tensor, _THEIR_ORDER, "time_maa_")


def _unpack_mixes(name: str, tensor: Tensor) -> Tensors:
    if len(tensor.shape) != 2 or tensor.shape[0] != 6:
        raise WeightsError(f"{name}: expected shape (6, D), got {tensor.shape}")
    return _rows(tensor, "rwkvag", "x_")


_UNPACK = {
    _DOWN: _unpack_down,
    _UP: _unpack_up,
    _BIAS: _unpack_bias,
    _OLD_MIXES: _unpack_mixes,
}


def fla_name(version: str, official: str) -> str | None:
    """Name of the tensor that an official tensor ends up in; None if it is left out."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", official)
    if match is None:
        return _TOP[official]
    layer, short = match[1], match[2]
    if version == "7" and layer == "0" and short in ("att.v0", "att.v1", "att.v2"):
        return None
    if short in _NORMS:
        new = _NORMS[short]
    elif short in _TABLES[version]:
        new = _TABLES[version][short][0]
    elif short in ("att.time_maa_w1", "att.time_maa_w2"):
        new = _DOWN if short.endswith("1") else _UP
    else:
        new = _BIAS
    return f"model.layers.{layer}.{new}"


def to_fla(version: str, tensors: Tensors) -> Tensors:
    """Official tensors of a complete model in this layout; raises ValueError unless v6 or v7."""
    if version not in _TABLES:
        raise ValueError(f"flash-linear-attention has no RWKV-{version}, only 6 and 7")
    theirs: Tensors = {}
    for name, tensor in tensors.items():
        new = fla_name(version, name)
        if new is None or new in theirs:
            continue
        short = re.sub(r"^blocks\.\d+\.", "", name)
        if new.endswith(_BIAS):  # five official tensors, at the place of the first
            stem = re.sub("_[wkvrg]$", "_", name)
            tensor = _stacked([tensors[stem + mix] for mix in _THEIR_ORDER])
        elif new.endswith((_DOWN, _UP)):
            tensor = _pack_down(tensor) if new.endswith(_DOWN) else _pack_up(tensor)
        elif short in _TABLES[version]:
            tensor = _forth(tensor, _TABLES[version][short][1])
        theirs[new] = tensor
    return theirs


def _forth(tensor: Tensor, change: str) -> Tensor:
    if change == "T":
        return swapped(tensor)
    return reshaped(tensor, tensor.shape[-1]) if change == "flat" else tensor


def _pack_down(tensor: Tensor) -> Tensor:
    dim, rank = tensor.shape[0], tensor.shape[1] // 5

    def change(array: np.ndarray) -> np.ndarray:  # [D, 5R] -> [5R, D]
        return _permuted(array.T.reshape(5, rank, dim), _OUR_ORDER, _THEIR_ORDER)

    return mapped(tensor, (5 * rank, dim), change)


def _pack_up(tensor: Tensor) -> Tensor:
    _, rank, dim = tensor.shape

    def change(array: np.ndarray) -> np.ndarray:  # [5, R, D] -> [D, 5R]
        return _permuted(array, _OUR_ORDER, _THEIR_ORDER).reshape(5 * rank, dim).T

    return mapped(tensor, (dim, 5 * rank), change)


def _stacked(parts: list[Tensor]) -> Tensor:
    dim = parts[0].shape[-1]
    read = lambda: np.concatenate([part.read().reshape(1, dim) for part in parts])
    return Tensor((len(parts), dim), parts[0].dtype, read)


def config_json(version: str, sizes: Mapping[str, int], dtype: str) -> dict[str, Any]:
    """Content of config.json for a model of that version."""
    config = {
        "architectures": [f"RWKV{version}ForCausalLM"],
        "model_type": f"rwkv{version}",
        "vocab_size": sizes["V"],
        "hidden_size": sizes["D"],
        "num_hidden_layers": sizes["L"],
        "intermediate_size": sizes["F"],
        "hidden_act": "sqrelu",
        "norm_first": True,
        "norm_bias": True,
        "norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "use_cache": True,
        "torch_dtype": dtype,
    }
    if version == "6":
        return config | {
            "num_heads": sizes["H"],
            "expand_k": sizes["A"] / sizes["D"],
            "expand_v": sizes["A"] / sizes["D"],
            "hidden_ratio": sizes["F"] / sizes["D"],
            "proj_low_rank_dim": sizes["R"],
            "gate_low_rank_dim": sizes["P"],
        }
    return config | {
        "head_dim": sizes["N"],
        "hidden_ratio": sizes["F"] / sizes["D"],
        "decay_low_rank_dim": sizes["P"],
        "gate_low_rank_dim": sizes["G"],
        "a_low_rank_dim": sizes["I"],
        "v_low_rank_dim": sizes["U"],
        "value_dim": [sizes["A"]] * sizes["L"],
    }

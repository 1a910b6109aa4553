# SPDX-License-Identifier: Apache-2.0
"""Names of the Hugging Face RWKV models: v4 of transformers, v5 and v6 of the remote-code repos.

Their tensors have the official shapes and meaning; only the names differ. The folder holds
config.json beside the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rwkvjax.weights.source import Tensors, WeightsError

# Official -> Hugging Face, applied in this order; the inverse is applied in the opposite order.
_PARTS = (
    ("emb.", "embeddings."),
    (".ln0.", ".pre_ln."),
    (".att.", ".attention."),
    (".ffn.", ".feed_forward."),
    (".time_mix_k", ".time_mix_key"),
    (".time_mix_v", ".time_mix_value"),
    (".time_mix_r", ".time_mix_receptance"),
    (".time_mix_g", ".time_mix_gate"),
)
_MODEL_TYPES = {"4": "rwkv", "5.0": "rwkv5", "5.1": "rwkv5", "5.2": "rwkv5", "6": "rwkv6"}
_CLASSES = {"rwkv": "RwkvForCausalLM", "rwkv5": "Rwkv5ForCausalLM", "rwkv6": "Rwkv6ForCausalLM"}


def is_hf(names: Mapping[str, Any]) -> bool:
    """Whether tensor names follow this layout."""
    return "rwkv.embeddings.weight" in names


def hf_name(official: str) -> str:
    """Hugging Face name of an official tensor."""
    if official == "head.weight":
        return official
    name = official
    for ours, theirs in _PARTS:
        if ours == "emb.":
            name = re.sub(r"^emb\.", theirs, name)
        elif ours.startswith(".time_mix"):
            name = re.sub(re.escape(ours) + "$", theirs, name)
        else:
            name = name.replace(ours, theirs)
    return f"rwkv.{name}"


def official_name(hf: str) -> str:
    """Official name of a Hugging Face tensor."""
    if hf == "head.weight":
        return hf
    if not hf.startswith("rwkv."):
        raise WeightsError(f"unknown tensor in a Hugging Face RWKV model: {hf!r:.100}")
    name = hf.removeprefix("rwkv.")
    for ours, theirs in reversed(_PARTS):
        if ours == "emb.":
            name = re.sub(r"^embeddings\.", ours, name)
        elif ours.startswith(".time_mix"):
            name = re.sub(re.escape(theirs) + "$", ours, name)
        else:
            name = name.replace(theirs, ours)
    return name


def from_hf(tensors: Tensors) -> Tensors:
    """The tensors under their official names."""
    return {official_name(name): tensor for name, tensor in tensors.items()}


def to_hf(tensors: Tensors) -> Tensors:
    """Official tensors under their Hugging Face names."""
    return {hf_name(name): tensor for name, tensor in tensors.items()}


def config_json(version: str, sizes: Mapping[str, int], dtype: str) -> dict[str, Any]:
    """Content of config.json for a model of that version.

    Raises:
      ValueError: there is no Hugging Face class for the version, or (v5 and v6, whose class derives
        the width of the channel mixing from the rule) the sizes cannot be expressed.
    """
    if version not in _MODEL_TYPES:
        raise ValueError(f"there is no Hugging Face model class for RWKV-{version}; use fla")
    kind = _MODEL_TYPES[version]
    rule = int(3.5 * sizes["D"]) // 32 * 32
    if version != "4" and sizes["F"] != rule:
        raise ValueError(
            f"the {kind} class of Hugging Face supports only a channel mixing of width {rule} at "
            f"{sizes['D']} channels, this model has {sizes['F']}"
        )
    config = {
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        "vocab_size": sizes["V"],
        "hidden_size": sizes["D"],
        "attention_hidden_size": sizes["A"],
        "num_hidden_layers": sizes["L"],
        "intermediate_size": sizes["F"] if version == "4" else None,
        "layer_norm_epsilon": 1e-5,
        "rescale_every": 6,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "context_length": 1024 if version == "4" else 4096,
        "use_cache": True,
        "torch_dtype": dtype,
    }
    if version != "4":
        config |= {"head_size": sizes["N"], "head_size_divisor": 8}
        config["auto_map"] = {
            "AutoConfig": f"configuration_{kind}.{kind.capitalize()}Config",
            "AutoModelForCausalLM": f"modeling_{kind}.{_CLASSES[kind]}",
        }
    return config

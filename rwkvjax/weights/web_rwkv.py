# SPDX-License-Identifier: Apache-2.0
"""The safetensors layout of web-rwkv and Ai00 (`.st` files), read only.

Against the official layout, time_faaaa is called time_first and time_maa time_mix, and the LoRA
matrices and tuned states have their last two axes exchanged. RWKV-4 and 5.0 do not differ at all;
5.1 is stored with its per-head vectors repeated over the channels, which makes it a 5.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from rwkvjax.weights.source import Tensor, Tensors, swapped

_ATT = "blocks.0.att."
_EXCHANGED = re.compile(r"\.att\.(time_maa_w[12]|time_decay_w[12]|[wavg][12]|time_state)$")


def is_web_rwkv(tensors: Mapping[str, Tensor]) -> bool:
    """Whether names (v5, v6) or shapes (v7) follow this layout."""
    if f"{_ATT}time_mix_x" in tensors:
        return True
    if f"{_ATT}gate.weight" in tensors and f"{_ATT}time_first" in tensors:
        return True
    down, embedding = tensors.get(f"{_ATT}w1"), tensors.get("emb.weight")
    if down is None or embedding is None or len(down.shape) != 2:
        return False
    # A LoRA as wide as the model looks the same both ways; then the official one is assumed.
    return down.shape[0] != embedding.shape[-1] and down.shape[1] == embedding.shape[-1]


def from_web_rwkv(tensors: Tensors) -> Tensors:
    """The tensors with official names and shapes."""
    version_6 = f"{_ATT}time_mix_x" in tensors
    official: Tensors = {}
    for name, tensor in tensors.items():
        if version_6:
            name = name.replace(".time_mix_", ".time_maa_")
        if name.endswith(".time_first"):
            name = name.replace(".time_first", ".time_faaaa")
        if _EXCHANGED.search(name) and len(tensor.shape) >= 2:
            tensor = swapped(tensor)
        official[name] = tensor
    return official

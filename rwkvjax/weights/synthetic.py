# SPDX-License-Identifier: Apache-2.0
"""Random models in the official layout, the same on every machine.

The official initialisation is useless for comparing implementations: its zero output matrices hide
every error. The scales here keep all signals of order one, so that a mistake anywhere shows in the
logits.
"""

from __future__ import annotations

import math

import numpy as np

from rwkvjax.weights import names


def random_checkpoint(
    version: str,
    *,
    layers: int = 3,
    dim: int = 128,
    head_size: int = 64,
    vocab_size: int = 97,
    att_dim: int = 0,
    ffn_dim: int = 0,
    ranks: dict[str, int] | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """float32 tensors of a random model, official names and shapes, in official order.

    Args:
      version: "4", "5.0", "5.1", "5.2", "6" or "7".
      layers, dim, head_size, vocab_size: sizes.
      att_dim: width of the attention; 0 means `dim`.
      ffn_dim: width of the channel mixing; 0 means 4 x dim (v4, v7) or 3.5 x dim rounded down to
        a multiple of 32.
      ranks: LoRA ranks by the letters of `names` (R, P for v6; P, I, U, G for v7).
      seed: seed of `numpy.random.RandomState`, whose stream never changes between NumPy versions.
    """
    att_dim = att_dim or dim
    if att_dim % head_size and version != "4":
        raise ValueError(f"{head_size=} does not divide {att_dim=}")
    if not ffn_dim:
        ffn_dim = 4 * dim if version in ("4", "7") else int(3.5 * dim) // 32 * 32
    sizes = {"V": vocab_size, "D": dim, "A": att_dim, "F": ffn_dim, "L": layers, "N": head_size}
    sizes["H"] = att_dim // head_size
    sizes |= {"R": 32, "P": 64, "I": 32, "U": 24, "G": 48} | (ranks or {})
    random = np.random.RandomState(seed)
    return {
        name: _draw(random, name, entry.official_shape(sizes), version)
        for name, entry, _ in names.schema(version).listing(layers)
    }


def _draw(
    random: np.random.RandomState, name: str, shape: tuple[int, ...], version: str
) -> np.ndarray:
    """Values of one tensor, by the part it plays."""
    noise = random.standard_normal(shape)
    parts = name.split(".")
    short = parts[-2] if parts[-1] in ("weight", "bias") else parts[-1]
    if short.startswith("ln"):
        noise = 0.1 * noise + (1.0 if name.endswith(".weight") else 0.0)
    elif short == "emb":
        noise = 0.5 * noise
    elif short in ("time_decay", "w0"):
        noise = 1.5 * noise - (1.0 if version == "7" else 3.0)
    elif short in ("time_faaaa", "time_first", "r_k", "a0", "v0"):
        noise = 0.5 * noise
    elif short in ("k_k", "k_a"):
        noise = 0.8 + 0.2 * noise
    elif short in ("time_maa_w2", "time_decay_w2", "w2", "a2", "v2", "g2"):
        noise = 0.3 / math.sqrt(shape[-2]) * noise if short != "g2" else noise / 4
    elif short in ("time_maa_w1", "time_decay_w1", "w1", "a1", "v1", "g1"):
        noise = noise / math.sqrt(shape[0])
    elif short.startswith(("time_mi", "time_ma", "x_")):
        noise = 0.5 + 0.3 * noise
    elif len(shape) == 2:
        noise = noise / math.sqrt(shape[1])
    else:
        raise AssertionError(name)
    return noise.astype(np.float32)

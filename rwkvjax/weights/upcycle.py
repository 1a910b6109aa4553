# SPDX-License-Identifier: Apache-2.0
"""RWKV-5 weights as the start of an RWKV-6 model, the way the authors upcycled theirs.

A static mix of v5 weighs the current token, one of v6 the previous: maa = 1 - mix. The decay
becomes one vector, and the LoRAs that make mix and decay depend on the data are drawn from
U(-1e-4, 1e-4), so small that the new model computes what the old one did until it is trained.
"""

from __future__ import annotations

import math

import numpy as np

from rwkvjax.weights.export import canonical
from rwkvjax.weights.names import schema
from rwkvjax.weights.source import Tensor, Tensors, WeightsError, mapped, reshaped

_SCALE = 1e-4


def upcycle(tensors: Tensors, *, seed: int = 0, ranks: tuple[int, int] | None = None) -> Tensors:
    """Official tensors of RWKV-5.1 or 5.2 -> those of RWKV-6, read on demand.

    Args:
      tensors: a complete model.
      seed: of the random LoRA matrices; each depends only on the seed and its own name.
      ranks: of the mix and the decay; (32, 64), or (64, 128) from width 4096 on.

    Raises:
      WeightsError: another version (5.0 lacks the gate).
    """
    version, sizes, old = canonical(tensors)
    if version not in ("5.1", "5.2"):
        raise WeightsError(f"only RWKV-5.1 and 5.2 can become RWKV-6, this is RWKV-{version}")
    mix_rank, decay_rank = ranks or ((64, 128) if sizes["D"] >= 4096 else (32, 64))
    sizes |= {"R": mix_rank, "P": decay_rank}
    dtype = old["blocks.0.att.key.weight"].dtype
    new: Tensors = {}
    for index, (name, entry, layer) in enumerate(schema("6").listing(sizes["L"])):
        shape = entry.official_shape(sizes)
        short = name.rpartition(".")[2]
        if name in old and short not in ("time_decay", "time_faaaa"):
            new[name] = old[name]
        elif short in ("time_decay", "time_faaaa"):
            new[name] = _per_channel(old[name], sizes, shape)
        elif (previous := name.replace("time_maa_", "time_mix_")) in old:
            new[name] = _complement(old[previous])
        elif short in ("time_maa_x", "time_maa_w"):
            assert layer is not None
            new[name] = _ramp(shape, 1 - layer / sizes["L"], dtype)
        else:
            new[name] = _uniform(shape, seed, index, dtype)
    return new


def _per_channel(tensor: Tensor, sizes: dict[str, int], shape: tuple[int, ...]) -> Tensor:
    """Per-head values of v5.1 repeated over their channels; v5.2 has one for each channel."""
    heads, size = sizes["H"], sizes["N"]
    if math.prod(tensor.shape) == heads * size:
        return reshaped(tensor, *shape)
    repeat = lambda array: np.repeat(array.reshape(heads, 1), size, axis=1)
    return mapped(tensor, shape, repeat)


def _complement(mix: Tensor) -> Tensor:
    change = lambda array: (1.0 - array.astype(np.float32)).astype(mix.dtype)
    return mapped(mix, mix.shape, change)


def _ramp(shape: tuple[int, ...], power: float, dtype: np.dtype) -> Tensor:
    """1 - (i / D)^power."""
    ramp = np.arange(shape[-1]) / shape[-1]
    return Tensor(shape, dtype, lambda: (1 - ramp**power).astype(dtype).reshape(shape))


def _uniform(shape: tuple[int, ...], seed: int, index: int, dtype: np.dtype) -> Tensor:
    def read() -> np.ndarray:
        random = np.random.RandomState([seed, index])
        return random.uniform(-_SCALE, _SCALE, shape).astype(dtype)

    return Tensor(shape, dtype, read)

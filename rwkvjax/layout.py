# SPDX-License-Identifier: Apache-2.0
"""How parameters lie in memory for generating text on the machine at hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from core import params as params_lib
from rwkvjax import matrices, model
from rwkvjax.quantization import PROJECTIONS

Params = dict


def for_decoding(params: Params, donate: bool = False) -> Params:
    """The same parameters in the layout that decodes fastest here, for `step` and `sampling`.

    They stand for the same numbers; results differ by the rounding of another order of summation.

    On a CPU: layers apart (`model.unstack`), bfloat16 projections and head as their bits
    (`matrices.BFloat16Matrix`), other bfloat16 parameters but the embedding, which are few,
    widened to float32. On an accelerator: unchanged.

    Args:
      params: parameters of any version, quantised or not.
      donate: free the given arrays as they are replaced; `params` must not be used afterwards.
    """
    if jax.default_backend() != "cpu" or isinstance(params["blocks"], tuple):
        return params

    def one(path: str, leaf: Any) -> Any:
        if matrices.is_structured(leaf) or leaf.dtype != jnp.bfloat16 or path == "emb/weight":
            return leaf
        large = path == "head/weight" or path.rsplit("/", 1)[-1] in PROJECTIONS
        array = jnp.asarray(leaf)
        changed = matrices.BFloat16Matrix.of(array) if large else array.astype(jnp.float32)
        if donate:
            jax.block_until_ready(changed)
            array.delete()
        return changed

    return model.unstack(params_lib.map_with_path(one, params), donate=donate)

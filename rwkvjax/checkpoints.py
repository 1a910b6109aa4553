# SPDX-License-Identifier: Apache-2.0
"""Loading models from this library's own checkpoints."""

from __future__ import annotations

import os
from typing import Any

import jax

from core import checkpoint, config
from core import params as params_lib
from rwkvjax import model, quantization, weights
from rwkvjax.config import Config


def load(path: str | os.PathLike[str], dtype: str | None = None) -> tuple[Config, dict]:
    """Loads a model from a run's directory, its checkpoints/ or best/, or one step of them.

    Anything else is taken for released weights, see `rwkvjax.weights.load`.

    Args:
      path: where the checkpoint lies; of a run, the best parameters if they were kept, else the
        newest.
      dtype: store the parameters in this dtype.

    Returns:
      (config, params).

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: the stored parameters do not fit the stored configuration.
    """
    cfg, params, _ = load_with_meta(path, dtype)
    return cfg, params


def load_with_meta(
    path: str | os.PathLike[str], dtype: str | None = None
) -> tuple[Config, dict, dict[str, Any]]:
    """As `load`, with the stored metadata (configuration of the run, step, metrics)."""
    if os.path.isfile(path) and quantization.is_quantized(path):
        if dtype is not None:
            raise ValueError(f"{path} holds quantised weights, which cannot be stored as {dtype}")
        return *quantization.load(path), {}
    if checkpoint.find(path) is None and os.path.exists(path):
        cfg, params = weights.load(path, dtype=dtype)
        return cfg, params, {}
    params, meta = checkpoint.load_params(path, dtype=dtype)
    stored = meta.get("config", {}).get("model")
    if not stored:
        raise ValueError(f"{path} is not a language model checkpoint: it has no model block")
    cfg = config.build(Config, stored, where="stored model config")

    params_lib.check(params, model.param_specs(cfg), what=f"parameters in {path}")
    return cfg, jax.tree.map(jax.numpy.asarray, params), meta

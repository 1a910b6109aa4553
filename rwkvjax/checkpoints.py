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
from rwkvjax.weights.infer import infer
from rwkvjax.weights.params import config_of


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
    cfg = _stored_config(path, meta)
    params_lib.check(params, model.param_specs(cfg), what=f"parameters in {path}")
    return cfg, jax.tree.map(jax.numpy.asarray, params), meta


def load_config(path: str | os.PathLike[str]) -> tuple[Config, dict[str, Any]]:
    """(configuration, stored metadata) of what `load` would read, without the parameters."""
    if os.path.isfile(path) and quantization.is_quantized(path):
        return quantization.load_config(path), {}
    found = checkpoint.find(path)
    if found is None and os.path.exists(path):
        opened = weights.open_weights(path)
        version, sizes = infer({name: t.shape for name, t in opened.tensors.items()})
        return config_of(version, sizes, group_norm_eps=opened.group_norm_eps), {}
    if found is None:
        raise FileNotFoundError(
            f"no checkpoint found at {path}: expected a run's workdir, one step of it, or a file of"
            " weights"
        )
    saver = checkpoint.Checkpointer(found[0], keep=0, read_only=True)
    try:
        meta = saver.meta(found[1])
    finally:
        saver.close()
    return _stored_config(path, meta), meta


def _stored_config(path: str | os.PathLike[str], meta: dict[str, Any]) -> Config:
    stored = meta.get("config", {}).get("model")
    if not stored:
        raise ValueError(f"{path} is not a language model checkpoint: it has no model block")
    return config.build(Config, stored, where="stored model config")

# SPDX-License-Identifier: Apache-2.0
"""The flags with which programs are told a model, and what they stand for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from absl import flags

from core import cli

if TYPE_CHECKING:  # a program that only prints its help does not wait for jax
    from rwkvjax.config import Config
    from rwkvjax.tokenizers import Tokenizer


def define(values: flags.FlagValues, dtype: bool = False) -> None:
    """Defines --checkpoint and --tokenizer, and with `dtype` --dtype."""
    flags.DEFINE_string(
        "checkpoint",
        None,
        "A run's workdir, one step of it, or a weights file.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "tokenizer",
        "",
        "byte, world or a vocabulary file; by default the run's own, or by vocabulary size.",
        flag_values=values,
    )
    if dtype:
        flags.DEFINE_string(
            "dtype",
            "",
            "Dtype of weights and activations; by default the file's.",
            flag_values=values,
        )


def require_checkpoint(values: flags.FlagValues) -> None:
    """Raises flags.Error without --checkpoint."""
    if not values.checkpoint:
        raise flags.Error("--checkpoint is required: a run's workdir or a weights file")


def open_model(
    values: flags.FlagValues, for_decoding: bool = True
) -> tuple[Config, dict, Tokenizer]:
    """(configuration, parameters, tokenizer) of the flags that `define` defines.

    With `for_decoding` the parameters lie as `rwkvjax.layout.for_decoding` puts them.
    """
    from rwkvjax import layout
    from rwkvjax.checkpoints import load_with_meta

    dtype = values.dtype if "dtype" in values else ""
    cfg, params, meta = load_with_meta(values.checkpoint, dtype or None)
    if dtype:
        cfg = dataclasses.replace(cfg, dtype=dtype)
    tokenizer = tokenizer_for(cfg, meta, values.tokenizer)
    if for_decoding:
        params = layout.for_decoding(params, donate=True)
    return cfg, params, tokenizer


def tokenizer_for(cfg: Config, meta: dict[str, Any], name: str = "") -> Tokenizer:
    """The tokenizer a model was trained with: as named, as stored, or by vocabulary size."""
    from rwkvjax.tokenizers import decodable_ids, get_tokenizer

    stored = meta.get("config", {}).get("data", {}).get("tokenizer", "")
    by_size = {256: "byte", 65536: "world"}.get(cfg.vocab_size, "")
    if not (name or stored or by_size):
        raise cli.UserError(
            f"which tokenizer has {cfg.vocab_size} ids? Name it with --tokenizer=FILE"
        )
    tokenizer = get_tokenizer(name or stored or by_size)
    if name and (ids := decodable_ids(tokenizer)) > cfg.vocab_size:
        hint = (
            f"; leave --tokenizer out, or give {stored or by_size!r}" if stored or by_size else ""
        )
        raise cli.UserError(
            f"the tokenizer {name!r} has {ids} ids, the model only {cfg.vocab_size}{hint}"
        )
    return tokenizer

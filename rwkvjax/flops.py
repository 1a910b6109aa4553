# SPDX-License-Identifier: Apache-2.0
"""Analytic cost of the model. XLA's own count takes a scan body once, whatever its length."""

from __future__ import annotations

from core import params as params_lib
from rwkvjax import model
from rwkvjax.config import Config


def forward_flops_per_token(cfg: Config, count_embedding: bool = False) -> float:
    """Floating-point operations of one token: two per matrix element, plus the recurrence.

    Args:
      cfg: configuration.
      count_embedding: count the embedding table and the vectors like matrices, as the formula of
        arXiv 2404.05892 (appendix E: 2 params + 6 D^2 L / H) does, although a look-up multiplies
        nothing.
    """
    specs = dict(params_lib.flatten(model.param_specs(cfg)))
    if count_embedding:
        matrices = sum(s.size for s in specs.values())
    else:
        ranks = {p: len(s.shape) - p.startswith("blocks/") for p, s in specs.items()}
        skip = ("emb/weight", "blocks/att/time_decay", "blocks/att/time_faaaa", "blocks/att/r_k")
        matrices = sum(s.size for p, s in specs.items() if ranks[p] >= 2 and p not in skip)
    return 2.0 * matrices + recurrence_flops_per_token(cfg)


def recurrence_flops_per_token(cfg: Config) -> float:
    """Operations of the WKV recurrence alone, all layers."""
    if cfg.version == "4":
        return 8.0 * cfg.resolved_att_dim * cfg.layers
    per_channel = 10 if cfg.version == "7" else 6
    return float(per_channel * cfg.resolved_att_dim * cfg.head_size * cfg.layers)


def train_flops_per_token(cfg: Config, count_embedding: bool = False) -> float:
    """Forward and backward: three times the forward pass (recomputation does not count)."""
    return 3.0 * forward_flops_per_token(cfg, count_embedding)

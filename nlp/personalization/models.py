# SPDX-License-Identifier: Apache-2.0
"""Personalised classifiers over fixed text vectors (Kocon et al. 2021; see also arXiv 2402.09269).

    id_only          b + B[u]                                          no text: who answers
    baseline         W t + b                                           no annotator
    onehot           W t + B[u] + b                                    = W [t ; onehot(u)] + b
    peb, conformity, past_embeddings
                     W [t ; f_u] + b                                   f_u: features of the past
    hubi_simple      W2 softplus(W1 t + b1) + b2 + B[u]
    hubi_medium      W2 (softplus(W1 t + b1) * softplus(Wa E[u] + ba)) + b2

The first five are additive in text and annotator, so none of them can represent an annotator who
inverts what the text says; hubi_medium multiplies and can.

Tables have U + 1 rows: row 0 stands for an annotator that training has not seen, row u + 1 for
annotator u. It starts at zero and is not trained unless `unseen_rate` hides annotators.

Dimensions: B batch, D text vector, U annotators, L features of an annotator, H hidden, E embedding,
K outputs.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import params as params_lib
from core.params import ParamSpec, Uniform, zeros

PyTree = Any

FEATURE_MODELS = ("peb", "conformity", "past_embeddings")
MODELS = ("id_only", "baseline", "onehot", *FEATURE_MODELS, "hubi_simple", "hubi_medium")
UNSEEN = 0  # row of the tables


@dataclasses.dataclass(frozen=True)
class Config:
    """Shape of a personalised classifier.

    Attributes:
      model: one of `MODELS`.
      text_size, annotators, outputs: D, U, K.
      features: L, only for models with features of annotators.
      hidden, embedding: H and E of the HuBi models.
      dropout: of annotator embeddings (hubi_medium) during training.
      unseen_rate: share of training rows whose annotator is hidden, so that row 0 learns what to
        say of strangers; 0 as in the original.
    """

    model: str
    text_size: int
    annotators: int
    outputs: int
    features: int = 0
    hidden: int = 100
    embedding: int = 50
    dropout: float = 0.25
    unseen_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"model must be one of {MODELS}, got {self.model!r}")
        sizes = (self.text_size, self.annotators, self.outputs, self.hidden, self.embedding)
        if min(sizes) < 1 or self.features < 0:
            raise ValueError(f"sizes must be at least 1, got {self}")
        if (self.model in FEATURE_MODELS) != (self.features > 0):
            raise ValueError(f"model {self.model!r} with {self.features=}")
        for name in ("dropout", "unseen_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


def _dense(prefix: str, rows: int, columns: int, axes: tuple[str, str]) -> dict[str, ParamSpec]:
    bound = Uniform(1 / math.sqrt(rows))
    return {
        f"{prefix}weight": ParamSpec((rows, columns), axes, bound),
        f"{prefix}bias": ParamSpec((columns,), (axes[1],), bound),
    }


def _table(cfg: Config, columns: int, axis: str, scale: float) -> ParamSpec:
    """Rows of annotators, U(-scale, scale), below a zero row for strangers."""
    return ParamSpec((cfg.annotators + 1, columns), ("user", axis), _ZeroFirst(scale))


@dataclasses.dataclass(frozen=True)
class _ZeroFirst:
    """Uniform on (-scale, scale), the first row zero."""

    scale: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        drawn = jax.random.uniform(key, shape, jnp.float32, -self.scale, self.scale)
        return drawn.at[UNSEEN].set(0.0).astype(dtype)


def param_specs(cfg: Config) -> dict[str, PyTree]:
    """Specification of every parameter; counts are those of the papers plus one table row."""
    if cfg.model == "id_only":
        return {
            "bias": ParamSpec((cfg.outputs,), ("label",), zeros),
            "table": _table(cfg, cfg.outputs, "label", 0.001),
        }
    if cfg.model == "hubi_simple":
        return {
            **_dense("text_", cfg.text_size, cfg.hidden, ("embed", "mlp")),
            **_dense("out_", cfg.hidden, cfg.outputs, ("mlp", "label")),
            "table": _table(cfg, cfg.outputs, "label", 0.001),
        }
    if cfg.model == "hubi_medium":
        return {
            **_dense("text_", cfg.text_size, cfg.hidden, ("embed", "mlp")),
            **_dense("gate_", cfg.embedding, cfg.hidden, ("embed", "mlp")),
            **_dense("out_", cfg.hidden, cfg.outputs, ("mlp", "label")),
            "table": _table(cfg, cfg.embedding, "embed", 0.01),
        }
    size = cfg.text_size + cfg.features
    specs: dict[str, PyTree] = dict(_dense("", size, cfg.outputs, ("embed", "label")))
    if cfg.model == "onehot":
        specs["table"] = _table(cfg, cfg.outputs, "label", 1 / math.sqrt(size))
    return specs


def apply(
    params: PyTree,
    cfg: Config,
    text: jax.Array,
    rows: jax.Array,
    features: jax.Array | None = None,
    key: jax.Array | None = None,
) -> jax.Array:
    """Logits of what annotators say of texts.

    Args:
      params: see `param_specs`.
      cfg: the model.
      text: vectors [B, D].
      rows: row of the tables for each annotator [B] int: 1 + index, or 0 for a stranger.
      features: of the annotators [B, L], for models that have them.
      key: randomness of training (dropout, hidden annotators); None is evaluation.

    Returns:
      [B, K] float32.
    """
    if key is not None and cfg.unseen_rate:
        key, hide = jax.random.split(key)
        hidden = jax.random.bernoulli(hide, cfg.unseen_rate, rows.shape)
        rows = jnp.where(hidden, UNSEEN, rows)
    if cfg.model == "id_only":
        return params["bias"] + params["table"][rows]
    if cfg.model == "hubi_simple":
        hidden_text = _hidden(params, "text_", text)
        return hidden_text @ params["out_weight"] + params["out_bias"] + params["table"][rows]
    if cfg.model == "hubi_medium":
        person = params["table"][rows]
        if key is not None and cfg.dropout:
            kept = jax.random.bernoulli(key, 1 - cfg.dropout, person.shape)
            person = jnp.where(kept, person / (1 - cfg.dropout), 0.0)
        mixed = _hidden(params, "text_", text) * _hidden(params, "gate_", person)
        return mixed @ params["out_weight"] + params["out_bias"]
    if cfg.features:
        assert features is not None
        text = jnp.concatenate([text, features], axis=-1)
    logits = text @ params["weight"] + params["bias"]
    return logits + params["table"][rows] if cfg.model == "onehot" else logits


def _hidden(params: PyTree, prefix: str, x: jax.Array) -> jax.Array:
    return jax.nn.softplus(x @ params[f"{prefix}weight"] + params[f"{prefix}bias"])


def oracle(
    params: PyTree,
    cfg: Config,
    text: np.ndarray,
    rows: np.ndarray,
    features: np.ndarray | None = None,
) -> np.ndarray:
    """`apply` in float64, one annotation after the other, with one-hot vectors written out."""
    p = {k: np.asarray(v, np.float64) for k, v in params_lib.flatten(params)}
    softplus = lambda x: np.log1p(np.exp(x))
    logits = []
    for i, row in enumerate(rows):
        t = np.asarray(text[i], np.float64)
        if cfg.model == "id_only":
            one = p["bias"] + p["table"][row]
        elif cfg.model in ("hubi_simple", "hubi_medium"):
            h = softplus(t @ p["text_weight"] + p["text_bias"])
            if cfg.model == "hubi_medium":
                h = h * softplus(p["table"][row] @ p["gate_weight"] + p["gate_bias"])
            one = h @ p["out_weight"] + p["out_bias"]
            if cfg.model == "hubi_simple":
                one = one + p["table"][row]
        else:
            weight, vector = p["weight"], t
            if cfg.model == "onehot":
                onehot = np.eye(cfg.annotators + 1)[row]
                weight, vector = np.concatenate([weight, p["table"]]), np.append(t, onehot)
            elif features is not None:
                vector = np.append(t, np.asarray(features[i], np.float64))
            one = vector @ weight + p["bias"]
        logits.append(one)
    return np.stack(logits)

# SPDX-License-Identifier: Apache-2.0
"""Vectors of texts from the activations and states of a model.

    vectors = embed(params, config, [ids, ids, ...], Pooling("mean"))        # [n, E]

What a vector is made of (D width, L layers, H heads, N head size):

  mean    mean of the activations after layer `layer`, over the tokens of the text       E = D
  last    the activation of the last token after that layer                              E = D
  shift   the token-shift state of time mixing at the end of the text, i.e. the normed
          input of layer `layer` at the last token                                       E = D
  state   the matrix state of layer `layer` at the end of the text: each head's matrix
          is read as N rows, one for each value channel, of which the root mean square
          over the keys is taken                                                         E = H N
  flat    that matrix state as it is, flattened                                          E = H N N

`layer` counts from 1; 0 is the last one. Activations are those of the residual stream, normed
without weights (of the last layer: by the model's own output norm, what its head sees). RWKV-4 has
no matrix state. Vectors may be scaled to length 1.

The texts of a batch have different lengths: they are padded on the left and the state is reset at
the first token, so that each text's vector is exactly that of the text alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rwkvjax import model
from rwkvjax.config import Config

KINDS = ("mean", "last", "shift", "state", "flat")
_SMALLEST = 32

Params = dict


@dataclasses.dataclass(frozen=True)
class Pooling:
    """How a vector is made; see the module.

    Attributes:
      kind: one of `KINDS`.
      layer: which layer, counted from 1; 0 takes the last.
      normalize: scale vectors to length 1.
    """

    kind: str = "mean"
    layer: int = 0
    normalize: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {self.kind!r}")
        if self.layer < 0:
            raise ValueError(f"layer must not be negative, got {self.layer}")

    def size(self, cfg: Config) -> int:
        """E."""
        self.depth(cfg)
        heads = cfg.heads * cfg.head_size
        return {"state": heads, "flat": heads * cfg.head_size}.get(self.kind, cfg.dim)

    def depth(self, cfg: Config) -> int:
        """The layer, 1 ... L; raises ValueError for one that the model has not."""
        if self.layer > cfg.layers:
            raise ValueError(f"layer {self.layer} of a model with {cfg.layers} layers")
        if self.kind in ("state", "flat") and cfg.version == "4":
            raise ValueError(f"RWKV-4 has no matrix state; choose one of {KINDS[:3]}")
        return self.layer or cfg.layers


@functools.partial(jax.jit, static_argnames=("cfg", "how"))
def embed_batch(
    params: Params, cfg: Config, tokens: jax.Array, lengths: jax.Array, how: Pooling
) -> jax.Array:
    """Vectors of one batch of texts.

    Args:
      params, cfg: the model.
      tokens: [B, T] ids, each text at the end of its row.
      lengths: [B], at least 1.
      how: see `Pooling`.

    Returns:
      [B, E] float32.
    """
    depth = how.depth(cfg)
    batch, width = tokens.shape
    place = jnp.arange(width) - (width - lengths[:, None])  # [B, T], negative at padding
    params, cfg = first_layers(params, cfg, depth)
    start = model.init_state(cfg, batch)
    x, state = model.hidden(params, cfg, tokens, start, reset=place == 0)
    if how.kind == "mean":
        inside = (place >= 0)[..., None]
        vectors = jnp.where(inside, x, 0).astype(jnp.float32).sum(axis=1) / lengths[:, None]
    elif how.kind == "last":
        vectors = x[:, -1].astype(jnp.float32)
    elif how.kind == "shift":
        vectors = state.att_shift[-1]
    else:
        vectors = _state_vectors(cfg, state.wkv[-1], how.kind)
    if how.normalize:
        length = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
        vectors = vectors / jnp.maximum(length, 1e-12)
    return vectors


def _state_vectors(cfg: Config, wkv: jax.Array, kind: str) -> jax.Array:
    """The matrix states of one layer [B, H, N, N] -> [B, E]."""
    by_value = wkv if cfg.version == "7" else wkv.swapaxes(-1, -2)  # [B, H, value, key]
    if kind == "state":
        by_value = jnp.sqrt(jnp.square(by_value).mean(axis=-1))
    return by_value.reshape(by_value.shape[0], -1)


def first_layers(params: Params, cfg: Config, depth: int) -> tuple[Params, Config]:
    """The model that ends after `depth` layers; cut before its end, its norm has no weights."""
    if depth == cfg.layers:
        return params, cfg
    blocks = jax.tree.map(lambda x: x[:depth], params["blocks"])
    plain = {"weight": jnp.ones(cfg.dim), "bias": jnp.zeros(cfg.dim)}
    return {**params, "blocks": blocks, "ln_out": plain}, dataclasses.replace(cfg, layers=depth)


def embed(
    params: Params,
    cfg: Config,
    texts: Sequence[Sequence[int] | np.ndarray],
    how: Pooling | None = None,
    *,
    batch_size: int = 32,
    max_tokens: int = 0,
) -> np.ndarray:
    """Vectors of texts of any lengths, in their order: n lists of ids -> [n, E] float32.

    Texts of similar length share a batch; lengths are rounded up to a power of two, so that few
    programs are compiled. A text's vector does not depend on the others (up to rounding).

    Args:
      params, cfg: the model.
      texts: token ids of each text.
      how: see `Pooling`.
      batch_size: texts at a time.
      max_tokens: longer texts are an error; 0 allows any length.

    Raises:
      ValueError: an empty text, one that is too long, or ids that the model has not.
    """
    how = how or Pooling()
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    arrays = [_checked(i, text, cfg, max_tokens) for i, text in enumerate(texts)]
    result = np.zeros((len(arrays), how.size(cfg)), np.float32)
    for width, chosen in _batches(arrays, batch_size):
        tokens, lengths = np.zeros((batch_size, width), np.int32), np.ones(batch_size, np.int32)
        for row, index in enumerate(chosen):
            tokens[row, width - len(arrays[index]) :] = arrays[index]
            lengths[row] = len(arrays[index])
        result[chosen] = np.asarray(embed_batch(params, cfg, tokens, lengths, how))[: len(chosen)]
    return result


def _checked(
    index: int, text: Sequence[int] | np.ndarray, cfg: Config, max_tokens: int
) -> np.ndarray:
    array = np.asarray(text)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"text {index}: expected at least one token, got shape {array.shape}")
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= cfg.vocab_size:
        raise ValueError(f"text {index}: token ids must be integers in 0 ... {cfg.vocab_size - 1}")
    if max_tokens and array.size > max_tokens:
        raise ValueError(f"text {index} has {array.size} tokens, at most {max_tokens} are allowed")
    return array


def _batches(arrays: list[np.ndarray], size: int) -> Iterator[tuple[int, list[int]]]:
    """(padded length, indices of at most `size` texts), shortest texts first."""
    by_width: dict[int, list[int]] = {}
    for index in np.argsort([len(a) for a in arrays], kind="stable").tolist():
        width = max(_SMALLEST, 1 << (len(arrays[index]) - 1).bit_length())
        by_width.setdefault(width, []).append(index)
    for width, indices in by_width.items():
        for start in range(0, len(indices), size):
            yield width, indices[start : start + size]


def describe(how: Pooling, cfg: Config) -> dict[str, Any]:
    """The pooling in words, for reports and the server."""
    return {"pooling": how.kind, "layer": how.depth(cfg), "dimensions": how.size(cfg)}

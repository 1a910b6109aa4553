# SPDX-License-Identifier: Apache-2.0
"""LoRA and PiSSA: trainable low-rank changes of the projections.

    LoRA (arXiv 2106.09685):   W + (alpha / r) A B,        A random, B = 0
    PiSSA (arXiv 2404.02948):  (W - A0 B0) + A B,          A0 B0 = the r largest singular parts of W

with the choices of the official tools (RWKV-PEFT): every projection of time and channel mixing has
its own A and B, other parameters ("time" and "ln" in their name) may be trained in full besides.
Ours are [in, out], so A is their `lora_A` transposed and B their `lora_B` transposed.

An adapter's tree of parameters: {"lora": {path: {"down": A, "up": B}}, "full": {path: array}}, with
the paths as nested dicts. Dimensions: L layers, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import params as params_lib
from core.params import ParamSpec, Uniform
from rwkvjax import model
from rwkvjax.config import Config
from rwkvjax.matrices import LowRankMatrix, is_structured
from rwkvjax.quantization import PROJECTIONS

PARTS = ("att", "ffn")

PyTree = Any


def target_paths(cfg: Config, parts: tuple[str, ...] = PARTS) -> list[str]:
    """Paths of the projections in the given parts ("att", "ffn") of the blocks."""
    unknown = set(parts) - set(PARTS)
    if unknown or not parts:
        raise ValueError(f"parts must be some of {PARTS}, got {parts}")
    places = (p for p, _ in params_lib.flatten(model.param_specs(cfg)))
    split = [(place, *place.split("/")) for place in places if place.count("/") == 2]
    return [place for place, _, part, name in split if part in parts and name in PROJECTIONS]


def full_paths(cfg: Config, names: tuple[str, ...]) -> list[str]:
    """Paths of the parameters, projections apart, whose path holds one of `names`."""
    targets = set(target_paths(cfg))
    places = [place for place, _ in params_lib.flatten(model.param_specs(cfg))]
    return [p for p in places if p not in targets and any(name in p for name in names)]


def specs(cfg: Config, rank: int, parts: tuple[str, ...], full: tuple[str, ...]) -> PyTree:
    """Specification of an adapter's parameters.

    A is drawn as `kaiming_uniform_(a=sqrt(5))` draws it: uniform within 1 / sqrt(I); B is zero.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    base = dict(params_lib.flatten(model.param_specs(cfg)))
    leaves: dict[str, ParamSpec] = {}
    for path in target_paths(cfg, parts):
        (layers, rows, columns), (first, inner, outer) = base[path].shape, base[path].axes
        if rank > min(rows, columns):
            raise ValueError(f"rank {rank} exceeds {path} of {rows} x {columns}")
        down = Uniform(1 / math.sqrt(rows))
        leaves[f"lora/{path}/down"] = ParamSpec((layers, rows, rank), (first, inner, "lora"), down)
        leaves[f"lora/{path}/up"] = ParamSpec(
            (layers, rank, columns), (first, "lora", outer), params_lib.zeros
        )
    leaves |= {f"full/{path}": base[path] for path in full_paths(cfg, full)}
    return params_lib.unflatten(leaves)


def factors(adapter: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path of the projection, {"down": A, "up": B}) of each low-rank change."""
    found: dict[str, dict[str, Any]] = {}
    for place, leaf in params_lib.flatten(adapter.get("lora", {})):
        path, name = place.rsplit("/", 1)
        found.setdefault(path, {})[name] = leaf
    yield from found.items()


def attach(params: Mapping[str, Any], adapter: Mapping[str, Any], scale: float) -> PyTree:
    """The parameters with the adapter on top, unmerged: A and B beside the matrices."""
    leaves = dict(params_lib.flatten(params))
    for path, pair in factors(adapter):
        count = pair["down"].shape[0]
        scales = jnp.full((count,), scale, jnp.float32)
        leaves[path] = LowRankMatrix(leaves[path], pair["down"], pair["up"], scales)
    leaves |= dict(params_lib.flatten(adapter.get("full", {})))
    return params_lib.unflatten(leaves)


def merge(params: Mapping[str, Any], adapter: Mapping[str, Any], scale: float) -> PyTree:
    """The parameters with the adapter merged in: W + scale A B in float32, in the dtype of W.

    Raises:
      ValueError: a quantised matrix, which cannot hold the sum.
    """
    leaves = dict(params_lib.flatten(params))
    for path, pair in factors(adapter):
        base = leaves[path]
        if is_structured(base):
            raise ValueError(
                f"{path} is a {type(base).__name__}: merge into the weights that it was made from"
            )
        leaves[path] = _merged(base, pair["down"], pair["up"], jnp.float32(scale))
    full = dict(params_lib.flatten(adapter.get("full", {})))
    leaves |= {path: jnp.asarray(x).astype(leaves[path].dtype) for path, x in full.items()}
    return params_lib.unflatten(leaves)


@jax.jit
def _merged(base: jax.Array, down: jax.Array, up: jax.Array, scale: jax.Array) -> jax.Array:
    exact = jax.lax.Precision.HIGHEST
    change = jnp.matmul(down.astype(jnp.float32), up.astype(jnp.float32), precision=exact)
    return (base.astype(jnp.float32) + scale * change).astype(base.dtype)


# --- PiSSA ----------------------------------------------------------------------------------------


def principal_factors(
    params: Mapping[str, Any],
    cfg: Config,
    rank: int,
    parts: tuple[str, ...] = PARTS,
    *,
    iterations: int = 0,
    seed: int = 0,
) -> PyTree:
    """A0 and B0 of every projection: the largest singular parts, split by sqrt(singular value).

    Args:
      params: the base model.
      cfg: its configuration.
      rank: R.
      parts: see `target_paths`.
      iterations: 0 computes the exact decomposition; n > 0 approximates it by n power iterations
        on a random subspace (arXiv 0909.4061), which is much faster for large matrices.
      seed: of the random subspace.

    Returns:
      {"lora": ...} in float32, see the module.
    """
    leaves: dict[str, Any] = {}
    base = dict(params_lib.flatten(params))
    rng = np.random.default_rng(seed)
    for path in target_paths(cfg, parts):
        if is_structured(base[path]):
            raise ValueError(f"PiSSA needs the weights themselves; {path} is quantised")
        pairs = [_principal(w, rank, iterations, rng) for w in np.asarray(base[path], np.float32)]
        leaves[f"lora/{path}/down"] = jnp.asarray(np.stack([down for down, _ in pairs]))
        leaves[f"lora/{path}/up"] = jnp.asarray(np.stack([up for _, up in pairs]))
    return params_lib.unflatten(leaves)


def _principal(
    weight: np.ndarray, rank: int, iterations: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    if iterations:
        basis = weight @ rng.standard_normal((weight.shape[1], min(2 * rank, *weight.shape)))
        for _ in range(iterations):
            basis = weight @ (weight.T @ np.linalg.qr(basis)[0])
        basis = np.linalg.qr(basis)[0].astype(np.float32)
        left, values, right = np.linalg.svd(basis.T @ weight, full_matrices=False)
        left = basis @ left
    else:
        left, values, right = np.linalg.svd(weight, full_matrices=False)
    root = np.sqrt(values[:rank])
    down, up = left[:, :rank] * root, root[:, None] * right[:rank]
    return down.astype(np.float32), up.astype(np.float32)


def residual(params: Mapping[str, Any], initial: Mapping[str, Any]) -> PyTree:
    """W - A0 B0 for every projection that `initial` names; the rest as it is."""
    return merge(params, initial, -1.0)


def difference(adapter: Mapping[str, Any], initial: Mapping[str, Any]) -> PyTree:
    """PiSSA's change of the untouched base, A B - A0 B0, as one LoRA of rank 2R and scale 1."""
    leaves = dict(params_lib.flatten({"full": adapter.get("full", {})}))
    start = dict(factors(initial))
    for path, pair in factors(adapter):
        first = start[path]
        downs, ups = (pair["down"], first["down"]), (pair["up"], -first["up"])
        leaves[f"lora/{path}/down"] = jnp.concatenate(downs, axis=-1)
        leaves[f"lora/{path}/up"] = jnp.concatenate(ups, axis=-2)
    return params_lib.unflatten(leaves)

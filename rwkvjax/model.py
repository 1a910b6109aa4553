# SPDX-License-Identifier: Apache-2.0
"""The skeleton that all versions of RWKV share, and the functions users call.

    h = LN0(Emb[token])
    for each layer:  h = h + TimeMix(LN1(h));  h = h + ChannelMix(LN2(h))
    logits = Head(LN_out(h))

Blocks are stacked on a leading axis and run by `lax.scan` over layers, so that the time to
compile does not grow with depth; for decoding on a CPU they may lie apart (`unstack`).
Dimensions: B batch, T time, D model width, L layers, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from core import params as params_lib
from core.params import Orthogonal, ParamSpec, Uniform
from core.sharding import Shard, no_shard
from rwkvjax import layers, matrices, rwkv4, rwkv5, rwkv6, rwkv7
from rwkvjax.config import Config
from rwkvjax.wkv.common import match_varying

Params = dict
State = Any  # a NamedTuple of arrays [L, B, ...]; which one depends on the version


class Version(Protocol):
    """What a version module provides; see rwkv4, rwkv5, rwkv6."""

    init_state: Callable[[Config, int], State]
    att_specs: Callable[[Config, int], Params]
    ffn_specs: Callable[[Config, int], Params]
    time_mix: Callable[..., Any]
    channel_mix: Callable[..., Any]


def _version(cfg: Config) -> Any:
    modules: dict[str, Any] = {"4": rwkv4, "6": rwkv6, "7": rwkv7}
    if cfg.version.startswith("5"):
        return rwkv5
    if cfg.version not in modules:
        raise NotImplementedError(f"version {cfg.version!r} has no model yet")
    return modules[cfg.version]


def param_specs(cfg: Config) -> Params:
    """Specification of every parameter: shapes, logical axes, official initialisation."""
    version = _version(cfg)
    blocks = [
        {
            "ln1": layers.norm_specs(cfg.dim),
            "ln2": layers.norm_specs(cfg.dim),
            "att": version.att_specs(cfg, layer),
            "ffn": version.ffn_specs(cfg, layer),
        }
        for layer in range(cfg.layers)
    ]
    vocab, dim = cfg.vocab_size, cfg.dim
    head_gain = 0.5 * (vocab / dim) ** 0.5 if vocab > dim else 0.5
    return {
        "emb": {"weight": ParamSpec((vocab, dim), ("vocab", "embed"), Uniform(cfg.embedding_init))},
        "ln0": layers.norm_specs(dim),
        "blocks": params_lib.stack(blocks),
        "ln_out": layers.norm_specs(dim),
        "head": {"weight": ParamSpec((dim, vocab), ("embed", "vocab"), Orthogonal(head_gain))},
    }


def init(key: jax.Array, cfg: Config) -> Params:
    """Random parameters by the official recipe."""
    return params_lib.init(param_specs(cfg), key)


def init_state(cfg: Config, batch_size: int) -> State:
    """The state before the first token of `batch_size` sequences, float32."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return _version(cfg).init_state(cfg, batch_size)


def _remat(cfg: Config, block: Callable[..., Any]) -> Callable[..., Any]:
    if cfg.remat == "none":
        return block
    policies = jax.checkpoint_policies
    policy = policies.dots_with_no_batch_dims_saveable if cfg.remat == "dots" else None
    return jax.checkpoint(block, policy=policy)


def hidden(
    params: Params,
    cfg: Config,
    tokens: jax.Array,
    state: State,
    *,
    reset: jax.Array | None = None,
    shard: Shard = no_shard,
) -> tuple[jax.Array, State]:
    """Everything but the output head: tokens [B, T] -> (normed activations [B, T, D], state)."""
    check_inputs(cfg, tokens, state, reset)
    return run_blocks(params, cfg, embed(params, cfg, tokens), state, reset=reset, shard=shard)


@functools.partial(jax.jit, static_argnames="cfg")
def embed(params: Params, cfg: Config, tokens: jax.Array) -> jax.Array:
    """Token ids [B, T] -> normed embeddings [B, T, D]."""
    x = matrices.take_rows(params["emb"]["weight"], tokens).astype(jnp.dtype(cfg.dtype))
    return layers.layer_norm(params["ln0"], x, cfg.layer_norm_eps)


def run_blocks(
    params: Params,
    cfg: Config,
    x: jax.Array,
    state: State,
    *,
    reset: jax.Array | None = None,
    shard: Shard = no_shard,
) -> tuple[jax.Array, State]:
    """All blocks and the last norm: embeddings [B, T, D] -> (normed activations, state)."""
    cross = getattr(_version(cfg), "init_cross", lambda cfg, x: ())(cfg, x)
    cross = match_varying(cross, like=x)
    blocks = params["blocks"]
    if isinstance(blocks, tuple):
        states = []
        for layer, p in enumerate(blocks):
            inputs = (p, state, jnp.int32(layer))
            (x, cross), new = _block_apart(cfg, shard, reset, (x, cross), inputs)
            states.append(new)
        state = _stacked(states)
    else:
        body = _remat(cfg, functools.partial(_block, cfg, shard, reset))
        (x, _), state = jax.lax.scan(body, (x, cross), (blocks, state, jnp.arange(cfg.layers)))
    return _last_norm(params["ln_out"], x, cfg.layer_norm_eps), state


def _block(cfg: Config, shard: Shard, reset: jax.Array | None, carry: Any, inputs: Any) -> Any:
    """One layer: carry (x [B, T, D], what layers share), inputs (parameters, state, index)."""
    version = _version(cfg)
    x, cross = carry
    p, state, layer = inputs
    x = shard(x, ("batch", "time", None))
    with jax.named_scope("time_mix"):
        normed = layers.layer_norm(p["ln1"], x, cfg.layer_norm_eps)
        out, state, cross = version.time_mix(
            p["att"], cfg, normed, state, reset, cross, layer, shard
        )
    x = x + out
    with jax.named_scope("channel_mix"):
        normed = layers.layer_norm(p["ln2"], x, cfg.layer_norm_eps)
        out, state = version.channel_mix(p["ffn"], cfg, normed, state, reset, shard)
    return (x + out, cross), state


# Layers that lie apart are run one after the other; outside of jit, these three are compiled.


@functools.partial(jax.jit, static_argnums=(0, 1))
def _block_apart(
    cfg: Config, shard: Shard, reset: jax.Array | None, carry: Any, inputs: Any
) -> Any:
    """`_block` with the states of all layers, of which it takes its own."""
    p, states, layer = inputs
    state = jax.tree.map(lambda a: a[layer], states)
    return _remat(cfg, functools.partial(_block, cfg, shard, reset))(carry, (p, state, layer))


_stacked = jax.jit(lambda states: jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
_last_norm = jax.jit(layers.layer_norm, static_argnums=2)


def unstack(params: Params, donate: bool = False) -> Params:
    """Parameters whose layers lie apart: `blocks` is a tuple of L trees instead of one stack.

    `apply` and `step` take both forms and give the same numbers. A scan over a stack copies each
    layer out of it before use, which doubles the time of a decoding step on a CPU; layers that lie
    apart are used in place. In exchange a program around them is compiled layer by layer (outside
    of jit, one layer is compiled and called L times). Training, saving and fine-tuning want stacks.

    Args:
      params: see `param_specs`; leaves may be those of `rwkvjax.matrices`. Parameters that are
        unstacked already are returned as they are.
      donate: free each stack once its layers are copied, so that memory grows by one leaf at most;
        `params` must not be used afterwards.
    """
    if isinstance(params["blocks"], tuple):
        return params
    leaves, structure = jax.tree.flatten(params["blocks"])
    columns = []
    for leaf in leaves:
        leaf = jnp.asarray(leaf)
        columns.append(jax.block_until_ready([leaf[i] for i in range(len(leaf))]))
        if donate:
            leaf.delete()
    blocks = tuple(jax.tree.unflatten(structure, layer) for layer in zip(*columns, strict=True))
    return {**params, "blocks": blocks}


def apply(
    params: Params,
    cfg: Config,
    tokens: jax.Array,
    state: State | None = None,
    *,
    reset: jax.Array | None = None,
    shard: Shard = no_shard,
) -> tuple[jax.Array, State]:
    """Runs the model over a sequence.

    Args:
      params: see `param_specs`.
      cfg: configuration.
      tokens: [B, T] integer ids, T >= 1. Ids outside the vocabulary are an error when the values
        are known (outside of jit).
      state: state before the first token; `init_state` if None.
      reset: [B, T] bool; True where a new document starts, so that packed documents do not see
        each other.
      shard: sharding constraint for activations, see `core.sharding.make_shard`.

    Returns:
      (logits [B, T, V] float32, state after the last token).

    Raises:
      ValueError: empty time axis, token out of range, or a state of another shape.
      TypeError: tokens that are not integers.
    """
    if state is None:
        state = init_state(cfg, jnp.shape(tokens)[0])
    x, state = hidden(params, cfg, tokens, state, reset=reset, shard=shard)
    return logits_of(params, x, shard), state


def logits_of(params: Params, x: jax.Array, shard: Shard = no_shard) -> jax.Array:
    """The output head: normed activations [B, T, D] -> logits [B, T, V], at least float32."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    logits = matrices.matmul(x, params["head"]["weight"], wide)
    return shard(logits, ("batch", "time", "vocab"))


def step(params: Params, cfg: Config, token: jax.Array, state: State) -> tuple[jax.Array, State]:
    """One token of each sequence: token [B] -> (logits [B, V] float32, state)."""
    token = jnp.asarray(token)
    if token.ndim != 1:
        raise ValueError(f"step expects one token for each sequence, [B]; got shape {token.shape}")
    logits, state = apply(params, cfg, token[:, None], state)
    return logits[:, 0], state


def check_inputs(
    cfg: Config, tokens: jax.Array | np.ndarray, state: State, reset: jax.Array | None
) -> None:
    """Raises ValueError or TypeError for tokens, state or resets that do not fit (see `apply`)."""
    if tokens.ndim != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 1:
        raise ValueError(f"tokens must be [B, T] with B, T >= 1, got shape {tokens.shape}")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"tokens must be integers, got dtype {tokens.dtype}")
    if reset is not None and reset.shape != tokens.shape:
        raise ValueError(f"reset must have the shape of tokens {tokens.shape}, got {reset.shape}")
    batch = tokens.shape[0]
    expected = jax.eval_shape(lambda: init_state(cfg, batch))
    shapes = lambda tree: [tuple(leaf.shape) for leaf in jax.tree.leaves(tree)]
    if shapes(state) != shapes(expected):
        raise ValueError(
            f"state does not fit the config and a batch of {batch}: expected {shapes(expected)},"
            f" got {shapes(state)}"
        )
    if not isinstance(tokens, jax.core.Tracer):
        # As NumPy values: inside a traced function even the minimum of a constant would be traced.
        values = np.asarray(tokens) if getattr(tokens, "is_fully_addressable", True) else tokens
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= cfg.vocab_size:
            raise ValueError(
                f"token ids must be in 0 ... {cfg.vocab_size - 1}, got {low} ... {high}"
            )

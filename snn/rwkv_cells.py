# SPDX-License-Identifier: Apache-2.0
"""RWKV-4 and RWKV-6 blocks under the contract of `snn.cells`, with the structure of their state.

A block is  mid = x + TimeMix(LN1(x)),  y = mid + ChannelMix(LN2(mid)). What it keeps between steps:

    norm, seen    the normalised last input, for the token shift of the time mixing: a function of
                  the input alone, because the weight and bias of LN1 are applied at each use
    ffn           LN2(mid) of the last step, for the token shift of the channel mixing
    core          the recurrent state, moved by currents c = (k, v, log_w) of the inputs alone:
                  RWKV-4 num, den [B, A] and the scale top [B, A]; RWKV-6 wkv [B, H, N, M]

`stack` and `stack_params` turn a whole model into a `cells.Stack`. docs/ostl.md derives the traces.

Dimensions: B batch, D model width, A = H N attention width, H heads, N = M head size.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from core.sharding import no_shard
from rwkvjax import config as config_lib
from rwkvjax import layers, rwkv4, rwkv6, wkv
from snn.cells.base import Arrays, PyTree, Specs
from snn.cells.stack import Stack
from snn.cells.stateless import Dense, Embedding, LayerNorm, normalise
from snn.ostl.factored import Factored


class _Shift(NamedTuple):
    """The part of a model's state that the channel mixing reads."""

    ffn_shift: jax.Array


@dataclasses.dataclass(frozen=True)
class RwkvBlock:
    """What both versions share; use `Rwkv4Block` or `Rwkv6Block`.

    Attributes:
      config: of the model.
      layer: number of the block, for its initial values.
    """

    config: config_lib.Config
    layer: int = 0

    version: ClassVar[str] = ""
    fixed: ClassVar[tuple[str, ...]] = ()  # see `snn.ostl.factored` for these three
    columns: ClassVar[dict[str, str]] = {}
    dense: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.config.version != self.version:
            raise ValueError(
                f"{type(self).__name__} needs a model of version {self.version},"
                f" got version {self.config.version!r}"
            )
        if self.config.ddlerp != "all":
            raise ValueError(f"online learning needs ddlerp 'all', got {self.config.ddlerp!r}")
        if not 0 <= self.layer < self.config.layers:
            raise ValueError(f"layer must be in 0 ... {self.config.layers - 1}, got {self.layer}")

    @property
    def input_size(self) -> int:
        """D."""
        return self.config.dim

    @property
    def output_size(self) -> int:
        """D."""
        return self.config.dim

    @property
    def online_rule(self) -> type[Factored]:
        """The traces that `snn.ostl` keeps for this cell."""
        return Factored

    def _module(self) -> Any:
        return rwkv4 if self.version == "4" else rwkv6

    def param_specs(self) -> Specs:
        """ln1, ln2, att and ffn, as one layer of `rwkvjax`."""
        module = self._module()
        return {
            "ln1": layers.norm_specs(self.config.dim),
            "ln2": layers.norm_specs(self.config.dim),
            "att": module.att_specs(self.config, self.layer),
            "ffn": module.ffn_specs(self.config, self.layer),
        }

    def init_core(self, batch_size: int, dtype: Any) -> Arrays:
        """The recurrent state before the first step."""
        raise NotImplementedError

    def init_state(self, batch_size: int, dtype: Any = jnp.float32) -> PyTree:
        """See the module."""
        wide = jnp.zeros((batch_size, self.config.dim), dtype)
        core = self.init_core(batch_size, dtype)
        return {"norm": wide, "seen": wide[:, :1], "ffn": wide, "core": core}

    # --- the structure that the traces use ------------------------------------------------------

    def context(self, state: PyTree, x: jax.Array) -> Arrays:
        """What the currents are a function of: arrays of the inputs alone."""
        now = normalise(x, self.config.layer_norm_eps)
        return {"now": now, "before": state["norm"], "seen": state["seen"]}

    def shifted(self, params: PyTree, context: Arrays) -> tuple[jax.Array, jax.Array]:
        """LN1 of this input and of the one before (zero at the start), each [B, D]."""
        affine = lambda x: x * params["ln1"]["weight"] + params["ln1"]["bias"]
        return affine(context["now"]), context["seen"] * affine(context["before"])

    def currents(self, params: PyTree, context: Arrays) -> Arrays:
        """k, v and log_w, each [B, A]."""
        raise NotImplementedError

    def move(self, core: Arrays, currents: Arrays) -> Arrays:
        """The recurrent state after the step."""
        raise NotImplementedError

    def read(self, params: PyTree, core: Arrays, context: Arrays) -> jax.Array:
        """The output of the time mixing [B, D], from the state before the step."""
        raise NotImplementedError

    def column_slopes(self, params: PyTree, context: Arrays) -> Arrays:
        """Path of `columns` -> d current_j / d parameter[i, j], [B, rows, A or 1]."""
        raise NotImplementedError

    def gather(self, current: str, product: Arrays) -> jax.Array:
        """Sums [..., *core] over the entries that channel j of a current moves: [..., A]."""
        raise NotImplementedError

    # --- the contract ---------------------------------------------------------------------------

    def step(self, params: PyTree, state: PyTree, x: jax.Array) -> tuple[PyTree, jax.Array]:
        """One token: x [B, D] -> (state, y [B, D])."""
        context = self.context(state, x)
        mid = x + self.read(params, state["core"], context)
        core = self.move(state["core"], self.currents(params, context))
        normed = layers.layer_norm(params["ln2"], mid, self.config.layer_norm_eps)
        out, _ = self._module().channel_mix(
            params["ffn"], self.config, normed[:, None], _Shift(state["ffn"]), None, no_shard
        )
        seen = jnp.ones_like(state["seen"])
        return {"norm": context["now"], "seen": seen, "ffn": normed, "core": core}, mid + out[:, 0]


@dataclasses.dataclass(frozen=True)
class Rwkv4Block(RwkvBlock):
    """RWKV-4: num <- e^w num + e^k v, den <- e^w den + e^k, both over e^top.

    top only keeps the numbers in range: what the block returns does not depend on it, so it is a
    constant for every derivative.
    """

    version: ClassVar[str] = "4"
    fixed: ClassVar[tuple[str, ...]] = ("top",)
    columns: ClassVar[dict[str, str]] = {
        "att/key": "k",
        "att/value": "v",
        "att/time_decay": "log_w",
    }
    dense: ClassVar[tuple[str, ...]] = (
        "ln1/weight",
        "ln1/bias",
        "att/time_mix_k",
        "att/time_mix_v",
    )

    def init_core(self, batch_size: int, dtype: Any) -> Arrays:
        """See the module."""
        zero = jnp.zeros((batch_size, self.config.resolved_att_dim), dtype)
        return {"num": zero, "den": zero, "top": zero + wkv.v4.EMPTY}

    def _mixed(self, params: PyTree, context: Arrays, name: str) -> jax.Array:
        now, before = self.shifted(params, context)
        return rwkv4.mix(params["att"][f"time_mix_{name}"], now, before)

    def currents(self, params: PyTree, context: Arrays) -> Arrays:
        """k, v and log_w, each [B, A]."""
        k = self._mixed(params, context, "k") @ params["att"]["key"]
        v = self._mixed(params, context, "v") @ params["att"]["value"]
        log_w = jnp.broadcast_to(-jnp.exp(params["att"]["time_decay"]), k.shape)
        return {"k": k, "v": v, "log_w": log_w}

    def move(self, core: Arrays, currents: Arrays) -> Arrays:
        """One step of the sums."""
        k, v, log_w = (currents[name] for name in ("k", "v", "log_w"))
        peak = jax.lax.stop_gradient(jnp.maximum(core["top"] + log_w, k))
        top = jax.lax.stop_gradient(core["top"])
        past, now = jnp.exp(top + log_w - peak), jnp.exp(k - peak)
        return {
            "num": past * core["num"] + now * v,
            "den": past * core["den"] + now,
            "top": peak,
        }

    def read(self, params: PyTree, core: Arrays, context: Arrays) -> jax.Array:
        """The weighted average with the current token, gated and projected."""
        att, c = params["att"], self.currents(params, context)
        r = jax.nn.sigmoid(self._mixed(params, context, "r") @ att["receptance"])
        top = jax.lax.stop_gradient(core["top"])
        bonus = att["time_first"] + c["k"]
        peak = jax.lax.stop_gradient(jnp.maximum(top, bonus))
        past, now = jnp.exp(top - peak), jnp.exp(bonus - peak)
        y = (past * core["num"] + now * c["v"]) / (past * core["den"] + now)
        return (r * y) @ att["output"]

    def column_slopes(self, params: PyTree, context: Arrays) -> Arrays:
        """The mixed inputs, and log_w, which is its own derivative by time_decay."""
        return {
            "att/key": self._mixed(params, context, "k")[..., None],
            "att/value": self._mixed(params, context, "v")[..., None],
            "att/time_decay": self.currents(params, context)["log_w"][:, None],
        }

    def gather(self, current: str, product: Arrays) -> jax.Array:
        """Channel by channel."""
        return product["num"] + product["den"]


@dataclasses.dataclass(frozen=True)
class Rwkv6Block(RwkvBlock):
    """RWKV-6: a matrix state for each head, wkv <- diag(w) wkv + k^T v, with decays of the data."""

    version: ClassVar[str] = "6"
    columns: ClassVar[dict[str, str]] = {
        "att/key": "k",
        "att/value": "v",
        "att/time_decay": "log_w",
        "att/time_decay_w2": "log_w",
    }
    dense: ClassVar[tuple[str, ...]] = (
        "ln1/weight",
        "ln1/bias",
        *(f"att/time_maa_{name}" for name in ("x", "w", "k", "v", "w1", "w2")),
        "att/time_decay_w1",
    )

    def init_core(self, batch_size: int, dtype: Any) -> Arrays:
        """See the module."""
        size = self.config.head_size
        return {"wkv": jnp.zeros((batch_size, self.config.heads, size, size), dtype)}

    def _mixed(self, params: PyTree, context: Arrays) -> Arrays:
        now, before = self.shifted(params, context)
        mixed = rwkv6.ddlerp(params["att"], now[:, None], before[:, None])
        return {name: value[:, 0] for name, value in mixed.items()}

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.config.heads, self.config.head_size)

    def currents(self, params: PyTree, context: Arrays) -> Arrays:
        """k, v and log_w, each [B, A]."""
        mixed, att = self._mixed(params, context), params["att"]
        return {
            "k": mixed["k"] @ att["key"],
            "v": mixed["v"] @ att["value"],
            "log_w": rwkv6.decay(att, mixed["w"]),
        }

    def move(self, core: Arrays, currents: Arrays) -> Arrays:
        """One step of the state."""
        k, v, log_w = (self._heads(currents[name]) for name in ("k", "v", "log_w"))
        return {"wkv": jnp.exp(log_w)[..., None] * core["wkv"] + k[..., None] * v[..., None, :]}

    def read(self, params: PyTree, core: Arrays, context: Arrays) -> jax.Array:
        """The receptance reads the state and the current token; norm, gate, projection."""
        mixed, att = self._mixed(params, context), params["att"]
        c = self.currents(params, context)
        r, k, v = self._heads(mixed["r"] @ att["receptance"]), *map(self._heads, (c["k"], c["v"]))
        y = jnp.einsum("bhn,bhnm->bhm", r, core["wkv"])
        y = y + jnp.sum(r * att["time_faaaa"] * k, axis=-1, keepdims=True) * v
        normed = layers.group_norm(att["ln_x"], y[:, None], self.config.group_norm_eps)[:, 0]
        return (normed * jax.nn.silu(mixed["g"] @ att["gate"])) @ att["output"]

    def column_slopes(self, params: PyTree, context: Arrays) -> Arrays:
        """The mixed inputs; log_w is its own derivative by omega."""
        mixed, att = self._mixed(params, context), params["att"]
        decay = rwkv6.decay(att, mixed["w"])[:, None]
        low = jnp.tanh(mixed["w"] @ att["time_decay_w1"])
        return {
            "att/key": mixed["k"][..., None],
            "att/value": mixed["v"][..., None],
            "att/time_decay": decay,
            "att/time_decay_w2": low[..., None] * decay,
        }

    def gather(self, current: str, product: Arrays) -> jax.Array:
        """v_m moves column m of the state of its head; k_n and log_w_n move row n."""
        summed = product["wkv"].sum(axis=-2 if current == "v" else -1)
        return summed.reshape(*summed.shape[:-2], -1)


def stack(config: config_lib.Config) -> Stack:
    """A whole language model (version 4 or 6) as a stack: tokens [T, B] -> logits [T, B, V].

    Raises:
      NotImplementedError: another version.
    """
    kinds: dict[str, Any] = {"4": Rwkv4Block, "6": Rwkv6Block}
    if config.version not in kinds:
        raise NotImplementedError(
            f"online traces exist for RWKV versions 4 and 6, got version {config.version!r}"
        )
    norm = LayerNorm(config.dim, config.layer_norm_eps)
    blocks = [kinds[config.version](config, layer) for layer in range(config.layers)]
    embedding = Embedding(config.vocab_size, config.dim)
    head = Dense(config.dim, config.vocab_size, bias=False)
    return Stack((embedding, norm, *blocks, norm, head))


def stack_params(config: config_lib.Config, params: PyTree) -> PyTree:
    """The parameters of `rwkvjax` (one model, blocks stacked) as those of `stack(config)`."""
    last = config.layers + 2
    blocks = {
        f"layer_{layer + 2}": jax.tree.map(lambda leaf, i=layer: leaf[i], params["blocks"])
        for layer in range(config.layers)
    }
    return {
        "layer_0": {"w": params["emb"]["weight"]},
        "layer_1": dict(params["ln0"]),
        **blocks,
        f"layer_{last}": dict(params["ln_out"]),
        f"layer_{last + 1}": {"w": params["head"]["weight"]},
    }

# SPDX-License-Identifier: Apache-2.0
"""Sequence (context) parallelism: the time axis split over devices, exact in both directions.

Each device holds one stretch of every sequence. Per layer the devices exchange the last position of
each stretch (token shift) and one summary of what the stretch does to the recurrent state (see
`rwkvjax.wkv.time_split`); the size of neither depends on T. Other mesh axes keep their meaning, so
data, FSDP and tensor parallelism compose with it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from core.sharding import Shard, no_shard
from rwkvjax import model
from rwkvjax.config import Config

AXIS = "sequence"  # the mesh axis of the logical axis "time" in every sharding preset


def devices(mesh: Mesh) -> int:
    """Devices over which this mesh splits time."""
    return mesh.shape.get(AXIS, 1)


def hidden(
    params: Any,
    cfg: Config,
    tokens: jax.Array,
    state: Any,
    *,
    mesh: Mesh,
    reset: jax.Array | None = None,
    shard: Shard = no_shard,
) -> tuple[jax.Array, Any]:
    """`model.hidden` with time split over the mesh axis "sequence"; to be called under jit.

    Args:
      params, cfg, state: as for `model.hidden`; the state belongs to the whole sequence.
      tokens: [B, T], T a multiple of the number of devices on the axis.
      mesh: mesh with an axis "sequence".
      reset: [B, T] bool or None.
      shard: sharding constraint for activations over the other axes.

    Returns:
      (normed activations [B, T, D] split over time, state after the last token).

    Raises:
      ValueError: no such mesh axis, or T does not divide.
    """
    if AXIS not in mesh.shape:
        raise ValueError(f"expected a mesh with an axis {AXIS!r}, got {dict(mesh.shape)}")
    if tokens.shape[1] % devices(mesh):
        raise ValueError(
            f"a time axis of {tokens.shape[1]} tokens does not divide over {devices(mesh)} devices"
        )
    model.check_inputs(cfg, tokens, state, reset)
    local = dataclasses.replace(cfg, time_axis=AXIS)

    def stretch(params: Any, x: jax.Array, state: Any, reset: Any) -> tuple[jax.Array, Any]:
        return model.run_blocks(params, local, x, state, reset=reset, shard=shard)

    # The look-up of embeddings stays outside: it has no neighbours, and XLA's partitioner cannot
    # split a table over other axes inside.
    x = model.embed(params, cfg, tokens)
    over_time = P(None, AXIS)
    return jax.shard_map(
        stretch,
        mesh=mesh,
        in_specs=(P(), over_time, P(), over_time),
        out_specs=(over_time, P()),
        axis_names={AXIS},
    )({name: params[name] for name in ("blocks", "ln_out")}, x, state, reset)


def apply(
    params: Any,
    cfg: Config,
    tokens: jax.Array,
    state: Any = None,
    *,
    mesh: Mesh,
    reset: jax.Array | None = None,
    shard: Shard = no_shard,
) -> tuple[jax.Array, Any]:
    """`model.apply` with time split over the mesh axis "sequence"; see `hidden`.

    Returns:
      (logits [B, T, V] split over time, state after the last token).
    """
    state = model.init_state(cfg, tokens.shape[0]) if state is None else state
    x, state = hidden(params, cfg, tokens, state, mesh=mesh, reset=reset, shard=shard)
    return model.logits_of(params, x, shard), state

# SPDX-License-Identifier: Apache-2.0
"""Device meshes, and the rules that map logical axis names to mesh axes.

Models name the dimensions of their arrays ("batch", "embed", "heads", ...). A rule set maps those
names to mesh axes, so one model runs data-parallel, fully sharded, tensor-parallel or any mix
without a change. A name without a rule is an error: a typo must not silently replicate.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from core import params as params_lib

PyTree = Any
MeshAxes = str | tuple[str, ...] | None
Rules = Mapping[str, MeshAxes]
Shard = Callable[[jax.Array, tuple[str | None, ...]], jax.Array]

LOGICAL_AXES = (
    *("batch", "time", "layers", "vocab", "embed", "mlp", "heads", "head_dim", "lora"),
    *("neuron_in", "neuron", "delay"),
    *("channels", "patch", "glimpse"),
    *("user", "label"),
)

_REPLICATED: dict[str, MeshAxes] = dict.fromkeys(LOGICAL_AXES)
_DATA: dict[str, MeshAxes] = {**_REPLICATED, "batch": ("replica", "data"), "time": "sequence"}
_MODEL: dict[str, MeshAxes] = {
    "heads": "model",
    "mlp": "model",
    "vocab": "model",
    "neuron": "model",
}

PRESETS: dict[str, dict[str, MeshAxes]] = {
    # Every device holds all parameters and a slice of the batch.
    "dp": _DATA,
    # Parameters and optimiser state are split over the data axis too, gathered layer by layer.
    "fsdp": {**_DATA, "embed": "data", "neuron_in": "data"},
    # Heads, hidden units and vocabulary are split over the model axis.
    "tp": {**_DATA, **_MODEL},
    "fsdp_tp": {**_DATA, **_MODEL, "embed": "data", "neuron_in": "data"},
}

_reported: set[tuple[str, int, str]] = set()


def make_mesh(shape: Mapping[str, int] | None = None, devices: Any = None) -> Mesh:
    """Builds a mesh from {"axis": size}; one size may be -1 and takes the devices that are left.

    Args:
      shape: axis names and sizes, e.g. {"data": -1, "model": 2}. None: all devices on "data".
      devices: devices to use; all of them by default.
    """
    shape = dict(shape or {"data": -1})
    devices = list(jax.devices() if devices is None else devices)
    free = [name for name, size in shape.items() if size == -1]
    fixed = math.prod(size for size in shape.values() if size != -1)
    if len(free) > 1 or any(size < 1 and size != -1 for size in shape.values()):
        raise ValueError(f"mesh sizes must be positive, at most one may be -1, got {shape}")
    if len(devices) % fixed or (not free and fixed != len(devices)):
        raise ValueError(f"mesh {shape} does not fit {len(devices)} devices")
    if free:
        shape[free[0]] = len(devices) // fixed
    return jax.make_mesh(
        tuple(shape.values()), tuple(shape), (AxisType.Auto,) * len(shape), devices=devices
    )


def get_rules(rules: str | Rules) -> Rules:
    """Looks up a preset by name, or completes a given rule dict."""
    if isinstance(rules, str):
        if rules not in PRESETS:
            raise ValueError(f"unknown sharding preset {rules!r}, expected one of {list(PRESETS)}")
        return PRESETS[rules]
    unknown = set(rules) - set(LOGICAL_AXES)
    if unknown:
        raise ValueError(f"unknown logical axes {sorted(unknown)}, expected some of {LOGICAL_AXES}")
    return {**_REPLICATED, **rules}


def check_mesh(mesh: Mesh, rules: str | Rules) -> None:
    """Raises ValueError for a mesh axis that the rules never use: its devices would all do the
    same work."""
    used = {axis for rule in get_rules(rules).values() for axis in _names(rule)}
    idle = [name for name, size in mesh.shape.items() if size > 1 and name not in used]
    if idle:
        raise ValueError(
            f"mesh axes {idle} of {dict(mesh.shape)} are not used by the sharding {rules!r}, which"
            f" knows {sorted(used)}"
        )


def _names(rule: MeshAxes) -> tuple[str, ...]:
    return (rule,) if isinstance(rule, str) else tuple(rule or ())


def _present(rule: MeshAxes, mesh: Mesh) -> tuple[str, ...]:
    """The axes of a rule that this mesh has (a preset may name axes that are not in use)."""
    return tuple(name for name in _names(rule) if name in mesh.shape)


def partition_spec(
    axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh, rules: Rules
) -> P:
    """PartitionSpec of one array from its logical axes.

    A dimension whose size the mesh axes do not divide stays replicated (logged once). Two
    dimensions that map to the same mesh axis are an error, except that the second of two
    *identical* logical names stays replicated.
    """
    used: dict[str, str] = {}
    entries: list[MeshAxes] = []
    for name, size in zip(axes, shape, strict=True):
        if name is None:
            entries.append(None)
            continue
        if name not in rules:
            raise ValueError(f"no sharding rule for logical axis {name!r}, rules: {sorted(rules)}")
        mesh_axes = _present(rules[name], mesh)
        if mesh_axes and size % math.prod(mesh.shape[a] for a in mesh_axes):
            _report_uneven(name, size, mesh, mesh_axes)
            mesh_axes = ()
        clash = [a for a in mesh_axes if a in used]
        if clash:
            if used[clash[0]] != name:
                raise ValueError(
                    f"mesh axis {clash[0]!r} used for both {used[clash[0]]!r} and {name!r}"
                    f" in an array with axes {axes}"
                )
            mesh_axes = ()
        used.update(dict.fromkeys(mesh_axes, name))
        entries.append(mesh_axes if len(mesh_axes) > 1 else (mesh_axes[0] if mesh_axes else None))
    return P(*entries)


def _report_uneven(name: str, size: int, mesh: Mesh, mesh_axes: tuple[str, ...]) -> None:
    key = (name, size, str(mesh_axes))
    if key not in _reported:
        _reported.add(key)
        logging.getLogger(__name__).warning(
            "axis %s of size %d is not divisible by mesh axes %s: replicated",
            *(name, size, {a: mesh.shape[a] for a in mesh_axes}),
        )


def named_sharding(
    axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh, rules: Rules
) -> NamedSharding:
    """`partition_spec` on its mesh."""
    return NamedSharding(mesh, partition_spec(axes, shape, mesh, rules))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of a value that every device holds in full."""
    return NamedSharding(mesh, P())


def param_shardings(specs: PyTree, mesh: Mesh, rules: Rules) -> PyTree:
    """Shardings for a tree of `ParamSpec`."""
    return jax.tree.map(
        lambda s: named_sharding(s.axes, s.shape, mesh, rules), specs, is_leaf=params_lib.is_spec
    )


def _path(entries: tuple[Any, ...]) -> str:
    parts = []
    for e in entries:
        part = getattr(e, "key", getattr(e, "name", getattr(e, "idx", None)))
        parts.append(str(part))
    return "/".join(parts)


def suffix_shardings(tree: PyTree, specs: PyTree, mesh: Mesh, rules: Rules) -> PyTree:
    """Shardings for a tree that embeds copies of the parameter tree (optimiser state, EMA).

    A leaf whose path ends with the path of a parameter, and whose shape is the parameter's, gets
    that parameter's sharding; everything else is replicated.
    """
    by_path = {
        path: (spec.shape, named_sharding(spec.axes, spec.shape, mesh, rules))
        for path, spec in params_lib.flatten(specs)
    }

    def choose(entries: tuple[Any, ...], leaf: Any) -> NamedSharding:
        parts = _path(entries).split("/")
        for start in range(len(parts)):
            found = by_path.get("/".join(parts[start:]))
            if found and tuple(found[0]) == tuple(np.shape(leaf)):
                return found[1]
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(choose, tree)


def no_shard(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """The identity: what model code uses when there is no mesh."""
    del axes
    return x


def make_shard(mesh: Mesh, rules: Rules) -> Shard:
    """Returns `shard(x, logical_axes)`, which constrains an activation inside jit.

    Inside `shard_map` the axes that are split by hand have no say: x is one device's part of them.
    """

    def shard(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
        inside = jax.sharding.get_abstract_mesh()
        manual = frozenset(inside.manual_axes)
        if not manual:
            return jax.lax.with_sharding_constraint(x, named_sharding(axes, x.shape, mesh, rules))
        free = {
            name: tuple(axis for axis in _names(rule) if axis not in manual) or None
            for name, rule in rules.items()
        }
        spec = partition_spec(axes, x.shape, mesh, free)
        return jax.lax.with_sharding_constraint(x, NamedSharding(inside, spec))

    return shard

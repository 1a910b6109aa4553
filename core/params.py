# SPDX-License-Identifier: Apache-2.0
"""One description of every parameter, from which everything else follows.

A model describes its parameters as a nested dict of `ParamSpec`. From that single tree come
initial values (`init`), abstract shapes (`abstract`), shardings (`core.sharding.tree_shardings`),
counts and summaries. Paths are the dict keys joined by "/", e.g. "blocks/att/key".
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.orthogonal import random_orthonormal

PyTree = Any
Initializer = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """Shape, logical axes, initialiser and dtype of one parameter.

    Attributes:
      shape: array shape.
      axes: one logical axis name (or None) for each dimension; see `core.sharding`.
      init: function (key, shape, dtype) -> array.
      dtype: dtype name of the stored (master) value.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Initializer
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.axes):
            raise ValueError(f"one logical axis for each dimension: {self.shape=} {self.axes=}")
        if any(size < 1 for size in self.shape):
            raise ValueError(f"every dimension must be at least 1, got {self.shape=}")

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def is_spec(leaf: Any) -> bool:
    """True for the leaves of a specification tree."""
    return isinstance(leaf, ParamSpec)


# --- initialisers -----------------------------------------------------------------------------
# Frozen dataclasses rather than closures: equal settings compare equal, so a stack of layers can
# be drawn by one vmap.


@dataclasses.dataclass(frozen=True)
class Constant:
    """Every element equal to `value`."""

    value: float = 0.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        del key
        return jnp.full(shape, self.value, dtype)


zeros = Constant(0.0)
ones = Constant(1.0)


class Random:
    """An initialiser that scales a standard draw.

    Draws of one kind and shape are made together (`init`), because compiling each costs far more
    than computing it.
    """

    scale: float

    @staticmethod
    def draw(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Standard draws [len(keys), *shape], float32, one for each key."""
        raise NotImplementedError

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return (self.scale * self.draw(key[None], shape)[0]).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Uniform(Random):
    """Uniform on (-scale, scale)."""

    scale: float

    @staticmethod
    def draw(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """See `Random.draw`."""
        one = lambda key: jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)
        return jax.vmap(one)(keys)


@dataclasses.dataclass(frozen=True)
class Normal(Random):
    """Zero-mean Gaussian with standard deviation `scale`."""

    scale: float

    @staticmethod
    def draw(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """See `Random.draw`."""
        return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


@dataclasses.dataclass(frozen=True)
class Orthogonal(Random):
    """Random (semi-)orthogonal matrix times the gain `scale`."""

    scale: float = 1.0

    @staticmethod
    def draw(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """See `Random.draw`; shape [rows, cols]."""
        rows, cols = shape
        # One after the other: a whole stack at once would need several times its memory.
        draw = lambda key: random_orthonormal(key, max(shape), min(shape))
        q = jax.lax.map(draw, keys)
        return jnp.swapaxes(q, -1, -2) if rows < cols else q


@dataclasses.dataclass(frozen=True)
class Values:
    """Fixed values, computed beforehand (an array wrapped to compare by identity)."""

    values: np.ndarray = dataclasses.field(compare=False, hash=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Values) and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash(self.values.tobytes())

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        del key
        return jnp.asarray(self.values, dtype).reshape(shape)


@dataclasses.dataclass(frozen=True)
class _Stacked:
    """One initialiser for each slice of the leading axis."""

    inits: tuple[Initializer, ...]

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        keys = jax.random.split(key, shape[0])
        values = [init(k, shape[1:], dtype) for init, k in zip(self.inits, keys, strict=True)]
        return jnp.stack(values)


def stack(layers: Sequence[PyTree], axis_name: str = "layers") -> PyTree:
    """Stacks the specifications of equal-shaped layers along a new leading axis.

    Args:
      layers: one specification tree for each layer; structures, shapes and axes must agree,
        initialisers may differ (depth-dependent initialisation).
      axis_name: logical name of the new axis.
    """
    if not layers:
        raise ValueError("stack needs at least one layer, got an empty sequence")

    def merge(*specs: ParamSpec) -> ParamSpec:
        first = specs[0]
        for other in specs[1:]:
            if (other.shape, other.axes, other.dtype) != (first.shape, first.axes, first.dtype):
                raise ValueError(f"layers differ: {first} and {other}")
        return ParamSpec(
            shape=(len(specs), *first.shape),
            axes=(axis_name, *first.axes),
            init=_Stacked(tuple(s.init for s in specs)),
            dtype=first.dtype,
        )

    return jax.tree.map(merge, *layers, is_leaf=is_spec)


# --- paths ------------------------------------------------------------------------------------


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (path, leaf) of a nested dict in sorted order of keys, as jax orders them."""
    for name in sorted(tree):
        value = tree[name]
        path = f"{prefix}/{name}" if prefix else name
        if isinstance(value, Mapping):
            yield from flatten(value, path)
        else:
            yield path, value


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten`: {"a/b": x} -> {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for path, value in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def map_with_path(fn: Callable[[str, Any], Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Applies `fn(path, leaf)` to every leaf of a nested dict."""
    return unflatten({path: fn(path, leaf) for path, leaf in flatten(tree)})


# --- what follows from a specification tree ---------------------------------------------------


def _path_key(key: jax.Array, path: str) -> jax.Array:
    # A stable hash of the path: adding a parameter does not reshuffle the others.
    return jax.random.fold_in(key, zlib.crc32(path.encode()))


def init(specs: PyTree, key: jax.Array) -> PyTree:
    """Draws initial values for a specification tree (jit-able; a pure function of `key`)."""
    values: dict[str, Any] = {}
    families: dict[tuple[type[Random], tuple[int, ...]], list[str]] = {}
    by_path = dict(flatten(specs))
    for path, spec in by_path.items():
        inits, shape = _slices(spec)
        if isinstance(inits[0], Random):
            families.setdefault((type(inits[0]), shape), []).append(path)
        elif isinstance(inits[0], Constant | Values):
            rows = [np.broadcast_to(_fixed(i), (math.prod(shape),)) for i in inits]
            values[path] = jnp.asarray(np.reshape(rows, spec.shape), spec.dtype)
        else:
            values[path] = spec.init(_path_key(key, path), spec.shape, jnp.dtype(spec.dtype))
    for (kind, shape), paths in families.items():
        values.update(_draw_family(kind, shape, {p: by_path[p] for p in paths}, key))
    return unflatten(values)


def _slices(spec: ParamSpec) -> tuple[tuple[Initializer, ...], tuple[int, ...]]:
    """The initialisers of a parameter's slices, and the shape of one slice."""
    if isinstance(spec.init, _Stacked):
        return spec.init.inits, spec.shape[1:]
    return (spec.init,), spec.shape


def _fixed(init: Initializer) -> np.ndarray:
    assert isinstance(init, Constant | Values)
    return np.asarray(init.value) if isinstance(init, Constant) else np.ravel(init.values)


def _draw_family(
    kind: type[Random], shape: tuple[int, ...], specs: Mapping[str, ParamSpec], key: jax.Array
) -> dict[str, jax.Array]:
    """Values of all parameters whose slices have one kind of draw and one shape."""
    inits = {path: _slices(spec)[0] for path, spec in specs.items()}
    keys = [jax.random.split(_path_key(key, path), len(i)) for path, i in inits.items()]
    drawn = kind.draw(jnp.concatenate(keys), shape)
    values, start = {}, 0
    for path, spec in specs.items():
        scales = np.array([i.scale for i in inits[path]], np.float32)  # type: ignore[attr-defined]
        part = drawn[start : start + len(scales)] * scales.reshape(-1, *(1,) * len(shape))
        values[path] = part.reshape(spec.shape).astype(spec.dtype)
        start += len(scales)
    return values


def abstract(specs: PyTree) -> PyTree:
    """The tree of `jax.ShapeDtypeStruct`, without computing anything."""
    return jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, jnp.dtype(s.dtype)), specs, is_leaf=is_spec
    )


def count(specs: PyTree) -> int:
    """Total number of parameters of a specification (or array) tree."""
    leaves = jax.tree.leaves(specs, is_leaf=is_spec)
    return sum(math.prod(leaf.shape) for leaf in leaves)


def summary(specs: Mapping[str, Any]) -> str:
    """A readable table: path, shape, logical axes, number of elements."""
    rows = [
        (path, "x".join(map(str, s.shape)), ",".join(str(a) for a in s.axes), f"{s.size:,}")
        for path, s in flatten(specs)
    ]
    rows.append(("total", "", "", f"{count(specs):,}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}"
        for a, b, c, d in rows
    )


def check(params: PyTree, specs: PyTree, what: str = "parameters") -> None:
    """Raises ValueError naming every leaf of `params` that disagrees with `specs`."""
    expected = {p: tuple(s.shape) for p, s in flatten(specs)}
    found = {p: tuple(x.shape) for p, x in flatten(params)}
    problems = [f"missing {p} {expected[p]}" for p in expected.keys() - found.keys()]
    problems += [f"unknown {p} {found[p]}" for p in found.keys() - expected.keys()]
    problems += [
        f"{p}: expected {expected[p]}, found {found[p]}"
        for p in expected.keys() & found.keys()
        if expected[p] != found[p]
    ]
    if problems:
        raise ValueError(f"{what} do not fit the config: " + "; ".join(sorted(problems)))

# SPDX-License-Identifier: Apache-2.0
"""Adapters: what fine-tuning leaves behind, as small files that any base of that shape takes.

    adapter = load_adapter("shakespeare.safetensors")        # or an official .pth
    params = adapter.apply(config, base)                     # base arrays are shared, not copied
    state = adapter.initial_state(config, batch_size=1)
    logits, state = rwkvjax.apply(params, config, tokens, state)

Tensors keep official names and layouts, so files go to and come from the official tools:

  state   blocks.i.att.time_state [H, N value, N key]     tuned initial state of layer i
  lora    blocks.i.att.key.lora_A [r, in], .lora_B [out, r], ...  and, for PiSSA, .init_lora_A and
          .init_lora_B; every other tensor takes the place of the one of that name in the base

Our safetensors hold the factor of LoRA's product (alpha / r) in their metadata; official files do
not hold alpha at all, it has to be given.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import files
from core import params as params_lib
from rwkvjax import model
from rwkvjax.config import Config
from rwkvjax.finetune import lowrank
from rwkvjax.weights import names, pth, safetensors_file
from rwkvjax.weights.load import open_weights, tuned_state
from rwkvjax.weights.params import sizes_of_config
from rwkvjax.weights.source import WeightsError, all_finite, in_memory

FORMAT = "rwkvjax-adapter-1"
KINDS = ("state", "lora")

_STATE = ".att.time_state"
# Ending of a tensor -> (which pair, which factor).
_FACTORS = {
    ".lora_A": ("trained", "down"),
    ".lora_B": ("trained", "up"),
    ".init_lora_A": ("initial", "down"),
    ".init_lora_B": ("initial", "up"),
}

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A tuned initial state, or a LoRA or PiSSA change of the weights.

    Attributes:
      kind: "state" or "lora".
      tensors: official name -> array.
      scale: factor of LoRA's products, alpha / r; 1 for PiSSA.
    """

    kind: str
    tensors: Mapping[str, np.ndarray]
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {self.kind!r}")
        if not self.tensors:
            raise ValueError("an adapter without tensors")

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(x.nbytes for x in self.tensors.values())

    def apply(self, cfg: Config, params: Mapping[str, Any], *, merge: bool = False) -> PyTree:
        """The base with this adapter, for `rwkvjax.apply` and `step`.

        Args:
          cfg: the base's configuration.
          params: the base; its arrays are not changed, and shared where the adapter has no say.
          merge: add LoRA's products to the matrices (new arrays) instead of computing beside them.

        Returns:
          Parameters; of a "state" adapter those of the base, see `initial_state`.

        Raises:
          WeightsError: the adapter does not fit the base.
        """
        if self.kind == "state":
            self.initial_state(cfg, 1)
            return params
        trained, initial = lora_trees(cfg, self.tensors, params)
        scale = self.scale
        if initial:
            trained, scale = lowrank.difference(trained, initial), 1.0
        return (lowrank.merge if merge else lowrank.attach)(params, trained, scale)

    def initial_state(self, cfg: Config, batch_size: int) -> Any:
        """The state before the first token of `batch_size` sequences: tuned, or zeros."""
        if self.kind != "state":
            return model.init_state(cfg, batch_size)
        return tuned_state(in_memory(self.tensors), cfg, batch_size)


# --- between trees and official tensors -----------------------------------------------------------


def state_to_official(cfg: Config, states: Any) -> dict[str, np.ndarray]:
    """Tuned states [L, H, N, N] in the layout of `State.wkv` -> official tensors.

    The official layout is [value, key] in every version; ours is [key, value] but in version 7.
    """
    states = np.asarray(states, np.float32)
    expected = (cfg.layers, cfg.heads, cfg.head_size, cfg.head_size)
    if states.shape != expected:
        raise ValueError(f"tuned states must have shape {expected}, got {states.shape}")
    if cfg.version != "7":
        states = states.swapaxes(-1, -2)
    return {f"blocks.{i}{_STATE}": np.array(s, order="C") for i, s in enumerate(states)}


def lora_to_official(
    cfg: Config, trained: Mapping[str, Any], initial: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Trees of `lowrank` -> official tensors."""
    tensors: dict[str, np.ndarray] = {}
    for prefix, tree in (("", trained), ("init_", initial or {})):
        for path, pair in lowrank.factors(tree):
            place = path.removeprefix("blocks/").replace("/", ".")
            for i, (down, up) in enumerate(zip(*map(np.asarray, pair.values()), strict=True)):
                tensors[f"blocks.{i}.{place}.{prefix}lora_A"] = np.array(down.T, order="C")
                tensors[f"blocks.{i}.{place}.{prefix}lora_B"] = np.array(up.T, order="C")
    full = dict(params_lib.flatten(trained.get("full", {})))
    sizes = sizes_of_config(cfg)
    for name, entry, path, layer in _listing(cfg):
        if path in full:
            array = np.asarray(full[path])
            array = array if layer is None else array[layer]
            array = array.T if entry.transposed else array
            tensors[name] = np.array(array, order="C").reshape(entry.official_shape(sizes))
    return tensors


def _listing(cfg: Config) -> Any:
    """(official name, entry, our path, layer or None) of every tensor of a model."""
    for name, entry, layer in names.schema(cfg.version).listing(cfg.layers):
        path = "/".join(entry.path if layer is None else ("blocks", *entry.path))
        yield name, entry, path, layer


def lora_trees(
    cfg: Config, tensors: Mapping[str, np.ndarray], params: Mapping[str, Any]
) -> tuple[PyTree, PyTree]:
    """Official tensors -> (trained tree, initial tree or {}), see `lowrank`.

    Layers that a file leaves out keep the base: zero factors, and the base's own values.
    """
    base = dict(params_lib.flatten(params))
    rest = dict(tensors)
    trees: dict[str, dict[str, Any]] = {"trained": {}, "initial": {}}
    for path in lowrank.target_paths(cfg):
        shape = tuple(base[path].shape)[1:]
        place = path.removeprefix("blocks/").replace("/", ".")
        for ending, (kind, factor) in _FACTORS.items():
            found = {i: rest.pop(f"blocks.{i}.{place}{ending}", None) for i in range(cfg.layers)}
            stack = _stack_factor(f"blocks.i.{place}{ending}", found, shape, factor)
            if stack is not None:
                trees[kind][f"lora/{path}/{factor}"] = stack
    for tree in trees.values():
        _check_pairs(tree)
    trees["trained"] |= _replaced(cfg, rest, base)
    if rest:
        raise WeightsError(f"the adapter has tensors that the base has not: {sorted(rest)[:3]}")
    lacking = set(trees["initial"]) ^ {k for k in trees["trained"] if k.startswith("lora/")}
    if trees["initial"] and lacking:
        raise WeightsError(f"PiSSA needs initial and trained factors of {sorted(lacking)[:2]}")
    trained, initial = (params_lib.unflatten(trees[k]) for k in ("trained", "initial"))
    return trained, initial


def _stack_factor(
    name: str, found: Mapping[int, np.ndarray | None], shape: tuple[int, ...], factor: str
) -> jax.Array | None:
    """Transposed factors of all layers, [L, I, R] or [L, R, O]; None if there are none."""
    given = {i: x for i, x in found.items() if x is not None}
    if not given:
        return None
    rows, columns = shape
    ranks = {x.shape[0] if factor == "down" else x.shape[-1] for x in given.values()}
    (rank, *others) = ranks
    one = (rank, rows) if factor == "down" else (columns, rank)
    if others or any(x.shape != one for x in given.values()):
        got = sorted({x.shape for x in given.values()})
        raise WeightsError(f"{name}: expected shape {one} in every layer, got {got}")
    missing = np.zeros(one, np.float32)
    stacked = np.stack([given.get(i, missing).T.astype(np.float32) for i in found])
    return jnp.asarray(stacked)


def _check_pairs(tree: Mapping[str, Any]) -> None:
    for place, leaf in tree.items():
        path, factor = place.rsplit("/", 1)
        partner = tree.get(f"{path}/{'up' if factor == 'down' else 'down'}")
        if partner is None:
            raise WeightsError(f"{path}: lora_A and lora_B go together, only one of them is there")
        if factor == "down" and leaf.shape[-1] != partner.shape[-2]:
            raise WeightsError(f"{path}: ranks {leaf.shape[-1]} and {partner.shape[-2]} differ")


def _replaced(
    cfg: Config, rest: dict[str, np.ndarray], base: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """Takes the tensors that replace the base's out of `rest`: "full/" path -> array."""
    values: dict[str, np.ndarray] = {}
    sizes = sizes_of_config(cfg)
    for name, entry, path, layer in _listing(cfg):
        if name not in rest:
            continue
        array, shape = rest.pop(name), entry.official_shape(sizes)
        if array.size != np.prod(shape):
            raise WeightsError(f"{name}: expected shape {shape}, got {array.shape}")
        array = array.reshape(shape)
        ours = (array.T if entry.transposed else array).reshape(entry.our_shape(sizes))
        key = f"full/{path}"
        if key not in values:
            values[key] = np.array(base[path], np.float32)
        values[key][... if layer is None else layer] = ours.astype(np.float32)
    return {key: jnp.asarray(value) for key, value in values.items()}


# --- files ----------------------------------------------------------------------------------------


def save_adapter(path: str | os.PathLike[str], adapter: Adapter) -> None:
    """Writes an adapter atomically: `.pth` for the official tools, else safetensors.

    A `.pth` holds the tensors alone; of PiSSA, the initial factors go to `init_NAME.pth` beside it,
    as the official tools want them.
    """
    path = Path(path)
    if path.suffix != ".pth":
        metadata = {"format": FORMAT, "kind": adapter.kind, "scale": repr(float(adapter.scale))}
        with files.atomic_write(path) as file:
            safetensors_file.write_safetensors(file, in_memory(adapter.tensors), metadata)
        return
    initial = {n: x for n, x in adapter.tensors.items() if ".init_lora_" in n}
    trained = {n: x for n, x in adapter.tensors.items() if n not in initial}
    for place, tensors in ((path, trained), (path.with_name(f"init_{path.name}"), initial)):
        if tensors:
            with files.atomic_write(place) as file:
                pth.write_pth(file, in_memory(tensors))


def load_adapter(
    path: str | os.PathLike[str],
    *,
    alpha: float | None = None,
    initial: str | os.PathLike[str] | None = None,
) -> Adapter:
    """Reads an adapter, ours or of the official tools (`.pth` or safetensors).

    Args:
      path: the file.
      alpha: LoRA's alpha, which official files do not hold; not for PiSSA and states.
      initial: official PiSSA keeps its initial factors in another file; by default `init_NAME`
        beside the first one is taken if it exists.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      WeightsError: damaged, hostile, or not an adapter.
      ValueError: a LoRA without known alpha.
    """
    path = Path(path)
    tensors = _read(path)
    beside = path.with_name(f"init_{path.name}")
    if initial is not None or (path.suffix == ".pth" and beside.is_file()):
        tensors |= _read(Path(initial) if initial is not None else beside)
    states = [name for name in tensors if name.endswith(_STATE)]
    if states:
        if len(states) != len(tensors):
            odd = sorted(set(tensors) - set(states))[:3]
            raise WeightsError(f"{path}: a state adapter holds states alone, found also {odd}")
        return Adapter("state", tensors)
    ranks = [x.shape[0] for name, x in tensors.items() if name.endswith(".lora_A")]
    if not ranks:
        raise WeightsError(
            f"{path} is not an adapter: expected tensors named *.lora_A and *.lora_B, or *{_STATE};"
            f" found {sorted(tensors)[:3]}"
        )
    if any(".init_lora_" in name for name in tensors):
        return Adapter("lora", tensors)
    return Adapter("lora", tensors, _scale(path, ranks, alpha))


def _read(path: Path) -> dict[str, np.ndarray]:
    opened = open_weights(path)
    arrays = {n: t.read() for n, t in {**opened.tensors, **opened.time_state}.items()}
    broken = [name for name, array in arrays.items() if not all_finite(array)]
    if broken:
        raise WeightsError(f"{path}: {broken[0]} holds NaN or infinite values")
    return arrays


def _scale(path: Path, ranks: list[int], alpha: float | None) -> float:
    stored: dict[str, str] = {}
    if open_weights(path).format == "safetensors":
        stored = safetensors_file.read_metadata(path)
    if alpha is not None:
        if len(set(ranks)) != 1:
            raise ValueError(f"{path}: alpha / r needs one rank, found {sorted(set(ranks))}")
        return alpha / ranks[0]
    try:
        scale = float(stored["scale"])
    except (KeyError, ValueError):
        raise ValueError(
            f"{path} does not say LoRA's alpha, as usual for official files: give alpha"
        ) from None
    if not np.isfinite(scale):
        raise WeightsError(f"{path}: the scale {scale} in its metadata is not finite")
    return scale

# SPDX-License-Identifier: Apache-2.0
"""From the `finetune` block of a configuration to a base, a task, and the files of the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from core import config as config_lib
from core import params as params_lib
from core import random, sharding
from rwkvjax import checkpoints, model, quantization
from rwkvjax.config import Config
from rwkvjax.finetune import lowrank
from rwkvjax.finetune.adapter import (
    Adapter,
    load_adapter,
    lora_to_official,
    lora_trees,
    save_adapter,
)
from rwkvjax.finetune.config import FinetuneConfig
from rwkvjax.finetune.task import AdapterTask
from rwkvjax.matrices import is_structured

# What a run may choose for itself; everything else is a property of the base.
_FREE = ("dtype", "remat", "wkv", "wkv_chunk")
_INITIAL = "init_pissa.safetensors"

PyTree = Any


def model_of_base(how: FinetuneConfig, given: Mapping[str, Any], tokenizer: str) -> Config:
    """The base's configuration with the run's choices of dtype, remat and recurrence.

    Args:
      how: the `finetune` block.
      given: keys of the `model` block that are set.
      tokenizer: that of the data, which must be the base's where the base says.

    Raises:
      ConfigError: no base, a key that contradicts it, or another tokenizer.
    """
    if not how.base:
        raise config_lib.ConfigError(
            f"config.finetune.base is required for method {how.method!r}: a run or weights"
        )
    cfg, meta = checkpoints.load_config(how.base)
    stored = meta.get("config", {}).get("data", {}).get("tokenizer", "")
    if stored and stored != tokenizer:
        raise config_lib.ConfigError(
            f"{how.base} was trained with the tokenizer {stored!r}, config.data.tokenizer is"
            f" {tokenizer!r}"
        )
    chosen = {name: value for name, value in given.items() if name in _FREE}
    for name, value in given.items():
        if name not in _FREE and value != getattr(cfg, name, value):
            raise config_lib.ConfigError(
                f"config.model.{name} is {value!r}, but the base {how.base} has"
                f" {getattr(cfg, name)!r}; leave it out"
            )
    merged = {**dataclasses.asdict(cfg), **chosen}
    return config_lib.build(Config, merged, "config.model")


def load_base(how: FinetuneConfig, cfg: Config, mesh: Any, rules: Any) -> PyTree:
    """The base's parameters, cast, quantised and placed on the mesh."""
    _, params = checkpoints.load(how.base, how.base_dtype or None)
    if how.method == "full":
        if any(is_structured(leaf) for _, leaf in params_lib.flatten(params)):
            raise ValueError(f"{how.base} is quantised; full training needs the weights themselves")
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    if how.quantize:
        chosen = quantization.QuantizeConfig(
            how.quantize, how.quantize_group, head=False, embedding=False
        )
        params = quantization.quantize(params, chosen)
    return place(params, cfg, mesh, rules)


def place(params: PyTree, cfg: Config, mesh: Any, rules: Any) -> PyTree:
    """Parameters on the devices of the mesh: by their axes, quantised ones on each."""
    specs = model.param_specs(cfg)
    return jax.device_put(params, sharding.suffix_shardings(params, specs, mesh, rules))


def adapter_task(
    how: FinetuneConfig,
    cfg: Config,
    context: int,
    workdir: str | Path,
    devices: Any,
    rules: Any,
    seed: int,
    **options: Any,
) -> tuple[AdapterTask, PyTree]:
    """(task, initial parameters of the adapter); `devices` is the mesh that the base lies on.

    PiSSA's first factors are kept in the workdir, so that a resumed run subtracts the very same
    parts from the base.
    """
    base = load_base(how, cfg, devices, rules)
    initial, rest = None, base
    if how.method == "pissa":
        initial = _initial_factors(how, cfg, base, Path(workdir) / _INITIAL)
        rest = place(lowrank.residual(base, initial), cfg, devices, rules)
    task = AdapterTask(cfg, context, how, rest, initial=initial, **options)
    return task, first_parameters(task, base, seed)


def _initial_factors(how: FinetuneConfig, cfg: Config, base: PyTree, path: Path) -> PyTree:
    if path.is_file():
        return lora_trees(cfg, load_adapter(path, alpha=1.0).tensors, base)[0]
    initial = lowrank.principal_factors(
        base, cfg, how.rank, how.parts, iterations=how.svd_iterations
    )
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_adapter(path, Adapter("lora", lora_to_official(cfg, initial)))
    return initial


def first_parameters(task: AdapterTask, base: PyTree, seed: int) -> PyTree:
    """Where an adapter's training starts: as the base computes.

    LoRA's A is drawn and B zero, PiSSA has its principal parts, what is trained in full has the
    base's values, a state is zero.
    """
    key = random.stream(seed, "params")
    leaves = dict(params_lib.flatten(params_lib.init(task.param_specs(), key)))
    leaves |= dict(params_lib.flatten(task.initial or {}))
    values = dict(params_lib.flatten(base))
    for path in leaves:
        if path.startswith("full/"):
            leaves[path] = jnp.asarray(values[path.removeprefix("full/")], jnp.float32)
    return params_lib.unflatten(leaves)


def export(task: AdapterTask, params: PyTree, out: Path) -> Adapter:
    """Writes what was trained: `adapter.safetensors`, and `adapter.pth` for the official tools."""
    adapter = task.adapter(params)
    save_adapter(out / "adapter.safetensors", adapter)
    save_adapter(out / "adapter.pth", adapter)
    return adapter

# SPDX-License-Identifier: Apache-2.0
"""A training step with time split over devices: difference, traffic and memory of each device.

    python -m benchmarks.context_parallel [--version=6 --dim=256 --layers=4 --contexts=1024,4096]

Runs on virtual CPU devices, which share the cores of this machine: the seconds say what the split
costs in work, not what it gains; the bytes (read off the compiled program) hold for any device.
For each length: one device, then the time axis over 2, 4 and 8 devices.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from typing import Any

if __name__ == "__main__":  # before jax starts; a program that imports this file has its own
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    ).strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from absl import flags

from benchmarks import collectives
from core import cli, sharding
from rwkvjax import model
from rwkvjax.config import Config
from rwkvjax.task import LanguageModelTask

_FLAGS = flags.FlagValues()
flags.DEFINE_enum("version", "6", ["4", "5.2", "6", "7"], "Of the model.", flag_values=_FLAGS)
flags.DEFINE_integer("dim", 256, "Model width.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("layers", 4, "Blocks.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("batch", 1, "Sequences.", 1, flag_values=_FLAGS)
flags.DEFINE_list("contexts", ["1024", "4096"], "Tokens of a sequence.", flag_values=_FLAGS)
flags.DEFINE_list("devices", ["1", "2", "4", "8"], "Sizes of the split.", flag_values=_FLAGS)
flags.DEFINE_integer("repeats", 3, "Timed runs of each.", 1, flag_values=_FLAGS)


def step(cfg: Config, context: int, batch: int, devices: int) -> tuple[Any, tuple]:
    """(compiled loss and gradients, their arguments)."""
    mesh = sharding.make_mesh({"sequence": devices}, jax.devices()[:devices])
    task = LanguageModelTask(cfg, context, mesh=mesh)
    tokens = np.random.default_rng(0).integers(0, cfg.vocab_size, (batch, context + 1))
    arrays = {
        "tokens": tokens.astype(np.int32),
        "reset": np.zeros(tokens.shape, bool),
        "loss_mask": np.ones((batch, context), np.float32),
    }
    params = jax.jit(lambda: model.init(jax.random.key(0), cfg))()
    args = (params, (), arrays, jax.random.key(0))
    args = jax.device_put(args, sharding.replicated(mesh))
    run = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    return run.lower(*args).compile(), args


def measure(cfg: Config, context: int, batch: int, devices: int, repeats: int) -> dict[str, Any]:
    """One row of the table, with the gradients under "grads"."""
    compiled, args = step(cfg, context, batch, devices)
    (loss, _), grads = jax.block_until_ready(compiled(*args))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        seconds.append(time.perf_counter() - start)
    memory = compiled.memory_analysis()
    return {
        "benchmark": "context_parallel",
        "version": cfg.version,
        "context": context,
        "devices": devices,
        "seconds": round(statistics.median(seconds), 4),
        "traffic_bytes": round(sum(collectives.traffic(compiled.as_text(), devices).values())),
        "memory_bytes": memory.temp_size_in_bytes,
        "loss": float(loss),
        "grads": jax.device_get(grads),
    }


def main(values: flags.FlagValues) -> None:
    """Prints a JSON line for each row, then the table."""
    cfg = Config(version=values.version, vocab_size=256, dim=values.dim, layers=values.layers)
    rows = []
    for context in map(int, values.contexts):
        reference = None
        for devices in map(int, values.devices):
            row = measure(cfg, context, values.batch, devices, values.repeats)
            grads = row.pop("grads")
            reference = grads if reference is None else reference
            pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(reference), strict=True)
            row["gradient_difference"] = max(float(np.abs(a - b).max()) for a, b in pairs)
            rows.append(row)
            print(json.dumps(row), flush=True)
    print("\n| version | T | devices | s/step | memory a device | traffic a device | gradient |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['version']} | {row['context']} | {row['devices']} | {row['seconds']:.3f}"
            f" | {row['memory_bytes'] / 1e6:.1f} MB | {row['traffic_bytes'] / 1e6:.2f} MB"
            f" | {row['gradient_difference']:.1e} |"
        )


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")

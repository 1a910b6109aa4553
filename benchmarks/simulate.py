# SPDX-License-Identifier: Apache-2.0
"""Memory, traffic and a predicted time of a training step of large models on many devices.

    python -m benchmarks.simulate --sizes=finch-7b,finch-14b --devices=8,32,256
    python -m benchmarks.simulate --target=tpu      (needs the wheel `libtpu`, no TPU)

Nothing is run and no array is made. **Compiled**: the step of `core.train_step` (loss, gradients,
AdamW in float32, activations in bfloat16, full rematerialisation) on abstract arrays, partitioned
for a mesh, either for virtual CPU devices or, ahead of time, for TPU v5p slices; from the compiled
program come the bytes that each device needs and the bytes that its collectives send (loops
counted). **Modelled**: seconds, by a roofline of data-sheet peaks: operations of `rwkvjax.flops`
and the forward pass that is recomputed, over the peak rate; weights, optimiser and activations over
the memory bandwidth; the bytes sent over the interconnect. Given are their maximum (all overlap)
and their sum (nothing overlaps), both at data-sheet peaks that no program attains.

The CPU compiler keeps some bfloat16 arrays in float32, so its memory is an upper bound.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import time
from typing import Any

if __name__ == "__main__":  # before jax starts; who imports this file has devices of its own
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=256"
    ).strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import collectives
from core import cli, optim, sharding, train_step
from core import params as params_lib
from core.task import TrainConfig
from rwkvjax import flops
from rwkvjax.config import Config, get_config
from rwkvjax.task import LanguageModelTask, TaskConfig

_FLAGS = flags.FlagValues()
flags.DEFINE_list("sizes", ["finch-7b", "finch-14b"], "Published sizes.", flag_values=_FLAGS)
flags.DEFINE_list("devices", ["8", "32", "256"], "Numbers of devices.", flag_values=_FLAGS)
flags.DEFINE_enum("target", "cpu", ["cpu", "tpu"], "Compiler: see above.", flag_values=_FLAGS)
flags.DEFINE_integer("model", 1, "Devices of the axis 'model'.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("batch", 1, "Windows for each device of 'data'.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("context", 4096, "Tokens of a window.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("loss_slice", 512, "Tokens whose logits live.", 0, flag_values=_FLAGS)
flags.DEFINE_integer("layers", 0, "Other number of layers; 0 keeps it.", 0, flag_values=_FLAGS)


@dataclasses.dataclass(frozen=True)
class Machine:
    """Data-sheet figures of one device: FLOP/s in bfloat16, bytes, bytes/s of memory, and bytes/s
    that it sends to `near` devices of its group or, beyond, to all others."""

    name: str
    flops: float
    memory: float
    bandwidth: float
    near: int
    near_bandwidth: float
    far_bandwidth: float


MACHINES = (
    # NVIDIA H200 SXM: 989 TFLOP/s dense, 141 GB, 4.8 TB/s; NVLink 900 GB/s both ways together, so
    # 450 out, among 8. Beyond them eight 400 Gb/s adapters a machine: of the eight GPUs of a ring
    # one sends out of the machine, and eight rings share the bytes, so that each GPU's bytes
    # leave at the rate of all adapters together.
    Machine("H200", 989e12, 141e9, 4.8e12, 8, 450e9, 400e9),
    # TPU v5p: 459 TFLOP/s, 95 GB, 2.765 TB/s; 4,800 Gb/s between chips, in both directions and over
    # six links together: 300 GB/s out, throughout a pod.
    Machine("TPU v5p", 459e12, 95e9, 2.765e12, 8960, 300e9, 300e9),
)

_SLICES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8"} | {
    256: "4x8x8",
    512: "8x8x8",
}
# Arrays [B, T, D] that a block reads or writes, forward; the backward pass moves twice as many,
# and recomputation the forward ones again. See benchmarks/step_memory.py.
_BLOCK_ARRAYS = 40


def devices_of(target: str, count: int) -> list[Any]:
    """Devices to compile for.

    Raises:
      ValueError: there are not so many, or there is no slice of that size.
      ImportError: the TPU compiler is not installed.
    """
    if target == "cpu":
        found = jax.devices("cpu")
        if count > len(found):
            raise ValueError(f"at most {len(found)} virtual devices, got {count}")
        return found[:count]
    if count not in _SLICES:
        raise ValueError(f"TPU v5p slices have {sorted(_SLICES)} chips, got {count}")
    from jax.experimental import topologies

    if importlib.util.find_spec("libtpu") is None:
        raise ImportError("compiling for TPU: pip install libtpu")
    name = f"v5p:{_SLICES[count]}"
    return list(topologies.get_topology_desc(name, platform="tpu").devices)


def compile_step(cfg: Config, mesh: Any, values: flags.FlagValues) -> tuple[Any, float]:
    """(compiled training step, seconds of compilation) on abstract arrays."""
    preset = "fsdp_tp" if mesh.shape["model"] > 1 else "fsdp"
    rules = sharding.get_rules(preset)
    task = LanguageModelTask(
        cfg,
        values.context,
        TaskConfig(loss_slice=values.loss_slice),
        shard=sharding.make_shard(mesh, rules),
        mesh=mesh,
    )
    rows = values.batch * mesh.shape["data"]
    train = TrainConfig(steps=100, batch_size=rows, sharding=preset)
    tx = optim.adamw(optim.AdamWConfig(), task.param_specs(), 100)
    # Some initialisers draw on the host, where models of this size have no room.
    params = params_lib.abstract(task.param_specs())
    state = jax.eval_shape(lambda p: train_step.init_state(task, tx, train, p), params)
    places = train_step.state_shardings(task, state, mesh, rules)
    given = lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place)
    split = NamedSharding(mesh, P("data"))
    batch = {
        "tokens": jax.ShapeDtypeStruct((rows, values.context + 1), jnp.int32, sharding=split),
        "reset": jax.ShapeDtypeStruct((rows, values.context + 1), bool, sharding=split),
        "loss_mask": jax.ShapeDtypeStruct((rows, values.context), jnp.float32, sharding=split),
    }
    step = jax.jit(
        train_step.make_train_step(task, tx, train),
        donate_argnums=0,
        out_shardings=(places, sharding.replicated(mesh)),
    )
    clock = time.perf_counter()
    compiled = step.lower(jax.tree.map(given, state, places), batch).compile()
    return compiled, time.perf_counter() - clock


def seconds(cfg: Config, row: dict[str, Any], machine: Machine) -> dict[str, float]:
    """Roofline of one step on one device: parts, bounds, and use of the peak rate (MFU)."""
    tokens = row["tokens"] / row["devices"]
    useful = flops.train_flops_per_token(cfg) * tokens
    done = useful * 4 / 3  # the forward pass runs again
    count = params_lib.count(LanguageModelTask(cfg, 1).param_specs())
    weights = 3 * 2.0 * count / row["model"]  # three passes over gathered bfloat16 weights
    optimiser = 7 * 4.0 * count / row["devices"]  # read w, m, v, g; write w, m, v
    moved = 2.0 * _BLOCK_ARRAYS * cfg.layers * tokens * cfg.dim * 4
    near = row["devices"] <= machine.near
    rate = machine.near_bandwidth if near else machine.far_bandwidth
    parts = {
        "compute": done / machine.flops,
        "memory": (weights + optimiser + moved) / machine.bandwidth,
        "network": row["sent"] / rate,
    }
    slowest, fastest = sum(parts.values()), max(parts.values())
    return parts | {
        "in turn": slowest,
        "overlapped": fastest,
        "mfu from": useful / slowest / machine.flops,
        "mfu to": useful / fastest / machine.flops,
    }


def check(count: int, values: flags.FlagValues) -> None:
    """Refuses what cannot be compiled for; see `devices_of`."""
    if count % values.model:
        raise ValueError(f"--model={values.model} does not divide {count} devices")
    devices_of(values.target, count)


def simulate(size: str, count: int, values: flags.FlagValues) -> dict[str, Any]:
    """One row: what the compiler plans, and what the machines would take."""
    cfg = dataclasses.replace(get_config(size), dtype="bfloat16", remat="full")
    if values.layers:
        cfg = dataclasses.replace(cfg, layers=values.layers)
    mesh = sharding.make_mesh(
        {"data": count // values.model, "model": values.model}, devices_of(values.target, count)
    )
    compiled, clock = compile_step(cfg, mesh, values)
    memory = compiled.memory_analysis()
    sent = collectives.traffic(compiled.as_text(), count)
    row: dict[str, Any] = {
        **{"benchmark": "simulate", "size": size, "target": values.target, "devices": count},
        **{"model": values.model, "layers": cfg.layers, "compile_s": round(clock, 1)},
        "tokens": values.batch * mesh.shape["data"] * values.context,
        "state_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        "sent": sum(sent.values()),
        "sent_by_kind": {k: v for k, v in sent.items() if v},
    }
    for machine in MACHINES:
        row[machine.name] = seconds(cfg, row, machine)
        row[machine.name]["fits"] = row["bytes"] < machine.memory
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for a reader."""
    heads = [f"{m.name}: s/step | MFU" for m in MACHINES]
    lines = [
        f"| model | devices | state GB | + temporary GB | sent GB | {' | '.join(heads)} |",
        "|---" * (5 + 2 * len(MACHINES)) + "|",
    ]
    for row in rows:
        mesh = f"{row['devices']}" + (f" ({row['model']} model)" if row["model"] > 1 else "")
        cells = [row["size"], mesh]
        cells += [f"{row[k] / 1e9:.1f}" for k in ("state_bytes", "temporary_bytes", "sent")]
        for machine in MACHINES:
            it = row[machine.name]
            fits = "" if it["fits"] else " (does not fit)"
            cells.append(f"{it['overlapped']:.2f} to {it['in turn']:.2f}{fits}")
            cells.append(f"{100 * it['mfu from']:.0f} to {100 * it['mfu to']:.0f} %")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(values: flags.FlagValues) -> None:
    """Prints a JSON line for each row, then the table."""
    rows = []
    for size in values.sizes:
        for count in values.devices:
            with cli.explain():
                check(int(count), values)
            rows.append(simulate(size, int(count), values))
            print(json.dumps(rows[-1]), flush=True)
    print("\n" + table(rows))


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")

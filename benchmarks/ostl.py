# SPDX-License-Identifier: Apache-2.0
"""Online learning against back-propagation through time: memory and time.

    python -m benchmarks.ostl [--parts=memory,resident,time] [--output=ostl.jsonl]

memory    compiled temporaries of the gradient of T steps, T from 100 to 100,000 (nothing is run)
resident  growth of the peak of resident memory while a process of its own runs T steps
time      milliseconds a step, on the clock and of CPU: methods in turns, medians, ratio to BPTT

Inputs are made inside the loop, so that memory is that of the method. float32, one layer of soft
SNU and a loss at each step; sizes are in the table. One JSON line for each number.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks import measuring
from core import params as params_lib
from snn import cells, ostl
from snn.cells.stateless import Stateless

_PARTS = flags.DEFINE_list("parts", ["memory", "resident", "time"], "What to measure.")
_OUTPUT = flags.DEFINE_string("output", None, "File for the JSON lines, besides standard output.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds of the timing.", 1)
_CHILD = flags.DEFINE_string("child", None, "METHOD,T: run once and report the memory (internal).")

METHODS = {
    "bptt": ostl.Bptt(),
    "bptt-sqrt": ostl.CheckpointedBptt(),
    "ostl": ostl.Ostl(),
    "ostl-without-h": ostl.Ostl(recurrent="without_h"),
    "eprop": ostl.Eprop(),
    "snap1": ostl.Snap1(),
    "ottt": ostl.Ottt(),
    "uoro": ostl.Uoro(),
}
LENGTHS = (100, 1000, 10_000, 100_000)


@dataclasses.dataclass(frozen=True)
class Waves(Stateless):
    """Inputs made from the time: x [B, 1] -> sin(k x) [B, N]."""

    output_size: int
    input_size: int = 1

    def param_specs(self) -> dict:
        """No parameters."""
        return {}

    def apply(self, params: dict, x: jax.Array) -> jax.Array:
        """See the class."""
        return jnp.sin(x * jnp.arange(1, self.output_size + 1, dtype=x.dtype))


def network(kind: str) -> tuple[cells.Stack, int]:
    """(stack, batch size): a feed-forward case or the recurrent one."""
    sizes = {"feed-forward": (128, 256, 8), "small": (64, 128, 4), "recurrent": (32, 32, 2)}
    m, n, batch = sizes[kind]
    cell = cells.Snu(m, n, fire="sigmoid", decay=0.9, recurrent=kind == "recurrent")
    return cells.Stack((Waves(m), cell)), batch


def program(method: Any, net: cells.Stack, batch: int) -> tuple[Any, Any, Any]:
    """(f(params, carry, times [T, B, 1], targets [T]) -> gradients, params, carry)."""
    params = params_lib.init(net.param_specs(), jax.random.key(0))
    carry = ostl.init(method, net, params, batch)
    loss = lambda y, target: jnp.mean(jnp.square(y - 0.5 * target))
    grad = ostl.value_and_grad(method, net, loss)
    f = jax.jit(lambda params, carry, times, targets: grad(params, carry, times, targets)[1])
    return f, params, carry


def inputs_of(steps: int, batch: int) -> tuple[jax.Array, jax.Array]:
    """(times [T, B, 1], targets [T])."""
    times = jnp.arange(steps, dtype=jnp.float32)
    return jnp.broadcast_to(times[:, None, None], (steps, batch, 1)), jnp.sin(0.1 * times)


def report(line: dict[str, Any]) -> None:
    """Prints one JSON line and appends it to the output."""
    measuring.report(line, _OUTPUT.value)


def memory() -> None:
    """Compiled temporaries."""
    for kind, names in (
        ("feed-forward", ("bptt", "bptt-sqrt", "ostl")),
        ("recurrent", ("bptt", "bptt-sqrt", "ostl", "ostl-without-h")),
    ):
        net, batch = network(kind)
        for name in names:
            f, params, carry = program(METHODS[name], net, batch)
            found = {}
            for steps in LENGTHS:
                abstract = jax.eval_shape(functools.partial(inputs_of, steps, batch))
                compiled = f.lower(params, carry, *abstract).compile()
                found[steps] = compiled.memory_analysis().temp_size_in_bytes / 1e6
            report({"part": "memory", "net": kind, "method": name, "megabytes": found})


def child(name: str, steps: int) -> None:
    """Runs T steps of the small case and prints by how much memory grew at its peak."""
    net, batch = network("small")
    f, params, carry = program(METHODS[name], net, batch)
    inputs = jax.block_until_ready(inputs_of(steps, batch))
    compiled = f.lower(params, carry, *inputs).compile()
    measuring.forget_peak()
    before = measuring.resident_bytes("VmRSS")
    jax.block_until_ready(compiled(params, carry, *inputs))
    print(json.dumps({"grown": (measuring.resident_bytes("VmHWM") - before) / 1e6}))


def resident() -> None:
    """Peak resident memory in child processes."""
    for name, lengths in (
        ("ostl", LENGTHS),
        ("bptt", LENGTHS),
        ("bptt-sqrt", LENGTHS),
    ):
        found = {}
        for steps in lengths:
            command = [sys.executable, "-m", "benchmarks.ostl", f"--child={name},{steps}"]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[steps] = json.loads(out.splitlines()[-1])["grown"]
        report({"part": "resident", "net": "small", "method": name, "megabytes": found})


def step_times() -> None:
    """Milliseconds a step, methods in turns."""
    for kind, steps, names in (
        ("feed-forward", 200, ("bptt", "bptt-sqrt", "ostl", "eprop", "ottt", "uoro")),
        ("recurrent", 100, tuple(METHODS)),
    ):
        net, batch = network(kind)
        programs: dict[str, Any] = {}
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        inputs = inputs_of(steps, batch)
        for name in names:
            f, params, carry = program(METHODS[name], net, batch)
            jax.block_until_ready(f(params, carry, *inputs))
            programs[name] = (f, params, carry)
        for _ in range(_ROUNDS.value):
            for name, (f, params, carry) in programs.items():
                clock, busy = time.perf_counter(), time.process_time()
                jax.block_until_ready(f(params, carry, *inputs))
                clock, busy = time.perf_counter() - clock, time.process_time() - busy
                taken[name].append((clock / steps * 1e3, busy / steps * 1e3))
        for name in names:
            both = [statistics.median(values) for values in zip(*taken[name], strict=True)]
            pairs = zip(taken[name], taken["bptt"], strict=True)
            ratio = statistics.median(mine[1] / base[1] for mine, base in pairs)
            report(
                {
                    "part": "time",
                    "net": kind,
                    "method": name,
                    "milliseconds": round(both[0], 4),
                    "cpu_milliseconds": round(both[1], 4),
                    "cpu_to_bptt": round(ratio, 2),
                }
            )


def main(argv: list[str]) -> None:
    """Runs the parts."""
    if _CHILD.value:
        name, steps = _CHILD.value.split(",")
        child(name, int(steps))
        return
    parts = {"memory": memory, "resident": resident, "time": step_times}
    unknown = set(_PARTS.value) - set(parts)
    if unknown:
        raise app.UsageError(f"--parts takes {sorted(parts)}, got {sorted(unknown)}")
    report({"part": "run", "jax": jax.__version__, "device": jax.devices()[0].device_kind})
    for part in _PARTS.value:
        parts[part]()


if __name__ == "__main__":
    app.run(main)

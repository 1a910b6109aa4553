# SPDX-License-Identifier: Apache-2.0
"""The WKV recurrences side by side on one machine: time, accuracy and memory in one run.

    python -m benchmarks.wkv [--batch=4 --steps=1024 --heads=8 --repeats=7] [--output=wkv.jsonl]

Contenders, RWKV-6 forward and forward+backward (gradients of all six arguments):

  scan, chunked     ours; `scan` is the step-by-step reference under autodiff
  torch loop        PyTorch, a Python loop over tokens
  torch chunk L     the chunk form of RWKV-infctx-trainer (clamps w at 0.005)
  rwkv-ops native   that package's JAX path; forward only, its gradient raises

Those not installed are left out. Runs alternate between the contenders. `cpu` is CPU time of the
process, `wall` the clock; both medians, in ms. `error` is against the float64 scan: the largest
over outputs (and gradients) of max |difference| / max |value|. `--threads` restricts the process to
so many cores before any library starts its threads, so that all contenders have the same.

Then, ours only: the other versions, accuracy by strength of decay, time and memory per token from
1k tokens up, peak memory of one run in a process of its own, and the rate in matrix products of the
chunked form against the machine's best rate for products of the same shape.
"""

import functools
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import measuring

_BATCH = flags.DEFINE_integer("batch", 4, "Sequences.", 1)
_STEPS = flags.DEFINE_integer("steps", 1024, "Tokens per sequence.", 1)
_HEADS = flags.DEFINE_integer("heads", 8, "Heads.", 1)
_SIZE = flags.DEFINE_integer("size", 64, "Channels per head.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed runs of each contender (slow ones: 2).", 1)
_THREADS = flags.DEFINE_integer("threads", 1, "Cores to use; 0 = all.", 0)
_LONGEST = flags.DEFINE_integer("longest", 16384, "Longest sequence of the length table.", 1024)
_TABLES = flags.DEFINE_multi_enum(
    "tables",
    ["products", "versions", "accuracy", "length", "memory"],
    ["none", "products", "versions", "accuracy", "length", "memory"],
    "What to measure besides the speed of RWKV-6; none for nothing more.",
)
_OUTPUT = flags.DEFINE_string("output", None, "File for the JSON lines, besides standard output.")
_PEAK_OF = flags.DEFINE_string("peak_of", None, "Internal: run one contender, print its peak.")

SLOW_SECONDS = 2.0
OMEGAS = ((-8, 1), (0, 1), (1, 2), (2, 4))


def wkv_inputs(batch, steps, heads, size, omega=(-8.0, 1.0), seed=0):
    """r, k, v, log_w, u, state as float32 NumPy arrays, and cotangents of (y, state)."""
    import numpy as np

    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    shape = (batch, steps, heads, size)
    log_w = -np.exp(rng.uniform(*omega, size=shape)).astype(np.float32)
    args = (normal(*shape), normal(*shape), normal(*shape), log_w)
    args += (normal(heads, size), normal(batch, heads, size, size))
    return args, (normal(*shape), normal(batch, heads, size, size))


def compiled(function: Callable, args, cotangents) -> dict[str, Any]:
    """Compiled forward and forward+backward of a JAX function of `args`."""
    import jax

    def both(args, cotangents):
        out, pull = jax.vjp(lambda args: function(*args), args)
        return out, pull(cotangents)[0]

    return {
        "forward": jax.jit(lambda args, _: function(*args)).lower(args, cotangents).compile(),
        "both": jax.jit(both).lower(args, cotangents).compile(),
    }


def jax_cases(name: str, function: Callable, args, cotangents) -> dict[str, Callable]:
    """Calls that wait for the result, by "name|direction"; arguments are on the device before."""
    import jax

    args, cotangents = jax.device_put((args, cotangents))
    programs = compiled(function, args, cotangents)
    return {
        f"{name}|{direction}": lambda p=program: jax.tree.leaves(
            jax.block_until_ready(p(args, cotangents))
        )
        for direction, program in programs.items()
    }


def rwkv_ops_case(args, cotangents) -> dict[str, Callable]:
    """The native JAX path of the package rwkv-ops, if installed."""
    if importlib.util.find_spec("rwkv_ops") is None:
        return {}
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import jax.numpy as jnp
    from rwkv_ops.rwkv6_kernel.native_keras_op import rwkv6

    r, k, v, log_w, u, state = args
    flat = lambda x: x.reshape(*x.shape[:2], -1)

    def run(r, k, v, omega, u, state):
        y, final = rwkv6(
            flat(r), flat(k), flat(v), flat(omega), u, state, True, head_size=r.shape[-1]
        )
        return y.reshape(v.shape), final

    inputs = jax.device_put((r, k, v, jnp.log(-log_w), u, state))
    program = jax.jit(run).lower(*inputs).compile()
    return {"rwkv-ops native|forward": lambda: list(jax.block_until_ready(program(*inputs)))}


def rwkv_ops_seven(args, cotangents) -> dict[str, Callable]:
    """RWKV-7 of rwkv-ops, native JAX path, if installed."""
    if importlib.util.find_spec("rwkv_ops") is None:
        return {}
    os.environ["KERAS_BACKEND"] = "jax"
    import jax.numpy as jnp
    from rwkv_ops.rwkv7_kernel.native_keras_op import generalized_delta_rule

    def run(r, w_log, k, v, kappa, a, state):
        return generalized_delta_rule(r, jnp.log(-w_log), k, v, -kappa, kappa * a, state)

    return jax_cases("7 rwkv-ops native", run, args, cotangents)


def contenders(args, cotangents) -> dict[str, Callable]:
    """Everything installed, ours first."""
    from rwkvjax.wkv import wkv6

    cases = jax_cases("chunked", functools.partial(wkv6, impl="chunked"), args, cotangents)
    cases |= jax_cases("scan", functools.partial(wkv6, impl="scan"), args, cotangents)
    if importlib.util.find_spec("torch") is not None:
        import torch

        from benchmarks import wkv_torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        cases |= wkv_torch.cases(args, cotangents)
    return cases | rwkv_ops_case(args, cotangents)


def timed(call: Callable) -> tuple[float, float]:
    """(CPU seconds, seconds on the clock) of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def alternate(cases: dict[str, Callable], repeats: int) -> dict[str, dict[str, float]]:
    """Times in ms of every case, taking turns; the first run decides which are slow.

    Each timed run follows an untimed one of the same case (but for the slow): otherwise a case
    pays for the memory that its predecessor gave back to the system.
    """
    first = {name: timed(call)[1] for name, call in cases.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for turn in range(repeats):
        for name, call in cases.items():
            if first[name] < SLOW_SECONDS:
                call()
            elif turn >= 2:
                continue
            times[name].append(timed(call))
    return {
        name: {
            "cpu_ms": 1e3 * statistics.median(cpu for cpu, _ in runs),
            "cpu_min_ms": 1e3 * min(cpu for cpu, _ in runs),
            "wall_ms": 1e3 * statistics.median(wall for _, wall in runs),
        }
        for name, runs in times.items()
    }


def relative_error(actual, expected) -> float:
    """Largest over the arrays of max |difference| / max |expected|."""
    import numpy as np

    errors = [
        np.abs(np.asarray(a, np.float64) - e).max() / max(np.abs(e).max(), 1e-30)
        for a, e in zip(actual, expected, strict=True)
    ]
    return float(max(errors))


def exact(function: Callable, args, cotangents) -> list:
    """Outputs and gradients of the float64 scan, as NumPy arrays."""
    import jax
    import numpy as np

    with jax.enable_x64(True):
        widen = lambda tree: jax.tree.map(lambda x: x.astype(np.float64), tree)
        args, cotangents = widen(args), widen(cotangents)
        out, pull = jax.vjp(lambda args: function(*args, impl="scan"), args)
        return [np.asarray(x) for x in jax.tree.leaves((out, pull(cotangents)[0]))]


def speed_rows() -> list[dict]:
    """RWKV-6, all contenders."""
    from rwkvjax.wkv import wkv6

    shape = (_BATCH.value, _STEPS.value, _HEADS.value, _SIZE.value)
    args, cotangents = wkv_inputs(*shape)
    cases = contenders(args, cotangents)
    small, small_cotangents = wkv_inputs(1, min(_STEPS.value, 256), 2, _SIZE.value)
    reference = exact(wkv6, small, small_cotangents)
    check = contenders(small, small_cotangents)
    errors = {}
    for name, call in check.items():
        got = call()
        errors[name] = relative_error(got, reference[: len(got)])
    times = alternate(cases, _REPEATS.value)
    rows = []
    for name, row in times.items():
        form, direction = name.split("|")
        ours = times[f"chunked|{direction}"]
        row |= {"cpu_ratio": row["cpu_ms"] / ours["cpu_ms"]}
        row |= {"wall_ratio": row["wall_ms"] / ours["wall_ms"], "error": errors[name]}
        rows.append({"table": "speed", "form": form, "direction": direction} | row)
    return rows


def version_rows() -> list[dict]:
    """The other versions: the default form against the scan and, for RWKV-7, rwkv-ops."""
    import numpy as np

    from rwkvjax import wkv

    batch, steps, heads, size = _BATCH.value, _STEPS.value, _HEADS.value, _SIZE.value
    args, cotangents = wkv_inputs(batch, steps, heads, size)
    r, k, v, log_w, u, state = args
    flat = lambda x: x.reshape(batch, steps, heads * size)
    kappa = k / np.linalg.norm(k, axis=-1, keepdims=True)
    rate = (1 / (1 + np.exp(-v))).astype(np.float32)
    slow = np.maximum(log_w, np.float32(-(np.e**-0.5)))  # RWKV-7 decays no faster
    empty = wkv.wkv4_initial_state(batch, heads * size)
    inputs = {
        "4": (flat(2 * k), flat(v), log_w[0, 0].ravel(), u.ravel(), empty),
        "5": (r, k, v, log_w[0, 0], u, state),
        "7": (r, slow, k, v, kappa, rate, state),
    }
    rows = []
    for version, arguments in inputs.items():
        function = getattr(wkv, f"wkv{version}")
        weights = (flat(cotangents[0]), empty) if version == "4" else cotangents
        cases = {}
        for impl in ("auto", "scan"):
            form = functools.partial(function, impl=impl)
            cases |= jax_cases(f"{version} {impl}", form, arguments, weights)
        if version == "7":
            cases |= rwkv_ops_seven(arguments, weights)
        times = alternate(cases, _REPEATS.value)
        for name, row in times.items():
            form, direction = name.split("|")
            ours = times[f"{version} auto|{direction}"]
            row |= {"cpu_ratio": row["cpu_ms"] / ours["cpu_ms"]}
            row |= {"wall_ratio": row["wall_ms"] / ours["wall_ms"]}
            rows.append({"table": "versions", "form": form, "direction": direction} | row)
    return rows


def accuracy_rows() -> list[dict]:
    """float32 against float64 by strength of decay; log_w = -exp(omega)."""
    import jax

    from rwkvjax.wkv import wkv6

    names = ("y", "state", "dr", "dk", "dv", "dlog_w", "du", "dstate")
    programs: dict[str, Any] = {}
    rows = []
    for omega, reset in [(o, 0.0) for o in OMEGAS] + [((-6.5, -6.4), x) for x in (1e2, 2e3, 1e5)]:
        args, cotangents = wkv_inputs(2, 256, 2, _SIZE.value, omega)
        if reset:
            args[3][:, ::16] = -reset
        reference = exact(wkv6, args, cotangents)
        for impl in ("chunked", "scan"):
            if impl not in programs:
                programs[impl] = compiled(functools.partial(wkv6, impl=impl), args, cotangents)
            got = jax.tree.leaves(programs[impl]["both"](args, cotangents))
            row = {"table": "accuracy", "form": impl, "omega": omega, "reset": -reset}
            for name, a, e in zip(names, got, reference, strict=True):
                row[name] = relative_error([a], [e])
            rows.append(row)
    return rows


def length_rows() -> list[dict]:
    """Time and temporary memory per token and head of the chunked form, T from 1k up."""
    from rwkvjax.wkv import wkv6

    heads, size = _HEADS.value, _SIZE.value
    rows = []
    steps = 1024
    while steps <= _LONGEST.value:
        args, cotangents = wkv_inputs(1, steps, heads, size)
        form = functools.partial(wkv6, impl="chunked")
        times = alternate(jax_cases("chunked", form, args, cotangents), _REPEATS.value)
        program = compiled(form, args, cotangents)["both"]
        temporary = program.memory_analysis().temp_size_in_bytes
        unit = steps * heads
        rows.append(
            {
                "table": "length",
                "steps": steps,
                "forward_ns": 1e6 * times["chunked|forward"]["cpu_ms"] / unit,
                "both_ns": 1e6 * times["chunked|both"]["cpu_ms"] / unit,
                "temporary_bytes": temporary / unit,
            }
        )
        steps *= 2
    return rows


def product_rows(rows: list[dict]) -> list[dict]:
    """The share of the machine's matrix-product rate that the chunked form reaches.

    Counted are the products with the state only: per token and head 4 N^2 forward (output and
    update) and 10 N^2 backward (dr, dk, dv, dstate, and the states computed again), 14 N^2 in all.
    The ceiling is measured on the forward product itself, [16, N] x [N, N] for every head, chained.
    """
    import jax
    import jax.numpy as jnp

    batch, heads, size, turns = _BATCH.value, _HEADS.value, _SIZE.value, 400
    x = jnp.full((batch, heads, 16, size), 0.01)
    s = jnp.full((batch, heads, size, size), 0.01)
    chain = jax.jit(lambda x, s: jax.lax.fori_loop(0, turns, lambda _, x: x @ s, x))
    seconds = min(timed(lambda: chain(x, s).block_until_ready())[0] for _ in range(5))
    rate = 2 * turns * x.size * size / seconds / 1e9
    large = jnp.ones((1024, 1024))
    product = jax.jit(lambda a: a @ a)
    product(large).block_until_ready()
    best = min(timed(lambda: product(large).block_until_ready())[0] for _ in range(5))
    out = []
    for direction, factor in (("forward", 4), ("both", 14)):
        row = next(r for r in rows if r["form"] == "chunked" and r["direction"] == direction)
        flops = factor * size**2 * batch * _STEPS.value * heads
        reached = flops / (row["cpu_min_ms"] * 1e-3) / 1e9
        line = {"table": "products", "direction": direction, "gflops": reached}
        line |= {"ceiling_gflops": rate, "share": reached / rate}
        out.append(line | {"large_product_gflops": 2 * 1024**3 / best / 1e9})
    return out


def print_peak(name: str) -> None:
    """Runs one contender and prints by how much it raised resident memory at its peak (Linux)."""
    args, cotangents = wkv_inputs(_BATCH.value, _STEPS.value, _HEADS.value, _SIZE.value)
    if name.startswith("torch"):
        from benchmarks import wkv_torch

        call = wkv_torch.cases(args, cotangents)[name]
    else:
        from rwkvjax.wkv import wkv6

        form = functools.partial(wkv6, impl=name.split("|")[0])
        call = jax_cases(name.split("|")[0], form, args, cotangents)[name]
    measuring.forget_peak()
    before = measuring.resident_bytes("VmRSS")
    call()
    print(json.dumps({"peak_bytes": measuring.resident_bytes("VmHWM") - before}))


def peak_rows(names: list[str]) -> list[dict]:
    """Peak memory of one forward+backward, each in its own process."""
    rows = []
    for name in names:
        command = [sys.executable, "-m", "benchmarks.wkv", f"--peak_of={name}"]
        for flag in (_BATCH, _STEPS, _HEADS, _SIZE, _THREADS):
            command.append(f"--{flag.name}={flag.value}")
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
        unit = _BATCH.value * _STEPS.value * _HEADS.value
        rows.append(
            {
                "table": "memory",
                "form": name.split("|")[0],
                "peak_mib": peak / 2**20,
                "bytes_per_token_head": peak / unit,
            }
        )
    return rows


def print_tables(rows: list[dict]) -> None:
    """The same numbers for people."""
    previous = None
    for row in rows:
        cells = {key: value for key, value in row.items() if key != "table"}
        if (row["table"], *cells) != previous:
            previous = (row["table"], *cells)
            print(f"\n{row['table']}\n" + "".join(f"{key:>21}" for key in cells))
        shown = (
            (f"{value:.1e}" if value and abs(value) < 1e-3 else f"{value:,.2f}")
            if isinstance(value, float)
            else str(value)
            for value in cells.values()
        )
        print("".join(f"{text:>21}" for text in shown))


def main(_) -> None:
    """Runs everything and prints it."""
    if _THREADS.value:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-_THREADS.value :])
    if _PEAK_OF.value:
        print_peak(_PEAK_OF.value)
        return
    import jax

    about = {
        "benchmark": "wkv",
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "shape": [_BATCH.value, _STEPS.value, _HEADS.value, _SIZE.value],
    }
    rows = speed_rows()
    speed = list(rows)  # the tables below are added to `rows`
    both = [f"{row['form']}|both" for row in rows if row["direction"] == "both"]
    more = {
        "none": lambda: [],
        "products": lambda: product_rows(speed),
        "versions": version_rows,
        "accuracy": accuracy_rows,
        "length": length_rows,
        "memory": lambda: peak_rows([name for name in both if "loop" not in name]),
    }
    for name in _TABLES.value:
        rows += more[name]()
    lines = "".join(json.dumps(about | row) + "\n" for row in rows)
    print(lines, end="")
    if _OUTPUT.value:
        Path(_OUTPUT.value).write_text(lines, encoding="utf-8")
    print_tables(rows)


if __name__ == "__main__":
    app.run(main)

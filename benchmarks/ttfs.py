# SPDX-License-Identifier: Apache-2.0
"""TTFS side by side: training steps, the closed form, the causal solver and its peers.

    python -m benchmarks.ttfs [--repeats=5] [--output=ttfs.jsonl]

Rounds are interleaved (each implementation once a round), so that a busy machine disturbs all
alike; ratios are medians over the rounds of the ratio within a round, in CPU time of the process.
Peers that are not installed (torch, jaxsnn) are left out. Every implementation must give the same
spike times first.
"""

import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from core import params as params_lib
from snn.tasks.ttfs import TaskConfig, TtfsTask, cross_entropy
from snn.ttfs import fuse, relu
from snn.ttfs import network as net
from snn.ttfs.kernels import Lif2, Ramp
from snn.ttfs.solve import causal_solve

_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds.")
_SECTIONS = flags.DEFINE_list("sections", ["training", "forward", "solver"], "What to run.")
_OUTPUT = flags.DEFINE_string("output", None, "File for the JSON lines, besides standard output.")

Case = Callable[[], object]


def rounds(cases: dict[str, Case], repeats: int, inner: int = 1) -> dict[str, dict]:
    """Median CPU and wall milliseconds of each case, and its median ratio to the first case."""
    for run in cases.values():
        run()  # compiles
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    wall: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, run in cases.items():
            gc.collect()
            start, clock = time.process_time(), time.perf_counter()
            for _ in range(inner):
                run()
            cpu[name].append((time.process_time() - start) / inner * 1e3)
            wall[name].append((time.perf_counter() - clock) / inner * 1e3)
    first = next(iter(cases))
    ratio = lambda n: statistics.median(a / b for a, b in zip(cpu[n], cpu[first], strict=True))
    return {
        name: {
            "cpu_ms": round(statistics.median(cpu[name]), 3),
            "wall_ms": round(statistics.median(wall[name]), 3),
            f"cpu_ratio_to_{first}": round(ratio(name), 3),
        }
        for name in cases
    }


# --- training steps -----------------------------------------------------------------------------


def training_rows(repeats: int) -> list[dict]:
    """B1 (adaptive windows and spike counts included) against the plain ReLU step, Adam in both."""
    nets = {
        "mlp 784-600-10, batch 250": (relu.mlp((600,), 10), 250, 10),
        "lenet 16C5-P-32C5-P-128-10, batch 50": (relu.lenet((16, 32), (128,), 10), 50, 3),
    }
    rows = []
    for name, (layers, batch, inner) in nets.items():
        for case, numbers in rounds(_steps(layers, batch), repeats, inner).items():
            rows.append({"measure": "training step", "net": name, "case": case} | numbers)
    return rows


def _steps(layers: tuple, batch: int) -> dict[str, Case]:
    shape = (28, 28, 1)
    task = TtfsTask(fuse.structure(layers, shape), TaskConfig())
    rng = np.random.default_rng(0)
    data = {
        "image": jnp.asarray(rng.integers(0, 256, (batch, *shape), np.uint8)),
        "label": jnp.asarray(rng.integers(0, 10, batch, np.int32)),
    }
    tx, key = optax.adam(1e-3), jax.random.key(0)

    def plain_loss(params: dict, data: dict) -> jax.Array:
        logits = relu.apply(layers, params, task.encode(data["image"]))
        return cross_entropy(logits, data["label"])

    @jax.jit
    def plain(params: dict, state: object) -> tuple:
        loss, grads = jax.value_and_grad(plain_loss)(params, data)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    @jax.jit
    def spiking(params: dict, state: object, carry: dict) -> tuple:
        grad = jax.value_and_grad(task.loss, has_aux=True)
        (loss, (carry, aux)), grads = grad(params, carry, data, key)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, carry, loss, aux

    ours = params_lib.init(task.param_specs(), key)
    theirs = params_lib.init(relu.param_specs(layers, shape), key)
    carry = task.init_carry(batch)
    states = tx.init(ours), tx.init(theirs)
    return {
        "relu": lambda: jax.block_until_ready(plain(theirs, states[1])),
        "b1": lambda: jax.block_until_ready(spiking(ours, states[0], carry)),
    }


def forward_rows(repeats: int) -> list[dict]:
    """The closed form against the bare matrix products of its layers."""
    network = fuse.structure(relu.mlp((1024, 1024), 10), (1024,))
    params = params_lib.init(TtfsTask(network, TaskConfig()).param_specs(), jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (512, 1024))
    weights = [params[layer.name]["weight"] for layer in network.layers]

    @jax.jit
    def products(weights: list, x: jax.Array) -> jax.Array:
        for w in weights:
            x = x @ w
        return x

    closed = jax.jit(lambda p, x: net.closed_form(network, p, x)[0])
    found = rounds(
        {
            "matmul": lambda: products(weights, x).block_until_ready(),
            "closed form": lambda: closed(params, x).block_until_ready(),
        },
        repeats,
        5,
    )
    about = {"measure": "forward", "net": "1024-1024-1024-10, batch 512"}
    return [about | {"case": case} | numbers for case, numbers in found.items()]


# --- the causal solver --------------------------------------------------------------------------


def problem(rows: int, inputs: int, neurons: int, seed: int = 0) -> tuple:
    """Arrivals in [0, 1] and weights with which most neurons fire."""
    rng = np.random.default_rng(seed)
    times = rng.uniform(0, 1, (rows, inputs)).astype(np.float32)
    weight = (rng.normal(1.0, 2.0, (inputs, neurons)) * 4 / inputs).astype(np.float32)
    return times, weight


def ours(times: np.ndarray, weight: np.ndarray, kernel: Ramp | Lif2, theta: float) -> tuple:
    """(spike times, a call of forward and backward, its temporary bytes)."""

    def loss(times: jax.Array, weight: jax.Array) -> tuple:
        t = causal_solve(times, weight, theta, kernel)
        return jnp.where(jnp.isfinite(t), t, 0.0).sum(), t

    arguments = (jnp.asarray(times), jnp.asarray(weight))
    grad = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    compiled = grad.lower(*arguments).compile()
    used = compiled.memory_analysis().temp_size_in_bytes
    found = np.asarray(compiled(*arguments)[0][1])
    return found, lambda: jax.block_until_ready(compiled(*arguments)), used


def torch_ramp(times: np.ndarray, weight: np.ndarray, theta: float, loop: bool) -> tuple | None:
    """The textbook way in torch: prefix sums over [rows, inputs, neurons], or a Python loop."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(os.cpu_count() or 1)
    t0 = torch.tensor(times, requires_grad=True)
    w0 = torch.tensor(weight, requires_grad=True)

    def tensor() -> object:
        t, order = t0.sort(dim=1)
        j = w0[order]  # [R, N, M]
        slope, moment = j.cumsum(1), (j * t[..., None]).cumsum(1)
        guess = (theta + moment) / slope
        following = torch.cat([t[:, 1:], torch.full_like(t[:, :1], torch.inf)], 1)
        valid = (slope > 0) & (guess >= t[..., None]) & (guess < following[..., None])
        return torch.where(valid, guess, torch.inf).min(dim=1).values

    def step_by_step() -> object:
        t, order = t0.sort(dim=1)
        inputs = t.shape[1]
        slope = torch.zeros(t.shape[0], w0.shape[1])
        moment, found = slope, torch.full_like(slope, torch.inf)
        for k in range(inputs):
            j, now = w0[order[:, k]], t[:, k : k + 1]
            slope, moment = slope + j, moment + j * now
            guess = (theta + moment) / slope
            then = t[:, k + 1 : k + 2] if k + 1 < inputs else torch.inf
            valid = (slope > 0) & (guess >= now) & (guess < then) & ~torch.isfinite(found)
            found = torch.where(valid, guess, found)
        return found

    solve = step_by_step if loop else tensor

    def run() -> object:
        t0.grad = w0.grad = None
        t = solve()
        torch.where(torch.isfinite(t), t, torch.zeros_like(t)).sum().backward()  # type: ignore
        return t.detach().numpy()  # type: ignore[attr-defined]

    return run(), run


def jaxsnn_lif(times: np.ndarray, weight: np.ndarray, theta: float) -> tuple | None:
    """jaxsnn's event-by-event LIF layer, tau_m = 2 tau_s = 2, at most one spike per neuron."""
    try:
        from jaxsnn.event.loss import first_spike
        from jaxsnn.event.modules import LIF, LIFParameters, Linear, Source
        from jaxsnn.event.topology import Topology
        from jaxsnn.event.types import Spike
    except ImportError:
        return None
    rows, inputs = times.shape
    neurons = weight.shape[1]
    params = LIFParameters(v_reset=-1000.0, v_th=theta, tau_syn=1.0, tau_mem=2.0)
    topology = Topology(t_max=20.0)
    layers = {"inp": Source(inputs), "lif": LIF(neurons, inputs + neurons, params)}
    topology.add({**layers, "syn": Linear(pre_weights=jnp.asarray(weight))})
    topology.connect([("inp", "syn"), ("syn", "lif")])
    init, apply = topology.done()
    weights = init(jax.random.PRNGKey(0))
    order = np.argsort(times, axis=1)
    shape = (rows, inputs)
    spikes = Spike(
        time=jnp.asarray(np.take_along_axis(times, order, 1)),
        idx=jnp.asarray(order),
        current=jnp.zeros(shape),
        layer_idx=jnp.zeros(shape, int),
        internal=jnp.ones(shape, bool),
    )

    def loss(weights: object) -> tuple:
        found = apply({"inp": spikes}, weights)["lif"]
        t = jax.vmap(first_spike, in_axes=(0, None))(found, neurons)
        return jnp.where(jnp.isfinite(t), t, 0.0).sum(), t

    grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return np.asarray(grad(weights)[0][1]), lambda: jax.block_until_ready(grad(weights))


def solver_rows(repeats: int) -> list[dict]:
    """Forward and backward of one layer by each implementation."""
    rows, repeats = [], min(repeats, 3)
    for size in ((64, 100, 100), (64, 340, 340)):
        times, weight = problem(*size)
        expected, run, used = ours(times, weight, Ramp(), 1.0)
        cases, memory = {"ours": run}, {"ours": used}
        for name, loop in (("torch, [R, N, M]", False), ("torch, loop", True)):
            peer = torch_ramp(times, weight, 1.0, loop)
            if peer is not None:
                _same(peer[0], expected, name)
                cases[name] = peer[1]
        memory["torch, [R, N, M]"] = 4 * int(np.prod(size))
        rows += _rows("causal solve, ramp", size, rounds(cases, repeats), memory)
    size = (32, 64, 32)
    times, weight = problem(*size)
    expected, run, used = ours(times, weight, Lif2(1.0), 0.2)
    cases = {"ours": run}
    peer = jaxsnn_lif(times, weight, 0.2)
    if peer is not None:
        _same(peer[0], expected, "jaxsnn")
        cases["jaxsnn"] = peer[1]
    return rows + _rows("causal solve, LIF", size, rounds(cases, repeats), {"ours": used})


def _same(found: np.ndarray, expected: np.ndarray, name: str) -> None:
    close = np.isclose(found, expected, atol=2e-3)
    if close.mean() < 0.999:  # in float32 a grazing crossing may be seen by one and not the other
        worst = np.argwhere(~close)[:3]
        raise AssertionError(f"{name} gives other spike times on {1 - close.mean():.2%}: {worst}")


def _rows(measure: str, size: tuple, found: dict, memory: dict) -> list[dict]:
    about = {"measure": measure, "net": "rows {} x inputs {} x neurons {}".format(*size)}
    about["bytes_of_[R,N,M]"] = 4 * int(np.prod(size))
    return [
        about | {"case": case} | numbers | {"temporary_bytes": memory.get(case)}
        for case, numbers in found.items()
    ]


def main(_: list[str]) -> None:
    """Runs everything and prints it."""
    about = {"benchmark": "ttfs", "jax": jax.__version__, "machine": platform.machine()}
    about |= {"cpus": os.cpu_count()}
    repeats, lines = _REPEATS.value, []
    sections = {"training": training_rows, "forward": forward_rows, "solver": solver_rows}
    for section in _SECTIONS.value:
        for row in sections[section](repeats):
            lines.append(json.dumps(about | row))
            print(lines[-1], flush=True)
            ratio = next(v for k, v in row.items() if k.startswith("cpu_ratio"))
            print(
                f"{row['measure']:20s} {row['net']:42s} {row['case']:18s} {row['cpu_ms']:10.2f}"
                f" CPU ms {row['wall_ms']:10.2f} ms wall  x{ratio:.2f}",
                file=sys.stderr,
                flush=True,
            )
    if _OUTPUT.value:
        Path(_OUTPUT.value).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)

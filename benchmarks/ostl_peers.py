# SPDX-License-Identifier: Apache-2.0
"""Online gradients beside braintrace, and BPTT of a LIF layer beside snnTorch, in one run.

    python -m benchmarks.ostl_peers [--steps=200] [--output=peers.jsonl]

braintrace: one layer of soft SNU, feed-forward and recurrent, the same weights and inputs. Each
of its algorithms and each of our methods reports the error of its gradient of the input weights
(and H) relative to BPTT in float64, milliseconds a step, and compiled temporaries.
snnTorch: one layer of LIF units trained by BPTT, batch 32: difference of the gradients, time of a
gradient and, in a process of its own, growth of the peak of resident memory.

Peers that are not installed are left out (braintrace needs jax, snnTorch torch).
"""

from __future__ import annotations

import functools
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import measuring
from snn import cells, ostl, surrogates

_STEPS = flags.DEFINE_integer("steps", 200, "Time steps.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds of the timing.", 1)
_OUTPUT = flags.DEFINE_string("output", None, "File for the JSON lines, besides standard output.")
_CHILD = flags.DEFINE_string("child", None, "PEER: run once and report the memory (internal).")

DECAY = 0.8


def report(line: dict[str, Any]) -> None:
    """Prints one JSON line and appends it to the output."""
    measuring.report(line, _OUTPUT.value)


def in_turns(programs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each program, after one run to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for run in programs.values():
        run()
    for _ in range(_ROUNDS.value):
        for name, run in programs.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def relative_error(exact: Any, found: Any) -> float:
    """|found - exact| / |exact|."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


# --- braintrace -----------------------------------------------------------------------------------


def braintrace_program(
    name: str, w: Any, recurrent: bool, xs: Any, targets: Any
) -> tuple[Any, float]:
    """(function () -> gradient of w [M (+ N), N], compiled temporaries in MB)."""
    import brainstate
    import braintrace

    size = w.shape[1]

    class Layer(brainstate.nn.Module):
        """The soft SNU with s as its one hidden state."""

        def __init__(self) -> None:
            super().__init__()
            self.lin = braintrace.nn.Linear(
                w.shape[0], size, w_init=lambda *args, **named: jnp.asarray(w), b_init=None
            )

        def init_state(self, *args: Any, **named: Any) -> None:
            self.s = brainstate.HiddenState(jnp.zeros(size, jnp.float32))

        def reset_state(self, *args: Any, **named: Any) -> None:
            self.s.value = jnp.zeros(size, jnp.float32)

        def update(self, x: Any) -> Any:
            s = self.s.value
            y = jax.nn.sigmoid(s - 1.0)
            joined = jnp.concatenate([x, y]) if recurrent else x
            self.s.value = self.lin(joined) + DECAY * s * (1 - y)
            return jax.nn.sigmoid(self.s.value - 1.0)

    more = {"n": size + 1} if name == "SnAp" else {}
    layer = Layer()
    learner = braintrace.compile(layer, getattr(braintrace, name), xs[0], **more)

    @brainstate.transform.jit
    def run(xs: Any, targets: Any) -> Any:
        layer.reset_state()
        learner.reset_state()
        return learner.etrace_grad(
            xs,
            targets,
            step_fn=lambda x, t: jnp.sum((learner(x) - t) ** 2),
            reduction="sum",
        )

    megabytes = run.compile(xs, targets).memory_analysis().temp_size_in_bytes / 1e6
    return lambda: jax.block_until_ready(jax.tree.leaves(run(xs, targets))[0]), megabytes


def our_program(method: Any, w: Any, recurrent: bool, xs: Any, targets: Any) -> tuple[Any, float]:
    """(function () -> the same gradient, compiled temporaries in MB)."""
    inputs, size = xs.shape[1], w.shape[1]
    net = cells.Snu(inputs, size, recurrent=recurrent, fire="sigmoid", decay=DECAY)
    params = {"w": jnp.asarray(w[:inputs]), "bias": -jnp.ones(size, w.dtype)}
    if recurrent:
        params["h"] = jnp.asarray(w[inputs:])
    carry = ostl.init(method, net, params, 1)
    # The peer's layer has no y of its own: its first step sees sigmoid(0 - 1).
    first = jnp.full((1, size), jax.nn.sigmoid(-1.0), w.dtype)
    if isinstance(method, ostl.Bptt | ostl.CheckpointedBptt):
        carry = {**carry, "y": first}
    else:
        carry = carry._replace(state={**carry.state, "y": first})
    grad = ostl.value_and_grad(method, net, lambda y, t: jnp.sum(jnp.square(y - t)))

    def joined(params: Any, carry: Any, xs: Any, targets: Any) -> jax.Array:
        found = grad(params, carry, xs[:, None], targets[:, None])[1]
        return jnp.concatenate([found["w"], found["h"]]) if recurrent else found["w"]

    args = (params, carry, jnp.asarray(xs, w.dtype), jnp.asarray(targets, w.dtype))
    compiled = jax.jit(joined).lower(*args).compile()
    megabytes = compiled.memory_analysis().temp_size_in_bytes / 1e6
    return lambda: jax.block_until_ready(compiled(*args)), megabytes


def braintrace_part() -> None:
    """Gradient error and time a step."""
    rng = np.random.default_rng(0)
    steps = _STEPS.value
    for recurrent, inputs, size in ((False, 4, 6), (True, 4, 6), (False, 64, 128), (True, 16, 32)):
        rows = inputs + size * recurrent
        w = (rng.normal(size=(rows, size)) / rows**0.5).astype(np.float32)
        xs = jnp.asarray(rng.normal(size=(steps, inputs)), jnp.float32)
        targets = jnp.asarray(rng.uniform(size=(steps, size)), jnp.float32)
        with jax.enable_x64(True):
            args = [np.asarray(a, np.float64) for a in (w, xs, targets)]
            exact, double = (
                np.asarray(our_program(method, args[0], recurrent, *args[1:])[0]())
                for method in (ostl.Bptt(), ostl.Ostl())
            )
        programs, megabytes = {}, {}
        ours = {"bptt": ostl.Bptt(), "bptt-sqrt": ostl.CheckpointedBptt(), "ostl": ostl.Ostl()}
        if recurrent:
            ours["snap1"] = ostl.Snap1()
        for name, method in ours.items():
            programs[name], megabytes[name] = our_program(method, w, recurrent, xs, targets)
        for name in ("OSTLRecurrent", "OSTLFeedforward", "D_RTRL", "SnAp"):
            made = braintrace_program(name, w, recurrent, xs, targets)
            programs[f"braintrace {name}"], megabytes[f"braintrace {name}"] = made
        error = functools.partial(relative_error, exact)
        seconds = in_turns(programs)
        head = {"part": "braintrace", "recurrent": recurrent, "m": inputs, "n": size}
        report({**head, "method": "ostl float64", "error": error(double)})
        for name, run in programs.items():
            line = {**head, "method": name, "error": error(np.asarray(run(), np.float64))}
            line["milliseconds"] = seconds[name] / steps * 1e3
            report({**line, "megabytes": megabytes[name]})


# --- snnTorch -------------------------------------------------------------------------------------

LIF = {"inputs": 128, "size": 256, "batch": 32, "beta": 0.9}


def lif_case() -> tuple[np.ndarray, np.ndarray]:
    """(w [M, N], spikes [T, B, M])."""
    rng = np.random.default_rng(1)
    w = rng.normal(size=(LIF["inputs"], LIF["size"])) * 2 / LIF["inputs"] ** 0.5
    xs = rng.uniform(size=(_STEPS.value, LIF["batch"], LIF["inputs"])) < 0.2
    return w.astype(np.float32), xs.astype(np.float32)


def our_lif(method: Any) -> Callable[[], np.ndarray]:
    """Gradient of the summed squared spike count difference by `method`."""
    w, xs = lif_case()
    # snnTorch's fast sigmoid: 1 / (1 + slope |v|)^2.
    fire = surrogates.Surrogate(surrogates.step, surrogates.FastSigmoidDerivative(25.0))
    net = cells.Lif(LIF["inputs"], LIF["size"], fire=fire, decay=LIF["beta"])
    params = {"w": jnp.asarray(w)}
    carry = ostl.init(method, net, params, LIF["batch"])
    grad = ostl.value_and_grad(method, net, lambda y, t: jnp.sum(jnp.square(y - t)))
    f = jax.jit(lambda p, c, xs: grad(p, c, xs, jnp.full(xs.shape[0], 0.1, jnp.float32))[1]["w"])
    xs = jnp.asarray(xs)
    return lambda: np.asarray(f(params, carry, xs))


def torch_lif() -> Callable[[], np.ndarray]:
    """The same gradient by snnTorch."""
    import snntorch
    import torch

    w, xs = lif_case()
    weight = torch.tensor(w, requires_grad=True)
    inputs = torch.tensor(xs)
    layer = snntorch.Leaky(
        beta=LIF["beta"],
        spike_grad=snntorch.surrogate.fast_sigmoid(slope=25),
        reset_mechanism="subtract",
    )
    # snnTorch cuts the way of the gradient through the reset, as the trace of e-prop does.
    torch.set_num_threads(2)

    def run() -> np.ndarray:
        weight.grad = None
        memory, total = layer.init_leaky(), 0.0
        for x in inputs:
            spikes, memory = layer(x @ weight, memory)
            total = total + ((spikes - 0.1) ** 2).sum()
        total.backward()
        return weight.grad.numpy().copy()

    return run


def torch_part() -> None:
    """Agreement, time and memory of BPTT for LIF units."""
    programs = {
        "snntorch bptt": torch_lif(),
        "bptt": our_lif(ostl.Bptt()),
        "bptt-sqrt": our_lif(ostl.CheckpointedBptt()),
        "ostl": our_lif(ostl.Ostl()),
        "eprop": our_lif(ostl.Eprop()),
    }
    seconds = in_turns(programs)
    found = {name: run() for name, run in programs.items()}
    for name in programs:
        norm = np.linalg.norm
        line = {"part": "snntorch", **LIF, "steps": _STEPS.value, "method": name}
        for other in ("bptt", "snntorch bptt"):
            line[f"error to {other}"] = float(norm(found[name] - found[other]) / norm(found[other]))
        command = [sys.executable, "-m", "benchmarks.ostl_peers", f"--child={name}"]
        command.append(f"--steps={_STEPS.value}")
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        line["seconds"] = seconds[name]
        line["grown_megabytes"] = json.loads(out.splitlines()[-1])["grown"]
        report(line)


def child(name: str) -> None:
    """Prints by how much memory grows at its peak in a second run."""
    methods = {
        "bptt": ostl.Bptt(),
        "bptt-sqrt": ostl.CheckpointedBptt(),
        "ostl": ostl.Ostl(),
        "eprop": ostl.Eprop(),
    }
    run = torch_lif() if name == "snntorch bptt" else our_lif(methods[name])
    run()  # compiles
    measuring.forget_peak()
    before = measuring.resident_bytes("VmRSS")
    run()
    print(json.dumps({"grown": (measuring.resident_bytes("VmHWM") - before) / 1e6}))


def main(argv: list[str]) -> None:
    """Runs what is installed."""
    if _CHILD.value:
        child(_CHILD.value)
        return
    report({"part": "run", "jax": jax.__version__, "device": jax.devices()[0].device_kind})
    if importlib.util.find_spec("braintrace"):
        braintrace_part()
    if importlib.util.find_spec("snntorch"):
        torch_part()


if __name__ == "__main__":
    app.run(main)

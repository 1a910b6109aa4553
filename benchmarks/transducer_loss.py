# SPDX-License-Identifier: Apache-2.0
"""Transducer loss and gradient beside torchaudio's CPU kernel: time and peak memory, in one run.

    python -m benchmarks.transducer_loss [--vocabularies=46,1024] [--output=loss.jsonl]

"logits": from given logits [B, T, U + 1, V] to the loss and its gradient. "joint": from encoder
and prediction outputs, through tanh(e * p) W + b, to the loss and the gradient of e, p, W and b;
ours runs the joint frame by frame, torch holds all logits. Every case and library has a process of
its own; they take turns. Memory is the growth of the peak of resident memory over that of a
process that holds the inputs of "joint" but not the logits. The losses are compared. On a machine
that others use, too, compare the processor time ("CPU s"), with one thread each.

torchaudio's wheels for Linux load CUDA libraries even for the CPU kernel; beside a CPU build of
torch they need those (or empty ones of the same names) in LD_LIBRARY_PATH.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags

_VOCABULARIES = flags.DEFINE_list("vocabularies", ["46", "1024"], "Labels with the blank.")
_SIZES = flags.DEFINE_list("sizes", ["8", "500", "100"], "B, T and U.")
_JOINT = flags.DEFINE_integer("joint", 256, "Joint size.", 1)
_BLOCK = flags.DEFINE_integer("block", 4, "Frames of logits held at once (ours, joint).", 1)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed calls in a process.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 2, "Processes of each case.", 1)
_THREADS = flags.DEFINE_integer("threads", 1, "Threads of torch; pin the program to as many cores.")
_OUTPUT = flags.DEFINE_string("output", None, "File for the JSON lines, besides standard output.")
_CHILD = flags.DEFINE_string("child", None, "LIBRARY,CASE,VOCABULARY (internal).")

LIBRARIES, CASES = ("ours", "torchaudio"), ("logits", "joint")


def peak_mb() -> float:
    """Peak of resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def draw(vocabulary: int) -> dict[str, np.ndarray]:
    """Inputs of the joint, and targets; the same for both libraries."""
    batch, time_, labels = (int(x) for x in _SIZES.value)
    rng = np.random.default_rng(0)
    size = _JOINT.value
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    return {
        "e": normal(batch, time_, size),
        "p": normal(batch, labels + 1, size),
        "w": normal(size, vocabulary) / size**0.5,
        "b": np.zeros(vocabulary, np.float32),
        "labels": rng.integers(1, vocabulary, (batch, labels)).astype(np.int32),
        "frames": np.full(batch, time_, np.int32),
        "counts": np.full(batch, labels, np.int32),
    }


def logits_of(x: dict[str, np.ndarray]) -> np.ndarray:
    """[B, T, U + 1, V], row by row: only the result is large."""
    shape = (len(x["e"]), x["e"].shape[1], x["p"].shape[1], x["w"].shape[1])
    out = np.empty(shape, np.float32)
    for row in range(len(out)):
        for t in range(shape[1]):
            np.matmul(np.tanh(x["e"][row, t] * x["p"][row]), x["w"], out=out[row, t])
    return out


def ours(case: str, x: dict[str, np.ndarray]) -> Callable[[], float]:
    """A call that computes loss and gradient by this library."""
    import jax
    import jax.numpy as jnp

    from snn.speech import transducer

    targets = {k: jnp.asarray(x[k]) for k in ("labels", "frames", "counts")}

    def joint(params: Any, e: jax.Array, p: jax.Array) -> jax.Array:
        return jnp.tanh(e[:, :, None] * p[:, None]) @ params["w"] + params["b"]

    if case == "logits":
        inputs: Any = jnp.asarray(logits_of(x))
        loss = lambda logits: transducer.transducer_loss(logits, **targets).sum()
    else:
        inputs = jax.tree.map(jnp.asarray, {k: x[k] for k in ("e", "p", "w", "b")})
        loss = lambda i: transducer.framewise_loss(
            joint, {"w": i["w"], "b": i["b"]}, i["e"], i["p"], **targets, block=_BLOCK.value
        ).sum()
    program = jax.jit(jax.value_and_grad(loss))

    def run() -> float:
        value, gradient = program(inputs)
        jax.block_until_ready(gradient)
        return float(value)

    return run


def torchaudio(case: str, x: dict[str, np.ndarray]) -> Callable[[], float]:
    """The same by torch and torchaudio."""
    import torch
    import torchaudio.functional as functional

    torch.set_num_threads(_THREADS.value)
    targets = [torch.from_numpy(x[k]) for k in ("labels", "frames", "counts")]
    if case == "logits":
        leaves = [torch.from_numpy(logits_of(x)).requires_grad_()]
    else:
        leaves = [torch.from_numpy(x[k]).requires_grad_() for k in ("e", "p", "w", "b")]

    def run() -> float:
        for leaf in leaves:
            leaf.grad = None
        logits = leaves[0]
        if case == "joint":
            e, p, w, b = leaves
            logits = torch.tanh(e[:, :, None] * p[:, None]) @ w + b
        loss = functional.rnnt_loss(logits, *targets, blank=0, reduction="sum")
        loss.backward()
        return float(loss)

    return run


def child(spec: str) -> None:
    """Runs one case and prints its numbers."""
    library, case, vocabulary = spec.split(",")
    x = draw(int(vocabulary))
    build = {"ours": ours, "torchaudio": torchaudio}[library]
    # Import everything first: libraries are not what is measured.
    tiny = {k: v[:1] if v.ndim != 2 or k != "w" else v for k, v in x.items()}
    tiny.update(e=x["e"][:1, :4], b=x["b"], frames=np.full(1, 4, np.int32))
    build(case, tiny)()
    before = peak_mb()
    run = build(case, x)
    first = time.perf_counter()
    value = run()
    taken, worked = [], []
    for _ in range(_REPEATS.value):
        start, began = time.perf_counter(), time.process_time()
        run()
        taken.append(time.perf_counter() - start)
        worked.append(time.process_time() - began)
    line = {
        "library": library,
        "case": case,
        "vocabulary": int(vocabulary),
        "seconds": statistics.median(taken),
        "cpu_seconds": statistics.median(worked),
        "first_call_seconds": time.perf_counter() - first - sum(taken),
        "peak_mb": peak_mb() - before,
        "loss": value,
    }
    print(json.dumps(line))


def main(argv: list[str]) -> None:
    """Runs all cases, prints JSON lines and a table."""
    del argv
    if _CHILD.value:
        child(_CHILD.value)
        return
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for _ in range(_ROUNDS.value):
        for vocabulary in _VOCABULARIES.value:
            for case in CASES:
                for library in LIBRARIES:
                    line = measured(f"{library},{case},{vocabulary}")
                    if line:
                        found.setdefault((vocabulary, case, library), []).append(line)
    names = ("seconds", "CPU s", "peak MB")
    print(f"\n{'V':>5} {'case':7} {'library':11} {' '.join(f'{n:>9}' for n in names)} {'loss':>14}")
    for (vocabulary, case, library), lines in found.items():
        seconds = min(line["seconds"] for line in lines)
        worked = min(line["cpu_seconds"] for line in lines)
        peak = statistics.median(line["peak_mb"] for line in lines)
        loss = lines[0]["loss"]
        numbers = f"{seconds:9.3f} {worked:9.3f} {peak:9.1f} {loss:14.4f}"
        print(f"{vocabulary:>5} {case:7} {library:11} {numbers}")


def measured(spec: str) -> dict[str, Any] | None:
    """One case in a process of its own; None (and its last words) if it fails."""
    command = [sys.executable, "-m", "benchmarks.transducer_loss", *sys.argv[1:], f"--child={spec}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        print(f"{spec}: failed\n{result.stderr[-600:]}", file=sys.stderr)
        return None
    text = result.stdout.strip().splitlines()[-1]
    print(text, flush=True)
    if _OUTPUT.value:
        with open(_OUTPUT.value, "a", encoding="utf-8") as f:
            f.write(text + "\n")
    return json.loads(text)


if __name__ == "__main__":
    app.run(main)

# SPDX-License-Identifier: Apache-2.0
"""Contenders of `benchmarks.decode` and `benchmarks.prefill`: processes that run a model on demand.

Each contender is a process of its own that holds one model and, for each line it is sent, runs a
number of tokens and answers with seconds on the clock, seconds of CPU and the resident memory that
was added since the imports.
Rounds go through all contenders in turn, so that other load on the machine hits them alike.
Contenders whose package is not installed are left out.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from absl import flags

from rwkvjax import config as config_lib
from rwkvjax.weights import names, pth
from rwkvjax.weights.params import sizes_of_config
from rwkvjax.weights.source import Tensor, Tensors

# Name -> what the child does with the file; see `_serve_ours` and `_serve_official`.
CONTENDERS = {
    "rwkvjax float32": {"format": "float32"},
    "rwkvjax float32 stacked": {"format": "float32", "layout": "stacked"},
    "rwkvjax bfloat16 stored": {"format": "bfloat16"},
    "rwkvjax bfloat16 throughout": {"format": "bfloat16", "compute": "bfloat16"},
    "rwkvjax int8": {"format": "int8"},
    "rwkvjax int4 groups of 64": {"format": "int4"},
    "official rwkv float32": {"official": "cpu fp32"},
    "official rwkv bfloat16": {"official": "cpu bf16"},
}


def write_model(path: Path, size: str) -> config_lib.Config:
    """Writes a random bfloat16 model of a published size in the official format."""
    cfg = config_lib.get_config(size)
    sizes = sizes_of_config(cfg)

    def tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
        def read() -> np.ndarray:
            values = np.random.default_rng(seed).standard_normal(shape, np.float32)
            if len(shape) < 2 or "time_" in name:
                return (0.3 * values).astype(ml_dtypes.bfloat16)
            return (values / np.sqrt(shape[-1])).astype(ml_dtypes.bfloat16)

        return Tensor(shape, np.dtype(ml_dtypes.bfloat16), read)

    listing = names.schema(cfg.version).listing(cfg.layers)
    tensors: Tensors = {
        name: tensor(name, entry.official_shape(sizes), seed)
        for seed, (name, entry, _) in enumerate(listing)
    }
    with open(path, "wb") as file:
        pth.write_pth(file, tensors)
    return cfg


@dataclasses.dataclass
class Result:
    """Rounds of one contender."""

    name: str
    tokens: int
    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)
    model_bytes: int = 0

    def line(self, baseline: Result) -> dict[str, Any]:
        """Figures; ratios are medians over rounds to the baseline in the same round."""
        ratio = lambda a, b: statistics.median(y / x for x, y in zip(a, b, strict=True))
        return {
            "contender": self.name,
            "tokens_per_s": round(self.tokens / statistics.median(self.wall), 2),
            "best_tokens_per_s": round(self.tokens / min(self.wall), 2),
            "cpu_ms_per_token": round(1e3 * statistics.median(self.cpu) / self.tokens, 3),
            "speed_up": round(ratio(self.wall, baseline.wall), 3),
            "speed_up_per_cpu_s": round(ratio(self.cpu, baseline.cpu), 3),
            "model_gb": round(self.model_bytes / 1e9, 2),
        }


def define_flags(values: flags.FlagValues, tokens: int, rounds: int, chosen: list[str]) -> None:
    """The flags that both programs have."""
    flags.DEFINE_string(
        "size", "", "A published size, see rwkvjax.config.SIZES.", flag_values=values
    )
    flags.DEFINE_integer("tokens", tokens, "Tokens of one round.", 1, flag_values=values)
    flags.DEFINE_integer("rounds", rounds, "Rounds over all contenders.", 1, flag_values=values)
    flags.DEFINE_integer("threads", 0, "Cores for each; 0 is all.", 0, flag_values=values)
    flags.DEFINE_list(
        "contenders", chosen, "Which to run; the first is the baseline.", flag_values=values
    )


def run(
    task: str, values: flags.FlagValues, ceiling: Callable[[], Any]
) -> tuple[config_lib.Config, list[Result], list[Any]]:
    """Runs what the flags say; `ceiling` is measured before and after, on the same cores."""
    if not values.size:
        raise flags.Error("--size is required: a published size, see rwkvjax.config.SIZES")
    unknown = sorted(set(values.contenders) - set(CONTENDERS))
    if unknown or not values.contenders:
        raise flags.Error(f"unknown contenders {unknown}; known: {list(CONTENDERS)}")
    if values.threads:  # the children inherit it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: values.threads])
    before = ceiling()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        cfg = write_model(path, values.size)
        results = compare(
            task, path, values.tokens, values.rounds, values.contenders, values.threads
        )
    return cfg, results, [before, ceiling()]


def show(lines: list[dict[str, Any]], columns: dict[str, Callable[[dict[str, Any]], str]]) -> None:
    """Prints JSON lines and then a table of the given columns."""
    for line in lines:
        print(json.dumps(line))
    print()
    print(f"| | {' | '.join(columns)} |")
    print("|---" * (1 + len(columns)) + "|")
    for line in lines:
        print(f"| {line['contender']} | {' | '.join(text(line) for text in columns.values())} |")


def compare(
    task: str, path: Path, tokens: int, rounds: int, chosen: list[str], threads: int = 0
) -> list[Result]:
    """Runs `task` ("decode" or "prefill") of `tokens` tokens in rounds over all contenders.

    `threads` keeps every contender on that many cores; 0 leaves them all.
    """
    installed = all(importlib.util.find_spec(name) for name in ("rwkv", "torch"))
    children, results = {}, {}
    for name in chosen:
        if "official" in CONTENDERS[name] and not installed:
            if name == chosen[0]:
                raise ImportError(
                    f"the baseline {name!r} needs its package: pip install rwkv torch"
                )
            print(f"left out, the package is not installed: {name}", file=sys.stderr)
            continue
        order = {**CONTENDERS[name], "task": task, "path": str(path), "tokens": tokens}
        children[name] = _start(order, threads)
        results[name] = Result(name, tokens)
        if children[name].stdout.readline() != "ready\n":  # loaded and compiled
            raise RuntimeError(f"{name} did not start; its message stands above")
        print(f"ready: {name}", file=sys.stderr, flush=True)
    for _ in range(rounds):
        for name, child in children.items():
            child.stdin.write("\n")
            child.stdin.flush()
            wall, cpu, memory = json.loads(child.stdout.readline())
            results[name].wall.append(wall)
            results[name].cpu.append(cpu)
            results[name].model_bytes = memory
    for child in children.values():
        child.stdin.close()
        child.wait()
    return list(results.values())


def _start(order: dict[str, Any], threads: int) -> Any:
    environment = dict(os.environ, JAX_PLATFORMS="cpu", RWKV_JIT_ON="1", RWKV_CUDA_ON="0")
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.inference", json.dumps(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
        env=environment,
    )


# --- the child ------------------------------------------------------------------------------------


def _ours(order: dict[str, Any]) -> Callable[[], None]:
    """A function that runs the task once with this library."""
    import jax
    import jax.numpy as jnp

    import rwkvjax
    from rwkvjax import layout, model
    from rwkvjax.quantization import QuantizeConfig, quantize
    from rwkvjax.sampling.generation import prefill

    kind = order["format"]
    stored = "bfloat16" if kind == "bfloat16" else "float32"
    cfg, params = rwkvjax.load(order["path"], dtype=stored)
    cfg = dataclasses.replace(cfg, dtype=order.get("compute", "float32"))
    if kind.startswith("int"):
        how = QuantizeConfig(int(kind[3:]), 64 if kind == "int4" else 0)
        params = quantize(params, how)
    if order.get("layout") != "stacked":
        params = layout.for_decoding(params, donate=True)
    if order["task"] == "prefill":
        tokens = np.random.default_rng(0).integers(0, cfg.vocab_size, (1, order["tokens"]))
        return lambda: jax.block_until_ready(prefill(params, cfg, tokens.astype(np.int32)))

    @jax.jit
    def step(params: Any, token: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        logits, state = model.step(params, cfg, token, state)
        return jnp.argmax(logits, axis=-1).astype(jnp.int32), state

    def decode() -> None:
        token, state = jnp.zeros(1, jnp.int32), model.init_state(cfg, 1)
        for _ in range(order["tokens"]):
            token, state = step(params, token, state)
        jax.block_until_ready(token)

    return decode


def _official(order: dict[str, Any]) -> Callable[[], None]:
    """A function that runs the task once with the official package."""
    from rwkv.model import RWKV

    model = RWKV(model=order["path"], strategy=order["official"], verbose=False)
    if order["task"] == "prefill":
        rng = np.random.default_rng(0)
        tokens = rng.integers(0, len(model.w["emb.weight"]), order["tokens"]).tolist()
        return lambda: model.forward(tokens, None)

    def decode() -> None:
        token, state = 0, None
        for _ in range(order["tokens"]):
            logits, state = model.forward([token], state)
            token = int(logits.argmax())

    return decode


def _child(order: dict[str, Any]) -> None:
    import jax

    jax.devices()
    if "official" in order:
        import rwkv.model  # noqa: F401  (its own memory is not the model's)
    before = _resident_bytes()
    run = _official(order) if "official" in order else _ours(order)
    run()  # compiles
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps([wall, cpu, _resident_bytes() - before]), flush=True)


def _resident_bytes() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


if __name__ == "__main__":
    _child(json.loads(sys.argv[1]))

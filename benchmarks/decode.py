# SPDX-License-Identifier: Apache-2.0
"""Decoding one sequence on a CPU, side by side with the official package in one run.

    python -m benchmarks.decode --size=finch-0.1b          # 12 x 768, vocabulary 65,536

Random weights of a published size, written in the official format and loaded by every contender
(see `benchmarks.inference`). The ceiling is the bandwidth of reading memory, measured in the same
rounds: a step reads every weight but the embedding once. Prints JSON lines and a table.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import inference
from core import cli
from core import params as params_lib
from rwkvjax import model
from rwkvjax.config import Config

_FLAGS = flags.FlagValues()
flags.DEFINE_string("size", "", "A published size, see rwkvjax.config.SIZES.", flag_values=_FLAGS)
flags.DEFINE_integer("tokens", 16, "Tokens of one round.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("rounds", 7, "Rounds over all contenders.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("threads", 0, "Cores for each contender; 0 is all.", 0, flag_values=_FLAGS)
flags.DEFINE_list(
    "contenders", list(inference.CONTENDERS), "Which to run; the first is the baseline.",
    flag_values=_FLAGS,
)  # fmt: skip


def bytes_per_token(cfg: Config) -> int:
    """Bytes of float32 weights and states that a step reads and writes."""
    specs = model.param_specs(cfg)
    weights = params_lib.count(specs) - cfg.vocab_size * cfg.dim
    state = sum(leaf.size for leaf in jax.tree.leaves(model.init_state(cfg, 1)))
    return 4 * (weights + 2 * state)


def bandwidth(repeats: int = 15) -> float:
    """Bytes per second of a float32 matrix-vector product far larger than the caches."""
    matrix, x = jnp.ones((4096, 65536)), jnp.ones((1, 4096))
    product = jax.jit(jnp.matmul)
    product(x, matrix).block_until_ready()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(x, matrix).block_until_ready()
        times.append(time.perf_counter() - start)
    return matrix.nbytes / statistics.median(times)


def main(values: flags.FlagValues) -> None:
    """Measures and prints."""
    if not values.size:
        raise flags.Error("--size is required: a published size, see rwkvjax.config.SIZES")
    if values.threads:
        os.sched_setaffinity(0, range(values.threads))
    before = bandwidth()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        cfg = inference.write_model(path, values.size)
        results = inference.compare(
            "decode", path, values.tokens, values.rounds, values.contenders, values.threads
        )
    ceiling = max(before, bandwidth()) / bytes_per_token(cfg)
    lines: list[dict[str, Any]] = []
    for result in results:
        line = {"benchmark": "decode", "size": values.size, **result.line(results[0])}
        line["of_float32_bound"] = round(line["tokens_per_s"] / ceiling, 3)
        lines.append(line)
        print(json.dumps(line))
    print(f"\n{values.size}: bound of reading float32 weights {ceiling:.1f} tokens/s\n")
    print("| | tokens/s | of the float32 bound | speed | per CPU second | CPU ms a token | GB |")
    print("|---" * 7 + "|")
    for line in lines:
        print(
            f"| {line['contender']} | {line['tokens_per_s']} | {line['of_float32_bound']:.0%} |"
            f" {line['speed_up']:.2f} | {line['speed_up_per_cpu_s']:.2f} |"
            f" {line['cpu_ms_per_token']:.1f} | {line['model_gb']} |"
        )


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")

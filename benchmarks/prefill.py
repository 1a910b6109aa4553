# SPDX-License-Identifier: Apache-2.0
"""Feeding a prompt on a CPU, side by side with the official package in one run.

    python -m benchmarks.prefill --size=finch-0.1b --tokens=1024

As `benchmarks.decode`. The ceiling is the rate of large float32 matrix products on this machine;
the work of a prompt is counted as two operations for each weight but the embedding and the head
(which is needed for the last token only). Prints JSON lines and a table.
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
flags.DEFINE_integer("tokens", 1024, "Length of the prompt.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("rounds", 5, "Rounds over all contenders.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("threads", 0, "Cores for each contender; 0 is all.", 0, flag_values=_FLAGS)
flags.DEFINE_list(
    "contenders",
    ["rwkvjax float32", "rwkvjax bfloat16 stored", "rwkvjax int8", "official rwkv float32"],
    "Which to run; the first is the baseline.",
    flag_values=_FLAGS,
)


def flops_per_token(cfg: Config) -> float:
    """Operations of the matrix products of one token, without the head."""
    return 2.0 * (params_lib.count(model.param_specs(cfg)) - 2 * cfg.vocab_size * cfg.dim)


def matmul_rate(repeats: int = 9) -> tuple[float, float]:
    """Operations per second on the clock, and per CPU second, of a large float32 product."""
    a = jnp.ones((2048, 2048))
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        product(a, a).block_until_ready()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    work = 2.0 * 2048**3
    return work / statistics.median(walls), work / statistics.median(cpus)


def main(values: flags.FlagValues) -> None:
    """Measures and prints."""
    if not values.size:
        raise flags.Error("--size is required: a published size, see rwkvjax.config.SIZES")
    if values.threads:
        os.sched_setaffinity(0, range(values.threads))
    before = matmul_rate()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        cfg = inference.write_model(path, values.size)
        results = inference.compare(
            "prefill", path, values.tokens, values.rounds, values.contenders, values.threads
        )
    rate, rate_per_cpu = map(max, zip(before, matmul_rate(), strict=True))
    work = flops_per_token(cfg)
    lines: list[dict[str, Any]] = []
    for result in results:
        line = {"benchmark": "prefill", "size": values.size, **result.line(results[0])}
        line["of_matmul_rate"] = round(line["tokens_per_s"] * work / rate, 3)
        line["of_matmul_rate_per_cpu_s"] = round(
            1e3 / line["cpu_ms_per_token"] * work / rate_per_cpu, 3
        )
        lines.append(line)
        print(json.dumps(line))
    print(f"\n{values.size}, {values.tokens} tokens; float32 products {rate / 1e9:.0f} GFLOP/s\n")
    print("| | tokens/s | of the matmul rate | per CPU second | speed | per CPU second | GB |")
    print("|---" * 7 + "|")
    for line in lines:
        print(
            f"| {line['contender']} | {line['tokens_per_s']} | {line['of_matmul_rate']:.0%} |"
            f" {line['of_matmul_rate_per_cpu_s']:.0%} | {line['speed_up']:.2f} |"
            f" {line['speed_up_per_cpu_s']:.2f} | {line['model_gb']} |"
        )


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")

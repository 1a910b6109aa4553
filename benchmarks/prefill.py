# SPDX-License-Identifier: Apache-2.0
"""Feeding a prompt on a CPU, side by side with the official package in one run.

    python -m benchmarks.prefill --size=finch-0.1b --tokens=1024

As `benchmarks.decode`. The ceiling is the rate of large float32 matrix products on this machine;
the work of a prompt is counted as two operations for each weight but the embedding and the head
(which is needed for the last token only). Prints JSON lines and a table.
"""

from __future__ import annotations

import statistics
import time
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
inference.define_flags(
    _FLAGS,
    tokens=1024,
    rounds=5,
    chosen=[name for name in inference.CONTENDERS if "stacked" not in name and "int4" not in name],
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
    cfg, results, ceilings = inference.run("prefill", values, matmul_rate)
    rate, rate_per_cpu = map(max, zip(*ceilings, strict=True))
    work = flops_per_token(cfg)
    lines: list[dict[str, Any]] = []
    for result in results:
        line = {"benchmark": "prefill", "size": values.size, **result.line(results[0])}
        line["of_matmul_rate"] = round(line["tokens_per_s"] * work / rate, 3)
        line["of_matmul_rate_per_cpu_s"] = round(
            1e3 / line["cpu_ms_per_token"] * work / rate_per_cpu, 3
        )
        lines.append(line)
    columns = {
        "tokens/s": lambda line: f"{line['tokens_per_s']}",
        "of the matmul rate": lambda line: f"{line['of_matmul_rate']:.0%}",
        "the same per CPU second": lambda line: f"{line['of_matmul_rate_per_cpu_s']:.0%}",
        "speed": lambda line: f"{line['speed_up']:.2f}",
        "speed per CPU second": lambda line: f"{line['speed_up_per_cpu_s']:.2f}",
        "GB": lambda line: f"{line['model_gb']}",
    }
    inference.show(lines, columns)
    print(f"\n{values.size}, {values.tokens} tokens; float32 products {rate / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")

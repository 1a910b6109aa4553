# SPDX-License-Identifier: Apache-2.0
"""Decoding one sequence on a CPU, side by side with the official package in one run.

    python -m benchmarks.decode --size=finch-0.1b          # 12 x 768, vocabulary 65,536

Random weights of a published size, written in the official format and loaded by every contender
(see `benchmarks.inference`). The ceiling is the bandwidth of reading memory, measured in the same
rounds: a step reads every weight but the embedding once. Prints JSON lines and a table.
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
inference.define_flags(_FLAGS, tokens=16, rounds=7, chosen=list(inference.CONTENDERS))


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
    cfg, results, ceilings = inference.run("decode", values, bandwidth)
    bound = max(ceilings) / bytes_per_token(cfg)
    lines: list[dict[str, Any]] = []
    for result in results:
        line = {"benchmark": "decode", "size": values.size, **result.line(results[0])}
        line["of_float32_bound"] = round(line["tokens_per_s"] / bound, 3)
        lines.append(line)
    columns = {
        "tokens/s": lambda line: f"{line['tokens_per_s']}",
        "of the float32 bound": lambda line: f"{line['of_float32_bound']:.0%}",
        "speed": lambda line: f"{line['speed_up']:.2f}",
        "per CPU second": lambda line: f"{line['speed_up_per_cpu_s']:.2f}",
        "CPU ms a token": lambda line: f"{line['cpu_ms_per_token']:.1f}",
        "GB": lambda line: f"{line['model_gb']}",
    }
    inference.show(lines, columns)
    print(f"\n{values.size}: bound of reading float32 weights {bound:.1f} tokens/s")


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")

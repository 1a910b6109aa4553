# SPDX-License-Identifier: Apache-2.0
"""Memory of one training step: expected, planned by the compiler, and measured.

    python -m benchmarks.step_memory --size=finch-0.4b --context=8192 --vocab=65536 --run

Expected (bytes, float32): parameters, gradients and two moments of AdamW (16 P); with full
rematerialisation one activation [B, T, D] for each layer is kept, 4 L B T D, and one block's own
intermediates live while its gradient is computed, about `_BLOCK_ARRAYS` arrays [B, T, D] (counted
from the model's file: mixes, projections, their cotangents, the feed-forward layer's width); the
head's logits live for a slice of `--loss_slice` tokens only. Planned: XLA's memory analysis of the
compiled step, with the state donated. Measured (--run): one step on random tokens in this process,
its peak of resident memory and its seconds. Prints a JSON line and a table.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from core import cli, optim, train_step
from core import params as params_lib
from core.task import TrainConfig
from rwkvjax.config import Config, get_config
from rwkvjax.model import param_specs
from rwkvjax.task import LanguageModelTask, TaskConfig

_FLAGS = flags.FlagValues()
flags.DEFINE_string("size", "finch-0.4b", "A published size.", flag_values=_FLAGS)
flags.DEFINE_integer("context", 8192, "Tokens of a window.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("batch", 1, "Windows.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("vocab", 65536, "Vocabulary.", 2, flag_values=_FLAGS)
flags.DEFINE_enum("remat", "full", ["none", "dots", "full"], "See Config.", flag_values=_FLAGS)
flags.DEFINE_integer("loss_slice", 512, "Tokens whose logits live.", 0, flag_values=_FLAGS)
flags.DEFINE_bool("run", False, "Also run one step.", flag_values=_FLAGS)

_BLOCK_ARRAYS = 40


def expected(cfg: Config, values: flags.FlagValues) -> dict[str, float]:
    """Analytic bytes by part, see the module."""
    count, window = params_lib.count(param_specs(cfg)), values.batch * values.context
    logits = min(values.loss_slice or window, window) * cfg.vocab_size
    layer = window * cfg.dim
    kept = cfg.layers if values.remat == "full" else cfg.layers * _BLOCK_ARRAYS
    return {
        "state": 12.0 * count,
        "gradients": 4.0 * count,
        "kept activations": 4.0 * kept * layer,
        "one block": 4.0 * _BLOCK_ARRAYS * layer,
        "logits": 12.0 * logits,  # the values, their softmax and the cotangent
    }


def main(values: flags.FlagValues) -> None:
    """Compiles, perhaps runs, and prints."""
    with cli.explain():
        cfg = get_config(values.size, vocab_size=values.vocab)
    cfg = dataclasses.replace(cfg, remat=values.remat)
    options = TaskConfig(loss_slice=values.loss_slice)
    task = LanguageModelTask(cfg, values.context, options)
    tx = optim.adamw(optim.AdamWConfig(), task.param_specs(), 100)
    train = TrainConfig(steps=100, batch_size=values.batch)
    step = jax.jit(train_step.make_train_step(task, tx, train), donate_argnums=0)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, cfg.vocab_size, (values.batch, values.context + 1)).astype(np.int32)
    batch = {
        "tokens": jnp.asarray(tokens),
        "reset": jnp.zeros(tokens.shape, bool),
        "loss_mask": jnp.ones(tokens[:, 1:].shape, jnp.float32),
    }
    start = lambda: train_step.init_state(task, tx, train)
    clock = time.perf_counter()
    compiled = step.lower(jax.eval_shape(start), batch).compile()
    analysis = compiled.memory_analysis()
    parts = expected(cfg, values)
    result: dict[str, Any] = {
        **{"benchmark": "step_memory", "size": values.size, "context": values.context},
        **{"batch": values.batch, "remat": values.remat, "compile_s": time.perf_counter() - clock},
        **{f"expected {k}": v for k, v in parts.items()},
        "expected": sum(parts.values()),
        "planned": analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes,
        "planned temporaries": analysis.temp_size_in_bytes,
    }
    if values.run:
        # Zeros would do for memory; the official start keeps the numbers of a real step.
        state = jax.jit(start)()
        clock = time.perf_counter()
        _, metrics = compiled(state, batch)
        result["loss"] = float(metrics["loss"])
        result["step_s"] = time.perf_counter() - clock
        result["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result))
    print("\n| | GB |\n|---|---|")
    for name, value in result.items():
        if name.startswith(("expected", "planned", "peak")):
            print(f"| {name} | {value / 1e9:.2f} |")


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")

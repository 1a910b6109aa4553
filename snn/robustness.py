# SPDX-License-Identifier: Apache-2.0
r"""How much imperfect hardware costs a trained TTFS network, before and after fine-tuning under it.

    python -m snn.robustness --model=runs/ttfs_mnist/model.safetensors --data=mnist \
        --output=runs/robustness.jsonl [--finetune_steps=300]

For each effect one line of JSON: accuracy (mean over --trials), and accuracy after fine-tuning
with the same effect in the training loop (straight-through rounding, the network's own windows).
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from core import cli, files, optim
from core.task import TrainConfig
from snn.tasks import ttfs as task_lib
from snn.tasks import ttfs_run
from snn.ttfs import effects, images, store, windows
from snn.ttfs import network as net

FLAGS = flags.FlagValues()
_define: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string("model", None, "Network to test.", required=True, **_define)
flags.DEFINE_enum("data", "mnist", list(images.DATASETS), "Images.", **_define)
flags.DEFINE_string("output", None, "JSON lines to write.", required=True, **_define)
flags.DEFINE_integer("trials", 4, "Draws of the noise.", **_define)
flags.DEFINE_integer("test_examples", 2000, "Test images.", **_define)
flags.DEFINE_integer("finetune_steps", 0, "Steps of fine-tuning for each effect.", **_define)
flags.DEFINE_float("learning_rate", 3e-4, "Rate of fine-tuning.", **_define)

# Jitter and mismatch are in units of the input window.
GRID: tuple[dict[str, Any], ...] = (
    {},
    {"jitter": 0.1},
    {"jitter": 0.2},
    {"jitter": 0.4},
    {"time_bits": 4},
    {"time_bits": 3},
    {"time_bits": 2},
    {"time_bits": 1},
    {"weight_bits": 4},
    {"weight_bits": 3},
    {"weight_bits": 2},
    {"missing": 0.05},
    {"missing": 0.2},
    {"threshold": 0.2},
    {"slope": 0.05},
    {"quantile": 0.9},
    {"quantile": 0.6},
)


def accuracy(
    network: net.Network,
    params: net.Params,
    deltas: Mapping[str, float],
    how: effects.Effects,
    data: images.Images,
    count: int,
    trials: int,
) -> float:
    """Mean accuracy on the first `count` test images; each trial is another device and noise."""
    total = []
    for trial in range(trials):
        device = dataclasses.replace(how, mismatch_seed=trial)
        run = jax.jit(
            lambda p, x, key, device=device: effects.run(network, p, x, deltas, device, key)[0]
        )
        keys = jax.random.split(jax.random.key(trial), -(-count // 500))
        batches = ttfs_run.lead_batches(data.test[:count], data.coding)
        found = [run(params, x, key).argmax(-1) for x, key in zip(batches, keys, strict=True)]
        total.append(float((np.concatenate(found) == data.test_labels[:count]).mean()))
    return float(np.mean(total))


def tuned(
    model: Path, how: effects.Effects, data_name: str, steps: int, rate: float, workdir: Path
) -> Any:
    """Parameters after fine-tuning under an effect."""
    cfg = task_lib.RunConfig(
        task="ttfs",
        model=task_lib.ModelConfig(),
        data=task_lib.DataConfig(data_name),
        train=TrainConfig(steps=steps, batch_size=100, log_every=steps),
        loss=task_lib.TaskConfig(semantics="clip", effects=how, init_from=str(model)),
        optimizer=optim.AdamWConfig(rate, rate / 100, beta2=0.999),
    )
    trainer, _ = ttfs_run.make_trainer(cfg, workdir, report=lambda _: None)
    trainer.evaluate = None
    return jax.device_get(trainer.run().params)


def main(values: Any) -> None:
    """Tests every effect of the grid."""
    model = Path(values["model"].value)
    network, params, deltas, extra = store.load(model)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    name = values["data"].value
    data = images.load(name).coded_for(extra)
    count = min(values["test_examples"].value, len(data.test))
    trials, steps = values["trials"].value, values["finetune_steps"].value
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for number, change in enumerate(GRID):
            row: dict[str, Any] = {"effect": change}
            start, window = model, deltas
            settings = dict(change)
            quantile = settings.pop("quantile", None)
            how = effects.Effects(**settings)
            if quantile is not None:  # lower latency: late windows clip large values
                batch = ttfs_run.lead_batches(data.train[:2000], data.coding)
                window = windows.from_data(network, params, batch, 0.0, "quantile", quantile)
                start = Path(folder) / f"start_{number}"
                store.save(start, network, params, window, extra)
            row["latency"] = windows.timeline(network, window).readout
            row["accuracy"] = accuracy(network, params, window, how, data, count, trials)
            if steps:
                rate = values["learning_rate"].value
                new = tuned(start, how, name, steps, rate, Path(folder) / str(number))
                row["fine_tuned"] = accuracy(network, new, window, how, data, count, trials)
            lines.append(json.dumps(row))
            print(lines[-1], flush=True)
    files.write_text(values["output"].value, "\n".join(lines) + "\n")


if __name__ == "__main__":
    cli.program(main, FLAGS, __doc__ or "")

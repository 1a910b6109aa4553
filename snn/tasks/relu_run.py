# SPDX-License-Identifier: Apache-2.0
"""Trains a ReLU network, maps it to spikes and compares both on the test set."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import config as config_lib
from core import files
from core import params as params_lib
from core.loop import Trainer
from snn.tasks import relu as task_lib
from snn.tasks import selection
from snn.tasks.ttfs import sources
from snn.ttfs import accounting, images, mapping, relu, store, windows
from snn.ttfs import network as net

STATISTICS_EXAMPLES = 10_000  # training images behind the statistics of batch norm


def main(config: Any, workdir: str) -> None:
    """Trains as configured; writes model.safetensors (spiking) and report.json."""
    cfg = task_lib.build_config(config)
    selection.check(cfg.train, cfg.data.validation, cfg.data.train_on_validation)
    out = Path(workdir).expanduser().resolve()
    train, validation, data = sources(cfg.data, cfg.train.seed)
    task = task_lib.ReluTask(cfg, data.train.shape[1:], validation)
    specs = task.param_specs()
    print(f"{cfg.data.name}: {data.note}; {params_lib.count(specs):,} parameters", file=sys.stderr)
    optimizer = task_lib.make_optimizer(cfg, specs)
    info = config_lib.to_dict(cfg)
    trainer = Trainer(task, optimizer, train, cfg.train, out, run_config=info)
    params, chosen = selection.selected(trainer, trainer.run())
    if jax.process_index() == 0:
        size = min(500, len(train))
        count = max(1, min(STATISTICS_EXAMPLES, len(train)) // size)
        batches = (train.get(np.arange(k * size, (k + 1) * size)) for k in range(count))
        params = jax.device_get(task_lib.with_statistics(task, params, batches))
        finish(cfg, task, params, data, out, chosen)


def finish(
    cfg: task_lib.RunConfig,
    task: task_lib.ReluTask,
    params: Any,
    data: images.Images,
    out: Path,
    chosen: Mapping[str, Any],
) -> None:
    """Maps the network in float64 and writes what came out."""
    with jax.enable_x64(True):
        result, mapped = compare(cfg, task, params, data)
    extra = {"pixels": dataclasses.asdict(cfg.loss)}
    store.save(out / "model.safetensors", mapped.network, mapped.params, mapped.windows, extra)
    result = {"seed": cfg.train.seed, **chosen, **result}
    with files.atomic_write(out / "report.json", "w") as f:
        json.dump(result, f, indent=2)
    print(json.dumps(result, indent=2))


def compare(
    cfg: task_lib.RunConfig, task: task_lib.ReluTask, params: Any, data: images.Images
) -> tuple[dict[str, Any], mapping.Mapped]:
    """Accuracy of both networks on the test set, how far apart they are, and certificates."""
    loss = cfg.loss
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def raws(pixels: np.ndarray, size: int = 100) -> Iterator[np.ndarray]:
        for start in range(0, len(pixels), size):
            yield (pixels[start : start + size].astype(np.float64) - loss.mean) / loss.std

    encode = lambda raw: jnp.asarray(images.encode(raw, loss.low, loss.high))
    mapped = mapping.map_relu(
        task.layers,
        exact,
        task.input_shape,
        (encode(raw) for raw in raws(data.train[: min(2000, cfg.data.train_examples or 2000)], 20)),
        input_range=(loss.low, loss.high),
        windows_from=loss.windows,
    )
    plain = jax.jit(lambda p, x: relu.apply(task.layers, p, x))
    spiking = jax.jit(lambda p, x: net.closed_form(mapped.network, p, x, mapped.windows, "clip")[0])

    def logits(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pairs = [
            (np.asarray(plain(exact, raw)), np.asarray(spiking(mapped.params, encode(raw))))
            for raw in raws(pixels)
        ]
        ours, theirs = (np.concatenate(part) for part in zip(*pairs, strict=True))
        return ours, theirs

    result: dict[str, Any] = {}
    if data.validation is not None:
        ours, _ = logits(data.validation)
        result["validation_examples"] = len(ours)
        result["validation_accuracy"] = float((ours.argmax(-1) == data.validation_labels).mean())
    count = cfg.data.test_examples or len(data.test)
    ours, theirs = logits(data.test[:count])
    labels = data.test_labels[:count]
    tests = lambda n, size=100: (encode(raw) for raw in raws(data.test[:n], size))
    cost = accounting.count(mapped.network, mapped.params, tests(count), mapped.windows)
    certify = min(cfg.data.certify_examples or count, count)
    certificates = windows.certify_batches(
        mapped.network, mapped.params, tests(certify, 20), mapped.windows
    )
    result |= {
        "test_examples": count,
        "relu_accuracy": float((ours.argmax(-1) == labels).mean()),
        "spiking_accuracy": float((theirs.argmax(-1) == labels).mean()),
        "same_labels": int((ours.argmax(-1) == theirs.argmax(-1)).sum()),
        "largest_difference_of_logits": float(np.abs(ours - theirs).max()),
        "windows": mapped.windows,
        "certificates": windows.summary(certificates, certify),
        **dataclasses.asdict(cost),
    }
    return result, mapped

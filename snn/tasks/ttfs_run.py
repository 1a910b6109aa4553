# SPDX-License-Identifier: Apache-2.0
"""One training run of a TTFS network, and the report on what came out of it."""

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
from core import files, plots
from core import params as params_lib
from core.loop import Trainer
from snn.tasks import selection
from snn.tasks import ttfs as task_lib
from snn.ttfs import accounting, images, simulate, store, windows
from snn.ttfs import network as net

ZETA = 0.5


def main(config: Any, workdir: str) -> None:
    """Trains as configured, trims the windows, writes the network and its report."""
    cfg = task_lib.build_config(config)
    selection.check(cfg.train, cfg.data.validation, cfg.data.train_on_validation)
    out = Path(workdir).expanduser().resolve()
    trainer, data = make_trainer(cfg, out)
    if jax.process_index() == 0:
        about = f"{cfg.data.name}: {data.note}; {params_lib.count(trainer.specs):,} parameters"
        print(about, file=sys.stderr)
    state = trainer.run()
    params, chosen = selection.selected(trainer, state)
    if jax.process_index() == 0:
        finish(cfg, trainer, params, data, out, chosen)


def make_trainer(
    cfg: task_lib.RunConfig, workdir: Path, report: Any = None
) -> tuple[Trainer, images.Images]:
    """Builds data, task and optimiser; compiles nothing yet."""
    train, validation, data = task_lib.sources(cfg.data, cfg.train.seed)
    network, initial = task_lib.build_network(cfg.model, data.train.shape[1:]), None
    deltas: dict[str, float] = {}
    if cfg.loss.init_from:
        network, initial, deltas, extra = store.load(cfg.loss.init_from)
        if network.input_shape != data.train.shape[1:]:
            raise config_lib.ConfigError(
                f"config.loss.init_from: that network takes {network.input_shape}, the data have"
                f" {data.train.shape[1:]}"
            )
        initial = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), initial)
        data = data.coded_for(extra)
    task = task_lib.TtfsTask(
        network,
        cfg.loss,
        cfg.model.init,
        float(data.white),
        validation,
        cfg.data.eval_batch_size,
        deltas,
        float(data.black),
        tuple(name for name, block in (initial or {}).items() if block["bias"].ndim > 1),
    )
    trainer = Trainer(
        task,
        task_lib.make_optimizer(cfg, task.param_specs()),
        train,
        cfg.train,
        workdir,
        run_config=config_lib.to_dict(cfg),
        init_params=initial,
        report=report,
    )
    return trainer, data


def lead_batches(
    pixels: np.ndarray, coding: tuple[float, float], size: int = 500
) -> Iterator[jax.Array]:
    """Input lead times of images, batch by batch; see `images.Images.coding`."""
    for start in range(0, len(pixels), size):
        yield jnp.asarray(images.encode(pixels[start : start + size].astype(np.float32), *coding))


def finish(
    cfg: task_lib.RunConfig,
    trainer: Trainer,
    params: Any,
    data: images.Images,
    out: Path,
    chosen: Mapping[str, Any],
) -> None:
    """Writes model.safetensors (windows trimmed to the training data), report.json, loss.png."""
    network: net.Network = trainer.task.network  # type: ignore[attr-defined]
    if autonomous(network):  # their windows are part of the model
        fixed = trainer.task.init_carry(0)
        deltas = {k: float(v) for k, v in fixed.items()}
    else:
        n = min(len(data.train), 10_000)
        deltas = windows.from_data(network, params, lead_batches(data.train[:n], data.coding), ZETA)
    extra = {"black": data.black, "white": data.white, "data": cfg.data.name}
    store.save(out / "model.safetensors", network, params, deltas, extra)
    result: dict[str, Any] = {"seed": cfg.train.seed, **chosen}
    if data.validation is not None:
        assert data.validation_labels is not None
        found, _ = predictions(network, params, deltas, data.validation, data.coding)
        result["validation_examples"] = len(found)
        result["validation_accuracy"] = float((found == data.validation_labels).mean())
    count = cfg.data.test_examples or len(data.test)
    result |= report(
        network,
        params,
        deltas,
        data.test[:count],
        data.test_labels[:count],
        data.coding,
        cfg.data.certify_examples or count,
    )
    with files.atomic_write(out / "report.json", "w") as f:
        json.dump(result, f, indent=2)
    print(json.dumps(result, indent=2))
    draw(network, params, deltas, data, out)
    plots.loss_curve(
        out / "metrics.jsonl",
        out / "loss.png",
        f"TTFS on {cfg.data.name}",
        train=("loss", "training loss (nats)"),
        held_out=("eval/accuracy", "validation accuracy"),
    )


def draw(
    network: net.Network, params: Any, deltas: Mapping[str, float], data: images.Images, out: Path
) -> None:
    """Pictures of test images on their way through the network."""
    from snn.ttfs import pictures

    x = images.encode(data.test[:64].astype(np.float32), *data.coding)
    pictures.raster(network, params, x[0], deltas, out / "raster.png")
    pictures.strip(network, params, x[0], deltas, out / "strip.png")
    pictures.window_map(network, params, x, deltas, out / "windows.png")
    if network.hidden:
        first = network.hidden[0].name
        pictures.voltages(network, params, x[0], deltas, first, out / "voltages.png")


def autonomous(network: net.Network) -> bool:
    """True if a layer has no closed form, so that only causal semantics applies."""
    return any(layer.autonomous for layer in network.hidden)


def predictions(
    network: net.Network,
    params: net.Params,
    deltas: Mapping[str, float],
    pixels: np.ndarray,
    coding: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Labels with windows ("clip") and without ("ideal"); both causal for autonomous layers."""
    kinds = ("causal", "causal") if autonomous(network) else ("clip", "ideal")
    run = jax.jit(
        lambda p, x: tuple(
            simulate.forward(network, p, x, deltas, kind)[0].argmax(-1) for kind in kinds
        )
    )
    pairs = [jax.device_get(run(params, x)) for x in lead_batches(pixels, coding)]
    clipped, ideal = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return clipped, ideal


def report(
    network: net.Network,
    params: net.Params,
    deltas: Mapping[str, float],
    pixels: np.ndarray,
    labels: np.ndarray,
    coding: tuple[float, float],
    certify: int = 1000,
) -> dict[str, Any]:
    """Accuracy without and with windows, their agreement, costs, certificates of the windows.

    Args:
      network, params, deltas, coding: see `predictions`.
      pixels, labels: test images [N, H, W, C] and labels [N].
      certify: so many of the images are certified.
    """
    clipped, ideal = predictions(network, params, deltas, pixels, coding)
    semantics = "causal" if autonomous(network) else "clip"
    cost = accounting.count(network, params, lead_batches(pixels, coding), deltas, semantics)
    certified: Any = "none: autonomous layers have no closed form"
    if semantics == "clip":
        batches = lead_batches(pixels[:certify], coding, 100)
        certificates = windows.certify_batches(network, params, batches, deltas)
        certified = windows.summary(certificates, min(certify, len(labels)))
    return {
        "test_examples": len(labels),
        "accuracy": float((clipped == labels).mean()),
        "accuracy_without_windows": float((ideal == labels).mean()),
        "same_label_fraction": float((ideal == clipped).mean()),
        "windows": {k: float(v) for k, v in deltas.items()},
        "certificates": certified,
        **dataclasses.asdict(cost),
    }

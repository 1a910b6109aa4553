# SPDX-License-Identifier: Apache-2.0
"""One training run of a sequence task, and the report on what came out of it."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from core import config as config_lib
from core import files, optim
from core import params as params_lib
from core.loop import Trainer, make_evaluate
from core.task import PyTree, TrainConfig
from snn.tasks import networks, selection, sequence_data
from snn.tasks.sequence import LossConfig, MethodConfig, SequenceTask

# Score that the learning curve shows, for each kind of task.
SCORES = {
    "chorales": ("frame_accuracy", "frame accuracy"),
    "digits": ("accuracy", "accuracy"),
    "phonemes": ("accuracy", "frame accuracy"),
    "language": ("nll", ""),
}


@dataclasses.dataclass(frozen=True)
class SgdConfig:
    """Stochastic gradient descent at a fixed rate."""

    learning_rate: float
    momentum: float = 0.0


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole configuration file but its data block; `sgd` replaces `optimizer` if given."""

    task: str
    train: TrainConfig
    model: networks.NetworkConfig = networks.NetworkConfig()
    loss: LossConfig = LossConfig()
    method: MethodConfig = MethodConfig()
    optimizer: optim.AdamWConfig = optim.AdamWConfig()
    sgd: SgdConfig | None = None
    data: Any = None


def build_config(values: Any) -> RunConfig:
    """Checks a ConfigDict; the type of its data block follows from `task`."""
    blocks: dict[str, Any] = dict(values.to_dict() if hasattr(values, "to_dict") else values)
    kind = blocks.get("task")
    if kind not in sequence_data.KINDS:
        raise config_lib.ConfigError(
            f"config.task must be one of {sorted(sequence_data.KINDS)}, got {kind!r}"
        )
    blocks["data"] = config_lib.build(sequence_data.KINDS[kind], blocks.get("data"), "config.data")
    return config_lib.build(RunConfig, blocks)


def make_optimizer(cfg: RunConfig, specs: PyTree) -> optax.GradientTransformation:
    """AdamW, or SGD where the configuration has a block `sgd`."""
    if cfg.sgd is None:
        return optim.adamw(cfg.optimizer, specs, cfg.train.steps)
    return optax.sgd(cfg.sgd.learning_rate, cfg.sgd.momentum or None)


def make_trainer(
    cfg: RunConfig, workdir: Path, report: Any = None
) -> tuple[Trainer, sequence_data.Setting]:
    """Builds data, task and optimiser; compiles nothing yet."""
    setting = cfg.data.load(cfg.train.seed, cfg.train.batch_size)
    problem = setting.problem
    net = networks.build_network(cfg.model, problem.inputs, problem.outputs)
    task = SequenceTask(
        problem,
        net,
        cfg.loss,
        cfg.method,
        setting.valid,
        cfg.data.eval_batch_size,
        cfg.train.seed,
        networks.param_specs(net, cfg.model),
    )
    trainer = Trainer(
        task,
        make_optimizer(cfg, task.param_specs()),
        setting.train,
        cfg.train,
        workdir,
        run_config=config_lib.to_dict(cfg),
        report=report,
    )
    return trainer, setting


def main(config: Any, workdir: str) -> None:
    """Trains as configured; writes report.json, loss.png and pictures of the activity."""
    cfg = build_config(config)
    out = Path(workdir).expanduser().resolve()
    trainer, setting = make_trainer(cfg, out)
    if jax.process_index() == 0:
        size = params_lib.count(trainer.specs)
        print(f"{cfg.task}: {setting.note}; {size:,} parameters", file=sys.stderr)
    start = time.monotonic()
    state = trainer.run()
    seconds = time.monotonic() - start
    params, chosen = selection.selected(trainer, state)
    result = {**report(cfg, trainer, params, setting), **chosen, "seconds": round(seconds, 1)}
    if jax.process_index() == 0:
        with files.atomic_write(out / "report.json", "w") as f:
            json.dump(result, f, indent=2)
        print(json.dumps(result, indent=2))
        draw(cfg, trainer, params, setting, out)


def report(
    cfg: RunConfig, trainer: Trainer, params: PyTree, setting: sequence_data.Setting
) -> dict[str, Any]:
    """Scores of the reported parameters on the validation and test parts."""
    task: SequenceTask = trainer.task  # type: ignore[assignment]
    result: dict[str, Any] = {
        "task": cfg.task,
        "method": cfg.method.name,
        "cell": " ".join(cfg.model.cell),
        "parameters": params_lib.count(trainer.specs),
        "seed": cfg.train.seed,
    }
    for part, source in (("valid", setting.valid), ("test", setting.test)):
        task.eval_source = source
        evaluate = make_evaluate(task, cfg.train, trainer.mesh)
        assert evaluate is not None
        scores = evaluate(params)
        result.update({k.replace("eval/", f"{part}_"): v for k, v in scores.items()})
    return result


def draw(
    cfg: RunConfig, trainer: Trainer, params: PyTree, setting: sequence_data.Setting, out: Path
) -> None:
    """Learning curve, raster and membranes of one test sequence."""
    from snn.tasks import sequence_pictures

    name, label = SCORES[cfg.task]
    title = f"{cfg.task}: {' '.join(cfg.model.cell)} by {cfg.method.name}"
    sequence_pictures.learning_curve(
        out / "metrics.jsonl", out / "loss.png", title, f"eval/{name}", label
    )
    task: SequenceTask = trainer.task  # type: ignore[assignment]
    batch = {k: jax.numpy.asarray(v) for k, v in setting.test.get(np.arange(1)).items()}
    batch["valid"] = jax.numpy.ones(1)
    sequence_pictures.draw(task, params, batch, out)

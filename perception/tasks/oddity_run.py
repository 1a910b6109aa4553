# SPDX-License-Identifier: Apache-2.0
"""From a configuration to a trained network that finds the odd frame, and its report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from core import files
from core import params as params_lib
from core.data import Source
from core.loop import Trainer
from core.task import PyTree
from perception import oddity_pictures
from perception.data.oddity import FAMILIES, NAMES
from perception.tasks import launch
from perception.tasks.oddity import OddityTask
from perception.tasks.oddity_setup import (
    LEARNING,
    RunConfig,
    build_config,
    build_network,
    open_source,
    parse_riddles,
)


def make_trainer(
    cfg: RunConfig, workdir: Path, report: Callable[[str], None] | None = None
) -> Trainer:
    """Builds data, task and optimiser.

    Raises:
      ValueError: the folder holds another run, or the configuration cannot be followed.
    """
    launch.check_resumed(cfg, workdir, build_config)
    data = cfg.data
    train = open_source(cfg, "train", data.train)
    held_out = open_source(cfg, "validation", data.validation) if data.validation else None
    network = build_network(cfg.model, data.resolution, cfg.frontend)
    task = LEARNING[cfg.learning](network, cfg.objective, held_out, data.eval_batch_size)
    return launch.trainer(task, cfg, train, workdir, report)


def answers(
    task: OddityTask, params: PyTree, source: Source, batch_size: int
) -> dict[str, np.ndarray]:
    """ "right" bool [N] and "riddle" int32 [N] of all problems of a source."""
    scores_of = jax.jit(task.scores)
    right, riddle = [], []
    for start in range(0, len(source), batch_size):
        # One size for all calls; rows past the end come again from the beginning and are dropped.
        batch = source.get(np.arange(start, start + batch_size))
        inputs = {name: batch[name] for name in task.network.inputs}
        found = np.asarray(scores_of(params, inputs)).argmax(axis=-1)
        keep = min(batch_size, len(source) - start)
        right.append((found == batch["label"])[:keep])
        riddle.append(batch["riddle"][:keep])
    return {"right": np.concatenate(right), "riddle": np.concatenate(riddle)}


def by_group(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Accuracies of all problems, of each family and of each riddle: {"accuracy", "count", ...}."""

    def score(chosen: np.ndarray) -> dict[str, float]:
        right = found["right"][chosen]
        return {"accuracy": float(right.mean()), "count": int(right.size)}

    riddles = sorted({int(r) for r in found["riddle"]})
    families = {name: np.isin(found["riddle"], members) for name, members in FAMILIES.items()}
    return {
        **score(np.ones(len(found["right"]), bool)),
        "families": {name: score(own) for name, own in families.items() if own.any()},
        "riddles": {str(r): {"name": NAMES[r], **score(found["riddle"] == r)} for r in riddles},
    }


def run(cfg: RunConfig, trainer: Trainer) -> tuple[dict[str, Any], PyTree]:
    """Trains and tests; (report, which is also written to report.json, and parameters)."""
    start = time.monotonic()
    state = trainer.run()
    seconds = time.monotonic() - start
    params = state.ema if cfg.train.ema else state.params
    data = cfg.data
    tests = {"test": open_source(cfg, "test", data.test)}
    if data.without:
        tests["held_out"] = open_source(cfg, "test", data.test, parse_riddles(data.without))
    task: OddityTask = trainer.task  # type: ignore[assignment]
    scored = {
        name: by_group(answers(task, params, source, data.eval_batch_size))
        for name, source in tests.items()
    }
    report = {
        "network": cfg.model.network,
        "eye": cfg.model.eye,
        "objective": cfg.objective,
        "learning": cfg.learning,
        "riddle": data.riddle,
        "without": data.without,
        "parameters": params_lib.count(trainer.specs),
        "train": data.train,
        "samples": cfg.train.steps * cfg.train.batch_size,
        "resolution": data.resolution,
        "seed": cfg.train.seed,
        "steps": cfg.train.steps,
        "seconds": round(seconds, 1),
        **scored,
    }
    if jax.process_index() == 0:
        files.write_text(trainer.workdir / "report.json", json.dumps(report, indent=2) + "\n")
    return report, params


def main(config: Any, workdir: str) -> None:
    """Trains as configured; writes report.json and figures."""
    launch.launch(
        config,
        workdir,
        build=build_config,
        prepare=make_trainer,
        run=run,
        draw=oddity_pictures.run_pictures,
    )

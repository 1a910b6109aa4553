# SPDX-License-Identifier: Apache-2.0
"""What the run modules of this package share: from a configuration to a trainer, and the program
around it. The loop itself is `core.loop`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from core import cli, optim
from core import config as config_lib
from core import params as params_lib
from core.data import Source
from core.loop import Trainer
from core.task import PyTree, Task
from perception import runs


def check_least(block: Any, **least: int) -> None:
    """Raises ValueError for a number of a configuration block that is smaller than it may be."""
    for name, smallest in least.items():
        if getattr(block, name) < smallest:
            raise ValueError(f"{name} must be at least {smallest}, got {getattr(block, name)}")


def check_resumed(cfg: Any, workdir: Path, build: Callable[[Any], Any]) -> None:
    """Raises ValueError if the run to be resumed in `workdir` was another one: its parameters
    would be reported as those of this configuration. Steps, batch size and optimiser may change.
    """
    kept = workdir / "checkpoints"
    if not (workdir / "config.json").is_file() or not kept.is_dir() or not any(kept.iterdir()):
        return
    try:
        kept_config = build(runs.read_config(workdir))
    except config_lib.ConfigError as error:
        raise ValueError(
            f"{workdir} holds a run of another version ({error}): name another folder"
        ) from error
    old, new = (config_lib.to_dict(c) for c in (kept_config, cfg))
    seeds = [config["train"]["seed"] for config in (old, new)]
    for config in (old, new):
        del config["train"], config["optimizer"]
    changed = config_lib.differences(runs.settings(old), runs.settings(new))
    changed += [f"{runs.SEED}: {seeds[0]} -> {seeds[1]}"] * (seeds[0] != seeds[1])
    if changed:
        raise ValueError(f"{workdir} holds another run ({'; '.join(changed)}): name another folder")


def trainer(
    task: Task, cfg: Any, source: Source, workdir: Path, report: Callable[[str], None] | None
) -> Trainer:
    """The trainer of a task as its configuration says: blocks "train" and "optimizer"."""
    return Trainer(
        task,
        optim.adamw(cfg.optimizer, task.param_specs(), cfg.train.steps),
        source,
        cfg.train,
        workdir,
        run_config=config_lib.to_dict(cfg),
        report=report,
    )


def launch(
    config: Any,
    workdir: str,
    *,
    build: Callable[[Any], Any],
    prepare: Callable[[Any, Path], Trainer],
    run: Callable[[Any, Trainer], tuple[dict[str, Any], PyTree]],
    draw: Callable[[Any, Any, PyTree, dict[str, Any], Path], None],
) -> None:
    """Trains as configured, prints the report and draws pictures.

    Args:
      config: a ConfigDict.
      workdir: of the run.
      build: checks the configuration.
      prepare: (configuration, folder) -> trainer, with all data at hand.
      run: trains and tests: (report, parameters).
      draw: (configuration, task, parameters, report, folder): pictures.
    """
    out = Path(workdir).expanduser().resolve()
    with cli.explain():
        cfg = build(config)
        made = prepare(cfg, out)
    main_process = jax.process_index() == 0
    if main_process:
        count = params_lib.count(made.specs)
        print(f"{cfg.model.network}: {count:,} parameters", file=sys.stderr)
    report, params = run(cfg, made)
    if main_process:
        print(json.dumps(report, indent=2))
        draw(cfg, made.task, params, report, out)

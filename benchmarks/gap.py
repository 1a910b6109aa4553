# SPDX-License-Identifier: Apache-2.0
"""Accuracy of glimpse-based perception beside its ablations and baselines, run by run.

    python -m benchmarks.gap --plan=reduced --workdir=runs/gap          (a few minutes)
    python -m benchmarks.gap --plan=table --workdir=runs/gap --minutes=15

A plan is a list of configurations. Every run gets a folder of its own; finished ones (those with a
report.json) are skipped and stopped ones resumed, so a plan can be worked off in parts.
At the end: one JSON line a run, and a table of test accuracies over the seeds.
"""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path

from absl import flags

from core import cli, files
from perception import evaluate
from perception.tasks import reasoning_run

SVRT = "configs.perception.gap_svrt"
ART = "configs.perception.gap_art"

FLAGS = flags.FlagValues()
flags.DEFINE_enum("plan", "reduced", ["reduced", "table"], "What to run.", flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "Folder of the runs.", flag_values=FLAGS, required=True)
flags.DEFINE_float("minutes", 0.0, "Start no run after so long; 0: no limit.", flag_values=FLAGS)
flags.DEFINE_string("only", "", "Only runs whose arguments contain this.", flag_values=FLAGS)

ABLATIONS = ("streams=location", "streams=content", "policy=random", "policy=grid")
OTHERS = ("transformer", "corelnet", "esbn", "rwkv")
BUDGET = "train=500,epochs=40"
BASELINE_BUDGET = "train=500,epochs=80"  # whole images are learned more slowly


def plan(name: str) -> list[tuple[str, str]]:
    """(configuration module, argument) of every run, the most telling first."""
    if name == "reduced":
        few = "problem=1,train=300,epochs=50"
        return [(SVRT, f"{few}{variant}") for variant in ("", ",policy=random", ",network=cnn")]
    svrt = lambda problem, more="": (SVRT, f"problem={problem},{BUDGET}{more}")
    baseline = lambda problem, n: (SVRT, f"problem={problem},{BASELINE_BUDGET},network={n}")
    art = lambda task, more="": (ART, f"task={task}{more}")
    runs = [svrt(1), baseline(1, "cnn"), baseline(1, "vit")]
    runs += [svrt(1, f",{ablation}") for ablation in ABLATIONS]
    runs += [svrt(p) for p in (5, 4)] + [art("rmts"), svrt(22), svrt(14), baseline(4, "cnn")]
    seeds = [svrt(1, ",seed=1"), svrt(1, ",seed=2")]
    runs += [*seeds, svrt(7), art("same_different"), baseline(14, "cnn"), baseline(22, "cnn")]
    runs += [svrt(1, f",network={n}") for n in OTHERS]
    runs += [art("rmts", ",network=cnn"), art("same_different", ",network=cnn")]
    runs += [svrt(p) for p in (15, 20, 10)] + [baseline(p, "cnn") for p in (5, 7)]
    runs += [baseline(1, "resnet"), baseline(4, "vit"), art("rmts", ",network=vit")]
    again = [(m, f"{arg},seed={seed}") for seed in (1, 2) for m, arg in runs if "seed" not in arg]
    return [*runs, *(run for run in again if run not in seeds)]


def main(values: flags.FlagValues) -> None:
    """Works off the plan."""
    start = time.monotonic()
    root = Path(values.workdir).expanduser().resolve()
    runs = [r for r in plan(values.plan) if values.only in r[1]]
    finished = []
    for module, arg in runs:
        out = root / f"{module.rsplit('.', 1)[-1]},{arg}"
        if not (out / "report.json").is_file():
            if values.minutes and time.monotonic() - start > 60 * values.minutes:
                continue
            cfg = reasoning_run.build_config(importlib.import_module(module).get_config(arg))
            try:
                report, _ = reasoning_run.run(cfg, reasoning_run.make_trainer(cfg, out))
            except files.FileInUseError:  # another process works on this run
                continue
            print(json.dumps({"run": out.name, **report}), flush=True)
        finished.append(out)
    print(f"{len(finished)} of {len(runs)} runs of the plan are finished")
    print(evaluate.table(evaluate.summarise([evaluate.read_report(out) for out in finished])))


if __name__ == "__main__":
    cli.program(main, FLAGS, __doc__)

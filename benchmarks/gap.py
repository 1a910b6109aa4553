# SPDX-License-Identifier: Apache-2.0
"""Accuracy of glimpse-based perception beside its ablations and baselines, run by run.

    python -m benchmarks.gap --plan=reduced --workdir=runs/gap          (a few minutes)
    python -m benchmarks.gap --plan=table --workdir=runs/gap --minutes=15
    python -m benchmarks.gap --plan=samples --workdir=runs/gap --figure=docs/figures/gap_samples.png

A plan is a list of configurations. Every run gets a folder of its own; finished ones (those with a
report.json) are skipped and stopped ones resumed, so a plan can be worked off in parts.
At the end: one JSON line a run, and a table of test accuracies over the seeds; with --figure also
a picture of accuracy against training images (plan "samples", which shows as many images to a
network whatever their number).
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from core import cli, files, plots
from perception import evaluate
from perception.tasks import reasoning_run

SVRT = "configs.perception.gap_svrt"
ART = "configs.perception.gap_art"

FLAGS = flags.FlagValues()
PLANS = ["reduced", "table", "samples", "disturbed"]
flags.DEFINE_enum("plan", "reduced", PLANS, "What to run.", flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "Folder of the runs.", flag_values=FLAGS, required=True)
flags.DEFINE_float("minutes", 0.0, "Start no run after so long; 0: no limit.", flag_values=FLAGS)
flags.DEFINE_string("figure", "", "PNG of accuracy against images.", flag_values=FLAGS)
flags.DEFINE_string("only", "", "Only runs whose arguments contain this.", flag_values=FLAGS)

ABLATIONS = ("streams=location", "streams=content", "policy=random", "policy=grid")
OTHERS = ("transformer", "corelnet", "esbn", "rwkv")
BUDGET = "train=500,epochs=40"
BASELINE_BUDGET = "train=500,epochs=80"  # whole images are learned more slowly
DISTURBED = (
    "recombine=0.5",
    "recombine=0.5,seed=1",
    "recombine=0.5,seed=2",
    "swap=0.3",
    "swap=0.5",
    "recombine=0.5,splice=0.3",
    "noise=1",
    "sensor=multiscale",
    "sensor=multiscale,recombine=0.5",
)
SIZES = (100, 250, 500, 1000)
SHOWN = {  # label in the figure -> (argument, images shown in training)
    "GAP-Abstractor": ("", 20_000),
    "places only": (",streams=location", 20_000),
    "CNN on whole images": (",network=cnn", 40_000),
}


def plan(name: str) -> list[tuple[str, str]]:
    """(configuration module, argument) of every run, the most telling first."""
    if name == "reduced":
        few = "problem=1,train=300,epochs=50"
        return [(SVRT, f"{few}{variant}") for variant in ("", ",policy=random", ",network=cnn")]
    if name == "disturbed":  # what may keep contents from being all that is used
        base = f"problem=1,{BUDGET}"
        return [(SVRT, base), *((SVRT, f"{base},{more}") for more in DISTURBED)]
    if name == "samples":
        return [
            (SVRT, samples_argument(problem, size, label))
            for problem in (1, 4)
            for label in SHOWN
            for size in SIZES
        ]
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


def samples_argument(problem: int, size: int, label: str) -> str:
    """Argument of the run of plan "samples" that learns a problem from `size` images."""
    more, shown = SHOWN[label]
    return f"problem={problem},train={size},epochs={shown // size}{more}"


def draw_samples(accuracies: Mapping[str, Sequence[float]], path: str) -> None:
    """Accuracy against the number of training images, one panel a problem.

    Args:
      accuracies: argument of a run without its seed -> accuracy of each seed, in [0, 1].
      path: PNG to write.
    """
    plt = plots.pyplot()
    problems = [p for p in range(1, 24) if any(a.startswith(f"problem={p},") for a in accuracies)]
    figure, panels = plt.subplots(
        1, len(problems), figsize=(4.6 * len(problems), 3.8), squeeze=False, layout="constrained"
    )
    for problem, axis in zip(problems, panels[0], strict=True):
        for label in SHOWN:
            found = [(n, accuracies.get(samples_argument(problem, n, label), ())) for n in SIZES]
            found = [(n, values) for n, values in found if values]
            means = [100 * sum(values) / len(values) for _, values in found]
            (line,) = axis.plot([n for n, _ in found], means, "o-", label=label)
            for n, values in found:
                axis.plot([n] * len(values), [100 * v for v in values], ".", color=line.get_color())
        axis.axhline(50, color="grey", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", title=f"SVRT problem {problem}", ylim=(45, 101))
        axis.set(xlabel="training images", ylabel="test accuracy (%)")
        axis.set_xticks(SIZES, [str(n) for n in SIZES])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    lines = panels[0][0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=len(SHOWN))
    plots.save_figure(figure, path)


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
    reports = [evaluate.read_report(out) for out in finished]
    print(evaluate.table(evaluate.summarise(reports)))
    if values.figure and finished:
        accuracies: dict[str, list[float]] = {}
        for out, done in zip(finished, reports, strict=True):
            arg = out.name.partition(",")[2].partition(",seed=")[0]
            own = next(iter(done.test.values()))["accuracy"]
            accuracies.setdefault(arg, []).append(own)
        draw_samples(accuracies, values.figure)


if __name__ == "__main__":
    cli.program(main, FLAGS, __doc__)

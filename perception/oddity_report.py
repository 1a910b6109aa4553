# SPDX-License-Identifier: Apache-2.0
"""Compares networks that were trained on the visual oddity task.

    python -m perception.oddity_report --runs='runs/oddity*' --output=comparison

Runs that differ in nothing but the seed of the training are put together; where settings of one
name differ in more than that, each shows what sets it apart. Prints a table (accuracy with its 95 %
interval, Student's over seeds or, for a single run, Wilson's over problems; parameters; training
samples until validation first reaches a level), one of the families, and, from five riddles up, the
agreement of each pair of networks: the rank correlation of their accuracies by riddle. Writes to
the folder: families.png, learning.png (accuracy against training samples), agreement.png (riddle by
riddle, one network against the other) and models.json (for `perception.oddity_play --models`).
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from core import cli, files, intervals, metrics, plots
from core import config as config_lib
from perception import oddity_pictures
from perception import runs as runs_lib
from perception.data.oddity import FAMILIES
from perception.tasks import oddity_setup

LEVEL = 0.6  # accuracy whose first sample count is reported
LEAST_RIDDLES = 5  # fewer have hardly an order

_FLAGS = flags.FlagValues()
flags.DEFINE_string("runs", None, "Pattern of the folders of finished runs.", flag_values=_FLAGS)
flags.DEFINE_string("output", None, "Folder to write to; empty: print only.", flag_values=_FLAGS)
flags.DEFINE_float("level", LEVEL, "Accuracy to be reached.", flag_values=_FLAGS)
flags.mark_flag_as_required("runs", flag_values=_FLAGS)


class Run(NamedTuple):
    """A finished run: its report, the file of its metrics, and its settings (`perception.runs`)."""

    report: dict[str, Any]
    metrics: Path
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Network and riddles, as far as they are not the usual ones."""
        r = self.report
        special = [
            r[key] for key, usual in (("eye", "cnn"), ("learning", "bptt")) if r[key] != usual
        ]
        name = f"{r['network']} ({', '.join(special)})" if special else r["network"]
        return f"{name}, {r['riddle']}" + (f" without {r['without']}" if r["without"] else "")


def find_runs(pattern: str) -> list[Run]:
    """Finished runs whose folders match.

    Raises:
      FileNotFoundError: none.
    """
    found = []
    for folder in runs_lib.find([pattern], "report.json"):
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        cfg = oddity_setup.build_config(runs_lib.read_config(folder))
        settings = runs_lib.settings(config_lib.to_dict(cfg))
        found.append(Run(report, folder / "metrics.jsonl", settings))
    return found


def samples_until(run: Run, level: float) -> float:
    """Training samples until validation accuracy first reached a level; infinite if it did not."""
    steps, values = plots.series(metrics.read_jsonl(run.metrics), "eval/accuracy")
    reached = [step for step, value in zip(steps, values, strict=True) if value >= level]
    return reached[0] * run.report["samples"] / run.report["steps"] if reached else float("inf")


def grouped(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs that differ in nothing but the seed, by name and number of training samples.

    Raises:
      ValueError: two runs of the same settings and seed.
    """
    labels = [f"{run.name}, {run.report['samples']:,} samples" for run in runs]
    names = runs_lib.names(labels, [run.settings for run in runs])
    runs_lib.check_seeds([(n, r.report["seed"]) for n, r in zip(names, runs, strict=True)])
    found: dict[str, list[Run]] = {}
    for name, run in zip(names, runs, strict=True):
        found.setdefault(name, []).append(run)
    return found


def table(runs: list[Run], level: float = LEVEL) -> str:
    """A Markdown table, one row for runs that differ in their seed."""
    lines = [
        f"| network, riddles | seeds | accuracy % | parameters | samples to {100 * level:.0f} % |",
        "|---|---|---|---|---|",
    ]
    for name, own in grouped(runs).items():
        until = ", ".join(
            "not" if np.isinf(n) else f"{n:,.0f}" for n in (samples_until(r, level) for r in own)
        )
        parameters = own[0].report["parameters"]
        lines.append(f"| {name} | {len(own)} | {_accuracy(own)} | {parameters:,} | {until} |")
    return "\n".join(lines)


def _accuracy(own: list[Run]) -> str:
    """Mean over seeds in percent and its 95 % interval."""
    tests = [run.report["test"] for run in own]
    shown = intervals.of_accuracies([test["accuracy"] for test in tests], int(tests[0]["count"]))
    return "{:.1f} ({:.1f} – {:.1f})".format(*(100 * value for value in shown))


def families_table(runs: list[Run]) -> str:
    """A Markdown table: mean accuracy in percent of each network and whole family."""
    scores = for_player(runs)
    names = [name for name in FAMILIES if any(name in score for score in scores.values())]
    if not names:  # single riddles
        return ""
    lines = ["| network, riddles | " + " | ".join(n.replace("_", " ") for n in names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for label, score in scores.items():
        cells = [f"{100 * score[name]:.1f}" if name in score else "–" for name in names]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def for_player(runs: list[Run]) -> dict[str, dict[str, float]]:
    """Mean accuracies by family and riddle, as `perception.oddity_play` reads them.

    A family counts where each of its riddles was tested: some of them may be the easier ones.
    """
    found = {}
    for name, own in grouped(runs).items():
        tests = [run.report["test"] for run in own]
        whole = [
            family
            for family in tests[0]["families"]
            if all({str(r) for r in FAMILIES[family]} <= test["riddles"].keys() for test in tests)
        ]
        parts = [{**{f: test["families"][f] for f in whole}, **test["riddles"]} for test in tests]
        found[name] = {
            key: float(np.mean([part[key]["accuracy"] for part in parts if key in part]))
            for key in parts[0]
        }
    return found


def by_riddle(runs: list[Run]) -> dict[str, dict[int, float]]:
    """Mean accuracy of each network by number of the riddle."""
    scores = for_player(runs).items()
    return {name: {int(k): v for k, v in own.items() if k.isdigit()} for name, own in scores}


def agreements(runs: list[Run]) -> list[tuple[str, str, float]]:
    """Each two networks and Spearman's correlation of their accuracies over common riddles.

    Pairs with fewer than `LEAST_RIDDLES` in common, or with one that is equally good everywhere,
    are left out: their order says nothing.
    """
    from scipy import stats  # here: --help comes sooner

    found = []
    for (a, first), (b, second) in itertools.combinations(by_riddle(runs).items(), 2):
        common = sorted(first.keys() & second.keys())
        x, y = ([own[r] for r in common] for own in (first, second))
        if len(common) >= LEAST_RIDDLES and len(set(x)) > 1 and len(set(y)) > 1:
            found.append((a, b, float(stats.spearmanr(x, y).statistic)))
    return found


def agreement(runs: list[Run], path: Path) -> None:
    """Accuracy of one network against the other's, a point a riddle and a panel a pair."""
    pairs, scores = agreements(runs), by_riddle(runs)
    if not pairs:
        return
    columns = min(len(pairs), 4)
    rows = -(-len(pairs) // columns)
    figure, axes = plots.pyplot().subplots(
        rows, columns, figsize=(3.6 * columns, 3.8 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(pairs) :]:
        axis.set_visible(False)
    for axis, (a, b, rank) in zip(axes.flat, pairs, strict=False):
        for name, members in FAMILIES.items():
            own = [r for r in members if r in scores[a] and r in scores[b]]
            if own:
                points = [scores[a][r] for r in own], [scores[b][r] for r in own]
                axis.plot(*points, "o", alpha=0.8, label=name.replace("_", " "))
        axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        axis.set(xlim=(0, 1.03), ylim=(0, 1.03), title=f"rank correlation {rank:.2f}")
        axis.set_xlabel(a, fontsize=8)
        axis.set_ylabel(b, fontsize=8)
        axis.legend(fontsize=5)
    plots.save_figure(figure, path)


def families(runs: list[Run], path: Path) -> None:
    """Bars: accuracy of each whole family and network."""
    plt = plots.pyplot()
    scores = for_player(runs)
    names = [k for k in dict.fromkeys(k for s in scores.values() for k in s) if not k.isdigit()]
    if not names:  # single riddles
        return
    figure, axis = plt.subplots(figsize=(2.5 + 1.2 * len(names), 4.2), layout="constrained")
    width = 0.8 / len(scores)
    for i, (label, score) in enumerate(scores.items()):
        places = np.arange(len(names)) + (i - (len(scores) - 1) / 2) * width
        axis.bar(places, [score.get(n, np.nan) for n in names], width, label=label)
    axis.set_xticks(range(len(names)), [n.replace("_", "\n") for n in names], fontsize=8)
    axis.axhline(oddity_pictures.CHANCE, color="black", linestyle=":")
    axis.set(ylabel="accuracy (dotted: chance)", ylim=(0, 1))
    axis.legend(fontsize=7)
    plots.save_figure(figure, path)


def main(values: flags.FlagValues) -> None:
    """See the module docstring."""
    with cli.explain():
        runs = find_runs(values.runs)
        shown = table(runs, values.level)
    print(f"{shown}\n")
    if by_family := families_table(runs):
        print(f"{by_family}\n")
    for first, second, rank in agreements(runs):
        print(f"agreement by riddle of {first} with {second}: rank correlation {rank:.2f}")
    if not values.output:
        return
    out = Path(values.output).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    families(runs, out / "families.png")
    agreement(runs, out / "agreement.png")
    curves = [
        (f"{name}, seed {run.report['seed']}", run.report, run.metrics)
        for name, own in grouped(runs).items()
        for run in own
    ]
    oddity_pictures.learning(curves, out / "learning.png")
    files.write_text(out / "models.json", json.dumps(for_player(runs), indent=2) + "\n")


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__)

# SPDX-License-Identifier: Apache-2.0
"""Test accuracy of finished runs, in and out of distribution, with intervals over their seeds.

    python -m perception.evaluate --runs='runs/svrt1_*'
    python -m perception.evaluate --runs='runs/svrt1_*' --sets=svrt_ood/lines --size=5600

Runs that differ in nothing but the seed of the training are put together. The interval is Student's
over the seeds (they share training and test images), or, for a single run, Wilson's over the test
problems; both 95 %. Without --sets, what the runs were tested on at their end is summarised;
with it, their last checkpoints are tested anew.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from core import checkpoint, cli, files
from perception.tasks import reasoning_run

FLAGS = flags.FlagValues()
flags.DEFINE_list(
    "runs", None, "Workdirs of runs, or patterns of them.", flag_values=FLAGS, required=True
)
flags.DEFINE_list("sets", [], "Data sets to test on, e.g. svrt_ood/lines.", flag_values=FLAGS)
flags.DEFINE_integer("size", 2000, "Problems of each of --sets.", 1, flag_values=FLAGS)
flags.DEFINE_string("output", "", "JSON file for the summary.", flag_values=FLAGS)

# Two-sided 95 % quantiles of Student's t by degrees of freedom; beyond the table, the normal's.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_NORMAL = 1.96


class Report(NamedTuple):
    """One finished run: what identifies its setting, its seed, and accuracy by test set."""

    setting: str
    seed: int
    test: Mapping[str, Mapping[str, float]]


class Row(NamedTuple):
    """Accuracy of a setting on a test set, in percent, with a 95 % interval."""

    setting: str
    name: str
    seeds: int
    mean: float
    low: float
    high: float


def wilson(right: float, count: float) -> tuple[float, float]:
    """95 % interval of a proportion, in [0, 1]: Wilson's score interval."""
    if not 0 <= right <= count or count <= 0:
        raise ValueError(f"expected 0 <= right <= count, got {right=} {count=}")
    p, z = right / count, _NORMAL
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def student(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of at least two values: Student's."""
    if len(values) < 2:
        raise ValueError(f"an interval over seeds needs at least two values, got {len(values)}")
    freedom = len(values) - 1
    quantile = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else _NORMAL
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def summarise(reports: Sequence[Report]) -> list[Row]:
    """One row for each setting and test set, in the order of the reports."""
    groups: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for report in reports:
        for name, values in report.test.items():
            groups.setdefault((report.setting, name), []).append(values)
    rows = []
    for (setting, name), found in groups.items():
        accuracies = [values["accuracy"] for values in found]
        if len(found) > 1:
            low, high = student(accuracies)
        else:
            low, high = wilson(accuracies[0] * found[0]["count"], found[0]["count"])
        percent = (100 * float(np.mean(accuracies)), 100 * low, 100 * high)
        rows.append(Row(setting, name, len(found), *percent))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    lines = [("setting", "test set", "seeds", "accuracy %", "95 % interval")]
    for row in rows:
        interval = f"{max(row.low, 0.0):.1f} ... {min(row.high, 100.0):.1f}"
        lines.append((row.setting, row.name, str(row.seeds), f"{row.mean:.1f}", interval))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


# --- runs on disk -------------------------------------------------------------------------------


def find_runs(patterns: Sequence[str]) -> list[Path]:
    """Workdirs that match; FileNotFoundError names a pattern without any."""
    found: list[Path] = []
    for pattern in patterns:
        here = [Path(p) for p in sorted(glob.glob(pattern)) if (Path(p) / "config.json").is_file()]
        if not here:
            raise FileNotFoundError(f"no run (a folder with config.json) matches {pattern!r}")
        found += here
    return found


def read_config(run: Path) -> reasoning_run.RunConfig:
    """The configuration of a run."""
    with open(run / "config.json", encoding="utf-8") as file:
        values = json.load(file)
    return reasoning_run.build_config(values["config"])


def setting_of(cfg: reasoning_run.RunConfig) -> str:
    """A readable name of everything but the seed."""
    front, stem = cfg.frontend, cfg.model.stem
    parts = [cfg.data.name, f"{cfg.data.train} problems", cfg.model.network]
    if cfg.model.network not in reasoning_run.IMAGE_NETWORKS:
        parts.append(front.sensor)
        parts += [f"{front.policy} fixations"] * (front.policy != "salient")
        parts += [f"{stem.streams} only"] * (stem.streams != "both")
    return ", ".join(parts)


def read_report(run: Path) -> Report:
    """What a run was tested on at its end."""
    cfg = read_config(run)
    path = run / "report.json"
    if not path.is_file():
        raise FileNotFoundError(f"{run} has no report.json: the run is not finished")
    with open(path, encoding="utf-8") as file:
        return Report(setting_of(cfg), cfg.train.seed, json.load(file)["test"])


def test_again(run: Path, sets: Sequence[str], size: int) -> Report:
    """Tests the last checkpoint of a run on other sets."""
    cfg = read_config(run)
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, validation=0))
    source = reasoning_run.open_source(cfg, sets[0], "test", size)
    with tempfile.TemporaryDirectory() as scratch:
        quiet = lambda line: None
        trainer = reasoning_run.make_trainer(cfg, Path(scratch), quiet, source)
        saver = checkpoint.Checkpointer(run / "checkpoints", cfg.train.keep)
        try:
            if saver.latest_step() is None:
                raise FileNotFoundError(f"{run} has no checkpoint")
            state, _ = trainer.start(saver)
        finally:
            saver.close()
        params = state.ema if cfg.train.ema else state.params
        found = reasoning_run.score(cfg, trainer, params, [(name, size) for name in sets])
    return Report(setting_of(cfg), cfg.train.seed, found)


def main(values: flags.FlagValues) -> None:
    """Prints the table, and writes it as JSON where asked to."""
    with cli.explain():
        runs = find_runs(values.runs)
        if values.sets:
            reports = [test_again(run, values.sets, values.size) for run in runs]
        else:
            reports = [read_report(run) for run in runs]
    rows = summarise(reports)
    print(table(rows))
    if values.output:
        text = json.dumps([row._asdict() for row in rows], indent=2)
        files.write_text(values.output, text + "\n")


if __name__ == "__main__":
    cli.program(main, FLAGS, __doc__)

# SPDX-License-Identifier: Apache-2.0
"""Test accuracy of finished runs, in and out of distribution, with intervals over their seeds.

    python -m perception.evaluate --runs='runs/svrt1_*'
    python -m perception.evaluate --runs='runs/svrt1_*' --sets=svrt_ood/lines --size=5600

Runs that differ in nothing but the seed of the training are put together; where settings of one
name differ in more than that, each shows what sets it apart. The interval is Student's
over the seeds (they share training and test images), or, for a single run, Wilson's over the test
problems; both 95 %. Without --sets, what the runs were tested on at their end is summarised;
with it, their last checkpoints are tested anew.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from core import checkpoint, cli, files, intervals
from core import config as config_lib
from perception import runs
from perception.tasks import reasoning_run

FLAGS = flags.FlagValues()
# Not a list: names of runs contain commas.
flags.DEFINE_multi_string(
    "runs", None, "Workdir of a run, or a pattern of some; may be repeated.", flag_values=FLAGS
)
flags.mark_flag_as_required("runs", flag_values=FLAGS)
flags.DEFINE_list("sets", [], "Data sets to test on, e.g. svrt_ood/lines.", flag_values=FLAGS)
flags.DEFINE_integer("size", 2000, "Problems of each of --sets.", 1, flag_values=FLAGS)
flags.DEFINE_string("output", "", "JSON file for the summary.", flag_values=FLAGS)


class Report(NamedTuple):
    """One finished run: name of its setting, its seed, accuracy by test set, and the settings
    that have influence (see `perception.runs`)."""

    setting: str
    seed: int
    test: Mapping[str, Mapping[str, float]]
    settings: Mapping[str, Any]


class Row(NamedTuple):
    """Accuracy of a setting on a test set, in percent, with a 95 % interval."""

    setting: str
    name: str
    seeds: int
    mean: float
    low: float
    high: float


def summarise(reports: Sequence[Report]) -> list[Row]:
    """One row for each setting and test set, in the order of the reports.

    Raises:
      ValueError: two reports of the same setting and seed.
    """
    settings = runs.names([r.setting for r in reports], [r.settings for r in reports])
    runs.check_seeds([(s, r.seed) for s, r in zip(settings, reports, strict=True)])
    groups: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for setting, report in zip(settings, reports, strict=True):
        for name, values in report.test.items():
            groups.setdefault((setting, name), []).append(values)
    rows = []
    for (setting, name), found in groups.items():
        accuracies = [values["accuracy"] for values in found]
        shown = intervals.of_accuracies(accuracies, int(found[0]["count"]))
        rows.append(Row(setting, name, len(found), *(100 * value for value in shown)))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    lines = [("setting", "test set", "seeds", "accuracy %", "95 % interval")]
    for row in rows:
        interval = f"{row.low:.1f} ... {row.high:.1f}"
        lines.append((row.setting, row.name, str(row.seeds), f"{row.mean:.1f}", interval))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


# --- runs on disk -------------------------------------------------------------------------------


def read_config(run: Path) -> reasoning_run.RunConfig:
    """The configuration of a run."""
    return reasoning_run.build_config(runs.read_config(run))


def setting_of(cfg: reasoning_run.RunConfig) -> str:
    """A readable name of the main settings; `summarise` adds others that tell runs apart."""
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
        return report_of(cfg, json.load(file)["test"])


def report_of(cfg: reasoning_run.RunConfig, test: Mapping[str, Mapping[str, float]]) -> Report:
    """The report of a run with that configuration and these accuracies."""
    settings = runs.settings(config_lib.to_dict(cfg))
    return Report(setting_of(cfg), cfg.train.seed, test, settings)


def test_again(run: Path, sets: Sequence[str], size: int) -> Report:
    """Tests the last checkpoint of a run on other sets."""
    cfg = read_config(run)
    data = dataclasses.replace(cfg.data, validation=0, others=tuple(sets), test_others=size)
    cfg = dataclasses.replace(cfg, data=data)
    source = reasoning_run.open_source(cfg, sets[0], "test", size)
    with tempfile.TemporaryDirectory() as scratch:
        quiet = lambda line: None
        trainer = reasoning_run.make_trainer(cfg, Path(scratch), quiet, source)
        saver = checkpoint.Checkpointer(run / "checkpoints", cfg.train.keep)
        try:
            if saver.latest_step() is None:
                raise FileNotFoundError(f"{run} has no checkpoint")
            state, _ = trainer.start(saver)
            if int(state.step) < cfg.train.steps:
                print(f"{run} is at step {int(state.step)} of {cfg.train.steps}", file=sys.stderr)
        finally:
            saver.close()
        params = state.ema if cfg.train.ema else state.params
        found = reasoning_run.score(cfg, trainer, params, [(name, size) for name in sets])
    return report_of(cfg, found)


def main(values: flags.FlagValues) -> None:
    """Prints the table, and writes it as JSON where asked to."""
    with cli.explain():
        found = runs.find(values.runs, "config.json")
        if values.sets:
            reports = [test_again(run, values.sets, values.size) for run in found]
        else:
            reports = [read_report(run) for run in found]
        rows = summarise(reports)
    print(table(rows))
    if values.output:
        text = json.dumps([row._asdict() for row in rows], indent=2)
        files.write_text(values.output, text + "\n")


if __name__ == "__main__":
    cli.program(main, FLAGS, __doc__)

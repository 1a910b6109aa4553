# SPDX-License-Identifier: Apache-2.0
"""Compares personalised models on a data set with single annotators.

    python -m nlp.personalize --config=configs/nlp/personalize_convabuse.py --workdir=runs/p

Started again with the same command, it goes on where it was. The workdir receives runs/ (one file
for each system and seed), results.json, summary.md, annotators.csv and gains.png.
"""

from __future__ import annotations

import sys
from typing import Any

from core import cli
from core import config as config_lib
from nlp.personalization import experiment, report


def main(config: Any, workdir: str) -> None:
    """Runs what is missing, then writes tables and figures."""
    cfg = config_lib.build(experiment.Personalize, config)
    with cli.explain():
        data = experiment.load(cfg)
    print(
        f"{data.name}: {len(data):,} annotations of {len(data.texts):,} texts by"
        f" {len(data.annotator_ids):,} annotators; {len(experiment.systems(cfg))} systems,"
        f" {cfg.seeds} seeds",
        file=sys.stderr,
        flush=True,
    )
    results = experiment.run(cfg, workdir, lambda line: print(line, file=sys.stderr, flush=True))
    with cli.explain():
        print(report.write(results, workdir))


if __name__ == "__main__":
    cli.run(main)

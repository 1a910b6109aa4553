# SPDX-License-Identifier: Apache-2.0
"""Augments a labelled set with generated texts and measures what they are worth.

    python -m nlp.augment --config=configs/nlp/augment_tweeteval.py --workdir=runs/aug

Started again with the same command, it asks the generator only for what is missing. The workdir
receives cache.sqlite (every answer), synthetic.jsonl (texts that passed the filters), results.json,
summary.md, gains.png and latency.png.
"""

from __future__ import annotations

import sys
from typing import Any

from core import cli
from core import config as config_lib
from nlp.augmentation import experiment, report


def main(config: Any, workdir: str) -> None:
    """Runs the experiment and writes its tables."""
    cfg = config_lib.build(experiment.Augment, config)
    with cli.explain():
        sources, held, labels = experiment.load(cfg)
    sizes = ", ".join(f"{len(part.texts):,} {name}" for name, part in held.items())
    print(
        f"{cfg.data}: {len(sources):,} training, {sizes} texts, {len(labels)} labels",
        file=sys.stderr,
        flush=True,
    )
    results = experiment.run(cfg, workdir, lambda line: print(line, file=sys.stderr, flush=True))
    print(report.write(results, workdir))


if __name__ == "__main__":
    cli.run(main)

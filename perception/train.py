# SPDX-License-Identifier: Apache-2.0
"""Trains a network that looks by glimpses or saccades, or a baseline; `config.task` says which.

    python -m perception.train --config=configs/perception/gap_svrt.py:problem=1 --workdir=RUN
    python -m perception.train --config=configs/perception/oddity_snu.py --workdir=RUN

Started again with the same command, it resumes. The workdir receives config.json, metrics.jsonl,
checkpoints/ and what the kind of task adds (report.json and pictures).
"""

from __future__ import annotations

from core import cli

# Kind of task -> module with `main(config, workdir)`; imported only when asked for.
TASKS = {
    "reasoning": "perception.tasks.reasoning_run",
    "oddity": "perception.tasks.oddity_run",
}

main = cli.by_task(TASKS)

if __name__ == "__main__":
    cli.run(main)

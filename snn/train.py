# SPDX-License-Identifier: Apache-2.0
"""Trains a spiking network; `config.task` says which kind.

    python -m snn.train --config=configs/snn/ttfs_mnist.py --workdir=runs/ttfs_mnist

Started again with the same command, it resumes. The workdir receives config.json, metrics.jsonl,
checkpoints/ and what the kind of task adds (ttfs: model.safetensors, report.json, pictures).
"""

from __future__ import annotations

from core import cli

# Kind of task -> module with `main(config, workdir)`; imported only when asked for.
TASKS = {
    "ttfs": "snn.tasks.ttfs_run",
    "ttfs_relu": "snn.tasks.relu_run",
    "chorales": "snn.tasks.sequence_run",
    "digits": "snn.tasks.sequence_run",
    "language": "snn.tasks.sequence_run",
    "phonemes": "snn.tasks.sequence_run",
    "transducer": "snn.tasks.transducer_run",
}

main = cli.by_task(TASKS)

if __name__ == "__main__":
    cli.run(main)

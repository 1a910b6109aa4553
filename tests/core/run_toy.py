# SPDX-License-Identifier: Apache-2.0
"""A training program of its own process, for tests that kill it or run several of it.

Usage: python -m tests.core.run_toy WORKDIR STEPS PAUSE [MESH_DATA MESH_MODEL PRESET]
"""

import sys
import time

from core import distributed, optim
from core.loop import TrainConfig, Trainer
from tests.core.toy import ToyTask, regression_data


class Slow:
    """A source that takes its time, so that a kill hits the middle of a run."""

    def __init__(self, source, seconds):
        self._source, self._seconds = source, seconds

    def __len__(self):
        return len(self._source)

    def get(self, indices):
        time.sleep(self._seconds)
        return self._source.get(indices)


def main(workdir, steps, pause, data="-1", model="1", preset="dp"):
    distributed.initialize()
    task = ToyTask(noise=0.1, eval_rows=16)
    cfg = TrainConfig(
        steps=int(steps),
        batch_size=8,
        log_every=1,
        save_every=2,
        eval_every=7,
        ema=0.9,
        best_metric="eval/error",
        mesh=(("data", int(data)), ("model", int(model))),
        sharding=preset,
    )
    tx = optim.adamw(optim.AdamWConfig(1e-2), task.param_specs(), cfg.steps)
    source = Slow(regression_data(), float(pause))
    Trainer(task, tx, source, cfg, workdir, run_config={"model": {"width": 16}}).run()


if __name__ == "__main__":
    main(*sys.argv[1:])

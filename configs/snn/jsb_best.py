# SPDX-License-Identifier: Apache-2.0
"""JSB chorales, 88-150-88 with the best recipe found here: Adam, dropout, learned decays.

    python -m snn.train --config=configs/snn/jsb_best.py:ssnu --workdir=runs/jsb_best_ssnu

The argument is CELL[,METHOD]: ssnu, snu, lstm, gru, ... (`snn.tasks.networks.CELLS`), bptt or an
online method; for the latter the cell has no H, so that ostl is exact.
"""

from ml_collections import ConfigDict

EPOCH = 58  # steps of 4 chorales


def get_config(arg: str = "ssnu") -> ConfigDict:
    cell, method = (*arg.split(","), "bptt")[:2]
    return ConfigDict(
        {
            "task": "chorales",
            "model": {
                "cell": (cell,),
                "hidden": (150,),
                "recurrent": cell != "lru" and method == "bptt",
                "decay": 0.4,
                "train_decay": True,
            },
            "data": {"shuffle": True},
            "loss": {"dropout": 0.3, "drop_connect": 0.2},
            "method": {"name": method},
            "optimizer": {
                "learning_rate": 1e-2,
                "final_learning_rate": 1e-5,
                "warmup_steps": 20,
                "beta2": 0.999,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 60 * EPOCH,
                "batch_size": 4,
                "seed": 0,
                "log_every": EPOCH,
                "eval_every": 2 * EPOCH,
                "keep": 1,
                "best_metric": "eval/nll",
            },
        }
    )

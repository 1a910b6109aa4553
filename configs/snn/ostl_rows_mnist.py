# SPDX-License-Identifier: Apache-2.0
"""Row-by-row MNIST: 28 steps of 28 pixels, the answer at the last one; cells without H.

    python -m snn.train --config=configs/snn/ostl_rows_mnist.py:ostl --workdir=runs/rows_ostl
    python -m snn.train --config=configs/snn/ostl_rows_mnist.py:bptt,ssnu,128,2 --workdir=runs/rows2

The argument is METHOD[,CELL[,UNITS[,LAYERS]]]: layers of the cell, a dense ReLU layer, ten scores.
With one layer of the cell OSTL is exact; with more it drops the part of the gradient that travels
through the past of the layers above.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "ostl") -> ConfigDict:
    parts = (*arg.split(","), *("ostl", "lru", "128", "1")[arg.count(",") + 1 :])
    method, cell, units, layers = parts
    lru = cell == "lru"
    return ConfigDict(
        {
            "task": "digits",
            "model": {
                "cell": (cell,),
                "hidden": (int(units),) * int(layers),
                "recurrent": False,
                "train_decay": not lru,
                "decay_range": () if lru else (0.5, 0.99),
                "threshold": 4.0,
                "readout": (128,),
            },
            "data": {"coding": "rows", "answer": 1},
            "method": {"name": method},
            "optimizer": {
                "learning_rate": 5e-3 if lru else 1e-2,
                "final_learning_rate": 5e-5,
                "warmup_steps": 50,
                "beta2": 0.999,
            },
            "train": {
                "steps": 1500 if lru else 2500,
                "batch_size": 100,
                "seed": 0,
                "log_every": 50,
                "eval_every": 500,
                "keep": 1,
                "best_metric": "eval/accuracy",
                "best_mode": "max",
            },
        }
    )

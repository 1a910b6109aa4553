# SPDX-License-Identifier: Apache-2.0
"""Frame-wise phonemes of the TIMIT sample: 80 features, 61 phones, one asked for each frame.

    python -m snn.train --config=configs/snn/ostl_timit.py:bptt,lstm,recurrent --workdir=runs/timit
    python -m snn.train --config=configs/snn/ostl_timit.py:ostl,ssnu --workdir=runs/timit_ostl

The argument is METHOD[,CELL[,recurrent]]; with "recurrent" OSTL uses its traces without H,
and the phone of a frame is asked for five frames later.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "ostl") -> ConfigDict:
    method, cell, kind = (*arg.split(","), *("ostl", "ssnu", "")[arg.count(",") + 1 :])
    if kind not in ("", "recurrent"):
        raise ValueError(f"expected METHOD[,CELL[,recurrent]], got {arg!r}")
    recurrent = kind == "recurrent"
    options = {"recurrent": "without_h"} if recurrent and method == "ostl" else {}
    return ConfigDict(
        {
            "task": "phonemes",
            "model": {
                "cell": (cell,),
                "hidden": (200,),
                "recurrent": recurrent,
                "train_decay": cell.endswith("snu"),
                "decay_range": (0.5, 0.95) if cell.endswith("snu") else (),
            },
            "data": {"delay": 5 if recurrent else 0, "input_noise": 0.6},
            "loss": {"dropout": 0.3},
            "method": {"name": method, "options": options},
            "optimizer": {
                "learning_rate": 5e-3 if cell.endswith("snu") else 3e-3,
                "final_learning_rate": 1e-4,
                "warmup_steps": 20,
                "beta2": 0.999,
            },
            "train": {
                "steps": 240,
                "batch_size": 8,
                "seed": 0,
                "log_every": 10,
                "eval_every": 20,
                "keep": 1,
                "best_metric": "eval/nll",
            },
        }
    )

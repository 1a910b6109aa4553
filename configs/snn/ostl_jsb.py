# SPDX-License-Identifier: Apache-2.0
"""JSB chorales, 88-150-88 sSNU by the OSTL authors' recipe: SGD, one chorale a step, 100 epochs.

    python -m snn.train --config=configs/snn/ostl_jsb.py:bptt,recurrent --workdir=runs/jsb_bptt
    python -m snn.train --config=configs/snn/ostl_jsb.py:ostl --workdir=runs/jsb_ostl

The argument is the method of the gradient (bptt, ostl, eprop, ...), then ",recurrent" for units
that are connected to each other; OSTL then uses the traces without H (an approximation), since the
complete ones cost O(n^4) a step. Without H, OSTL is exact. The authors list a rate of 5e-4; the
rate here was chosen on the validation part.
"""

from ml_collections import ConfigDict

CHORALES = 229


def get_config(arg: str = "ostl") -> ConfigDict:
    method, _, kind = arg.partition(",")
    if kind not in ("", "recurrent"):
        raise ValueError(f"expected METHOD or METHOD,recurrent, got {arg!r}")
    recurrent = kind == "recurrent"
    options = {"recurrent": "without_h"} if recurrent and method == "ostl" else {}
    return ConfigDict(
        {
            "task": "chorales",
            "model": {
                "cell": ("ssnu",),
                "hidden": (150,),
                "recurrent": recurrent,
                "decay": 0.4 if recurrent else 0.8,
            },
            "data": {"shuffle": False},
            "loss": {"reduction": "sum"},
            "method": {"name": method, "options": options},
            "sgd": {"learning_rate": 2e-3, "momentum": 0.0},
            "train": {
                "steps": 100 * CHORALES,
                "batch_size": 1,
                "seed": 0,
                "log_every": CHORALES,
                "eval_every": CHORALES,
                "keep": 1,
                "best_metric": "eval/nll",
            },
        }
    )

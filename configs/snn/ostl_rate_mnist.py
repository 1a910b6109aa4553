# SPDX-License-Identifier: Apache-2.0
"""Rate-coded MNIST, 784-256-10 SNU: 20 steps, at most 6 expected spikes a pixel, answers averaged.

    python -m snn.train --config=configs/snn/ostl_rate_mnist.py:bptt --workdir=runs/rate_bptt
    python -m snn.train --config=configs/snn/ostl_rate_mnist.py:ostl,snu,64 --workdir=runs/rate_ostl

The argument is METHOD[,CELL[,UNITS]]. BPTT minimises the loss of the mean output; online methods,
which need a sum over time, the mean of the losses of all steps. OSTL keeps 784 traces for each unit
and image, which makes it far slower than BPTT here; hence the smaller network.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "bptt") -> ConfigDict:
    method, cell, units = (*arg.split(","), *("bptt", "snu", "256")[arg.count(",") + 1 :])
    return ConfigDict(
        {
            "task": "digits",
            "model": {
                "cell": (cell,),
                "hidden": (int(units),),
                "recurrent": False,
                "decay": 0.9,
                "membrane": "leaky_relu",
            },
            "data": {
                "coding": "rate",
                "steps": 20,
                "spikes": 6.0,
                "readout": "mean" if method == "bptt" else "steps",
            },
            "method": {"name": method},
            "optimizer": {
                "learning_rate": 1e-2,
                "final_learning_rate": 2e-5,
                "warmup_steps": 50,
                "beta2": 0.999,
            },
            "train": {
                "steps": 2000,
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

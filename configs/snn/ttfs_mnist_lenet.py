# SPDX-License-Identifier: Apache-2.0
"""MNIST, LeNet (16C5-P-32C5-P-128-10) trained as a B1 TTFS network on slightly distorted digits.

python -m snn.train --config=configs/snn/ttfs_mnist_lenet.py --workdir=runs/ttfs_mnist_lenet
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "task": "ttfs",
            "model": {
                "architecture": "lenet",
                "channels": (16, 32),
                "hidden": (128,),
                "classes": 10,
            },
            "data": {
                "name": "mnist",
                "augment": {"shift": 1.0, "rotate": 10.0, "zoom": 0.1},
            },
            "loss": {"dropout": 0.1, "activity": 1e-5},
            "optimizer": {
                "learning_rate": 3e-3,
                "final_learning_rate": 1e-5,
                "warmup_steps": 200,
                "beta2": 0.999,
            },
            "train": {
                "steps": 3900,
                "batch_size": 200,
                "ema": 0.998,
                "log_every": 100,
                "eval_every": 600,
                "save_every": 600,
                "keep": 1,
            },
        }
    )
